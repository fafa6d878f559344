"""Replays: all runs of a function that ended in some way, run again."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response
from temporalio.client import Client

from inngest_temporal.errors import FunctionNotFoundError
from inngest_temporal.routing import replays
from inngest_temporal.routing.registry import Follower
from inngest_temporal.temporal.runs import rfc3339_of

from . import models
from .functions import App, FunctionId
from .models import Envelope
from .routing import ERRORS, ApiError, Route, answer
from .runs import known

ReplayId = Annotated[str, Path(pattern="^[0-9A-Za-z]{1,64}$")]
NOT_FOUND = ApiError(404, "replay_not_found", "There is no replay of that id.")


class ReplayRoutes:
    """Starts, shows and cancels replays."""

    def __init__(self, client: Client, follower: Follower) -> None:
        self._client = client
        self._follower = follower

    def router(self) -> APIRouter:
        router = APIRouter(route_class=Route, tags=["replays"], responses=ERRORS)
        router.post(
            "/apps/{app}/functions/{function:path}/replays",
            status_code=201,
            response_model=Envelope[models.ReplayStarted],
        )(self.start)
        router.get("/replays", response_model=Envelope[list[models.ReplayView]])(self.latest)
        router.get("/replays/{replay_id}", response_model=Envelope[models.ReplayView])(self.get)
        router.post("/replays/{replay_id}/cancel", response_model=Envelope[models.ReplayView])(
            self.cancel
        )
        return router

    async def start(
        self, app: App, function: FunctionId, request: models.ReplayOrder | None = None
    ) -> Response:
        """Run all runs of a function again that ended so, failed if nothing is said, and were
        started `from` a time `until` another: durably, `rate` a second, each of them once."""
        wanted = request or models.ReplayOrder()
        snapshot = known(self._follower)
        ids = [id for id in (f"{app}-{function}", function) if snapshot.function(id) is not None]
        if not ids:
            raise FunctionNotFoundError(f"App {app!r} has no function {function!r}.")
        given = replays.ReplayRequest(
            ids[0],
            wanted.status,
            since_ms=None if wanted.since is None else round(wanted.since.timestamp() * 1000),
            until_ms=0 if wanted.until is None else round(wanted.until.timestamp() * 1000),
            rate=wanted.rate,
        )
        id = await replays.start(self._client, snapshot, given, key=wanted.idempotency_key)
        return answer(models.ReplayStarted(id=id), 201)

    async def latest(self) -> Response:
        """The latest replays: first those that run."""
        found = await replays.latest(self._client)
        return answer([_shown(each).model_dump(by_alias=True) for each in found])

    async def get(self, replay_id: ReplayId) -> Response:
        """One replay and its progress."""
        return answer(await self._find(replay_id))

    async def cancel(self, replay_id: ReplayId) -> Response:
        """Have a replay start no further run. Those that it has started go on."""
        if not await replays.cancel(self._client, replay_id):
            raise NOT_FOUND
        return answer(await self._find(replay_id))

    async def _find(self, id: str) -> models.ReplayView:
        found = await replays.load(self._client, id)
        if found is None:
            raise NOT_FOUND
        return _shown(found)


def _shown(replay: replays.ReplayRecord) -> models.ReplayView:
    return models.ReplayView(
        id=replay.id,
        created_at=rfc3339_of(replay.created_ms),
        ended_at=None if replay.ended_ms is None else rfc3339_of(replay.ended_ms),
        remaining=replay.progress.remaining,
        progress=models.instance_of(replay.progress),
    )
