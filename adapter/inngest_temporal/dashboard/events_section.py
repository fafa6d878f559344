"""Events: the latest that this process accepted, and a form that sends one."""

import itertools
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.http import event_log
from inngest_temporal.http.events import Events
from inngest_temporal.routing import events
from inngest_temporal.routing.recent import RecentEvent, RecentEvents
from inngest_temporal.routing.registry import Snapshot
from inngest_temporal.routing.router import Router

from .rendering import pretty
from .site import Form, Message, Site, address, done, read_json
from .welcome import example_name, triggered

PAGE_SIZE = 50


class EventsSection:
    """The page of events."""

    def __init__(
        self,
        site: Site,
        client: Client,
        router: Router,
        accepting: Events,
        recent: RecentEvents,
    ) -> None:
        self._site = site
        self._client = client
        self._router = router
        self._accepting = accepting
        self._recent = recent

    def routes(self) -> list[Route]:
        return [self._site.page("/events", self.list, self.send)]

    async def list(self, request: Request) -> Response:
        """`GET /events`: the latest events, and what became of each."""
        return await self._show(request)

    async def send(self, request: Request) -> Response:
        """`POST /events`: send an event, as if it had been posted to `/e/{key}`."""
        form = await self._site.form(request)
        raw: dict[str, object] = {"name": form.text("name").strip()}
        try:
            raw["data"] = read_json(form.text("data"), "Data")
            if form.text("id").strip():
                raw["id"] = form.text("id").strip()
            stamped = events.stamp(raw)
        except BodyInvalidError as error:
            return await self._show(request, form, error.message)
        await self._accepting.accept(stamped)
        return done("/events", "sent")

    async def _show(
        self, request: Request, form: Form | None = None, problem: str | None = None
    ) -> Response:
        after = request.query_params.get("after") or None
        found = [*itertools.islice(self._recent.latest(after), PAGE_SIZE + 1)]
        shown, more = found[:PAGE_SIZE], len(found) > PAGE_SIZE
        chosen = next(
            (e for e in shown if e.internal_id == request.query_params.get("event")), None
        )
        if chosen is not None:
            chosen = await event_log.named(self._client, chosen)
            shown = [chosen if e.internal_id == chosen.internal_id else e for e in shown]
        snapshot = self._router.snapshot
        return await self._site.show(
            request,
            "events.html",
            section="/events",
            status=400 if problem else 200,
            message=Message(problem, bad=True) if problem else None,
            events=shown,
            address=_address,
            after=after,
            next=_address(after=shown[-1].internal_id) if more else None,
            chosen=chosen,
            since_ms=self._recent.since_ms,
            names=_names(snapshot, shown),
            name=form.text("name") if form else _example(snapshot, shown),
            data=form.text("data") if form else _data(shown),
            id=form.text("id") if form else "",
        )


def _address(*, after: str | None = None, event: str | None = None) -> str:
    return address("/events", after=after, event=event)


def _names(snapshot: Snapshot | None, shown: Sequence[RecentEvent]) -> list[str]:
    """Names of events that somebody may want to send."""
    known = [example_name(name) for _, name in triggered(snapshot)]
    sent = [event.name for event in shown if not events.is_internal(event.name)]
    return [*dict.fromkeys([*known, *sent])]


def _example(snapshot: Snapshot | None, shown: Sequence[RecentEvent]) -> str:
    latest = next((each.name for each in shown if not events.is_internal(each.name)), "")
    return latest or next((example_name(name) for _, name in triggered(snapshot)), "")


def _data(shown: Sequence[RecentEvent]) -> str:
    """The data of the latest event, if somebody sent it."""
    latest = next((each for each in shown if not events.is_internal(each.name)), None)
    if latest is None or len(latest.json) > 20_000:
        return "{}"
    return pretty(latest.event.get("data") or {})
