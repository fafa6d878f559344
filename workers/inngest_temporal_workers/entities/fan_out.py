"""For activities that make many calls of one kind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TypeVar

from temporalio import activity
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.temporal.connection import is_not_found

CONCURRENCY = 50
"""Maximum number of calls that one activity makes at once."""
CHUNK = 200
"""Maximum number of runs that one activity of an entity calls: a local one has 3 seconds for that.
"""
HEARTBEAT_INTERVAL = 2.0
HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""How soon a lost worker is noticed."""

T = TypeVar("T")
R = TypeVar("R")


async def map_concurrently(
    items: Iterable[T], call: Callable[[T], Awaitable[R]], concurrency: int
) -> list[R]:
    """Make a call for each item, at most `concurrency` of them at once."""
    limit = asyncio.Semaphore(concurrency)

    async def one(item: T) -> R:
        async with limit:
            return await call(item)

    return await asyncio.gather(*map(one, items))


async def fails_as_gone(call: Awaitable[None]) -> bool:
    """Make a call to a run. True if the run is gone, or can take no more signals."""
    try:
        await call
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT and not is_not_found(error):
            raise
        return True
    return False


@contextlib.asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """Send the activity's heartbeats while the block runs."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
