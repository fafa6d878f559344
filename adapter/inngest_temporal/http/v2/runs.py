"""Runs: `/v2/runs`, and those of an event."""

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response
from temporalio.client import Client

from inngest_temporal.drivers.failures import standard_error
from inngest_temporal.routing import reruns
from inngest_temporal.routing.registry import Follower, Snapshot
from inngest_temporal.temporal import runs
from inngest_temporal.temporal.runs import RunFilter, RunRecord, rfc3339
from inngest_temporal.traces.reading import load_trace

from . import models
from .models import Envelope, Listing, RunStatus
from .routing import (
    ERRORS,
    ULID,
    ApiError,
    Cursor,
    Limit,
    Responses,
    Route,
    When,
    answer,
    listing,
)

NOT_FOUND = ApiError(404, "run_not_found", "There is no run of that id.")


class RunRoutes:
    """Shows, cancels and reruns runs."""

    def __init__(self, client: Client, follower: Follower) -> None:
        self._client = client
        self._follower = follower

    def router(self) -> APIRouter:
        router = APIRouter(route_class=Route, tags=["runs"], responses=ERRORS)
        router.get("/runs", response_model=Listing[models.RunView])(self.latest)
        router.get("/runs/{run_id}", response_model=Envelope[models.RunView])(self.get)
        router.get("/runs/{run_id}/trace", response_model=Envelope[models.TraceBody])(self.trace)
        conflict: Responses = {409: {"model": models.Problems}}
        router.post(
            "/runs/{run_id}/cancel",
            response_model=Envelope[models.RunView],
            responses=conflict,
        )(self.cancel)
        router.post("/runs/{run_id}/rerun", response_model=Envelope[models.Rerun])(self.rerun)
        router.get("/events/{event_id}/runs", response_model=Envelope[list[models.RunView]])(
            self.of_event
        )
        return router

    async def latest(
        self,
        app: Annotated[str | None, Query(min_length=1, max_length=900)] = None,
        function: Annotated[str | None, Query(min_length=1, max_length=900)] = None,
        status: RunStatus | None = None,
        since: Annotated[When, Query(alias="from")] = None,
        until: When = None,
        event_id: Annotated[
            str | None, Query(alias="eventId", pattern="^[0-9A-Za-z]{1,26}$")
        ] = None,
        order: Annotated[Literal["desc"], Query()] = "desc",
        include_output: Annotated[bool, Query(alias="includeOutput")] = False,
        cursor: Cursor = None,
        limit: Limit = 20,
    ) -> Response:
        """Runs: first those that are under way, by their start, then those that have ended, by
        their end, the latest first. `from` and `until` limit their starts; `function` is a full id.
        A page may have fewer than `limit`: follow `page.cursor`."""
        snapshot = self._follower.snapshot
        filter = RunFilter(app, function, status, since, until, event_id)
        if snapshot is not None:
            alike = None if app is None else snapshot.look_alikes(app)
            filter = replace(filter, queues=snapshot.queues, look_alikes=alike)
        return await self.page(filter, cursor, limit, include_output)

    async def page(
        self, filter: RunFilter, cursor: str | None, limit: int, include_output: bool
    ) -> Response:
        """A page of runs."""
        page = await runs.list_runs(self._client, filter, cursor, limit)
        found = page.runs
        if include_output:
            found = await runs.with_outputs(self._client, found)
        snapshot = self._follower.snapshot
        return listing([shown(each, snapshot) for each in found], page.next_cursor, limit)

    async def get(self, run_id: ULID) -> Response:
        """One run, with its output."""
        run = await runs.load(self._client, run_id.upper())
        if run is None:
            raise NOT_FOUND
        return answer(shown(run, self._follower.snapshot))

    async def trace(self, run_id: ULID) -> Response:
        """What happened in a run so far: its events, the limits it waited for, its steps with their
        attempts, and its end. Times are milliseconds since 1970."""
        trace = await load_trace(self._client, run_id.upper())
        if trace is None:
            raise NOT_FOUND
        return answer(trace)

    async def cancel(self, run_id: ULID) -> Response:
        """Cancel a run; 409 for one that has ended."""
        id = run_id.upper()
        run = await runs.peek(self._client, id)
        if run is None:
            raise NOT_FOUND
        if run.status == "Cancelled":
            raise ApiError(409, "run_already_cancelled", f"Run {id} was cancelled before.")
        if run.ended_at is not None:
            raise ApiError(409, "run_already_ended", f"Run {id} has ended: {run.status}.")
        await runs.cancel(self._client, id)
        return answer(shown(run, self._follower.snapshot))

    async def rerun(self, run_id: ULID, request: models.RerunRequest | None = None) -> Response:
        """Start a new run with the same events, from the beginning or from a step. Steps before
        that step are not executed again. With an `idempotencyKey` only one run is started."""
        wanted = request or models.RerunRequest()
        step = wanted.from_step
        new = await reruns.rerun(
            self._client,
            known(self._follower),
            run_id.upper(),
            from_step=None if step is None else reruns.FromStep(step.id, step.input),
            key=wanted.idempotency_key,
        )
        return answer(models.Rerun(run_id=new))

    async def of_event(self, event_id: ULID) -> Response:
        """The runs that an event (by its internal id) started, at most 100, with their outputs."""
        snapshot = known(self._follower)
        found = await runs.of_event(self._client, event_id.upper(), snapshot.batch_timeouts)
        return answer([shown(each, snapshot).model_dump(by_alias=True) for each in found])


def known(follower: Follower) -> Snapshot:
    """All functions. Raises `ApiError` until the registry was read."""
    if follower.snapshot is None:
        raise ApiError(503, "unavailable", "The functions were not read from Temporal yet.")
    return follower.snapshot


def shown(run: RunRecord, snapshot: Snapshot | None) -> models.RunView:
    """A run as the API shows it."""
    function = snapshot and snapshot.function(run.function_id)
    error = None if run.error is None else models.ErrorView(**standard_error(run.error))
    return models.RunView.model_construct(
        id=run.id,
        app_id=function.app_id if function else None,
        function_id=run.function_id,
        status=run.status,
        event_id=run.event_id,
        event_ids=list(run.event_ids),
        started_at=rfc3339(run.started_at),
        ended_at=None if run.ended_at is None else rfc3339(run.ended_at),
        original_run_id=run.original,
        output=run.output,
        error=error,
    )
