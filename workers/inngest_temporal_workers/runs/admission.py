"""Admission of a run: the part of the run workflow that asks locks, waits for them, and gives
tickets back.

A run asks by an activity and is answered by a signal. *Tickets* for its steps are numbered. Each
has to pass all locks of steps, one after the other in an order that is the same for all runs
(`inngest_temporal.routing.locks.needs_of`), and is then used for one execution after the other.
Tickets that are not needed, because the run is about to sleep or wait, are given back.

Giving a ticket back must be in history before the lock knows of it. Otherwise a workflow task that
is lost after the lock was told, and repeated with an event that came meanwhile, could execute with
a ticket that another run holds. So a run that may go on sends a signal command; at its end, when
nothing is executed any more, it uses a local activity, which is cheaper.
"""

import asyncio
import functools
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import FailureError

from inngest_temporal.functions import FunctionPart
from inngest_temporal.routing.locks import SKIPPED, LockRequest, Locks, settings_of
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.run_input import LockNeed
from inngest_temporal_workers.calls import Calls

FIRST_RETRY = 10.0
"""Seconds after which a waiting run first makes sure that its lock still knows of it."""
LONGEST_RETRY = 1_800.0
"""Longest interval in seconds between two such checks. Each adds six events to a history that may
have 50,000, and a run may wait for months."""
LATE_MS = 2_000
"""A run that enters this long after its creation comes from a backlog."""
REMEMBERED = 10_000
"""Maximum number of pairs of lock and function for which a process remembers the settings that it
sent."""
WHOLE = 0
"""Number of the ticket for the run as a whole."""

_NOUNS = {
    "pause": "its function to be resumed",
    "singleton": "its turn as a singleton",
    "throttle": "its start, throttled",
    "run": "a permit to run",
    "step": "a permit to execute",
}


@dataclass
class AskedLock:
    """What a run asks of one lock."""

    need: LockNeed
    acquire: list[int] = field(default_factory=list)
    """Numbers of tickets that are asked for the first time."""
    again: list[int] = field(default_factory=list)
    """Numbers of tickets that were asked for before. They are asked for again only if the lock has
    lost them."""
    release: list[int] = field(default_factory=list)
    asked: str = ""
    """The execution of the lock that was asked for the tickets of `again`."""


@dataclass(frozen=True)
class Asking:
    """Argument of `inngest.ask`."""

    locks: list[AskedLock]
    score: int
    created_ms: int
    is_entering: bool
    """Whether the run has not executed anything yet."""


class _Waiter:
    """An execution that waits for a ticket."""

    admitted = False


class Admission:
    """A run's side of its locks. Workflow code."""

    def __init__(self, calls: Calls) -> None:
        """`calls` are those of the run."""
        self._calls = calls
        self._whole: list[LockNeed] = []
        self._steps: list[LockNeed] = []
        self._score = self._created_ms = 0
        self._is_entering = True
        self._verdicts: dict[str, str] = {}
        """Lock of the run as a whole -> its answer; "" if it was asked and has not answered."""
        self._tickets: dict[int, int] = {}
        """Number of a ticket -> how many of the locks of steps it has passed."""
        self._last = WHOLE
        self._wanted = 0
        """Number of executions that are under way or about to begin."""
        self._free = 0
        """Number of tickets that have passed all locks and are not in use."""
        self._waiters: deque[_Waiter] = deque()
        self._outbox: dict[str, AskedLock] = {}
        self._asked: dict[str, str] = {}
        """Lock -> the execution of it that was asked last."""
        self._sending: asyncio.Task[None] | None = None
        self._returning: dict[asyncio.Task[None], list[tuple[LockNeed, list[int]]]] = {}
        self._left = False

    def begin(self, needs: list[LockNeed], factor: int, created_ms: int) -> None:
        """Set the locks that the run must pass, its priority, and when it was created (ms since
        1970)."""
        self._whole = [need for need in needs if need.kind != "step"]
        self._steps = [need for need in needs if need.kind == "step"]
        self._created_ms = created_ms
        self._score = created_ms - factor * 1000

    async def enter(self) -> bool:
        """Acquire every lock that is required before the first execution. False if the run is to be
        skipped."""
        for need in self._whole:
            if not self._verdicts.get(need.lock):
                self._verdicts[need.lock] = ""
                self._ask(need, WHOLE)
            await self._wait(need, functools.partial(self._verdicts.get, need.lock))
            if self._verdicts[need.lock] == SKIPPED:
                del self._verdicts[need.lock]
                return False
            if need.kind == "pause":
                # The run needs this ticket no more; giving it back lets the next runs go on.
                del self._verdicts[need.lock]
                self._return(need, [WHOLE])
        if self._steps:
            self.want()
            await self.permit()
            self.done()
        self._is_entering = False
        return True

    # Executions. Each wants a permit, waits for it, and says when it is done.

    @property
    def counts(self) -> bool:
        """Whether a lock counts the run or its executions."""
        return bool(self._whole or self._steps)

    def want(self) -> None:
        """Announce an execution; `permit` must follow."""
        if self._steps:
            self._wanted += 1

    async def permit(self) -> None:
        """Wait until the execution may begin."""
        if not self._steps:
            return
        if self._free and not self._waiters:
            self._free -= 1
            return
        waiter = _Waiter()
        self._waiters.append(waiter)
        if len(self._tickets) < self._wanted:
            self._last += 1
            self._tickets[self._last] = 0
            self._ask(self._steps[0], self._last)
        await self._wait(
            self._steps[0], lambda: waiter.admitted, lambda: self._waiters[0] is waiter
        )

    def done(self) -> None:
        """End an execution. Its ticket stays for the next one, until `return_unused`."""
        if self._steps:
            self._wanted -= 1
            self._free += 1
            self._serve()

    def return_unused(self) -> None:
        """Give back the tickets that are not needed, before the run waits for something."""
        surplus = len(self._tickets) - self._wanted
        if surplus <= 0:
            return
        # First those that have passed the fewest locks. A surplus ticket that has passed all of
        # them is free: if an execution waited for it, it would have it.
        order = sorted(self._tickets, key=lambda number: (self._tickets[number], -number))
        returned: dict[str, tuple[LockNeed, list[int]]] = {}
        for number in order[:surplus]:
            passed = self._tickets.pop(number)
            if passed == len(self._steps):
                self._free -= 1
            for need in self._steps[: passed + 1]:
                returned.setdefault(need.lock, (need, []))[1].append(number)
        for need, numbers in returned.values():
            self._return(need, numbers)

    def _serve(self) -> None:
        while self._free and self._waiters:
            self._free -= 1
            self._waiters.popleft().admitted = True

    # The end.

    async def leave(self) -> None:
        """Give everything back at the end of the run."""
        self._left = True
        # A request that is under way must not reach a lock after the release.
        if self._sending is not None:
            await self._sending
        # A start that a throttle has granted is used up. If it has not answered yet, the run takes
        # its request back.
        throttled = {need.lock for need in self._whole if need.kind == "throttle"}
        returned = [
            (need, [WHOLE])
            for need in self._whole
            if need.lock in self._verdicts
            and not (self._verdicts[need.lock] and need.lock in throttled)
        ]
        for index, need in enumerate(self._steps):
            numbers = [number for number, passed in self._tickets.items() if passed >= index]
            if numbers:
                returned.append((need, numbers))
        self._tickets.clear()
        self._verdicts.clear()
        self._waiters.clear()
        # A signal that was not delivered yet will never be, once the run has ended.
        returned += [item for items in self._returning.values() for item in items]
        if returned:
            await self._call([AskedLock(need, release=numbers) for need, numbers in returned])
        self._show("")

    def _return(self, need: LockNeed, numbers: list[int]) -> None:
        # In a task of its own, which ends when the signal is delivered: `leave` has to know.
        task = asyncio.create_task(self._signal(need, numbers))
        self._returning[task] = [(need, numbers)]
        task.add_done_callback(self._returning.pop)

    async def _signal(self, need: LockNeed, numbers: list[int]) -> None:
        info = workflow.info()
        request = LockRequest(
            info.workflow_id, info.workflow_type, release=numbers, created_ms=self._created_ms
        )
        try:
            await workflow.get_external_workflow_handle(need.lock).signal("ask", [request])
        except FailureError:
            pass  # the lock is not there, so there is nothing to give back

    # What locks say.

    def receive(self, lock: str, verdicts: Mapping[str, list[int]]) -> None:
        """The answer of a lock."""
        if self._left:
            return  # everything has been given back
        for verdict, numbers in verdicts.items():
            for number in numbers:
                self._take(lock, number, verdict)

    def _take(self, lock: str, number: int, verdict: str) -> None:
        whole = {need.lock: need for need in self._whole}
        if number == WHOLE and lock in whole:
            # This run may not have asked yet: a workflow task that was lost had asked. It will ask,
            # or give the ticket back at the end.
            self._verdicts[lock] = self._verdicts.get(lock) or verdict
            return
        for index, need in enumerate(self._steps):
            if need.lock != lock:
                continue
            passed = self._tickets.get(number)
            if passed is None:
                # The run has given this ticket back; or a workflow task that was lost had asked
                # for it, maybe with a number that this one has not used yet. That number is not
                # used any more: the lock might hear of the new request before the release.
                self._last = max(self._last, number)
                self._return(need, [number])
            elif passed == index:
                self._tickets[number] = passed + 1
                if passed + 1 < len(self._steps):
                    self._ask(self._steps[passed + 1], number)
                else:
                    self._free += 1
                    self._serve()

    # Asking.

    def _ask(self, need: LockNeed, number: int) -> None:
        """Ask for a ticket. All that is asked in one turn of the event loop is sent together."""
        self._outgoing(need).acquire.append(number)
        self._start_sending()

    def _ask_again(self) -> None:
        for need in self._whole:
            if self._verdicts.get(need.lock) == "":
                self._outgoing(need).again.append(WHOLE)
        for number, passed in self._tickets.items():
            if passed < len(self._steps):
                self._outgoing(self._steps[passed]).again.append(number)
        self._start_sending()

    def _outgoing(self, need: LockNeed) -> AskedLock:
        return self._outbox.setdefault(need.lock, AskedLock(need))

    def _start_sending(self) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._outbox:
                asked, self._outbox = [*self._outbox.values()], {}
                for each in asked:
                    each.asked = self._asked.get(each.need.lock, "")
                self._asked |= await self._call(asked)
        finally:
            self._sending = None

    async def _call(self, locks: list[AskedLock]) -> dict[str, str]:
        asking = Asking(locks, self._score, self._created_ms, self._is_entering)
        return await self._calls.call("inngest.ask", [asking], dict[str, str])

    async def _wait(
        self,
        need: LockNeed,
        admitted: Callable[[], Any],
        is_first: Callable[[], bool] = lambda: True,
    ) -> None:
        """Wait until `admitted`. The first execution that waits asks again now and then, for
        all."""
        interval = FIRST_RETRY * _jitter(workflow.info().workflow_id)
        self._show_waiting(need)
        while not admitted():
            if not is_first():
                await workflow.wait_condition(lambda: bool(admitted()) or is_first())
                continue
            try:
                await workflow.wait_condition(
                    lambda: bool(admitted()), timeout=interval, timeout_summary="ask the lock again"
                )
            except TimeoutError:
                self._calls.new_task()
                self._show_waiting(need)
                self._ask_again()
                interval = min(2 * interval, LONGEST_RETRY)
        self._show("")

    # What people see.

    def _show_waiting(self, need: LockNeed) -> None:
        if need.kind == "step":
            waiting = [passed for passed in self._tickets.values() if passed < len(self._steps)]
            need = self._steps[min(waiting, default=0)]
        text = f"Waits for {_NOUNS[need.kind]}"
        if need.key:
            text += f" for {need.key} = {need.value}"
        self._show(f"{text}. Lock: {need.lock}")

    def _show(self, text: str) -> None:
        if self.counts:
            workflow.set_current_details(text)


def _jitter(run: str) -> float:
    """A factor from 1 to 2, so that runs that began to wait together do not ask together."""
    return 1 + zlib.crc32(run.encode()) / 2**32


@dataclass(frozen=True)
class AdmissionActivities:
    """The activity by which runs ask locks."""

    locks: Locks
    parts: Mapping[str, FunctionPart]
    registry: Follower
    _told: dict[tuple[str, str], int] = field(default_factory=dict, init=False)
    """Lock and function -> version of the settings that this process sent to the lock last."""

    def all(self) -> list[Callable[..., Any]]:
        return [self.ask]

    @activity.defn(name="inngest.ask")
    async def ask(self, asking: Asking) -> dict[str, str]:
        """Send a run's requests to locks. Returns lock -> the execution of it that was asked."""
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_type is not None
        # The settings that were published last, so that workers of two versions do not flip a limit
        # back and forth. A lock that is not told its limit has none.
        own, snapshot = self.parts.get(info.workflow_type), self.registry.snapshot
        if any(each.need.kind == "pause" for each in asking.locks):
            # The process that started the run may know of the pause before this one does.
            snapshot = await self.registry.refresh()
        elif own is None or snapshot is None:
            snapshot = await self.registry.knowing(info.workflow_type)
        published = snapshot.function(info.workflow_type)
        function = published or own
        version = published.version if published else 0
        is_late = asking.is_entering and time.time_ns() // 1_000_000 - asking.created_ms > LATE_MS
        work = []
        for each in asking.locks:
            request = LockRequest(
                info.workflow_id,
                info.workflow_type,
                each.acquire,
                each.release,
                asking.score,
                asking.created_ms,
                is_late,
                None if function is None else settings_of(function.config, each.need, version),
            )
            work.append(self._ask(each, request))
        executions = await asyncio.gather(*work)
        return {
            each.need.lock: execution
            for each, execution in zip(asking.locks, executions, strict=True)
        }

    async def _ask(self, asked: AskedLock, request: LockRequest) -> str:
        lock = asked.need.lock
        if asked.again and not await self.locks.knows(lock, asked.asked):
            request = replace(request, acquire=[*request.acquire, *asked.again])
        is_news = self._is_news(lock, request)
        if request.acquire or request.release:
            return await self.locks.ask(asked.need, request)
        if is_news:
            # Visibility may not list the lock yet, so that an announcement could not reach it.
            settings = LockRequest("", request.function, settings=request.settings)
            await self.locks.ask(asked.need, settings)
        return asked.asked

    def _is_news(self, lock: str, request: LockRequest) -> bool:
        """Whether this process has not told the lock of these settings yet."""
        key, version = (lock, request.function), request.settings.version if request.settings else 0
        is_news = self._told.pop(key, 0) < version
        self._told[key] = version
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return is_news
