"""Holds the events of a large request until they are routed (`inngest_temporal.routing.intake`).

They are routed in parts, one after the other. A process routes a few parts at a time, with a
bounded number of calls to Temporal, and tries again what failed, after growing pauses: a burst must
not take the whole server, or nothing that it starts comes to its end. A part whose worker is lost
is routed again, which has no second effect for events that were routed.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.service import RPCError

from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router, refuses
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names

from .fan_out import HEARTBEAT_TIMEOUT, heartbeats

PART = 100
"""Maximum number of events that one activity routes."""
PART_TIMEOUT = timedelta(hours=1)
"""Limit of one attempt. Most of it is waiting while other parts are routed; a lost worker is
noticed by its heartbeats."""
LONGEST_PAUSE = timedelta(seconds=10)
"""Maximum time between two attempts: Temporal may be busy, or the registry not there yet."""
FIRST_PAUSE = timedelta(seconds=0.5)
PARTS = 2
"""Maximum number of parts that a process routes at once."""
CALLS = 20
"""Maximum number of runs and deliveries that a process starts at once for intakes."""
PATIENCE = timedelta(seconds=30)
"""Limit of one of these calls: to give it up and repeat it is more work for a busy server."""


@workflow.defn(name=names.INTAKE_TYPE, sandboxed=False)
class IntakeWorkflow:
    """Routes the events of one request, or of a part of it."""

    @workflow.run
    async def run(self, stamped: list[list[Any]]) -> None:
        for start in range(0, len(stamped), PART):
            await workflow.execute_activity(
                "inngest.route",
                stamped[start : start + PART],
                summary=f"events {start + 1} to {min(start + PART, len(stamped))}",
                start_to_close_timeout=PART_TIMEOUT,
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=RetryPolicy(maximum_interval=LONGEST_PAUSE),
            )


@dataclass(frozen=True)
class IntakeActivities:
    """The activity of intakes."""

    client: Client
    follower: Follower
    """Reads the registry; need not be started."""

    def all(self) -> list[Callable[..., Any]]:
        return [self.route]

    @functools.cached_property
    def _router(self) -> Router:
        # One for all parts, because it groups calls to gates, and limits those to Temporal.
        deliver = Waits.of(self.client).deliver
        return Router(self.client, self.follower, deliver, concurrency=CALLS, rpc_timeout=PATIENCE)

    @functools.cached_property
    def _turns(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(PARTS)

    @activity.defn(name="inngest.route")
    async def route(self, stamped: list[list[Any]]) -> None:
        """Route events, `[[internal id, event], ...]`. May be repeated."""
        async with heartbeats(), self._turns:
            # The ingress that took them over may know functions that this process has not read yet.
            await self.follower.refresh()
            left, pause = stamped, FIRST_PAUSE
            while left:
                failed = await asyncio.gather(*map(self._failure, left))
                errors = [error for error in failed if error is not None]
                left = [one for one, error in zip(left, failed, strict=True) if error is not None]
                if errors:
                    activity.logger.info("%s events are routed later: %s", len(left), errors[0])
                    await asyncio.sleep(pause.total_seconds())
                    pause = min(2 * pause, LONGEST_PAUSE)

    async def _failure(self, entry: list[Any]) -> Exception | None:
        """Route an event; why that failed, if it may be tried again."""
        internal_id, event = entry
        try:
            await self._router.route([Stamped(event, internal_id)])
        except RPCError as error:
            if not refuses(error):
                return error
            activity.logger.error(
                "Temporal refuses what event %s (%s) starts: %s",
                internal_id,
                event["name"],
                error.message,
            )
        except (RuntimeError, TimeoutError) as error:
            return error
        return None
