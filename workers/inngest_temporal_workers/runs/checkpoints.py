"""The ledger of one execution: how far a chain of steps goes, and which of its results are durable.

The results so far are the details of the activity's heartbeats. Temporal keeps the last details
when an activity times out or fails, and hands them to the run. So a step whose heartbeat was
answered is never executed again, and a killed worker loses at most the steps after it. Each
heartbeat sends all details again, and Temporal limits the size of details and answers. So a result
that comes after large ones has these handed over to the run first, by a signal.
"""

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.workflowservice.v1 import RecordActivityTaskHeartbeatRequest
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.drivers.protocol import (
    MAX_STEPS,
    Done,
    ExecutionRequest,
    Op,
)
from inngest_temporal.errors import Interrupt
from inngest_temporal.models import Checkpointing
from inngest_temporal.temporal.connection import is_temporary
from inngest_temporal.wire import from_wire, to_wire

CHECKPOINT_SIGNAL = "checkpoint"
"""Name of a run's signal, whose argument is a list of `Done` as JSON."""
MAX_CHAIN_BYTES = 128 * 1024
"""Size of results after which a chain ends, or hands them over before it keeps another one."""
MAX_CHAIN_STEPS = 250
"""Number of steps after which a chain ends."""
MAX_TOGETHER = 100
"""Maximum number of steps that are executed together; further ones follow."""
STALE_SECONDS = 20.0
"""Age of an activity (start by Temporal's clock, now by ours) from which on Temporal is asked
whether the activity is still valid."""
SDK_EVERY = 3
"""One of this many regular heartbeats is sent by the SDK, which must send one within the activity's
heartbeat timeout."""
TRY_TIMEOUT = timedelta(seconds=10)
"""Limit of one try to make results durable."""
OUTAGE_PAUSE = 0.2
"""Seconds between two tries to make results durable while Temporal can't be reached."""
ORDERING_PAUSE = 0.3
"""Seconds in which the SDK's heartbeat has to arrive before we send our next one; the SDK does not
tell when it has arrived. If ours overtook it, its older details would replace durable results."""


@dataclass
class Checkpoints:
    """Implements the driver's `Ledger` by heartbeats."""

    client: Client
    request: ExecutionRequest
    policy: Checkpointing | None
    """None: a chain has one step."""

    is_quick: Callable[[Op], bool] = lambda _: False
    """Whether a step is quick enough to be executed together with others, instead of in an
    activity of its own."""
    stopping: bool = False
    """Whether the worker stops, so that no further step may begin."""
    closed: bool = False
    """Whether the execution is over, so that nothing has to become durable any more."""
    done: list[Any] = field(default_factory=list)
    """The steps that were executed and are not handed over, as JSON values."""
    handed_over: set[str] = field(default_factory=set)
    """Hashed ids of the steps that were sent to the run."""
    under_way: dict[str, Op] = field(default_factory=dict)
    """The steps whose bodies are under way, by hashed id."""
    _flushing: "asyncio.Task[None] | None" = None
    _texts: list[str] = field(default_factory=list)
    """`done` as JSON texts."""
    _beats: int = 0
    _bytes: int = 0
    _unsent: int = 0
    _sent_at: float = field(default_factory=time.monotonic)
    _began_at: float = field(default_factory=time.monotonic)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _keeping: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Keeps results in the order in which their bodies ended."""

    @property
    def base(self) -> int:
        """Number of memos that the run has, as far as this execution knows."""
        return self.request.base + len(self.handed_over)

    @property
    def begun(self) -> Op | None:
        """The step that is under way, if it is the only one."""
        return next(iter(self.under_way.values())) if len(self.under_way) == 1 else None

    @property
    def details(self) -> list[Any]:
        """The details that Temporal keeps: the steps that are done, and the one under way."""
        return [self.done, to_wire(self.begun)] if self.done or self.begun else []

    async def choose(self, ops: Sequence[Op]) -> Sequence[Op]:
        """The steps with which the chain goes on: the only one, or several that are executed
        together."""
        chosen = ops[:MAX_TOGETHER]
        return chosen if self._goes_on() and (len(ops) == 1 or self._may_share(ops)) else []

    def _goes_on(self) -> bool:
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

    def _may_share(self, ops: Sequence[Op]) -> bool:
        """Whether steps may be executed together: not if each needs a permit, not if it must be
        known which step was lost, and not if one may hold up the next steps of the others."""
        request = self.request
        return (
            request.retries > 0
            and not request.losses
            and not request.until_over
            and request.base + len(self.done) + min(len(ops), MAX_TOGETHER) <= MAX_STEPS
            and all(map(self.is_quick, ops))
        )

    async def begin(self, op: Op) -> None:
        """Before a body begins, make the earlier results durable, unless they may be buffered.

        The heartbeat also says which step begins, so that a loss counts as an attempt of that step.
        Without retries a step that has begun is not executed again, so its beginning must be
        durable, too.
        """
        self.under_way[op.id] = op
        is_first = not self.done and self.request.target is not None
        tells = not self.request.retries and not is_first
        if tells or self._is_due():
            await self._send(tells)

    async def record(self, done: Done) -> None:
        """Keep a step's result. It becomes durable before the next body begins, or soon if bodies
        of other steps are under way."""
        self.under_way.pop(done.op.id, None)
        if done.error is not None:
            return  # the execution ends with this step, and reports it
        async with self._keeping:
            await self._until_taken(functools.partial(self._keep, done))
        self._unsent += 1
        if not self.request.alone:
            raise Interrupt  # other steps are under way: the run decides what comes next
        if self.under_way and self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _keep(self, done: Done) -> None:
        """Add a step to what the next heartbeat sends. If that is large already, it is handed over
        first. Raises `RPCError`; then the step is not added."""
        if self._bytes >= MAX_CHAIN_BYTES:
            await self.hand_over()
        wire = to_wire(done)
        self.done.append(wire)
        self._texts.append(_json(wire))
        self._bytes += len(self._texts[-1])

    async def _flush(self) -> None:
        """Send results as long as there are new ones and bodies are under way, one heartbeat at a
        time."""
        try:
            while self.under_way and self._is_due():
                await self._send()
        except (Interrupt, RPCError) as error:
            activity.logger.debug("A heartbeat failed: %s", error)
        finally:
            self._flushing = None

    def _is_due(self) -> bool:
        if not self._unsent or self.policy is None:
            return False
        if self._unsent >= self.policy.buffered_steps:
            return True
        waited_ms = (time.monotonic() - self._sent_at) * 1000
        return bool(self.policy.max_interval_ms) and waited_ms >= self.policy.max_interval_ms

    async def _send(self, tells: bool = False) -> None:
        """Make the results durable. `tells`: send the details even if all results were sent, to
        tell which step begins.

        Raises `Interrupt` if Temporal has given the activity up.
        """

        async def send() -> None:
            async with self._turn:
                if not self._unsent and not tells:
                    return
                sent, self._sent_at = self._unsent, time.monotonic()
                if not await self.heartbeat(retry=False):
                    raise Interrupt
                self._unsent -= sent

        await self._until_taken(send)

    async def _until_taken(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send again while Temporal can't be reached: an outage is no failure of a step. Raises
        `Interrupt` if the execution is over by then."""
        while not self.closed:
            try:
                return await send()
            except RPCError as error:
                if not is_temporary(error):
                    raise
            await asyncio.sleep(OUTAGE_PAUSE)  # the SDK has to heartbeat, too
        raise Interrupt

    async def hand_over(self) -> None:
        """Send the results so far to the run, which ignores a step that it gets twice. Raises
        `RPCError`."""
        info = activity.info()
        assert info.workflow_id is not None
        run = self.client.get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
        async with self._turn:
            sent = self.done[:]
            await run.signal(CHECKPOINT_SIGNAL, sent)
            self.handed_over.update(from_wire(Done, each).op.id for each in sent)
            self.done, self._texts = self.done[len(sent) :], self._texts[len(sent) :]
            self._bytes = sum(map(len, self._texts))
            self._unsent = min(self._unsent, len(self.done))

    async def stop_with_worker(self) -> None:
        """Wait until the worker stops; no further step may begin then."""
        await activity.wait_for_worker_shutdown()
        self.stopping = True

    def close(self) -> None:
        """Stop sending results: the execution is over."""
        self.closed = True
        if self._flushing is not None:
            self._flushing.cancel()

    async def heartbeat(self, retry: bool = True) -> bool:
        """Send the details to Temporal; False if it does not know the activity any more. `retry`:
        try again for some seconds. Raises `RPCError`."""
        payloads = await self.client.data_converter.encode(self._encoded_details())
        request = RecordActivityTaskHeartbeatRequest(
            namespace=self.client.namespace,
            task_token=activity.info().task_token,
            identity=self.client.identity,
            details=Payloads(payloads=payloads),
        )
        service = self.client.workflow_service
        try:
            reply = await service.record_activity_task_heartbeat(
                request, retry=retry, timeout=None if retry else TRY_TIMEOUT
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            # The SDK's own heartbeat fails as well, and it cancels the activity.
            activity.heartbeat(*self.details)
            return False
        if reply.cancel_requested:
            activity.heartbeat(*self.details)
        return True

    def _encoded_details(self) -> list[RawValue]:
        """The details as the JSON converter would encode them. Each step is encoded once, not for
        every heartbeat."""
        if not self.details:
            return []
        texts = (f"[{','.join(self._texts)}]", _json(to_wire(self.begun)))
        metadata = {"encoding": b"json/plain"}
        return [RawValue(Payload(metadata=metadata, data=text.encode())) for text in texts]

    async def keep_alive(self) -> None:
        """Send a regular heartbeat, in order with the others. Raises `RPCError`."""
        self._beats += 1
        async with self._turn:
            if self._beats % SDK_EVERY:
                await self.heartbeat()
                return
            activity.heartbeat(*self.details)
            await asyncio.sleep(ORDERING_PAUSE)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


async def is_stale(client: Client) -> bool:
    """Whether the current activity must not begin, because Temporal has given it up, so that
    another worker may execute it now, or can't be asked. That happens if a process stands still
    between taking an activity and beginning it."""
    if time.time() - activity.info().started_time.timestamp() < STALE_SECONDS:
        return False
    try:
        return not await Checkpoints(client, ExecutionRequest(), None).heartbeat()
    except RPCError as error:
        if not is_temporary(error):
            raise
        return True
