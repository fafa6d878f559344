"""What Temporal knows of runs: the one read model of everything that shows or asks for them."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pydantic
from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.service import RPCError, RPCStatusCode
from ulid import ULID

from inngest_temporal.drivers.failures import error_of
from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.routing import events
from inngest_temporal.routing.run_input import RunInput

from . import names
from .connection import RPC_TIMEOUT

MAX_RUNS = 100
"""Maximum number of runs of one event that are listed."""
MAX_BATCHES = 1_000
"""Maximum number of batches that are looked at for one event."""
BATCH_GRACE = timedelta(minutes=1)
"""By how much a batch's run may begin later than its timeout says, or earlier by another clock."""
_LATEST_MS = 4_102_444_800_000  # 2100-01-01

_STATUS = {
    WorkflowExecutionStatus.RUNNING: "Running",
    WorkflowExecutionStatus.CONTINUED_AS_NEW: "Running",
    WorkflowExecutionStatus.COMPLETED: "Completed",
    WorkflowExecutionStatus.CANCELED: "Cancelled",
    WorkflowExecutionStatus.FAILED: "Failed",
    WorkflowExecutionStatus.TERMINATED: "Failed",
    WorkflowExecutionStatus.TIMED_OUT: "Failed",
}


@dataclass(frozen=True)
class RunRecord:
    """One run, as far as it has come."""

    id: str
    """Run id, which is the workflow id."""
    function_id: str
    event_id: str
    """Internal id of the first of its events."""
    status: str
    """Inngest's word: Running, Completed, Cancelled, Failed or Skipped."""
    started_at: datetime
    ended_at: datetime | None = None
    output: Any = None
    """What a completed run returned."""
    error: ErrorInfo | None = None
    """Why a failed run failed."""


async def load(client: Client, run_id: str) -> RunRecord | None:
    """A run with its output; None if there is no such run. Raises `RPCError`."""
    found = await describe(client, run_id)
    if found is None or found.status is None:
        return None
    run = RunRecord(
        id=run_id,
        function_id=found.workflow_type,
        event_id=(await found.memo_value(names.EVENTS_MEMO))[0],
        status=await found.memo_value(names.STATUS_MEMO, _STATUS[found.status]),
        started_at=found.start_time,
        ended_at=found.close_time,
    )
    if run.status not in ("Completed", "Failed"):
        return run
    try:
        handle = client.get_workflow_handle(run_id, run_id=found.run_id)
        result = await handle.result(rpc_timeout=RPC_TIMEOUT)
    except WorkflowFailureError as error:
        info = error_of(error.cause)
        # A run never retries as a whole, so its failure says nothing of whether user code forbade
        # another attempt.
        return replace(run, error=replace(info, retriable=info.name != "NonRetriableError"))
    # Python writes NaN where JSON has no such thing.
    return replace(run, output=json.loads(json.dumps(result), parse_constant=lambda _: None))


async def of_event(
    client: Client, event_id: str, batches: Mapping[str, timedelta]
) -> list[RunRecord]:
    """The runs that an event (by its internal id, a ULID) started, as visibility knows them: a new
    one is missing for about a second.

    A run's id begins as its event's. That of a batch begins as its first event's; the others are
    looked for in the batches that began in time. `batches`: the timeouts of the functions with
    batches. Raises `RPCError`.
    """
    queries = [(f"WorkflowId STARTS_WITH '{events.run_prefix(event_id)}'", MAX_RUNS)]
    if batches:
        queries.append((_batches_since(ULID.from_str(event_id).milliseconds, batches), MAX_BATCHES))
    ids = set()
    for query, limit in queries:
        found = client.list_workflows(query, limit=limit, rpc_timeout=RPC_TIMEOUT)
        ids |= {run.id async for run in found if event_id in await started_by(run)}
    runs = await asyncio.gather(*(load(client, id) for id in sorted(ids)[:MAX_RUNS]))
    return [run for run in runs if run is not None]


def _batches_since(ms: int, batches: Mapping[str, timedelta]) -> str:
    """Finds the runs of these functions that a batch with an event of that time may have begun. The
    time of an event with an id of its own is none."""
    at = datetime.fromtimestamp(min(ms, _LATEST_MS) / 1000, UTC)
    first, last = at - BATCH_GRACE, at + max(batches.values()) + BATCH_GRACE
    return (
        f"WorkflowType IN ({', '.join(map(quoted, batches))})"
        f" AND StartTime BETWEEN '{rfc3339(first)}' AND '{rfc3339(last)}'"
    )


def quoted(text: str) -> str:
    """A text in a query of visibility."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


async def describe(client: Client, run_id: str) -> WorkflowExecutionDescription | None:
    """None if there is no such workflow, or it is not one of our runs. Raises `RPCError`."""
    try:
        found = await client.get_workflow_handle(run_id).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    return found if await started_by(found) else None


async def started_by(found: WorkflowExecution) -> list[str]:
    """Internal ids of the events that started a run; none if it is no run of ours."""
    ids: list[str] = await found.memo_value(names.EVENTS_MEMO, [])
    return ids


async def input_of(client: Client, run_id: str) -> RunInput | None:
    """What a run was started with; None if there is no such run, or somebody started it by hand
    with something else. Raises `RPCError`."""
    history = client.get_workflow_handle(run_id).fetch_history_events(page_size=1)
    try:
        first = await anext(history)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    payloads = first.workflow_execution_started_event_attributes.input.payloads
    try:
        [given] = await client.data_converter.decode(payloads)
        return RunInput.from_json(given)
    except (ValueError, pydantic.ValidationError):
        return None


async def cancel(client: Client, run_id: str) -> bool:
    """Cancel a run; one that has ended stays as it is. False if there is no such run. Raises
    `RPCError`."""
    if await describe(client, run_id) is None:
        return False
    try:
        await client.get_workflow_handle(run_id).cancel(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:  # it ended meanwhile
            raise
    return True


async def executes(client: Client, run: str) -> bool:
    """Whether a run is there and has not ended. Raises `RPCError`."""
    try:
        return (await client.get_workflow_handle(run).describe()).close_time is None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False


def rfc3339(moment: datetime) -> str:
    """A time as Inngest's API shows it: UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
