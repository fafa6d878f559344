"""Bulk cancellations, `/v1/cancellations`: cancel all runs of a function that were started in some
span of time.

Each is a batch operation of Temporal, which works through the runs without us. Source: Inngest's
`/v1/cancellations` (semantics §8), which its open-source server lacks.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.batch.v1 import BatchOperationCancellation
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import BatchOperationState
from temporalio.api.workflowservice.v1 import (
    DescribeBatchOperationRequest,
    ListBatchOperationsRequest,
    StartBatchOperationRequest,
    StopBatchOperationRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from ulid import ULID

from inngest_temporal.errors import BodyInvalidError, ExpressionError, FunctionNotFoundError
from inngest_temporal.expressions import check_expression, compile_expression
from inngest_temporal.routing import events
from inngest_temporal.routing.router import SnapshotSource
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT
from inngest_temporal.temporal.runs import input_of, quoted, rfc3339_of

from .bodies import Bodies
from .replies import ReplyError, envelope, ulid, v1_error

SKEW_MS = 5_000
"""Allowed clock skew of a sender."""
VISIBILITY_SECONDS = 3.0
"""How long visibility may take to list a new run. A batch operation lists once, so a cancellation
of the latest runs begins later by this time."""
MAX_LISTED = 100
MAX_EXAMINED = 5_000
"""Maximum number of runs for which an `if` is evaluated: each is a call to Temporal, and the sender
waits."""
MAX_MATCHING = 1_000
"""Maximum number of runs that an `if` may match: Temporal's limit of a batch operation that gets
a list."""
CONCURRENCY = 20
"""Maximum number of runs whose events one request reads at once."""
IDENTITY = "inngest-temporal"

_STATUS = {
    BatchOperationState.BATCH_OPERATION_STATE_RUNNING: "Running",
    BatchOperationState.BATCH_OPERATION_STATE_COMPLETED: "Completed",
    # Temporal's state of an operation that was stopped. Nothing else ends one early: single runs
    # that can't be cancelled are only counted.
    BatchOperationState.BATCH_OPERATION_STATE_FAILED: "Cancelled",
}


@dataclass(frozen=True)
class Cancellation:
    """What is to be cancelled: the reason of its batch operation, as JSON. Times are milliseconds
    since 1970."""

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
        """The query for its runs that are still running."""
        query = f"WorkflowType = {quoted(self.function_id)} AND ExecutionStatus = 'Running'"
        query += f" AND StartTime <= '{rfc3339_of(self.started_before_ms)}'"
        if self.started_after_ms is not None:
            query += f" AND StartTime >= '{rfc3339_of(self.started_after_ms)}'"
        return query

    def shown(self, id: str, status: str, cancelled: int) -> dict[str, Any]:
        """Inngest's shape, with the number of runs that were cancelled so far. Ids that Inngest has
        and Temporal lacks are slugs or constants."""
        shown: dict[str, Any] = {
            "id": id,
            "name": f"Cancel runs of {self.function_id}",
            "created_at": rfc3339_of(self.created_ms),
            "account_id": names.ENVIRONMENT_ID,
            "environment_id": names.ENVIRONMENT_ID,
            "app_id": self.app_id,
            "function_internal_id": self.function_id,
            "function_id": self.function_id,
            "started_after": None
            if self.started_after_ms is None
            else rfc3339_of(self.started_after_ms),
            "started_before": rfc3339_of(self.started_before_ms),
            "kind": "bulk_run",
            "cause": "API",
            "queue_name": None,
            "status": status,
            "cancelled": cancelled,
        }
        if self.condition is not None:
            shown["if"] = self.condition
        return shown


class Cancellations:
    """Creates, shows and stops the bulk cancellations of one namespace."""

    def __init__(self, client: Client, source: SnapshotSource, bodies: Bodies) -> None:
        self._client = client
        self._source = source
        self._bodies = bodies

    def routes(self) -> list[Route]:
        return [
            Route("/cancellations", self.create, methods=["POST"]),
            Route("/cancellations", self.latest, methods=["GET"]),
            Route("/cancellations/{id}", self.get, methods=["GET"]),
            Route("/cancellations/{id}", self.delete, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """`POST /v1/cancellations` `{app_id, function_id, started_before, started_after?, if?}`.

        `function_id` is the one within the app, or the full one; times are RFC 3339. Raises
        `BodyInvalidError`, and `FunctionNotFoundError` for a function that neither is there nor has
        runs.
        """
        async with self._bodies.read(request) as raw:
            fields = _fields(events.parse(raw))
        wanted = Cancellation(
            app_id=fields["app_id"],
            function_id=await self._function_id(fields["app_id"], fields["function_id"]),
            created_ms=fields["now"],
            started_before_ms=fields["started_before"],
            started_after_ms=fields["started_after"],
            condition=fields["if"],
        )
        latest = wanted.started_before_ms / 1000 + VISIBILITY_SECONDS
        await asyncio.sleep(max(0.0, latest - time.time()))
        id = str(ULID())
        await self._start(id, wanted)
        return envelope(wanted.shown(id, "Running", 0), 0, 201)

    async def latest(self, _: Request) -> Response:
        """`GET /v1/cancellations`: the latest cancellations, newest first. A new one is missing for
        about a second."""
        listed = await self._client.workflow_service.list_batch_operations(
            ListBatchOperationsRequest(namespace=self._client.namespace, page_size=MAX_LISTED),
            timeout=RPC_TIMEOUT,
        )
        prefix = names.cancellation_id("")
        ids = sorted(
            one.job_id.removeprefix(prefix)
            for one in listed.operation_info
            if one.job_id.startswith(prefix)
        )
        found = await asyncio.gather(*map(self._find, reversed(ids)))
        return envelope([one for one in found if one is not None], 0)

    async def get(self, request: Request) -> Response:
        """`GET /v1/cancellations/{id}` (ours; Inngest has no such route): progress of a
        cancellation."""
        found = await self._find(ulid(request.path_params["id"]))
        if found is None:
            raise _not_found()
        return envelope(found, 0)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/cancellations/{id}`: stop it, unless it has ended. Runs that it has cancelled
        stay cancelled."""
        id = ulid(request.path_params["id"])
        try:
            await self._client.workflow_service.stop_batch_operation(
                StopBatchOperationRequest(
                    namespace=self._client.namespace,
                    job_id=names.cancellation_id(id),
                    reason="DELETE /v1/cancellations",
                    identity=IDENTITY,
                ),
                timeout=RPC_TIMEOUT,
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            if await self._find(id) is None:
                raise _not_found() from None
        return Response(status_code=200)

    async def _start(self, id: str, wanted: Cancellation) -> None:
        operation = StartBatchOperationRequest(
            namespace=self._client.namespace,
            job_id=names.cancellation_id(id),
            reason=json.dumps(asdict(wanted)),
            cancellation_operation=BatchOperationCancellation(identity=IDENTITY),
        )
        chosen = None if wanted.condition is None else await self._matching(wanted)
        if chosen:
            operation.executions.extend(WorkflowExecution(workflow_id=run) for run in chosen)
        elif chosen is None:
            operation.visibility_query = wanted.query
        else:  # Temporal refuses an empty list, so the query matches nothing
            operation.visibility_query = f"WorkflowId = '{id}'"
        try:
            await self._client.workflow_service.start_batch_operation(
                operation, timeout=RPC_TIMEOUT
            )
        except RPCError as error:
            if "concurrent batch operations" not in error.message:
                raise
            message = (
                "Another batch operation of this namespace is in progress, and Temporal allows one"
                " at a time; try again when it has ended"
            )
            raise ReplyError(v1_error(503, message)) from None

    async def _matching(self, wanted: Cancellation) -> list[str]:
        """The runs that the condition matches. Raises `BodyInvalidError` if there are too many."""
        found = self._client.list_workflows(
            wanted.query, limit=MAX_EXAMINED + 1, rpc_timeout=RPC_TIMEOUT
        )
        ids = [run.id async for run in found]
        condition = compile_expression(wanted.condition or "true")
        slots = asyncio.Semaphore(CONCURRENCY)

        async def matches(run: str) -> bool:
            async with slots:
                input = await input_of(self._client, run)
            # A run that somebody started by hand may have no event.
            return bool(input and input.events and condition.matches(input.events[0]))

        _check_count("is evaluated for", len(ids), MAX_EXAMINED)
        kept = await asyncio.gather(*map(matches, ids))
        chosen = [id for id, is_kept in zip(ids, kept, strict=True) if is_kept]
        _check_count("chooses", len(chosen), MAX_MATCHING)
        return chosen

    async def _find(self, id: str) -> dict[str, Any] | None:
        """A cancellation by its id (ULID), in the form of the API."""
        try:
            found = await self._client.workflow_service.describe_batch_operation(
                DescribeBatchOperationRequest(
                    namespace=self._client.namespace, job_id=names.cancellation_id(id)
                ),
                timeout=RPC_TIMEOUT,
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None
        status = _STATUS.get(found.state, "Running")
        return Cancellation(**json.loads(found.reason)).shown(
            id, status, found.complete_operation_count
        )

    async def _function_id(self, app_id: str, function_id: str) -> str:
        snapshot = self._source.snapshot
        ids = [f"{app_id}-{function_id}"]
        if function_id.startswith(f"{app_id}-"):
            ids.append(function_id)
        for id in ids:
            function = snapshot and snapshot.function(id)
            if function and function.app_id == app_id:
                return id
        # A function that was removed may have left runs.
        now_ms = _now_ms()
        found = await asyncio.gather(
            *(
                self._client.count_workflows(
                    Cancellation(app_id, id, now_ms, now_ms).query, rpc_timeout=RPC_TIMEOUT
                )
                for id in ids
            )
        )
        for id, runs in zip(ids, found, strict=True):
            if runs.count:
                return id
        raise FunctionNotFoundError(
            f"App {app_id!r} has no function {function_id!r}, nor are there runs of one"
        )


def _not_found() -> ReplyError:
    return ReplyError(v1_error(404, "Cancellation not found"))


def _check_count(does: str, count: int, limit: int) -> None:
    if count > limit:
        raise BodyInvalidError(
            f"if {does} at most {limit} runs: choose a shorter time by started_after and"
            " started_before"
        )


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
    for field in ("app_id", "function_id"):
        events.check_id(field, fields[field], names.MAX_FUNCTION_ID_BYTES)
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
            raise BodyInvalidError(f"if is not a valid expression: {error}") from None
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
