"""Admission of a run: the part of the run workflow that asks locks, waits for them, and gives back.

A run asks by a local activity and is answered by a signal. *Tickets* for its steps are numbered;
each has to pass all of the steps' locks, one after the other in the order that is the same for all
runs (`inngest_temporal.routing.locks.needs_of`), and is then used for one execution after the
other. Those that are of no use, because the run is about to sleep or wait, are given back.

A ticket is given back only by what is in history. Otherwise a workflow task that was lost after the
lock had been told, and repeated with an event that came meanwhile, could execute with a ticket that
another run holds. Hence a signal command where the run may go on; at its end, where nothing is
executed any more, a local activity, which is cheaper.
"""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import WorkflowQueryFailedError
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError
from temporalio.service import RPCError

from inngest_temporal.functions import FunctionPart, part_of
from inngest_temporal.routing.locks import Locks, terms_of
from inngest_temporal.routing.permits import GRANTED, SKIPPED, Request, place
from inngest_temporal.routing.router import SnapshotSource
from inngest_temporal.routing.run_input import Need

TIMEOUT = timedelta(seconds=30)
FIRST_LOOK = 10.0
"""Seconds after which a run that waits asks again: for its place, and in case an operator ended the
lock."""
LOOKS = (60.0, 3600.0)
"""The shortest and the longest interval between the looks that follow. It grows with the place, and
doubles with each look: a look is six events of a history, which ends at 50,000, and a run may wait
for months."""
SECONDS_PER_PLACE = 0.1
FRESH = 10.0
"""Seconds for which what a lock said of its queue is good enough for all runs of a process."""
WHOLE = 0
"""Number of the ticket for the run as a whole."""

_NOUNS = {
    "singleton": "its turn as a singleton",
    "throttle": "its start, throttled",
    "run": "a permit to run",
    "step": "a permit to execute",
}


class _Waiter:
    """Something that waits for a ticket."""

    admitted = False


class Admission:
    """A run's side of its locks. Workflow code."""

    def __init__(self) -> None:
        self._whole: list[Need] = []
        self._steps: list[Need] = []
        self._score = 0
        self._verdicts: dict[str, str] = {}
        """Lock of the run as a whole -> what it said; empty: it was asked."""
        self._tickets: dict[int, int] = {}
        """Number -> how many of the steps' locks it has passed."""
        self._last = WHOLE
        self._wanted = 0
        """Executions, under way or about to be."""
        self._free = 0
        """Tickets that have passed all and are not in use."""
        self._waiters: deque[_Waiter] = deque()
        self._outbox: dict[str, tuple[Need, dict[int, None]]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._returning: dict[asyncio.Task[None], list[tuple[Need, list[int]]]] = {}
        self._executed_at = -1
        self._look = False
        self._looks: dict[str, Any] = {}
        self._left = False

    def begin(self, needs: list[Need], factor: int, created_ms: int) -> None:
        """What the run must pass, its priority, and since when it waits (ms since 1970)."""
        self._whole = [need for need in needs if need.kind != "step"]
        self._steps = [need for need in needs if need.kind == "step"]
        self._score = created_ms - factor * 1000

    async def enter(self) -> bool:
        """Pass all that must be passed before the first execution. False: the run is to be
        skipped."""
        for need in self._whole:
            self._verdicts[need.lock] = ""
            self._ask(need, WHOLE)
            await self._wait(need, functools.partial(self._verdicts.get, need.lock))
            if self._verdicts[need.lock] == SKIPPED:
                del self._verdicts[need.lock]
                return False
        if self._steps:
            self.want()
            await self.permit()
            self.done()
        return True

    # Executions. Each wants a permit, waits for it, and says when it is done.

    @property
    def counts(self) -> bool:
        """Whether a lock counts what the run executes, or that it does."""
        return bool(self._whole or self._steps)

    @property
    def per_step(self) -> bool:
        """Whether executions need permits. If not, the methods that follow do nothing."""
        return bool(self._steps)

    def want(self) -> None:
        """An execution is going to be: `permit` follows."""
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

    def done(self, *, local: bool = False) -> None:
        """The execution is over. Its ticket stays for what follows, until `settle`. `local`: it was
        one of a local activity, so nothing of it is in history before this workflow task is."""
        if local and self.counts:
            self._executed_at = workflow.info().get_current_history_length()
        if self._steps:
            self._wanted -= 1
            self._free += 1
            self._serve()

    def settle(self) -> None:
        """Nothing more is going to be executed until something happens: give back what is of no
        use."""
        surplus = len(self._tickets) - self._wanted
        if surplus <= 0:
            return
        # First those that have got the least far; a ticket that has passed all is free, or a waiter
        # would have it.
        order = sorted(self._tickets, key=lambda number: (self._tickets[number], -number))
        returned: dict[str, tuple[Need, list[int]]] = {}
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
        """The run is over: give back everything."""
        self._left = True
        if self._sending is not None:
            await self._sending
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
        if self._executed_at == workflow.info().get_current_history_length():
            # What was executed last would be executed again if this task was lost.
            for need, numbers in returned:
                self._return(need, numbers)
            while self._returning:
                await asyncio.wait(list(self._returning))
        else:
            # A signal that was not delivered yet won't be once the run has ended.
            returned += [item for items in self._returning.values() for item in items]
            if returned:
                await self._call([_item(need, [], numbers) for need, numbers in returned])
        self._show("")

    def _return(self, need: Need, numbers: list[int]) -> None:
        # Without a caller the run would never know that it has been delivered.
        task = asyncio.create_task(self._signal(need, numbers))
        self._returning[task] = [(need, numbers)]
        task.add_done_callback(self._returning.pop)

    async def _signal(self, need: Need, numbers: list[int]) -> None:
        info = workflow.info()
        request = Request(info.workflow_id, info.workflow_type, release=numbers)
        try:
            await workflow.get_external_workflow_handle(need.lock).signal("ask", [request])
        except FailureError:
            pass  # it is not there, so there is nothing to give back

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
            if lock in self._verdicts:
                self._verdicts[lock] = self._verdicts[lock] or verdict
            elif verdict == GRANTED and whole[lock].kind != "throttle":
                self._return(whole[lock], [WHOLE])
            return
        for index, need in enumerate(self._steps):
            if need.lock != lock:
                continue
            passed = self._tickets.get(number)
            if passed is None:
                self._return(
                    need, [number]
                )  # the run has changed its mind, or a lost workflow task had asked
            elif passed == index:
                self._tickets[number] = passed + 1
                if passed + 1 < len(self._steps):
                    self._ask(self._steps[passed + 1], number)
                else:
                    self._free += 1
                    self._serve()

    # Asking.

    def _ask(self, need: Need, number: int) -> None:
        """All that is asked in one go is sent together."""
        self._outbox.setdefault(need.lock, (need, {}))[1][number] = None
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._outbox:
                asked, self._outbox = self._outbox, {}
                self._looks.update(
                    await self._call(
                        [_item(need, list(numbers), []) for need, numbers in asked.values()]
                    )
                )
        finally:
            self._sending = None

    async def _call(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        reply: dict[str, Any] = await workflow.execute_local_activity(
            "inngest.ask",
            {"score": self._score, "items": items, "look": self._look},
            start_to_close_timeout=TIMEOUT,
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
            result_type=dict,
        )
        return reply

    async def _wait(
        self, need: Need, admitted: Callable[[], Any], is_first: Callable[[], bool] = lambda: True
    ) -> None:
        """Until it is admitted. The first one that waits looks at the queue now and then, for
        all."""
        looks = 0
        while not admitted():
            if not is_first() and workflow.patched("one-looks"):
                await workflow.wait_condition(lambda: bool(admitted()) or is_first())
                continue
            await workflow.wait_condition(lambda: self._sending is None or bool(admitted()))
            if admitted():
                break
            at = self._show_place(need)
            interval = max(LOOKS[0], at * SECONDS_PER_PLACE) if at else FIRST_LOOK
            interval = min(interval * 2 ** max(0, looks - 1), LOOKS[1])
            looks = min(looks + 1, 20)
            try:
                await workflow.wait_condition(
                    lambda: bool(admitted()), timeout=interval, timeout_summary="look at the queue"
                )
            except TimeoutError:
                self._look = True
                self._ask_again()
        self._show("")

    def _ask_again(self) -> None:
        for need in self._whole:
            if self._verdicts.get(need.lock) == "":
                self._ask(need, WHOLE)
        for number, passed in self._tickets.items():
            if passed < len(self._steps):
                self._ask(self._steps[passed], number)

    # What people see.

    def _show_place(self, need: Need) -> int:
        if need.kind == "step":
            waiting = [passed for passed in self._tickets.values() if passed < len(self._steps)]
            need = self._steps[min(waiting, default=0)]
        look: Any = self._looks.get(need.lock)
        text = f"Waits for {_NOUNS[need.kind]}"
        if need.key:
            text += f" for {need.key} = {need.value}"
        at = 0
        if look:
            at = int(look["place"])
            text += (
                f": about number {at:,} of {look['waiting']:,} that wait (limit {look['limit']:,})"
            )
        self._show(f"{text}. Lock: {need.lock}")
        return at

    def _show(self, text: str) -> None:
        if self.counts:
            workflow.set_current_details(text)


def _item(need: Need, acquire: list[int], release: list[int]) -> dict[str, Any]:
    return {"need": vars(need), "acquire": acquire, "release": release}


@dataclass(frozen=True)
class AdmissionActivities:
    """What runs need of Temporal to be admitted."""

    locks: Locks
    parts: Mapping[str, FunctionPart]
    registry: SnapshotSource

    _queues: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict, init=False)
    """Lock -> when it was asked, and its summary; of locks for which runs wait."""

    def all(self) -> list[Callable[..., Any]]:
        return [self.ask]

    @activity.defn(name="inngest.ask")
    async def ask(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Give locks a run's requests. Where it waits, as far as that is known: `{lock: {place,
        waiting, limit}}`."""
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_type is not None
        # What was published last, so that workers of two versions do not set a limit to and fro.
        snapshot = self.registry.snapshot
        published = snapshot.function(info.workflow_type) if snapshot is not None else None
        config = (published or part_of(info.workflow_type, self.parts)).config
        version = published.version if published else 0
        score = arguments["score"]
        work = []
        asked: list[str] = []
        for item in arguments["items"]:
            need = Need(**item["need"])
            terms = terms_of(config, need, version)
            request = Request(
                info.workflow_id, info.workflow_type, item["acquire"], item["release"], score, terms
            )
            work.append(self.locks.ask(need, request))
            if item["acquire"]:
                asked.append(need.lock)
        await asyncio.gather(*work)
        looks: dict[str, Any] = {}
        for lock in asked:
            summary = await self._queue(lock, arguments["look"])
            if summary is not None:
                looks[lock] = {
                    "place": place(summary, score),
                    "waiting": summary["waiting"],
                    "limit": summary["limit"],
                }
        return looks

    async def _queue(self, lock: str, look: bool) -> dict[str, Any] | None:
        """One look is for all runs of this process. A run that has only just come is content with
        what is known."""
        known = self._queues.get(lock)
        if known is not None and time.monotonic() - known[0] < FRESH:
            return known[1]
        if not look and known is None:
            return None
        if known is not None:
            self._note(lock, known[1])  # others need not ask at the same time
        try:
            summary = await self.locks.summary(lock)
        except (RPCError, WorkflowQueryFailedError) as error:
            activity.logger.debug("Lock %s did not tell its queue: %s", lock, error)
            self._queues.pop(lock, None)
            return None
        if not summary["waiting"]:
            self._queues.pop(lock, None)
            return None
        self._note(lock, summary)
        return summary

    def _note(self, lock: str, summary: dict[str, Any]) -> None:
        """Keep what a lock said, the latest at the end; what is not fresh any more is of no use."""
        now = time.monotonic()
        self._queues.pop(lock, None)
        self._queues[lock] = (now, summary)
        while now - self._queues[oldest := next(iter(self._queues))][0] >= FRESH:
            del self._queues[oldest]
