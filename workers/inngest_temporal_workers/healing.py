"""Looks for entities that can't be replayed any more, and heals them.

A caller that waits for an entity's answer heals it (`inngest_temporal.temporal.entity`). Other
callers only send a signal, which Temporal accepts even for a broken entity. So each worker looks
now and then for entities that Temporal itself has marked as failing, which newer servers do.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.temporal import names
from inngest_temporal.temporal.healing import heal

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""Mean time between two looks of one worker."""
MAX_FOUND = 100
"""Maximum number of entities that one look heals."""
_QUERY = (
    f"TaskQueue = '{names.SYSTEM_TASK_QUEUE}' AND ExecutionStatus = 'Running'"
    " AND TemporalReportedProblems IS NOT NULL"
)


@contextlib.asynccontextmanager
async def healing(client: Client) -> AsyncIterator[None]:
    """Look and heal while the block runs."""
    looking = asyncio.create_task(_look_for_ever(client))
    try:
        yield
    finally:
        looking.cancel()


async def _look_for_ever(client: Client) -> None:
    while True:
        # Several workers should not look at the same time.
        await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.5))
        try:
            async for entity in client.list_workflows(_QUERY, limit=MAX_FOUND):
                await heal(client, entity.id)
        except RPCError as error:
            if error.status == RPCStatusCode.INVALID_ARGUMENT:
                logger.debug("This Temporal does not mark failing workflows: %s", error.message)
                return
            logger.debug("Could not look for entities that fail: %s", error)
