"""Bulk cancellations, from the outside: cancel all runs of a function that were started in some
span of time.

Each is an entity workflow (`inngest_temporal_workers.entities.cancellations`) that works through
the runs in the background. Source: Inngest's `/v1/cancellations` (semantics §8), which its
open-source server lacks.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from ulid import ULID

from inngest_temporal.errors import BodyInvalidError, FunctionNotFoundError
from inngest_temporal.expressions import ExpressionError, check_expression
from inngest_temporal.routing import events
from inngest_temporal.routing.router import SnapshotSource
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT

from .bodies import Bodies
from .replies import ReplyError, envelope, ulid, v1_error

SKEW_MS = 5_000
"""By how much a sender's clock may be ahead."""
MAX_LISTED = 100

_STATUS = {
    WorkflowExecutionStatus.RUNNING: "Running",
    WorkflowExecutionStatus.CONTINUED_AS_NEW: "Running",
    WorkflowExecutionStatus.COMPLETED: "Completed",
    WorkflowExecutionStatus.CANCELED: "Cancelled",
}


@dataclass(frozen=True)
class Cancellation:
    """What is to be cancelled. Times are milliseconds since 1970."""

    id: str
    """ULID."""
    app_id: str
    function_id: str
    """Full id; the workflow type of the runs."""
    created_ms: int
    started_before_ms: int
    started_after_ms: int | None = None
    condition: str | None = None
    """CEL over `event`, the run's first event."""

    @property
    def query(self) -> str:
        """Finds its runs in visibility, as far as they run."""
        kind = self.function_id.replace("\\", "\\\\").replace("'", "\\'")
        query = f"WorkflowType = '{kind}' AND ExecutionStatus = 'Running'"
        query += f" AND StartTime <= '{_time(self.started_before_ms)}'"
        if self.started_after_ms is not None:
            query += f" AND StartTime >= '{_time(self.started_after_ms)}'"
        return query

    def to_json(self) -> dict[str, Any]:
        """Inngest's shape. Ids that Inngest has and Temporal has not are slugs or constants."""
        shown = {
            "id": self.id,
            "name": f"Cancel runs of {self.function_id}",
            "created_at": _time(self.created_ms),
            "account_id": names.ENVIRONMENT_ID,
            "environment_id": names.ENVIRONMENT_ID,
            "app_id": self.app_id,
            "function_internal_id": self.function_id,
            "function_id": self.function_id,
            "started_after": None
            if self.started_after_ms is None
            else _time(self.started_after_ms),
            "started_before": _time(self.started_before_ms),
            "kind": "bulk_run",
            "cause": "API",
            "queue_name": None,
        }
        if self.condition is not None:
            shown["if"] = self.condition
        return shown


@dataclass
class CancellationState:
    """Argument of a cancellation's workflow; carried over when it continues as new."""

    cancellation: Cancellation
    cancelled: int = 0
    """Runs cancelled so far."""
    round: int = 0
    """Complete listings so far."""
    found: int = 0
    """Runs that this listing found."""
    page: str | None = None
    """Where it goes on; base64 of Temporal's token."""


class Cancellations:
    """Those of one namespace. Methods raise what Temporal's client raises."""

    def __init__(self, client: Client, source: SnapshotSource) -> None:
        self._client = client
        self._source = source

    async def create(self, raw: object) -> dict[str, Any]:
        """Begin one, from a sender's `{app_id, function_id, started_before, started_after?, if?}`
        (decoded JSON).

        `function_id` is the one within the app, or the full one; times are RFC 3339. Raises
        `BodyInvalidError`, and `FunctionNotFoundError` for a function that neither is there nor has
        runs.
        """
        fields = _fields(raw)
        wanted = Cancellation(
            id=str(ULID()),
            app_id=fields["app_id"],
            function_id=await self._function_id(fields["app_id"], fields["function_id"]),
            created_ms=fields["now"],
            started_before_ms=fields["started_before"],
            started_after_ms=fields["started_after"],
            condition=fields["if"],
        )
        await self._client.start_workflow(
            names.CANCELLATION_TYPE,
            CancellationState(wanted),
            id=names.cancellation_id(wanted.id),
            task_queue=names.SYSTEM_TASK_QUEUE,
            memo=memo_of(CancellationState(wanted)),
            rpc_timeout=RPC_TIMEOUT,
        )
        return wanted.to_json() | {"status": "Running", "cancelled": 0}

    async def latest(self) -> list[dict[str, Any]]:
        """The latest, newest first, as visibility knows them: a new one is missing for about a
        second."""
        query = (
            f"WorkflowType = '{names.CANCELLATION_TYPE}' AND ExecutionStatus != 'ContinuedAsNew'"
        )
        found = self._client.list_workflows(
            query, page_size=MAX_LISTED, limit=MAX_LISTED, rpc_timeout=RPC_TIMEOUT
        )
        return sorted(
            [await _shown(one) async for one in found],
            key=lambda shown: str(shown["id"]),
            reverse=True,
        )

    async def get(self, id: str) -> dict[str, Any] | None:
        """One by its id (ULID), with `status` (Running, Completed, Cancelled, Failed) and the
        number `cancelled`."""
        try:
            handle = self._client.get_workflow_handle(names.cancellation_id(id))
            return await _shown(await handle.describe(rpc_timeout=RPC_TIMEOUT))
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None

    async def delete(self, id: str) -> bool:
        """Stop one; what it has cancelled stays so. False if it is not there; one that has ended
        stays as it is."""
        try:
            await self._client.get_workflow_handle(names.cancellation_id(id)).cancel(
                rpc_timeout=RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return await self.get(id) is not None
        return True

    async def _function_id(self, app_id: str, function_id: str) -> str:
        snapshot = self._source.snapshot
        ids = [f"{app_id}-{function_id}"]
        if function_id.startswith(f"{app_id}-"):
            ids.append(function_id)
        for id in ids:
            function = snapshot and snapshot.function(id)
            if function and function.app_id == app_id:
                return id
        # One that was removed may have left runs.
        counts = [Cancellation("", app_id, id, 0, started_before_ms=_now_ms()).query for id in ids]
        found = await asyncio.gather(
            *(self._client.count_workflows(one, rpc_timeout=RPC_TIMEOUT) for one in counts)
        )
        for id, runs in zip(ids, found, strict=True):
            if runs.count:
                return id
        raise FunctionNotFoundError(
            f"App {app_id!r} has no function {function_id!r}, nor are there runs of one"
        )


class CancellationRoutes:
    """Creates, shows and stops bulk cancellations: `/v1/cancellations`."""

    def __init__(self, cancellations: Cancellations, bodies: Bodies) -> None:
        self._cancellations = cancellations
        self._bodies = bodies

    def routes(self) -> list[Route]:
        return [
            Route("/cancellations", self.create, methods=["POST"]),
            Route("/cancellations", self.latest, methods=["GET"]),
            Route("/cancellations/{id}", self.get, methods=["GET"]),
            Route("/cancellations/{id}", self.delete, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """`POST /v1/cancellations`: begin to cancel a function's runs (`Cancellations.create`)."""
        async with self._bodies.read(request) as raw:
            body = events.parse(raw)
        return envelope(await self._cancellations.create(body), 0, 201)

    async def latest(self, _: Request) -> Response:
        """`GET /v1/cancellations`."""
        return envelope(await self._cancellations.latest(), 0)

    async def get(self, request: Request) -> Response:
        """`GET /v1/cancellations/{id}` (ours; Inngest has no such route): progress of a
        cancellation."""
        found = await self._cancellations.get(ulid(request.path_params["id"]))
        if found is None:
            raise _not_found()
        return envelope(found, 0)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/cancellations/{id}`: stop it."""
        if not await self._cancellations.delete(ulid(request.path_params["id"])):
            raise _not_found()
        return Response(status_code=200)


def _not_found() -> ReplyError:
    return ReplyError(v1_error(404, "Cancellation not found"))


def memo_of(state: CancellationState) -> dict[str, Any]:
    """The memo of a cancellation's workflow, from which it is shown."""
    return {"cancellation": state.cancellation.to_json(), "cancelled": state.cancelled}


async def _shown(execution: WorkflowExecution) -> dict[str, Any]:
    memo = await execution.memo()
    status = None if execution.status is None else _STATUS.get(execution.status, "Failed")
    return {**memo["cancellation"], "status": status, "cancelled": memo["cancelled"]}


def _fields(raw: object) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise BodyInvalidError("Request body must contain a cancellation object")
    for field in ("app_id", "function_id", "started_before"):
        if raw.get(field) in (None, ""):
            raise BodyInvalidError(f"{field} is required")
    fields: dict[str, Any] = {"now": _now_ms()}
    for field in ("app_id", "function_id", "if"):
        value = raw.get(field)
        if value is not None and not isinstance(value, str):
            raise BodyInvalidError(f"{field} must be a string")
        fields[field] = value or None
    for field in ("started_before", "started_after"):
        fields[field] = None if raw.get(field) is None else _milliseconds(raw[field], field)
    if fields["started_before"] > fields["now"] + SKEW_MS:
        raise BodyInvalidError("started_before must be in the past")
    if fields["started_after"] is not None and fields["started_after"] >= fields["started_before"]:
        raise BodyInvalidError("started_after must be before started_before")
    if fields["if"] is not None:
        try:
            check_expression(fields["if"])
        except ExpressionError as error:
            raise BodyInvalidError(f"if is no valid expression: {error}") from None
    return fields


def _milliseconds(value: object, field: str) -> int:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 1970 < moment.year < 9999:
        raise BodyInvalidError(
            f"{field} must be a time with a time zone, such as 2026-01-31T09:30:00Z"
        )
    return int(moment.timestamp() * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _time(ms: int) -> str:
    return (
        datetime.fromtimestamp(ms / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
