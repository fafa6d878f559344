"""A mailbox: the runs that wait for events of one name with one value at one path (empty path: all
of them).

It takes signals in the order of its history, so an event that arrives after a registration finds
it. Matching runs are signalled from a local activity: one marker in the history for an event,
however many runs it resumes. A delivery is repeated rather than lost, and runs ignore the second
one.
"""

import asyncio
from collections import OrderedDict, deque
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from inngest_temporal.expressions import compile_expression
from inngest_temporal.routing.waits import CANCEL, Delivery, MailboxState, Wait
from inngest_temporal.temporal import names

from .entity import Renewal, end_task, is_long
from .fan_out import CHUNK

LINGER = timedelta(seconds=10)
"""How long an empty one stays: Temporal Cloud starts the same id only about once a second."""
SEEN = 1_000
"""Events remembered, so that a sender's retry delivers none twice."""
MAX_TASK_WORK = 300_000
"""Work of expressions after which it ends the workflow task, which Temporal lets compute for two
seconds."""
EXPIRY_GRACE = timedelta(minutes=1)
"""A run whose wait times out takes the wait back itself; this is for runs that are gone."""


@workflow.defn(name=names.MAILBOX_TYPE, sandboxed=False)
class Mailbox:
    @workflow.init
    def __init__(self, state: MailboxState) -> None:
        self._waits = {(wait.run, wait.id): wait for wait in state.waits()}
        self._seen = OrderedDict.fromkeys(state.seen)
        self._inbox: deque[Wait | Delivery | tuple[str, str]] = deque()
        self._resting_long = False
        self._work = 0
        self._renewal = Renewal()

    @workflow.run
    async def run(self, state: MailboxState) -> None:
        self._rest = asyncio.create_task(asyncio.sleep(LINGER.total_seconds()))
        while True:
            await workflow.wait_condition(lambda: bool(self._inbox) or self._rest.done())
            while self._inbox:
                await self._take(self._inbox.popleft())
            if self._rest.done():
                self._expire()
                if not self._waits and not self._inbox:
                    return
                self._start_rest()
            elif not self._waits and self._resting_long:
                self._start_rest()
            if not self._inbox and self._renewal.is_due() and is_long():
                self._expire()
                renewed = MailboxState.of(self._waits.values(), self._seen)
                self._renewal.attempt(renewed, len(renewed.packed))

    def _start_rest(self) -> None:
        """One timer at a time, not one for each message: short when empty, else to the first
        expiry."""
        self._rest.cancel()
        self._resting_long = bool(self._waits)
        seconds = LINGER.total_seconds()
        if self._waits:
            first = min(wait.expires_ms for wait in self._waits.values())
            seconds = max(0.0, first / 1000 - workflow.time()) + EXPIRY_GRACE.total_seconds()
        self._rest = asyncio.create_task(asyncio.sleep(seconds))

    def _expire(self) -> None:
        now = workflow.time() * 1000
        self._waits = {key: wait for key, wait in self._waits.items() if wait.expires_ms > now}

    async def _take(self, message: Wait | Delivery | tuple[str, str]) -> None:
        if isinstance(message, Wait):
            self._waits[message.run, message.id] = message
        elif isinstance(message, Delivery):
            await self._deliver(message)
        else:
            self._waits.pop(message, None)

    async def _deliver(self, delivery: Delivery) -> None:
        if delivery.id in self._seen:
            return
        self._seen[delivery.id] = None
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        now = workflow.now()
        now_ms = now.timestamp() * 1000
        matching: dict[str, list[str]] = {}
        for wait in self._waits.values():
            if wait.expires_ms <= now_ms:
                continue
            matched, work = _matches(wait, delivery, now)
            if matched:
                matching.setdefault(wait.run, []).append(wait.id)
            self._work += work
            if self._work > MAX_TASK_WORK and workflow.patched("pause"):
                self._work = 0
                await end_task()
        gone: set[str] = set()
        runs = list(matching)
        for start in range(0, len(runs), CHUNK):
            gone.update(
                await workflow.execute_local_activity(
                    "inngest.resume",
                    args=[
                        {run: matching[run] for run in runs[start : start + CHUNK]},
                        vars(delivery),
                    ],
                    start_to_close_timeout=timedelta(seconds=30),
                    retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
                    result_type=list[str],
                )
            )
        for run, ids in matching.items():
            # A run that is to be cancelled may be on its way: its entry is registered before it is
            # started.
            for wait_id in ids if run not in gone else _steps(ids):
                self._waits.pop((run, wait_id), None)

    @workflow.signal
    def register(self, wait: Wait) -> None:
        self._inbox.append(wait)

    @workflow.signal
    def deregister(self, run: str, step: str) -> None:
        self._inbox.append((run, step))

    @workflow.signal
    def deliver(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)


def _steps(ids: list[str]) -> list[str]:
    return [wait_id for wait_id in ids if not wait_id.startswith(CANCEL)]


def _matches(wait: Wait, delivery: Delivery, now: datetime) -> tuple[bool, int]:
    """And the work it took."""
    if delivery.id in wait.own:
        return False, 1
    if wait.rest is None:
        return True, 1
    return compile_expression(wait.rest).measured_match(wait.event, delivery.event, now)
