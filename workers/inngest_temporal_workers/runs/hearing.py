"""Finds out whether anybody listens for the ends of runs: if nobody does, a run ends without a last
call."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from temporalio import activity
from temporalio.service import RPCError

from inngest_temporal.drivers.protocol import Progress
from inngest_temporal.routing import events

HEARD_SECONDS = 1.0
"""Seconds that this may take; then somebody is assumed to listen."""
HasListeners = Callable[[str], Awaitable[bool]]
"""`Router.has_listeners`."""


async def are_ends_heard(has_listeners: HasListeners) -> bool:
    """Whether somebody listens for the ends of runs, or may."""
    try:
        async with asyncio.timeout(HEARD_SECONDS):
            return await has_listeners(events.FINISHED)
    except (RPCError, TimeoutError):
        return True  # this must not fail the execution, whose results would be lost


async def with_listeners(progress: Progress, has_listeners: HasListeners, begun: float) -> Progress:
    """The answer of a regular activity, which began at `begun` by `time.monotonic`, with
    `unheard_ms` if nobody listens. Unchanged if the activity is cancelled meanwhile, for example
    because its worker stops."""
    if progress.returned is None:
        return progress
    unheard_ms = _temporals_ms(begun)
    with contextlib.suppress(asyncio.CancelledError):
        if not await are_ends_heard(has_listeners):
            return replace(progress, unheard_ms=unheard_ms)
    return progress


def _temporals_ms(begun: float) -> int:
    """The current time by Temporal's clock, or a little less."""
    started = activity.info().started_time.timestamp()
    return round((started + time.monotonic() - begun) * 1000)
