"""Replays: the list of them, and the progress of each."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.routing import replays
from inngest_temporal.routing.replays import ReplayRecord

from .site import PageError, Site, done, replay_address, unknown_action


class ReplaysSection:
    """The pages of replays. They are started from the page of a function."""

    def __init__(self, site: Site, client: Client) -> None:
        self._site = site
        self._client = client

    def routes(self) -> list[Route]:
        return [
            self._site.page("/replays", self.list),
            self._site.page("/replays/{id:path}", self.one, self.change),
        ]

    async def list(self, request: Request) -> Response:
        """`GET /replays`: the latest ones."""
        found = await replays.latest(self._client)
        return await self._site.show(request, "replays.html", section="/replays", replays=found)

    async def one(self, request: Request) -> Response:
        """`GET /replays/{id}`: the progress of one."""
        replay = await self._replay(request)
        return await self._site.show(
            request,
            "replay.html",
            section="/replays",
            replay=replay,
            here=replay_address(replay.id),
        )

    async def change(self, request: Request) -> Response:
        """`POST /replays/{id}`: cancel it."""
        form = await self._site.form(request)
        if form.text("action") != "cancel":
            raise unknown_action(form)
        replay = await self._replay(request)
        await replays.cancel(self._client, replay.id)
        return done(replay_address(replay.id), "replay-cancelled")

    async def _replay(self, request: Request) -> ReplayRecord:
        """The replay, read from its workflow's memo, not from visibility."""
        replay_id = request.path_params["id"]
        found = await replays.load(self._client, replay_id)
        if found is None:
            raise PageError(
                404,
                "There is no such replay",
                f"None has the id {replay_id}. Temporal forgets replays some time after their end"
                " (the namespace's retention).",
            )
        return found
