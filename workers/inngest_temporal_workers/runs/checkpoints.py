"""The ledger of one execution: how far a chain of steps goes, and what of it is durable.

The results so far are the details of the activity's heartbeats. Temporal keeps the last details
when an activity times out or fails, and hands them to the run. So a step whose heartbeat was
answered is never executed again, and a killed worker loses at most the steps after it. The details
are sent again with each heartbeat, hence the limit of their size.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.api.common.v1 import Payloads
from temporalio.api.workflowservice.v1 import RecordActivityTaskHeartbeatRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.drivers.protocol import (
    MAX_STEPS,
    Done,
    ExecutionRequest,
    Op,
    json_size,
)
from inngest_temporal.errors import Interrupt
from inngest_temporal.models import Checkpointing
from inngest_temporal.wire import to_wire

MAX_CHAIN_BYTES = 128 * 1024
"""Size of results after which a chain ends."""
MAX_CHAIN_STEPS = 250
"""Steps after which a chain ends."""
STALE_SECONDS = 20.0
"""Age of an activity, by two clocks, from which Temporal is asked whether it still counts."""
ORDERING_PAUSE = 0.02
"""Seconds that the SDK's own heartbeat has to leave before the next one of ours, which is newer."""


@dataclass
class Checkpoints:
    """Implements the driver's `Ledger` by heartbeats."""

    client: Client
    request: ExecutionRequest
    policy: Checkpointing | None
    """None: a chain has one step."""

    stopping: bool = False
    """Whether the worker stops, so that no further step may begin."""
    done: list[Any] = field(default_factory=list)
    """The steps that were executed, as they are sent."""
    begun: Op | None = None
    """The step whose body is under way."""
    _bytes: int = 0
    _unsent: int = 0
    _sent_at: float = field(default_factory=time.monotonic)
    _began_at: float = field(default_factory=time.monotonic)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def details(self) -> list[Any]:
        """What Temporal is to keep: the steps, and the one under way."""
        return [self.done, to_wire(self.begun)] if self.done or self.begun else []

    async def may_execute(self, op: Op) -> bool:
        """Whether the chain goes on with this step."""
        policy = self.policy
        if self.stopping or not self.request.alone or policy is None:
            return False
        runtime_ms = (time.monotonic() - self._began_at) * 1000
        return (
            self._bytes < MAX_CHAIN_BYTES
            and self.request.base + len(self.done) < MAX_STEPS
            and len(self.done) < MAX_CHAIN_STEPS
            and (not policy.max_runtime_ms or runtime_ms < policy.max_runtime_ms)
        )

    async def begin(self, op: Op) -> None:
        """Before a body begins, make the results before it durable, unless they may be buffered.

        What is sent also says which step begins, so that a loss counts as an attempt of that one.
        Without retries a step that has begun is not executed again: then that must be durable, too.
        """
        self.begun = op
        is_first = not self.done and self.request.target is not None
        if self._is_due() or (not self.request.retries and not is_first):
            await self._send()

    async def record(self, done: Done) -> None:
        """Keep a step's result. It is durable before the next body begins."""
        self.begun = None
        if done.error is not None:
            return  # the execution ends with it, and reports it
        wire = to_wire(done)
        self.done.append(wire)
        self._bytes += json_size(wire)
        self._unsent += 1
        if not self.request.alone:
            raise Interrupt  # other steps are under way: the run decides what comes next

    def _is_due(self) -> bool:
        if not self._unsent or self.policy is None:
            return False
        if self._unsent >= self.policy.buffered_steps:
            return True
        waited_ms = (time.monotonic() - self._sent_at) * 1000
        return bool(self.policy.max_interval_ms) and waited_ms >= self.policy.max_interval_ms

    async def _send(self) -> None:
        async with self._turn:
            self._unsent = 0
            self._sent_at = time.monotonic()
            if not await self.heartbeat():
                raise Interrupt

    async def heartbeat(self) -> bool:
        """Send the details; False if Temporal does not know the activity any more."""
        payloads = await self.client.data_converter.encode(self.details)
        request = RecordActivityTaskHeartbeatRequest(
            namespace=self.client.namespace,
            task_token=activity.info().task_token,
            identity=self.client.identity,
            details=Payloads(payloads=payloads),
        )
        service = self.client.workflow_service
        try:
            reply = await service.record_activity_task_heartbeat(request, retry=True)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            activity.heartbeat(*self.details)  # the SDK learns of it, and cancels the activity
            return False
        if reply.cancel_requested:
            activity.heartbeat(*self.details)
        return True

    async def keep_alive(self) -> None:
        """The SDK's own heartbeat, which it needs to see; in order with ours."""
        async with self._turn:
            activity.heartbeat(*self.details)
            await asyncio.sleep(ORDERING_PAUSE)


async def is_stale(client: Client) -> bool:
    """Whether Temporal has given the current activity up already, as after a process stood still
    between taking it and beginning it: another worker may execute it now."""
    if time.time() - activity.info().started_time.timestamp() < STALE_SECONDS:
        return False
    return not await Checkpoints(client, ExecutionRequest(), None).heartbeat()
