"""When a failed step or function is tried again."""

import random
from datetime import timedelta

from inngest_temporal.drivers.protocol import ErrorInfo

TABLE = (15, 30, 60, 120, 300, 600, 1_200, 2_400, 3_600, 7_200)
"""Inngest's delays, in seconds, after the 1st, 2nd, ... failed attempt; the last one is used for
all that follow."""
JITTER = 30.0
"""Maximum number of seconds that is added at random."""

_CHANCE = random.Random()


def next_delay(
    error: ErrorInfo,
    attempt: int,
    interval: timedelta | None = None,
    chance: random.Random | None = None,
) -> timedelta | None:
    """How long to wait after attempt number `attempt` (zero-based) failed; None: not retriable.

    `interval` replaces the table, in development. Workflow code gives its own source of `chance`.
    """
    if not error.retriable:
        return None
    if error.retry_after_ms is not None:
        return timedelta(milliseconds=error.retry_after_ms)
    if interval is not None:
        return interval
    return timedelta(
        seconds=TABLE[min(attempt, len(TABLE) - 1)] + (chance or _CHANCE).uniform(0, JITTER)
    )


def retry_ms(
    error: ErrorInfo,
    attempt: int,
    retries: int,
    interval: timedelta | None = None,
    chance: random.Random | None = None,
) -> int | None:
    """`next_delay` in milliseconds; None as well if the attempts are used up."""
    delay = None if attempt >= retries else next_delay(error, attempt, interval, chance)
    return None if delay is None else round(delay.total_seconds() * 1000)
