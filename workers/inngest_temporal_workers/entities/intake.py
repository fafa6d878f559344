"""Holds the events of a large request until they are routed (`inngest_temporal.routing.intake`).

They are routed in parts, one after the other, so each request has only a few events in progress. A
part that fails halfway is routed again, which has no second effect for events that were routed.
"""

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

from .fan_out import CONCURRENCY, HEARTBEAT_TIMEOUT, heartbeats, map_concurrently

PART = 100
"""Maximum number of events that one activity routes."""
PART_TIMEOUT = timedelta(minutes=2)
LONGEST_PAUSE = timedelta(seconds=10)
"""Maximum time between two attempts: Temporal may be busy, or the registry not there yet."""


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

    @activity.defn(name="inngest.route")
    async def route(self, stamped: list[list[Any]]) -> None:
        """Route events, `[[internal id, event], ...]`. May be repeated."""
        # The ingress that took them over may know functions that this process has not read yet.
        await self.follower.refresh()
        router = Router(self.client, self.follower, Waits.of(self.client).deliver)

        async def route(entry: list[Any]) -> Exception | None:
            internal_id, event = entry
            try:
                await router.route([Stamped(event, internal_id)])
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

        async with heartbeats():
            failed = [each for each in await map_concurrently(stamped, route, CONCURRENCY) if each]
        if failed:
            raise failed[0]
