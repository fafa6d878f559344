"""The calls to apps that are under way in this process, and the steps that apps report meanwhile.

An app with checkpointing reports each step that it has executed to any ingress, while its call is
still open. The ingress hands the steps to the process that has the call, which makes them durable
by the heartbeat of the call's activity. So there is one writer, and no heartbeat can undo another.
"""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from temporalio import activity

from inngest_temporal.drivers.protocol import MAX_OUTPUT_BYTES, Done, json_size
from inngest_temporal.http.checkpoints import Committed
from inngest_temporal.wire import from_wire, to_wire
from inngest_temporal_workers.runs.checkpoints import (
    MAX_CHAIN_BYTES,
    MAX_CHAIN_STEPS,
    Checkpoints,
)


@dataclass
class Reports(Checkpoints):
    """The steps that an app reports during one call."""

    known: set[str] = field(default_factory=set)
    """Hashed ids of the steps that have ended."""
    over: bool = False
    """Whether the answer to the run is settled, so that a step reported now would be lost."""

    @property
    def is_free(self) -> bool:
        """Whether the app may execute one step after another, without a target."""
        request = self.request
        return request.alone and request.target is None and not request.plan_only

    @property
    def may_go_on(self) -> bool:
        """Whether to call the app again after it has executed a step."""
        return (
            self.is_free
            and not self.handed_over
            and not self.stopping
            and len(self.done) < MAX_CHAIN_STEPS
            and self._bytes < MAX_CHAIN_BYTES
        )

    @property
    def steps(self) -> list[Done]:
        """The steps that the run does not have yet."""
        return [from_wire(Done, each) for each in self.done]

    def has(self, step: str) -> bool:
        """Whether a step (hashed id) has ended already."""
        return step in self.known

    async def commit(self, steps: list[Done]) -> Committed:
        """Make steps durable, except those that are known already. Called in the activity's
        context.

        Raises `RPCError`; then the same steps may be committed again.
        """
        if self.stopping:
            return Committed.LATER
        for step in steps:
            await self._keep(step)
        async with self._turn:
            is_known = await self.heartbeat()
        return Committed.DONE if is_known and not self.over else Committed.STALE

    async def make_room(self, steps: list[Done]) -> None:
        """Hand steps over if an answer with all of them, and with these last ones, would be too
        large for Temporal."""
        new = [step for step in steps if step.error is None and not self.has(step.op.id)]
        if self._bytes + sum(json_size(to_wire(step)) for step in new) <= MAX_OUTPUT_BYTES:
            return
        for step in new:
            await self._until_taken(functools.partial(self._keep, step))

    async def _keep(self, done: Done) -> None:
        if not self.has(done.op.id):
            await super()._keep(done)
            self.known.add(done.op.id)


@dataclass
class _Call:
    run: str
    reports: Reports
    context: contextvars.Context
    """The activity's context."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Dispatches:
    """Implements the ingress' `LocalCalls`."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}

    @contextlib.contextmanager
    def under_way(self, dispatch: str, reports: Reports) -> Iterator[None]:
        """Register a call of the current activity while the block runs."""
        run = activity.info().workflow_id
        assert run is not None
        self._calls[dispatch] = _Call(run, reports, contextvars.copy_context())
        try:
            yield
        finally:
            del self._calls[dispatch]

    async def commit(self, dispatch: str, run: str, steps: list[Done]) -> Committed:
        """Make steps durable that an app has reported during a call.

        Raises `RPCError` if Temporal can't be reached.
        """
        call = self._calls.get(dispatch)
        if call is None or call.run != run:
            return Committed.STALE
        async with call.turn:
            work = asyncio.create_task(call.reports.commit(steps), context=call.context)
            return await work
