"""Executions that are lost with their worker: how long they are repeated, and what is said of them.

The run workflow counts by this, and so does who reads its history.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from inngest_temporal.wire import from_wire

from .protocol import Done, ErrorInfo, Failed, Op, Progress

HEARTBEAT_TIMEOUT = timedelta(seconds=30)
"""How soon a killed worker is noticed. Executions heartbeat by themselves."""
STEP_TIMEOUT = timedelta(hours=2)
"""Inngest's limit of one call to an app; here, of one execution."""
LOST_SECONDS = 600
"""Time for which an execution that is lost with its worker is repeated, at least."""
LONGEST_BACKOFF = 60
"""Seconds; the first one is 1, and each further one twice as long."""


class Losses:
    """Executions of one run lost since a step was last finished."""

    def __init__(self) -> None:
        self.count = 0
        self._seconds = 0

    def add(self) -> int:
        """One more; the pause in seconds before it is repeated."""
        self.count += 1
        pause: int = min(LONGEST_BACKOFF, 2 ** (self.count - 1))
        self._seconds += round(HEARTBEAT_TIMEOUT.total_seconds()) + pause
        return pause

    def reset(self) -> None:
        """A step was finished."""
        self.count = self._seconds = 0

    def end_it(self, attempt: int, retries: int) -> bool:
        """Whether what was lost in that attempt is not repeated any more."""
        return self._seconds >= LOST_SECONDS and attempt >= retries

    def error(self, why: str) -> ErrorInfo:
        """What the step or the run ends with."""
        message = f"Its worker was lost {self.count} times in a row: {why}"
        return ErrorInfo("WorkerLostError", message)


def step_lost(op: Op) -> ErrorInfo:
    """Ends a step without retries that has begun: it may have had its effect."""
    message = (
        f'The worker was lost while it executed step "{op.name}", which may have had its effect:'
        " without retries it is not executed again."
    )
    return ErrorInfo("StepLostError", message)


def reported(details: Sequence[Any]) -> tuple[list[Done], Op | None]:
    """What the details of a heartbeat say: the steps that were executed, and the one under way."""
    done = [from_wire(Done, each) for each in (details[0] if details else ())]
    begun = from_wire(Op, details[1]) if len(details) > 1 and details[1] else None
    return done, begun


def silent(base: int, details: Sequence[Any]) -> Progress:
    """What is known of an execution that sends no heartbeats any more."""
    done, begun = reported(details)
    return Progress(base, done, lost="it sent no heartbeats", begun=begun)


def overdue(
    base: int, details: Sequence[Any], target: Op | None, error: ErrorInfo, retry_ms: int | None
) -> Progress:
    """What is known of an execution that took longer than it may, which is a failed attempt.
    `error`: the one of `timed_out`."""
    done, begun = reported(details)
    step = begun or target
    if step is None or any(each.op.id == step.id for each in done):
        return Progress(base, done, failed=Failed(error, retry_ms))
    return Progress(base, [*done, Done(step, error=error, retry_ms=retry_ms)])


def timed_out() -> ErrorInfo:
    """Ends an attempt that took longer than an execution may."""
    return ErrorInfo("StepTimeout", f"It did not end within {STEP_TIMEOUT}.")
