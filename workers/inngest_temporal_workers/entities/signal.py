"""The entity of one signal: it knows which run waits for it, and ends when nobody does."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

from inngest_temporal.routing.signals import Claim, SignalState
from inngest_temporal.temporal import names

from .entity import is_long

LINGER = timedelta(seconds=10)
"""How long it stays when nobody waits: so a loop of waits does not start it anew each time."""


@workflow.defn(name=names.SIGNAL_TYPE, sandboxed=False)
class Signal:
    @workflow.init
    def __init__(self, state: SignalState) -> None:
        self._holder = state.holder
        self._changed = False
        self._turn = asyncio.Lock()

    @workflow.run
    async def run(self, state: SignalState) -> None:
        while True:
            await workflow.wait_condition(workflow.all_handlers_finished)
            if is_long():
                workflow.continue_as_new(SignalState(self._holder))
            self._changed = False
            try:
                # Claims that are refused change nothing, but an execution takes 2,000 updates.
                await workflow.wait_condition(
                    lambda: self._changed or is_long(), timeout=self._patience()
                )
            except TimeoutError:
                if self._expired():
                    self._holder = None
                if self._holder is None and workflow.all_handlers_finished():
                    return

    def _patience(self) -> timedelta:
        if self._holder is None:
            return LINGER
        return (
            timedelta(milliseconds=max(0, self._holder.expires_ms - workflow.time() * 1000))
            + LINGER
        )

    def _expired(self) -> bool:
        return self._holder is not None and self._holder.expires_ms <= workflow.time() * 1000

    @workflow.query
    def holder(self) -> Claim | None:
        return self._holder

    @workflow.update
    async def claim(self, wait: Claim) -> bool:
        async with self._turn:
            if self._holder is None or self._expired() or wait.replace:
                self._hold(wait)
            holder = self._holder
            return holder is not None and (holder.run, holder.step) == (wait.run, wait.step)

    @workflow.update
    async def send(self, data: Any) -> str | None:
        async with self._turn:
            holder = self._holder
            if holder is None or self._expired():
                return None
            found = await workflow.execute_local_activity(
                "inngest.send_signal",
                args=[holder, workflow.info().workflow_id.removeprefix(names.signal_id("")), data],
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
                result_type=bool,
            )
            self._hold(None)
            return holder.run if found else None

    @workflow.signal
    async def release(self, run: str, step: str) -> None:
        async with self._turn:
            if self._holder is not None and (self._holder.run, self._holder.step) == (run, step):
                self._hold(None)

    def _hold(self, wait: Claim | None) -> None:
        self._holder = wait
        self._changed = True
