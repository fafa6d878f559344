"""Locks: entity workflows that decide when created runs may execute. There is one for each key, and
each wraps a machine (`.permits`, `.throttle`, `.singleton`).

Messages bring requests. One activity for each workflow task tells runs what was decided, however
many runs there are. A decision depends only on the requests before it, in the order of history (see
`.queue`); what a lock finds out by itself, such as that a run is gone, comes as a message too. So a
workflow task that is lost after runs were told decides the same when it is repeated.

When an app is published with other limits, its entity announces them to the open locks.

A run that was terminated can't give back what it holds. So while others wait, a lock checks its
holders every `CHECK_MS`. That a waiting run is gone is noticed when it is told that it may execute.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar

import pydantic
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.logger import told_of
from inngest_temporal.routing.locks import GRANTED, Change, Limit, LockRequest, Ticket
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle as EntityClient
from inngest_temporal.temporal.runs import is_running, quoted

from .entity import NEVER_MS, Entity, entity
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
from .singleton import SingletonMachine
from .throttle import ThrottleMachine

CHECK_MS = 12_000
"""Interval between two checks of holders while others wait. Only the second check looks whether a
holder is there, so twice this must be less than the 30 s in which a lost one must be found."""
SLOW_CHECK_MS = 300_000
"""The interval while nobody waits, only so that a lock that lost runs hold ends at some time."""
MIN_TIMER_MS = 50
"""Shortest timer: a throttle of many starts a second admits several at once instead of setting a
timer for each."""
GATHER_MS, LONGEST_GATHER_MS = 1_000, 10_000
"""When a run from a backlog asks for a free lock that decides by age (`Machine.gathers`), the lock
gathers requests until none has come for the first of these times, but no longer than the second."""
LOCAL_SIZE = 50
"""Maximum number of runs that a local activity calls: it must end within a few seconds."""
REQUESTS = pydantic.TypeAdapter(list[LockRequest])
"""Takes 4 us for a request; temporalio's own conversion takes 65. A queue of 20,000 has to be
replayed within the 2 s that a workflow task may compute."""
ANNOUNCED = 100
"""Maximum number of limits that one activity announces."""
ANNOUNCING = timedelta(hours=1)
RETRIES = RetryPolicy(maximum_interval=timedelta(seconds=10))


class LockWorkflow(Entity):
    """The rule of all locks; a subclass names the machine."""

    machine: ClassVar[type[Machine]]
    messages: ClassVar = {"ask": REQUESTS}

    def load(self, state: dict[str, Any]) -> None:
        self._machine: Machine = self.machine.load(state.get("machine", {}))
        self._check_ms = NEVER_MS
        self._gathered: list[LockRequest] = REQUESTS.validate_python(state.get("gathered", []))
        self._gather_began_ms: int = state.get("gather_began_ms", 0)
        self._gather_ends_ms: int = self._gather_began_ms + GATHER_MS

    def dump(self) -> dict[str, Any]:
        return {
            "machine": self._machine.dump(),
            "gathered": [asdict(request) for request in self._gathered],
            "gather_began_ms": self._gather_began_ms,
        }

    async def take(self, name: str, message: list[LockRequest]) -> None:
        for request in message:
            if not self._gathers(request):
                self._machine.take(request, self.now_ms)
                continue
            if not self._gathered:
                self._gather_began_ms = self.now_ms
            self._gathered.append(request)
            longest = self._gather_began_ms + LONGEST_GATHER_MS
            self._gather_ends_ms = min(self.now_ms + GATHER_MS, longest)

    def _gathers(self, request: LockRequest) -> bool:
        begins = request.late and self.machine.gathers and self._machine.idle(self.now_ms)
        return bool(self._gathered) or begins

    async def act(self) -> None:
        if self._gathered and self.now_ms < self._gather_ends_ms:
            return
        # If this task is lost, its repetition may have gathered more requests and sort them in
        # another order. So the decision must be in history before a run is told.
        is_recorded_first = bool(self._gathered)
        gathered, self._gathered = _by_age(self._gathered), []
        for request in gathered:
            self._machine.take(request, self.now_ms)
        self._machine.advance(self.now_ms)
        if self.now_ms >= self._check_ms:
            self._check_ms = NEVER_MS
            self._machine.suspect()
        for part in self._machine.decisions().parts(CHUNK):
            await self._carry_out(part, is_recorded_first)
        if self._machine.idle(self.now_ms):
            self._check_ms = NEVER_MS
        else:
            self._check_ms = min(self._check_ms, self.now_ms + self._check_interval())

    def _check_interval(self) -> int:
        return CHECK_MS if self._machine.waiting else SLOW_CHECK_MS

    async def _carry_out(self, decisions: Decisions, is_recorded_first: bool) -> None:
        call = self.call
        if is_recorded_first or decisions.size > LOCAL_SIZE:
            call = self.call_regularly
        args = [workflow.info().workflow_id, decisions]
        self.clock.see(await call("inngest.lock", args, int))

    def due_ms(self) -> int | None:
        if self._gathered:
            return self._gather_ends_ms
        if self._machine.idle(self.now_ms):
            return None
        due = self._machine.due_ms()
        return self._check_ms if due is None else max(due, self.now_ms + MIN_TIMER_MS)

    @workflow.query
    def state(self, count: int) -> dict[str, Any]:
        """For people: the runs that hold it and those that wait (the first `count` of each), and
        when the next one may start if only time decides (ms since 1970)."""
        holders, waiters = self._machine.people(count)
        return {
            "holding": self._machine.holding,
            "waiting": self._machine.waiting,
            "holders": holders,
            "waiters": waiters,
            "next_ms": self._machine.due_ms() if self._machine.waiting else None,
        }

    @workflow.query
    def queue(self) -> dict[str, int]:
        """For people and tests: how many tickets are held, how many wait."""
        return {"holding": self._machine.holding, "waiting": self._machine.waiting}


@entity(names.LOCK_TYPES["step"])
class ConcurrencyLock(LockWorkflow):
    """A concurrency limit."""

    machine = Permits


@entity(names.LOCK_TYPES["throttle"])
class ThrottleLock(LockWorkflow):
    """A throttle."""

    machine = ThrottleMachine


@entity(names.LOCK_TYPES["singleton"])
class SingletonLock(LockWorkflow):
    """A singleton."""

    machine = SingletonMachine


@entity(names.LOCK_TYPES["pause"])
class PauseLock(LockWorkflow):
    """Where runs wait that were started while their function was paused. It admits none until the
    function is resumed, and then a few at a time: each run gives its ticket back once it has been
    granted."""

    machine = Permits

    def _check_interval(self) -> int:
        return CHECK_MS if self._machine.waiting and self._machine.holding else SLOW_CHECK_MS


WORKFLOWS: list[type] = [ConcurrencyLock, ThrottleLock, SingletonLock, PauseLock]


def _by_age(requests: list[LockRequest]) -> list[LockRequest]:
    """Requests of the oldest run first; in the mode where the newest run wins, those of the newest.
    Requests of one run stay in order."""
    modes = [request.settings.mode for request in requests if request.settings is not None]
    newest_first = modes[-1:] == ["cancel"]
    return sorted(requests, key=lambda each: (each.created_ms, each.run), reverse=newest_first)


async def announce(limits: Sequence[Change]) -> None:
    """Tell the open locks about changed limits. Workflow code."""
    for start in range(0, len(limits), ANNOUNCED):
        await workflow.execute_activity(
            "inngest.announce",
            limits[start : start + ANNOUNCED],
            start_to_close_timeout=ANNOUNCING,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRIES,
        )


@dataclass(frozen=True)
class LockActivities:
    """The activities of locks."""

    client: Client

    def all(self) -> list[Callable[..., Any]]:
        return [self.carry_out, self.announce]

    @activity.defn(name="inngest.lock")
    async def carry_out(self, lock: str, decisions: Decisions) -> int:
        """Carry out what a lock has decided; may be repeated. What is found out about runs goes
        back to the lock as requests. Returns the time at the end, in ms since 1970."""
        found: list[LockRequest] = []

        async def tell(run: str, verdicts: dict[str, list[int]]) -> None:
            if not await self._tell(run, lock, verdicts) and verdicts.get(GRANTED):
                found.append(LockRequest(run, release=verdicts[GRANTED]))

        async def cancel(run: str, numbers: list[int]) -> None:
            if await fails_as_gone(self.client.get_workflow_handle(run).cancel()):
                found.append(LockRequest(run, release=numbers))

        async def check(run: str, numbers: list[int]) -> None:
            if not await is_running(self.client, run):
                found.append(LockRequest(run, release=numbers))
            elif decisions.reply:
                found.append(LockRequest(run, alive=True))

        runs: dict[str, dict[str, list[int]]] = {}
        for run, number, verdict in decisions.verdicts:
            runs.setdefault(run, {}).setdefault(verdict, []).append(number)
        calls = [
            *(functools.partial(tell, *each) for each in runs.items()),
            *(functools.partial(cancel, *each) for each in _by_run(decisions.cancel).items()),
            *(functools.partial(check, *each) for each in _by_run(decisions.check).items()),
        ]
        await map_concurrently(calls, lambda call: call(), CONCURRENCY)
        if found:
            await EntityClient(self.client, activity.info().workflow_type or "", lock).signal(
                "ask", found
            )
        return time.time_ns() // 1_000_000

    async def _tell(self, run: str, lock: str, verdicts: dict[str, list[int]]) -> bool:
        """Tell a run what was decided; False if it is gone. A run that can't take any more signals
        is not gone: it may execute because of an earlier answer."""
        try:
            await self.client.get_workflow_handle(run).signal("admission", args=[lock, verdicts])
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            activity.logger.error(
                "Run %s can't be told that it may execute: %s",
                run,
                error,
                extra=told_of(None, run),
            )
        return True

    @activity.defn(name="inngest.announce")
    async def announce(self, limits: list[Change]) -> None:
        """Tell the open locks about changed limits; may be repeated. A lock that visibility does
        not list yet learns of them from the runs that wait for it: they ask again after
        `inngest_temporal_workers.runs.admission.FIRST_RETRY`."""
        async with heartbeats():
            for change in limits:
                call = functools.partial(self._announce, change)
                await map_concurrently(await self._open(change.limit), call, CONCURRENCY)

    async def _announce(self, change: Change, lock: str) -> None:
        client = EntityClient(self.client, names.LOCK_TYPES[change.limit.kind], lock)
        request = LockRequest("", change.function, settings=change.settings)
        await client.signal("ask", [request])

    async def _open(self, limit: Limit) -> list[str]:
        """Ids of a limit's locks that are open, or may be."""
        if limit.key is None:
            return [names.lock_id(limit.kind, limit.owner)]
        prefix = quoted(names.lock_prefix(limit.kind, limit.owner, limit.key))
        query = f"WorkflowId STARTS_WITH {prefix} AND ExecutionStatus = 'Running'"
        return [lock.id async for lock in self.client.list_workflows(query)]


def _by_run(tickets: list[Ticket]) -> dict[str, list[int]]:
    runs: dict[str, list[int]] = {}
    for run, number in tickets:
        runs.setdefault(run, []).append(number)
    return runs
