"""Durations of a run's steps. Workflow code."""

from datetime import timedelta

from temporalio import workflow

from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.drivers.protocol import Op, too_long

DEFAULT_TIMEOUT = timedelta(days=365)
"""Inngest's default timeout of invocations and waits for signals."""
REGISTRATION_TIME = timedelta(minutes=1)
"""Time that the registration of a wait may take; it is added to how long the wait is kept."""


def now_ms() -> int:
    """For durations and what people see. Nothing may be decided by it but what a comment proves."""
    return round(workflow.time() * 1000)


def timeout_of(op: Op) -> timedelta:
    """The timeout of a step that may have none."""
    return (
        duration_of(op, op.options["timeout_ms"]) if "timeout_ms" in op.options else DEFAULT_TIMEOUT
    )


def duration_of(op: Op, ms: float) -> timedelta:
    """How long a step waits; a negative duration counts as none."""
    error = too_long(op, ms)
    if error is not None:
        raise RunFailure(error)
    return timedelta(milliseconds=max(0, ms))


def expires_ms(timeout: timedelta) -> int:
    """The time until which a wait is kept for its run, which counts the timeout from when it is
    registered, and takes it back."""
    return now_ms() + round((timeout + REGISTRATION_TIME).total_seconds() * 1000)
