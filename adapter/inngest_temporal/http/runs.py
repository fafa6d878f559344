"""Runs: `/v1/runs` and `/v1/events/{id}/runs`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.drivers.failures import standard_error
from inngest_temporal.routing.router import SnapshotSource
from inngest_temporal.temporal import names, runs
from inngest_temporal.temporal.runs import RunRecord, rfc3339

from .replies import ReplyError, envelope, ulid, v1_error


class Runs:
    """Shows and cancels runs."""

    def __init__(self, client: Client, source: SnapshotSource) -> None:
        self._client = client
        self._source = source

    def routes(self) -> list[Route]:
        return [
            Route("/events/{id}/runs", self.of_event, methods=["GET"]),
            Route("/runs/{id}", self.get, methods=["GET"]),
            Route("/runs/{id}", self.cancel, methods=["DELETE"]),
        ]

    async def of_event(self, request: Request) -> Response:
        """`GET /v1/events/{id}/runs`: the runs that an event (by its internal id) started."""
        snapshot = self._source.snapshot
        batches = {} if snapshot is None else snapshot.batch_timeouts
        found = await runs.of_event(self._client, ulid(request.path_params["id"]), batches)
        return envelope([_shown(run) for run in found], 15)

    async def get(self, request: Request) -> Response:
        """`GET /v1/runs/{id}`."""
        run = await runs.load(self._client, ulid(request.path_params["id"]))
        if run is None:
            raise _not_found()
        return envelope(_shown(run), 3)

    async def cancel(self, request: Request) -> Response:
        """`DELETE /v1/runs/{id}`: cancel a run; a no-op if it has ended."""
        if not await runs.cancel(self._client, ulid(request.path_params["id"])):
            raise _not_found()
        return Response(status_code=200)


def _not_found() -> ReplyError:
    return ReplyError(v1_error(404, "Unable to load function run"))


def _shown(run: RunRecord) -> dict[str, Any]:
    """A run in Inngest's form. Ids that Inngest has and Temporal lacks are slugs or constants."""
    shown = {
        "run_id": run.id,
        "run_started_at": rfc3339(run.started_at),
        "function_id": run.function_id,
        "function_version": 1,
        "environment_id": names.ENVIRONMENT_ID,
        "event_id": run.event_id,
        "status": run.status,
        "ended_at": None if run.ended_at is None else rfc3339(run.ended_at),
    }
    if run.status in ("Completed", "Failed"):
        shown["output"] = run.output if run.error is None else standard_error(run.error)
    return shown
