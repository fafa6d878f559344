"""Durations of a run's steps. Workflow code."""

from datetime import timedelta

from temporalio import workflow

from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.drivers.protocol import Op, too_long

DEFAULT_TIMEOUT = timedelta(days=365)
"""Inngest's default timeout of invocations and waits for signals."""
REGISTRATION_TIME = timedelta(minutes=1)
"""How long the registration of a wait may take. A wait is kept for this much longer."""


def now_ms() -> int:
    """The time of the workflow task, for durations and for people. Replay may see another time, so
    it must not decide anything, unless a comment proves that it may."""
    return round(workflow.time() * 1000)


def timeout_of(op: Op) -> timedelta:
    """The timeout of a step, or the default if it has none."""
    return (
        duration_of(op, op.options["timeout_ms"]) if "timeout_ms" in op.options else DEFAULT_TIMEOUT
    )


def duration_of(op: Op, ms: float) -> timedelta:
    """How long a step waits; a negative duration counts as zero."""
    error = too_long(op, ms)
    if error is not None:
        raise RunFailure(error)
    return timedelta(milliseconds=max(0, ms))


def due_ms(duration: timedelta) -> int:
    """When a timer that begins in this workflow task is due."""
    return now_ms() + round(duration.total_seconds() * 1000)


def expires_ms(timeout: timedelta) -> int:
    """When a wait expires that its run did not take back. It is later than the timeout, which the
    run counts from the end of the registration."""
    return due_ms(timeout + REGISTRATION_TIME)
