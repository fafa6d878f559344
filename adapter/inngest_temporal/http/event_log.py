"""Recent events: `/v1/events`. This process remembers the last of them, in memory; an older one is
found through a run that it started."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.routing import events
from inngest_temporal.routing.recent import RecentEvent, RecentEvents
from inngest_temporal.routing.reports import Outcome
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names, runs
from inngest_temporal.temporal.runs import rfc3339_of

from .replies import ReplyError, envelope, ulid, v1_error

DEFAULT_LIMIT, MAX_LIMIT = 20, 100


class EventLog:
    """Shows recent events, and what became of each."""

    def __init__(self, client: Client, recent: RecentEvents) -> None:
        self._client = client
        self._recent = recent

    def routes(self) -> list[Route]:
        return [
            Route("/events", self.latest, methods=["GET"]),
            Route("/events/{id}", self.get, methods=["GET"]),
        ]

    async def latest(self, request: Request) -> Response:
        """`GET /v1/events` (`limit`, `cursor`, `name`, `received_after`, `received_before`): the
        latest events of this replica, without our own. They are not a durable log."""
        query = request.query_params
        found = select(
            self._recent,
            cursor=ulid(query["cursor"]) if query.get("cursor") else None,
            name=query.get("name") or None,
            after=_moment("received_after", query.get("received_after")),
            before=_moment("received_before", query.get("received_before")),
        )
        limit = _limit(query.get("limit"))
        metadata = {"scope": scope(self._recent)}
        return envelope([shown(each) for each in itertools.islice(found, limit)], 0, more=metadata)

    async def get(self, request: Request) -> Response:
        """`GET /v1/events/{id}`: one event by its internal id, if this replica remembers it or it
        started a run that Temporal still has."""
        id = ulid(request.path_params["id"])
        recent = self._recent.get(id)
        if recent is not None:
            return envelope(shown(await named(self._client, recent)), 5)
        event = await runs.event_of(self._client, id)
        if event is None:
            raise ReplyError(v1_error(404, "Event not found"))
        return envelope(_fields(id, event), 5)


def select(
    recent: RecentEvents,
    *,
    cursor: str | None = None,
    name: str | None = None,
    after: datetime | None = None,
    before: datetime | None = None,
    internal: bool = False,
) -> Iterator[RecentEvent]:
    """Recent events, the latest first. `cursor` is the internal id of the last one that was seen;
    `internal` includes invocations."""
    after_ms = None if after is None else after.timestamp() * 1000
    before_ms = None if before is None else before.timestamp() * 1000
    for each in recent.latest(cursor):
        if (
            (internal or not events.is_internal(each.name))
            and (name is None or each.name == name)
            and (after_ms is None or each.received_ms >= after_ms)
            and (before_ms is None or each.received_ms < before_ms)
        ):
            yield each


async def named(client: Client, recent: RecentEvent) -> RecentEvent:
    """The event with the runs that it resumed or cancelled, if these are known."""
    if all(outcome.kind != "delivered" for outcome in recent.outcomes):
        return recent
    runs = await Waits.of(client).resumed(recent.event, recent.internal_id)
    effects = [Outcome("cancelled" if one.cancelled else "resumed", run=one.run) for one in runs]
    if not effects:
        return recent
    others = [outcome for outcome in recent.outcomes if outcome.kind != "delivered"]
    return replace(recent, outcomes=(*others, *effects))


def scope(recent: RecentEvents) -> str:
    """A text that says what a list of recent events has."""
    since = rfc3339_of(recent.since_ms)
    return (
        f"the last events that this ingress replica accepted since {since}; other replicas have"
        " others, and a restart forgets them"
    )


def shown(recent: RecentEvent) -> dict[str, Any]:
    """An event in Inngest's form, with what became of it."""
    received = rfc3339_of(recent.received_ms)
    outcomes = [
        {
            "kind": outcome.kind,
            "function_id": outcome.function,
            "run_id": outcome.run,
            "text": outcome.text,
        }
        for outcome in recent.outcomes
    ]
    fields = _fields(recent.internal_id, recent.event)
    return {**fields, "received_at": received, "outcomes": outcomes}


def _fields(internal_id: str, event: dict[str, Any]) -> dict[str, Any]:
    """Ids that Inngest has and we lack are constants."""
    return {
        "internal_id": internal_id,
        "account_id": names.ENVIRONMENT_ID,
        "environment_id": names.ENVIRONMENT_ID,
        "source": "",
        "source_id": None,
        **event,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise BodyInvalidError(f"limit must be a number from 1 to {MAX_LIMIT}")
    return int(text)


def _moment(field: str, text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BodyInvalidError(
            f"{field} must be a time with a time zone, such as 2026-01-31T09:30:00Z"
        )
    return moment
