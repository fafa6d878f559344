"""Logs in `dev` how each run ended, whatever ended it: one line, a moment later."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError

from inngest_temporal.logger import CONTEXT
from inngest_temporal.temporal.runs import started_by

logger = logging.getLogger("inngest_temporal.runs")

INTERVAL = 0.5
"""Seconds between two looks."""
OVERLAP = timedelta(seconds=10)
"""How long a run's end may take to be listed; each look goes back as far."""

_ENDED = {
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.TERMINATED: "was terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed out",
}


async def report_ends(client: Client) -> None:
    """Log the ends of runs until it is cancelled; not those that it misses while Temporal is
    away."""
    since = datetime.now(UTC)
    told: dict[str, datetime] = {}
    while True:
        looked = datetime.now(UTC)
        try:
            ended = await _ended(client, since)
        except (RPCError, RuntimeError, TimeoutError):
            ended = []
        for run in ended:
            if run.id not in told:
                _report(run)
            told[run.id] = looked
        told = {run: at for run, at in told.items() if at > looked - OVERLAP}
        since = max(since, looked - OVERLAP)
        await asyncio.sleep(INTERVAL)


async def _ended(client: Client, since: datetime) -> list[WorkflowExecution]:
    """The runs that have ended since a time, in order."""
    found = [
        run
        async for run in client.list_workflows(f"CloseTime > '{since.isoformat()}'")
        if run.status in _ENDED and await started_by(run)
    ]
    return sorted(found, key=lambda run: run.close_time or since)


def _report(run: WorkflowExecution) -> None:
    assert run.status is not None
    seconds = ((run.close_time or run.start_time) - run.start_time).total_seconds()
    logger.info(
        "The run %s after %.1f s",
        _ENDED[run.status],
        seconds,
        extra={CONTEXT: {"functionId": run.workflow_type, "runId": run.id}},
    )
