"""Reads the trace of a run from Temporal."""

from collections.abc import AsyncIterator

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.temporal import runs
from inngest_temporal.temporal.connection import RPC_TIMEOUT

from .codec import decode
from .history import PendingActivity, trace_of
from .models import Trace
from .payloads import ms_of, values_of

MAX_EVENTS = 60_000
"""Maximum number of events that are read of a history. Temporal ends a workflow at about 50,000."""
MAX_BYTES = 64 * 1024 * 1024
"""Maximum size that is read of a history. Temporal ends a workflow at about 50 MiB."""


async def load_trace(client: Client, run_id: str) -> Trace | None:
    """What happened in a run so far; None if there is no such run. Raises `RPCError`.

    If the history is longer than any run's should be, the trace is not `complete`. Its notes name
    what the client's payload codec can't decode.
    """
    found = await runs.describe(client, run_id)
    if found is None:
        return None
    events: list[HistoryEvent] = []
    size, complete = 0, True
    try:
        async for event in _history(client, run_id, found.run_id):
            events.append(event)
            size += event.ByteSize()
            if len(events) >= MAX_EVENTS or size >= MAX_BYTES:
                complete = False
                break
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None  # it was deleted meanwhile, at the end of its retention
    codec = client.data_converter.payload_codec
    if codec is not None:
        await decode(codec, [*events, *found.raw_description.pending_activities])
    return trace_of(run_id, events, pending=_pending(found), complete=complete)


def _history(client: Client, run_id: str, execution: str | None) -> AsyncIterator[HistoryEvent]:
    handle = client.get_workflow_handle(run_id, run_id=execution)
    return handle.fetch_history_events(rpc_timeout=RPC_TIMEOUT)


def _pending(found: WorkflowExecutionDescription) -> list[PendingActivity]:
    """The activities that are under way. History has the beginning of an activity only after its
    end."""
    begun = (
        PendingActivityState.PENDING_ACTIVITY_STATE_STARTED,
        PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED,
    )
    pending = []
    for each in found.raw_description.pending_activities:
        started = each.state in begun and each.HasField("last_started_time")
        try:
            details = values_of(each.heartbeat_details.payloads)
        except ValueError:
            details = []
        started_ms = ms_of(each.last_started_time) if started else None
        pending.append(PendingActivity(each.activity_id, started_ms, details))
    return pending
