"""Executions that are lost with their worker: how long they are repeated, and what is said of them.

The run workflow counts by this, and so does who reads its history.
"""

from datetime import timedelta

from .protocol import ErrorInfo, Op

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


def timed_out() -> ErrorInfo:
    """Ends an attempt that took longer than an execution may."""
    return ErrorInfo("StepTimeout", f"It did not end within {STEP_TIMEOUT}.")
