"""Executions that are lost with their worker: how long they are repeated, and with which errors
they end.

Both the run workflow and the reader of its history use these rules.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from inngest_temporal.wire import from_wire

from .protocol import Done, ErrorInfo, Failed, Op, Progress

HEARTBEAT_TIMEOUT = timedelta(seconds=30)
"""How soon a killed worker is noticed. Executions heartbeat automatically."""
STEP_TIMEOUT = timedelta(hours=2)
"""Limit of one execution, as of one call to an app in Inngest."""
LOST_SECONDS = 600
"""Seconds for which an execution that is lost with its worker is repeated at least."""
LONGEST_BACKOFF = 60
"""Longest pause in seconds. The first one is 1, and each further one is twice as long."""


class Losses:
    """Counts the executions of one run that were lost since a step was last finished."""

    def __init__(self) -> None:
        self.count = 0
        self._seconds = 0

    def add(self) -> int:
        """Count one more loss; returns the pause in seconds before the execution is repeated."""
        self.count += 1
        pause: int = min(LONGEST_BACKOFF, 2 ** (self.count - 1))
        self._seconds += round(HEARTBEAT_TIMEOUT.total_seconds()) + pause
        return pause

    def reset(self) -> None:
        """Start from zero, because a step was finished."""
        self.count = self._seconds = 0

    def end_it(self, attempt: int, retries: int) -> bool:
        """Whether an execution that was lost in that attempt is not repeated any more."""
        return self._seconds >= LOST_SECONDS and attempt >= retries

    def error(self, why: str) -> ErrorInfo:
        """The error with which the step or the run ends."""
        message = f"Its worker was lost {self.count} times in a row: {why}"
        return ErrorInfo("WorkerLostError", message)


def step_lost(op: Op) -> ErrorInfo:
    """The error of a step without retries that had begun, and may have had its effect."""
    message = (
        f'The worker was lost while it executed step "{op.name}", which may have had its effect:'
        " without retries it is not executed again."
    )
    return ErrorInfo("StepLostError", message)


def reported(details: Sequence[Any]) -> tuple[list[Done], Op | None]:
    """Reads the details of a heartbeat: the steps that were executed, and the one under way."""
    done = [from_wire(Done, each) for each in (details[0] if details else ())]
    begun = from_wire(Op, details[1]) if len(details) > 1 and details[1] else None
    return done, begun


def silent(base: int, details: Sequence[Any]) -> Progress:
    """The progress of an execution that sends no heartbeats any more."""
    done, begun = reported(details)
    return Progress(base, done, lost="it sent no heartbeats", begun=begun)


def overdue(
    base: int, details: Sequence[Any], target: Op | None, error: ErrorInfo, retry_ms: int | None
) -> Progress:
    """The progress of an execution that took too long, which is a failed attempt. `error` is that
    of `timed_out`."""
    done, begun = reported(details)
    step = begun or target
    if step is None or any(each.op.id == step.id for each in done):
        return Progress(base, done, failed=Failed(error, retry_ms))
    return Progress(base, [*done, Done(step, error=error, retry_ms=retry_ms)])


def timed_out() -> ErrorInfo:
    """The error of an attempt that took longer than an execution may."""
    return ErrorInfo("StepTimeout", f"It did not end within {STEP_TIMEOUT}.")
