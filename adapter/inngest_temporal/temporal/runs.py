"""What Temporal knows about runs: the read model of everything that shows runs or asks for them."""

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
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
from inngest_temporal.errors import CursorInvalidError
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import LookAlikes
from inngest_temporal.routing.run_input import RunInput

from . import names
from .connection import RPC_TIMEOUT, handle_of
from .visibility import Visibility

NO_ENTITIES = f"TaskQueue != '{names.SYSTEM_TASK_QUEUE}'"
"""Leaves out our other workflows in a namespace. A query can't ask for our memo; by the memo we see
afterwards which of the found workflows are not ours."""
MAX_PAGE = 1_000
"""Maximum number of runs of a page, which is Temporal's limit."""
STAMP_BYTES = 8
"""Size of the digest of its list with which a cursor begins."""
OUTPUTS = 20
"""Maximum number of outputs that are read at once for a page."""
MAX_RUNS = 100
"""Maximum number of runs of one event that are listed."""
MAX_BATCHES = 1_000
"""Maximum number of batches that are searched for one event."""
BATCH_GRACE = timedelta(minutes=1)
"""How much later than its timeout a batch's run may begin, or how much earlier by another clock."""
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
    """One run in its current state."""

    id: str
    """Run id, which is the workflow id."""
    function_id: str
    event_id: str
    """Internal id of its first event."""
    status: str
    """Inngest's word: Scheduled, Running, Completed, Cancelled, Failed or Skipped."""
    started_at: datetime
    ended_at: datetime | None = None
    output: Any = None
    """What a completed run returned."""
    error: ErrorInfo | None = None
    """Why a failed run failed."""
    event_ids: tuple[str, ...] = ()
    """Internal ids of all its events; a batch has several."""
    original: str | None = None
    """Id of the run whose events a rerun has."""
    trigger: str = ""
    """Name of the (first) event that started it; empty if that is not known."""


@dataclass(frozen=True)
class RunFilter:
    """The runs that a list has. None in a field means any."""

    app: str | None = None
    """App id: runs of its functions, removed ones included."""
    function: str | None = None
    """Full id (`app-fn`)."""
    status: str | None = None
    """A key of `STATUSES`."""
    since: datetime | None = None
    """Runs that were started then or later."""
    until: datetime | None = None
    """Runs that were started before then."""
    event_id: str | None = None
    """Internal id of the (first) event that started the run, or the beginning of that id."""
    queues: tuple[str, ...] = ()
    """Task queues of apps that chose their own (`Snapshot.queues`). Workflows of others in the
    namespace, which may be many more, are left out by their queue."""
    look_alikes: LookAlikes | None = None
    """Functions that are not of `app`, although their ids begin like it (`Snapshot.look_alikes`).
    """

    def query(self, now: datetime) -> str:
        """The filter as a query of visibility. It finds too many runs for a status that is only in
        our memo. Raises `BodyInvalidError` for a text that can't be part of an id."""
        ids = {"app": self.app, "function": self.function, "event": self.event_id}
        for field, text in ids.items():
            events.check_id(field, text or "", names.MAX_FUNCTION_ID_BYTES)
        parts = [NO_ENTITIES]
        if self.function is None and self.event_id is None:
            parts.append(self._on_our_queues())
        if self.app is not None:
            parts.append(self._of_app(self.app))
        if self.function is not None:
            parts.append(f"WorkflowType = {quoted(self.function)}")
        if self.status is not None:
            parts.append(f"ExecutionStatus IN {_either(STATUSES[self.status])}")
        if self.status in ("Running", "Scheduled"):
            comparison = ">" if self.status == "Scheduled" else "<="
            parts.append(f"ExecutionTime {comparison} '{rfc3339(now)}'")
        if self.since is not None:
            parts.append(f"StartTime >= '{rfc3339(self.since)}'")
        if self.until is not None:
            parts.append(f"StartTime < '{rfc3339(self.until)}'")
        if self.event_id is not None:
            prefix = events.run_prefix(self.event_id.upper())
            parts.append(f"WorkflowId STARTS_WITH {quoted(prefix)}")
        return " AND ".join(parts)

    def _on_our_queues(self) -> str:
        named = f"TaskQueue STARTS_WITH {quoted(names.TASK_QUEUE_PREFIX)}"
        if not self.queues:
            return named
        return f"({named} OR TaskQueue IN {_either(self.queues)})"

    def _of_app(self, app: str) -> str:
        alike = self.look_alikes or LookAlikes()
        query = f"WorkflowType STARTS_WITH {quoted(app + '-')}"
        if alike.theirs:
            query += f" AND WorkflowType NOT IN {_either(alike.theirs)}"
        if not alike.apps:
            return query
        others = " AND ".join(
            f"WorkflowType NOT STARTS_WITH {quoted(other + '-')}" for other in alike.apps
        )
        ours = f" OR WorkflowType IN {_either(alike.ours)}" if alike.ours else ""
        return f"{query} AND (({others}){ours})"


@dataclass(frozen=True)
class RunPage:
    """Some runs of a list, without their outputs. There may be fewer than were asked for, or none,
    although more follow, because workflows that are not ours are left out."""

    runs: tuple[RunRecord, ...]
    next_cursor: str | None
    """Where the next page begins; None at the end."""


STATUSES = {
    "Running": ("Running", "ContinuedAsNew"),
    "Scheduled": ("Running",),
    "Completed": ("Completed",),
    "Failed": ("Failed", "Terminated", "TimedOut"),
    "Cancelled": ("Canceled",),
    "Skipped": ("Completed",),
}
"""Inngest's statuses -> Temporal's in queries."""


async def list_runs(
    client: Client, filter: RunFilter, cursor: str | None = None, limit: int = 50
) -> RunPage:
    """A page of runs, by one query of visibility: first running ones, by their start, then ended
    ones, by their end, each with the latest first.

    New runs don't change the place of a cursor; a run that ends meanwhile may be listed twice.
    `limit` is 1 to `MAX_PAGE`. Raises `BodyInvalidError`, `CursorInvalidError`,
    `VisibilityBusyError`, `RPCError`.
    """
    token = b"" if cursor is None else _token(cursor, filter)
    # In whole seconds, so that all who ask within one second share one query and its answer.
    now = datetime.now(UTC).replace(microsecond=0)
    page = await Visibility.of(client).list(filter.query(now), limit, token)
    found = [await _listed(each) for each in page.workflows]
    runs = tuple(
        run
        for run in found
        if run is not None and (filter.status is None or run.status == filter.status)
    )
    return RunPage(runs, _cursor(page.token, filter) if page.token else None)


async def count_runs(client: Client, filter: RunFilter) -> dict[str, int]:
    """The number of runs by status, by one query of visibility. Skipped runs count as completed,
    scheduled ones as running. Raises `VisibilityBusyError`, `RPCError`."""
    now = datetime.now(UTC).replace(microsecond=0)
    counts: dict[str, int] = {}
    for status, count in (await Visibility.of(client).count(filter.query(now))).items():
        word = next((word for word, theirs in STATUSES.items() if status in theirs), "Running")
        counts[word] = counts.get(word, 0) + count
    return counts


async def with_outputs(client: Client, runs: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
    """The same runs with their outputs, for which each ended run is read. Raises `RPCError`."""
    slots = asyncio.Semaphore(OUTPUTS)

    async def read(run: RunRecord) -> RunRecord:
        if run.ended_at is None:
            return run
        async with slots:
            return await load(client, run.id) or run

    return tuple(await asyncio.gather(*map(read, runs)))


async def _listed(found: WorkflowExecution) -> RunRecord | None:
    """A run from a list of visibility; None if it is not one of our runs."""
    if not _is_run(found) or found.status is None:
        return None
    try:
        ids = tuple(await started_by(found))
        trigger = await found.memo_value(names.TRIGGER_MEMO, "")
        status = await _status_of(found)
        original = await found.memo_value(names.ORIGINAL_MEMO, None)
    except Exception:  # another deployment's data converter may have written the memo
        ids, trigger, status, original = (), "", _STATUS[found.status], None
    return RunRecord(
        id=found.id,
        function_id=found.workflow_type,
        event_id=ids[0] if ids else "",
        status=status,
        started_at=found.start_time,
        ended_at=found.close_time,
        event_ids=ids,
        original=original,
        trigger=trigger,
    )


async def _status_of(found: WorkflowExecution) -> str:
    assert found.status is not None
    begins = found.execution_time
    if found.status == WorkflowExecutionStatus.RUNNING and begins and begins > datetime.now(UTC):
        return "Scheduled"
    status: str = await found.memo_value(names.STATUS_MEMO, _STATUS[found.status])
    return status


def _cursor(token: bytes, filter: RunFilter) -> str:
    return base64.urlsafe_b64encode(_stamp(token, filter) + token).decode().rstrip("=")


def _token(cursor: str, filter: RunFilter) -> bytes:
    """The token of a cursor. A cursor has a stamp, because Temporal accepts the token of another
    list, and fails at a text that is not a token. Raises `CursorInvalidError`."""
    try:
        decoded = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (ValueError, binascii.Error):
        raise CursorInvalidError from None
    token = decoded[STAMP_BYTES:]
    if cursor != _cursor(token, filter):
        raise CursorInvalidError
    return token


def _stamp(token: bytes, filter: RunFilter) -> bytes:
    # These two change when other apps are published, but the list stays the same.
    stable = replace(filter, queues=(), look_alikes=None)
    fields = {name: str(value) for name, value in asdict(stable).items()}
    return names.digest(fields, token.hex()).encode()[:STAMP_BYTES]


async def load(client: Client, run_id: str) -> RunRecord | None:
    """A run with its output; None if there is no such run. Raises `RPCError`."""
    found = await describe(client, run_id)
    run = None if found is None else await _listed(found)
    if found is None or run is None or run.status not in ("Completed", "Failed"):
        return run
    try:
        handle = client.get_workflow_handle(run_id, run_id=found.run_id)
        result = await handle.result(rpc_timeout=RPC_TIMEOUT)
    except WorkflowFailureError as error:
        return replace(run, error=error_of(error.cause))
    # Python may have written NaN, which JSON does not have: it becomes None.
    return replace(run, output=json.loads(json.dumps(result), parse_constant=lambda _: None))


async def peek(client: Client, run_id: str) -> RunRecord | None:
    """A run without its output; None if there is no such run. Raises `RPCError`."""
    found = await describe(client, run_id)
    return None if found is None else await _listed(found)


async def of_event(
    client: Client, event_id: str, batches: Mapping[str, timedelta]
) -> list[RunRecord]:
    """The runs that an event (by its internal id, a ULID) started, as visibility knows them: a new
    run is missing for about a second.

    A run's id begins like that of its event. The id of a batch's run begins like that of its first
    event; for the other events, the batches that began at the right time are searched. `batches`:
    function id -> timeout of its batches. Raises `RPCError`.
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
    """A query for the runs of these functions whose batch may have an event of that time. (The
    internal id of an event with an id of its own has a meaningless time.)"""
    at = datetime.fromtimestamp(min(ms, _LATEST_MS) / 1000, UTC)
    first, last = at - BATCH_GRACE, at + max(batches.values()) + BATCH_GRACE
    return (
        f"WorkflowType IN {_either(batches)}"
        f" AND StartTime BETWEEN '{rfc3339(first)}' AND '{rfc3339(last)}'"
    )


def quoted(text: str) -> str:
    """A text as a literal in a query of visibility."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _either(texts: Iterable[str]) -> str:
    return f"({', '.join(map(quoted, texts))})"


async def describe(client: Client, run_id: str) -> WorkflowExecutionDescription | None:
    """What Temporal knows about a run; None if there is none with this id. Raises `RPCError`."""
    try:
        found = await handle_of(client, run_id).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        # A text that can't be a workflow id, such as an empty one, is an invalid argument.
        if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise
        return None
    return found if _is_run(found) else None


def _is_run(found: WorkflowExecution) -> bool:
    """Whether it is one of our runs. The memo is not read, because another deployment may have
    encrypted it."""
    return names.EVENTS_MEMO in found.raw_info.memo.fields


async def started_by(found: WorkflowExecution) -> list[str]:
    """Internal ids of the events that started a run; none if it is not one of our runs."""
    ids: list[str] = await found.memo_value(names.EVENTS_MEMO, [])
    return ids


async def input_of(client: Client, run_id: str) -> RunInput | None:
    """The input of a run; None if there is no such run, or if somebody started it by hand with
    another input. Raises `RPCError`."""
    history = client.get_workflow_handle(run_id).fetch_history_events(page_size=1)
    try:
        first = await anext(history)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
    payloads = first.workflow_execution_started_event_attributes.input.payloads
    try:
        [input] = await client.data_converter.decode(payloads)
        return RunInput.from_json(input)
    except (ValueError, pydantic.ValidationError):
        return None


async def event_of(client: Client, event_id: str) -> dict[str, Any] | None:
    """An event (by its internal id), read from a run that it started alone or as the first of a
    batch; None if there is no such run. Raises `VisibilityBusyError`, `RPCError`."""
    for run in (await list_runs(client, RunFilter(event_id=event_id), limit=10)).runs:
        if event_id in run.event_ids:
            input = await input_of(client, run.id)
            if input is not None and event_id in input.event_ids:
                return input.events[input.event_ids.index(event_id)]
    return None


async def cancel(client: Client, run_id: str) -> bool:
    """Cancel a run; a no-op if it has ended. False if there is no such run. Raises `RPCError`."""
    if await describe(client, run_id) is None:
        return False
    try:
        await client.get_workflow_handle(run_id).cancel(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:  # it ended meanwhile
            raise
    return True


async def is_running(client: Client, run: str) -> bool:
    """Whether a run exists and has not ended. Raises `RPCError`."""
    try:
        return (await client.get_workflow_handle(run).describe()).close_time is None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False


def rfc3339(moment: datetime) -> str:
    """A time in the form of Inngest's API: UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_of(ms: int) -> str:
    """`rfc3339` of milliseconds since 1970."""
    return rfc3339(datetime.fromtimestamp(ms / 1000, UTC))
