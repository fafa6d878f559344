"""Replays, from the outside: reruns of all runs of a function that ended with a given status.

A replay is one durable workflow (`inngest_temporal_workers.entities.replay`). It pages through
visibility and starts one rerun after another, at a fixed rate. The key of each rerun derives from
the replay and the run, so a replay reruns each run once, whatever is repeated. Its memo holds its
progress, which can be read without a worker for as long as Temporal keeps the workflow.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from ulid import ULID

from inngest_temporal.errors import FunctionNotFoundError, RerunRefusedError
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT
from inngest_temporal.temporal.runs import RunFilter
from inngest_temporal.temporal.visibility import Visibility
from inngest_temporal.wire import from_wire, to_wire

from .registry import Snapshot

ENDED = ("Failed", "Cancelled", "Completed", "Skipped")
"""Statuses of runs that may be replayed. A replay could meet a run twice that has not ended."""
DEFAULT_RATE = 10.0
"""Runs a second."""
MIN_RATE, MAX_RATE = 0.01, 100.0
MAX_SHOWN = 10
"""Maximum number of refused runs that a replay names; the others are only counted."""
MAX_LISTED = 100
"""Maximum number of replays that are listed."""
PROGRESS_MEMO = "inngestReplay"
"""Name of a replay's memo, a `ReplayProgress` as JSON."""
CANCEL_SIGNAL = "cancel"

ReplayStatus = Literal["Running", "Completed", "Cancelled", "Failed"]
"""`Failed` means that somebody ended it in Temporal."""


@dataclass(frozen=True)
class ReplayRequest:
    """Which runs are run again, and how fast. Times are ms since 1970."""

    function_id: str
    """Full id."""
    status: str = "Failed"
    """One of `ENDED`."""
    since_ms: int | None = None
    """Runs that were started then or later."""
    until_ms: int = 0
    """Runs that were started before then. It is at most the time when the replay is started, so
    that it does not rerun its own runs; 0 means that time."""
    rate: float = DEFAULT_RATE
    """How many runs are started a second; `MIN_RATE` to `MAX_RATE`."""

    def filter(self) -> RunFilter:
        """Finds the runs."""
        return RunFilter(
            function=self.function_id,
            status=self.status,
            since=None if self.since_ms is None else _moment(self.since_ms),
            until=_moment(self.until_ms),
        )


@dataclass(frozen=True)
class ReplayProgress:
    """How far a replay has come."""

    request: ReplayRequest
    status: ReplayStatus = "Running"
    total: int = 0
    """How many runs visibility counted when it began."""
    found: int = 0
    """Runs that it has handled so far. Each of them was started or refused."""
    started: int = 0
    """Runs that were run again."""
    refused: int = 0
    """Runs that can't be run again."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Run id -> reason, for the first of the refused runs."""
    problem: str | None = None
    """Why it is stuck for now."""

    @property
    def remaining(self) -> int:
        """How many runs are left, if no others have ended with that status meanwhile."""
        return 0 if self.status != "Running" else max(0, self.total - self.found)


@dataclass(frozen=True)
class ReplayRecord:
    """A replay, as it is shown to people."""

    id: str
    progress: ReplayProgress
    created_ms: int
    ended_ms: int | None = None


def key_of(replay_id: str, run_id: str) -> str:
    """The key of the rerun of one run."""
    return f"replay:{replay_id}:{names.digest(run_id)}"


async def start(
    client: Client, snapshot: Snapshot, request: ReplayRequest, *, key: str | None = None
) -> str:
    """Start a replay; returns its id. Calls with the same `key` start one replay.

    Raises `FunctionNotFoundError`, `RerunRefusedError`, `RPCError`.
    """
    now_ms = time.time_ns() // 1_000_000
    _check(request, snapshot)
    id = str(ULID()) if key is None else names.digest("replay", request.function_id, key)
    request = replace(request, until_ms=min(request.until_ms or now_ms, now_ms))
    request.filter()  # refuses times that don't exist
    progress: dict[str, Any] = to_wire(ReplayProgress(request))
    try:
        await client.start_workflow(
            names.REPLAY_TYPE,
            {"id": id, "progress": progress},
            id=names.replay_id(id),
            task_queue=names.SYSTEM_TASK_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            memo={PROGRESS_MEMO: progress},
            static_summary=f"{request.status} runs of {request.function_id}",
            rpc_timeout=RPC_TIMEOUT,
        )
    except WorkflowAlreadyStartedError:
        pass
    return id


def _check(request: ReplayRequest, snapshot: Snapshot) -> None:
    if snapshot.function(request.function_id) is None:
        raise FunctionNotFoundError(
            f"There is no function {request.function_id}: give the full id (app-function) of one"
            " that is published."
        )
    if request.status not in ENDED:
        raise RerunRefusedError(
            f"Runs that are {request.status!r} can't be replayed: choose {', '.join(ENDED)}."
        )
    if not (math.isfinite(request.rate) and MIN_RATE <= request.rate <= MAX_RATE):
        raise RerunRefusedError(
            f"A replay starts {MIN_RATE} to {MAX_RATE:g} runs a second, not {request.rate}."
        )
    until_ms = request.until_ms or time.time_ns() // 1_000_000
    if request.since_ms is not None and request.since_ms >= until_ms:
        raise RerunRefusedError("No run can match: since must be earlier than until.")


async def load(client: Client, id: str) -> ReplayRecord | None:
    """The replay with this id, or None. Raises `RPCError`."""
    handle = client.get_workflow_handle(names.replay_id(id))
    try:
        found = await handle.describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise
        return None
    return await _shown(found)


async def latest(client: Client) -> list[ReplayRecord]:
    """The latest replays, as visibility knows them; running ones come first. Raises
    `VisibilityBusyError`, `RPCError`."""
    query = f"WorkflowType = '{names.REPLAY_TYPE}' AND ExecutionStatus != 'ContinuedAsNew'"
    listed = await Visibility.of(client).list(query, MAX_LISTED)
    shown = [await _shown(each) for each in listed.workflows]
    return [each for each in shown if each is not None]


async def cancel(client: Client, id: str) -> bool:
    """Have a replay start no further runs; those that it has started continue. A no-op if it has
    ended; False if there is no such replay. Raises `RPCError`."""
    try:
        await client.get_workflow_handle(names.replay_id(id)).signal(
            CANCEL_SIGNAL, rpc_timeout=RPC_TIMEOUT
        )
    except RPCError as error:
        if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise
        return await load(client, id) is not None
    return True


async def _shown(found: WorkflowExecution) -> ReplayRecord | None:
    wire: Mapping[str, Any] | None = await found.memo_value(PROGRESS_MEMO, None)
    if wire is None:
        return None
    progress = from_wire(ReplayProgress, wire)
    if found.close_time is not None and progress.status == "Running":
        is_asked = found.status == WorkflowExecutionStatus.CANCELED
        progress = replace(progress, status="Cancelled" if is_asked else "Failed")
    id = found.id.removeprefix(names.replay_id(""))
    return ReplayRecord(id, progress, _created_ms(id, found), _ms(found.close_time))


def _created_ms(id: str, found: WorkflowExecution) -> int:
    """The time in its id, because its execution may have continued as new. The id of a replay with
    a key has no time; then the start of the execution must do."""
    try:
        return ULID.from_str(id).milliseconds
    except ValueError:
        return _ms(found.start_time) or 0


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _moment(ms: int) -> datetime:
    """Raises `RerunRefusedError` for a time that doesn't exist."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise RerunRefusedError(f"{ms} is not a time in milliseconds since 1970.") from None
