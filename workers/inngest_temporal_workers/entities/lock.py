"""Locks: entity workflows around a machine (`.permits`, `.throttle`, `.singleton`), one for each
key, that decide when created runs may execute.

Signals bring requests; what follows is told to runs by one local activity for each workflow task,
however many runs are concerned. A decision is a function of the requests before it, in the order of
history (see `.queue`), and everything that a lock learns by itself (a run
is gone) comes as a signal too. So when a workflow task is lost after runs were told, its repetition
decides the same again.

When an app is published with other limits, its entity announces them to the locks that are open.

A run that was terminated can't give back what it holds. While others wait, a lock therefore looks
at those that hold something every `CHECK`; a run that is gone while it waits is noticed when it is
told.
"""

import asyncio
import functools
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pydantic
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy

from inngest_temporal.routing.locks import GRANTED, Change, Limit, LockRequest, Ticket, tell
from inngest_temporal.temporal import names
from inngest_temporal.temporal.runs import executes

from .entity import Renewal, is_long
from .fan_out import (
    CHUNK,
    CONCURRENCY,
    HEARTBEAT_TIMEOUT,
    fails_as_gone,
    heartbeats,
    map_concurrently,
)
from .permits import Permits
from .queue import Decisions, Machine
from .singleton import Singleton
from .throttle import Throttle

LINGER = 10.0
"""Seconds that an idle one stays: Temporal Cloud starts the same id only about once a second."""
CHECK = 20.0
"""Seconds between two looks at holders while others wait. With `queue.YOUNG_MS` this must stay
below 30."""
SLOW_CHECK = 300.0
"""Seconds between them while nobody waits: only so that a lock of lost runs ends at last."""
MIN_TIMER = 0.05
"""Seconds. A throttle of many starts a second admits several at once rather than set a timer for
each."""
MAX_EVENTS = 4_000
"""Of a history, before it continues as new; Temporal suggests it at 4,096."""
TIMEOUT = timedelta(seconds=30)
REQUESTS = pydantic.TypeAdapter(list[LockRequest])
"""Takes 4 us for a request, where temporalio's own takes 65: a queue of 20,000 has to be replayed
within the 2 s that a workflow task may compute."""
ANNOUNCED = 100
"""Limits that one activity announces."""
ANNOUNCING = timedelta(hours=1)
RETRIES = RetryPolicy(maximum_interval=timedelta(seconds=10))


class LockWorkflow:
    """The workflow; `_entity` makes one of each kind of lock."""

    machine: ClassVar[type[Machine]]

    @workflow.init
    def __init__(self, state: dict[str, Any]) -> None:
        self._machine: Machine = self.machine.load(state)
        self._inbox: deque[LockRequest] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_ends = 0.0
        self._used = workflow.time()
        self._renewal = Renewal()

    @workflow.run
    async def run(self, state: dict[str, Any]) -> None:
        while True:
            now_ms = round(workflow.time() * 1000)
            self._machine.advance(now_ms)
            if self._inbox:
                self._used = workflow.time()
            while self._inbox:
                self._machine.take(self._inbox.popleft(), now_ms)
            if self._timer is not None and self._timer.done():
                self._timer = None
                self._machine.suspect(now_ms)
                if self._machine.idle(now_ms) and workflow.time() >= self._used + LINGER - 0.5:
                    return
            if self._renewal.is_due() and _is_full():
                # Runs are told by the next execution: the shorter this task, the less likely a
                # signal forbids its end.
                state = self._machine.dump()
                self._renewal.attempt(state, len(json.dumps(state)))
                self._machine = self.machine.load(state)
            decisions = self._machine.decisions()
            for part in decisions.parts(CHUNK):
                await workflow.execute_local_activity(
                    "inngest.lock",
                    args=[workflow.info().workflow_id, part],
                    start_to_close_timeout=TIMEOUT,
                    retry_policy=RETRIES,
                )
            if not decisions:
                self._set_timer()
                await workflow.wait_condition(
                    lambda: bool(self._inbox) or (self._timer is not None and self._timer.done())
                )

    def _set_timer(self) -> None:
        """One timer at a time, and a new one only if the old one would fire too late."""
        now = workflow.time()
        ends = now + SLOW_CHECK
        due_ms = self._machine.due_ms()
        if due_ms is not None:
            ends = max(due_ms / 1000, now + MIN_TIMER)
        elif self._machine.waiting:
            ends = now + CHECK
        elif self._machine.idle(round(now * 1000)):
            ends = max(now, self._used) + LINGER
        elif isinstance(self._machine, Throttle):
            ends = max(self._machine.free_ms / 1000, self._used) + LINGER
        if self._timer is not None:
            if self._timer_ends <= ends:
                return
            self._timer.cancel()
        self._timer_ends = ends
        self._timer = asyncio.create_task(asyncio.sleep(ends - now))

    @workflow.signal
    def ask(self, requests: list[Any]) -> None:
        """`LockRequest`s, from runs and from the lock's own activity."""
        self._inbox.extend(REQUESTS.validate_python(requests))

    @workflow.query
    def queue(self) -> dict[str, int]:
        """For people and tests: how many tickets are held, how many wait."""
        return {"holding": self._machine.holding, "waiting": self._machine.waiting}


def _entity(name: str, machine: type[Machine]) -> type:
    members = {
        "machine": machine,
        "run": LockWorkflow.run,
        "__init__": LockWorkflow.__init__,
        "__module__": __name__,
        "__doc__": machine.__doc__,
    }
    # Temporal wants `run` on the class itself, and goes by the class's name to see that it is.
    return workflow.defn(name=name, sandboxed=False)(
        type(LockWorkflow.__name__, (LockWorkflow,), members)
    )


WORKFLOWS: list[type] = [
    _entity(names.LOCK_TYPES["step"], Permits),
    _entity(names.LOCK_TYPES["throttle"], Throttle),
    _entity(names.LOCK_TYPES["singleton"], Singleton),
]


def _is_full() -> bool:
    return is_long() or workflow.info().get_current_history_length() >= MAX_EVENTS


async def announce(made: Sequence[Change]) -> None:
    """Tell the open locks of changed limits. Workflow code."""
    for start in range(0, len(made), ANNOUNCED):
        await workflow.execute_activity(
            "inngest.announce",
            made[start : start + ANNOUNCED],
            start_to_close_timeout=ANNOUNCING,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRIES,
        )


@dataclass(frozen=True)
class LockActivities:
    """What locks need of Temporal."""

    client: Client

    def all(self) -> list[Callable[..., Any]]:
        return [self.carry_out, self.announce]

    @activity.defn(name="inngest.lock")
    async def carry_out(self, lock: str, decisions: Decisions) -> None:
        """Carry out what a lock has decided; may be repeated. What is learned of runs goes back to
        the lock."""
        found: list[LockRequest] = []

        async def told(run: str, verdicts: dict[str, list[int]]) -> None:
            telling = self.client.get_workflow_handle(run).signal(
                "admission", args=[lock, verdicts]
            )
            if await fails_as_gone(telling) and verdicts.get(GRANTED):
                found.append(LockRequest(run, release=verdicts[GRANTED]))

        async def cancelled(run: str, numbers: list[int]) -> None:
            if await fails_as_gone(self.client.get_workflow_handle(run).cancel()):
                found.append(LockRequest(run, release=numbers))

        async def checked(run: str, numbers: list[int]) -> None:
            if not await executes(self.client, run):
                found.append(LockRequest(run, release=numbers))
            elif decisions.reply:
                found.append(LockRequest(run, alive=True))

        runs: dict[str, dict[str, list[int]]] = {}
        for run, number, verdict in decisions.verdicts:
            runs.setdefault(run, {}).setdefault(verdict, []).append(number)
        calls = [
            *(functools.partial(told, run, verdicts) for run, verdicts in runs.items()),
            *(
                functools.partial(cancelled, run, numbers)
                for run, numbers in _by_run(decisions.cancel).items()
            ),
            *(
                functools.partial(checked, run, numbers)
                for run, numbers in _by_run(decisions.check).items()
            ),
        ]
        await map_concurrently(calls, lambda call: call(), CONCURRENCY)
        if found:
            await tell(self.client, lock, found)

    @activity.defn(name="inngest.announce")
    async def announce(self, made: list[Change]) -> None:
        """Tell the open locks of changed limits; may be repeated. One that visibility does not list
        yet learns of it from the runs that wait for it: they ask again after
        `inngest_temporal_workers.runs.admission.FIRST_RETRY`."""
        async with heartbeats():
            for change in made:
                call = functools.partial(
                    tell,
                    self.client,
                    requests=[LockRequest("", change.function, settings=change.settings)],
                )
                await map_concurrently(await self._open(change.limit), call, CONCURRENCY)

    async def _open(self, limit: Limit) -> list[str]:
        """Ids of a limit's locks that are open or may be."""
        if limit.key is None:
            return [names.lock_id(limit.kind, limit.owner)]
        prefix = (
            names.lock_prefix(limit.kind, limit.owner, limit.key)
            .replace("\\", "\\\\")
            .replace("'", "\\'")
        )
        query = f"WorkflowId STARTS_WITH '{prefix}' AND ExecutionStatus = 'Running'"
        return [lock.id async for lock in self.client.list_workflows(query)]


def _by_run(tickets: list[Ticket]) -> dict[str, list[int]]:
    runs: dict[str, list[int]] = {}
    for run, number in tickets:
        runs.setdefault(run, []).append(number)
    return runs
