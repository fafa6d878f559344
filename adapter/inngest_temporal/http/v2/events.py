"""Recent events: `/v2/events`."""

import itertools
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response
from temporalio.client import Client

from inngest_temporal.http import event_log
from inngest_temporal.routing.recent import RecentEvents
from inngest_temporal.temporal import runs

from . import models
from .models import Envelope
from .routing import ERRORS, ULID, ApiError, Limit, Route, When, answer, listing


class EventRoutes:
    """Shows the latest events, and what became of each."""

    def __init__(self, client: Client, recent: RecentEvents) -> None:
        self._client = client
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(route_class=Route, tags=["events"], responses=ERRORS)
        router.get("/events", response_model=models.EventList)(self.latest)
        router.get("/events/{event_id}", response_model=Envelope[models.EventView])(self.get)
        return router

    async def latest(
        self,
        name: Annotated[str | None, Query(max_length=512)] = None,
        since: Annotated[When, Query(alias="from")] = None,
        until: When = None,
        invocations: bool = False,
        cursor: Annotated[str | None, Query(max_length=26)] = None,
        limit: Limit = 20,
    ) -> Response:
        """The last events that this ingress replica accepted, the latest first, with what became of
        each. They are in memory: other replicas have others, and a restart forgets them. `from` and
        `until` limit the time of arrival; with `invocations` those are listed, too."""
        if cursor is not None and self._recent.get(cursor) is None:
            raise ApiError(
                400, "invalid_request", "cursor: this replica does not know that event any more"
            )
        selected = event_log.select(
            self._recent,
            cursor=cursor,
            name=name,
            after=since,
            before=until,
            internal=invocations,
        )
        found = [*itertools.islice(selected, limit + 1)]
        data = [_shown(event_log.shown(each)) for each in found[:limit]]
        following = found[limit - 1].internal_id if len(found) > limit else None
        return listing(data, following, limit, event_log.scope(self._recent))

    async def get(self, event_id: ULID) -> Response:
        """One event by its internal id, if this replica remembers it or it started a run that
        Temporal still has. The runs that it resumed or cancelled are known for a while."""
        id = event_id.upper()
        recent = self._recent.get(id)
        if recent is not None:
            named = await event_log.named(self._client, recent)
            return answer(_shown(event_log.shown(named)))
        event = await runs.event_of(self._client, id)
        if event is None:
            raise ApiError(404, "event_not_found", "There is no event of that id.")
        return answer(_shown({"internal_id": id, **event}))


def _shown(fields: dict[str, Any]) -> models.EventView:
    outcomes = fields.get("outcomes")
    return models.EventView.model_construct(
        internal_id=fields["internal_id"],
        id=fields["id"],
        name=fields["name"],
        data=fields["data"],
        user=fields.get("user"),
        ts=fields["ts"],
        v=fields.get("v"),
        received_at=fields.get("received_at"),
        outcomes=None if outcomes is None else [models.OutcomeView(**each) for each in outcomes],
    )
