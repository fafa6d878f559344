"""Requests with many events: one durable write takes them over, and workers route them.

A small request is routed while its sender waits, which takes one call to Temporal for each run. A
large one becomes a workflow of its own, which holds the events until all of them are routed
(`inngest_temporal_workers.entities.intake`). So a sender does not wait longer because its events
start many runs.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from inngest_temporal.errors import RegistryNotReadyError
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT

from .events import Stamped
from .reports import Outcome
from .router import Routed, Router

MIN_EVENTS = 20
"""A request with fewer events is routed at once."""
MAX_PART_BYTES = 1_000_000
MAX_PART_EVENTS = 500
"""Maximum size and number of the events that one workflow takes over."""


class Intake:
    """Takes large requests over."""

    def __init__(self, client: Client, router: Router) -> None:
        self._client = client
        self._router = router

    async def take(self, stamped: Sequence[Stamped]) -> list[Routed]:
        """Route the events, or have them routed; when this returns, Temporal has them.

        Events that workers route have no runs in the result yet. Raises `RegistryNotReadyError`,
        and what Temporal's client raises.
        """
        if len(stamped) < MIN_EVENTS:
            return await self._router.route(stamped)
        if self._router.snapshot is None:
            raise RegistryNotReadyError
        await asyncio.gather(*(self._hand_over(part) for part in _parts(stamped)))
        listeners = {
            name: await self._router.has_listeners(name)
            for name in {one.event["name"] for one in stamped}
        }
        return [
            Routed((), outcomes=(Outcome("queued"),))
            if listeners[one.event["name"]]
            else Routed((), unmatched=True, outcomes=(Outcome("unmatched"),))
            for one in stamped
        ]

    async def _hand_over(self, part: Sequence[Stamped]) -> None:
        """Start a workflow for the part. Its id derives from the events, so a repeated request
        starts it once."""
        ids = [one.internal_id for one in part]
        try:
            await self._client.start_workflow(
                names.INTAKE_TYPE,
                to_json(part),
                id=names.intake_id(ids),
                task_queue=names.SYSTEM_TASK_QUEUE,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                static_summary=f"{len(part)} events",
                rpc_timeout=RPC_TIMEOUT,
            )
        except WorkflowAlreadyStartedError:
            pass


def to_json(part: Iterable[Stamped]) -> list[list[object]]:
    """The workflow's argument: `[[internal id, event], ...]`."""
    return [[one.internal_id, one.event] for one in part]


def _parts(stamped: Sequence[Stamped]) -> Iterator[list[Stamped]]:
    part: list[Stamped] = []
    size = 0
    for one in stamped:
        bytes = len(json.dumps(one.event))
        if part and (len(part) == MAX_PART_EVENTS or size + bytes > MAX_PART_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += bytes
    yield part
