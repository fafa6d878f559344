"""The base of the entity workflows. Workflow code.

An entity is a long-lived workflow with a fixed id. The first message to that id starts it
(`inngest_temporal.temporal.entity` is the other side), without any state; the entity alone decides
what it carries over when it continues as new. A subclass is the entity's rule:

- `messages`: the names of its messages, and the type of each;
- `take`: what a message does;
- `act`: what is due without a message;
- `due_ms`: when that is; None: the entity holds nothing, and ends once it has lingered;
- `dump` and `load`: what it carries over.

Three things keep an entity replayable, however slow its worker is. Time is the entity's own clock,
never that of the workflow task. Activities are bounded in time, see `Calls`. And the entity decides
by its own counts when to continue as new, or to end a long workflow task.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pydantic
from temporalio import workflow
from temporalio.common import RawValue

from inngest_temporal_workers.calls import Calls

LINGER_MS = 10_000
"""How long an idle entity stays: Temporal Cloud starts the same id only about once a second."""
MAX_STATE = 1_800_000
"""Maximum size in bytes of what an entity carries over. With more, Temporal would end it, and its
state would be lost. So it does not continue as new, which is possible until its history has 50,000
events."""
MAX_COST = 4_000
"""Estimated events of history after which an entity continues as new."""
MAX_BYTES = 4_000_000
"""Bytes of messages after which an entity continues as new."""
RETRY_COST = 500
"""Further events before an entity that had too much to carry over tries again."""
SIGNAL_COST, UPDATE_COST, TIMER_COST, LOCAL_COST, REGULAR_COST = 2, 4, 4, 2, 6
"""Estimated number of history events for each kind of thing that happens. Temporal allows 2,000
updates in one execution; with these costs there are at most half as many."""

NEVER_MS = 2**62
"""Result of `due_ms` if nothing is due, but the entity holds something and does not end."""

T = TypeVar("T")
E = TypeVar("E", bound="Entity")
Carried = dict[str, Any] | None


class Clock:
    """An entity's own clock, in ms since 1970: the latest time that is in history.

    It stands still between messages and timers. Senders stamp their messages, so it is as accurate
    as their clocks.
    """

    def __init__(self) -> None:
        self.now_ms = round(workflow.info().workflow_start_time.timestamp() * 1000)

    def see(self, at_ms: int) -> None:
        """Move the clock forward to this time, unless it is later already."""
        self.now_ms = max(self.now_ms, at_ms)


class Alarm:
    """A single timer instead of one for each message. So it may ring before the time that was last
    asked for."""

    def __init__(self) -> None:
        self.at_ms = 0
        """When it rings, or rang."""
        self._timer: asyncio.Task[None] | None = None

    @property
    def rang(self) -> bool:
        return self._timer is not None and self._timer.done()

    def set(self, at_ms: int, in_ms: int) -> None:
        """Ring at `at_ms` at the latest, which is `in_ms` from now."""
        if self._timer is not None and not self._timer.done():
            if at_ms >= self.at_ms:
                return
            self._timer.cancel()
        self.at_ms = at_ms
        # A sleep of zero would start no timer.
        self._timer = asyncio.create_task(asyncio.sleep(max(1, in_ms) / 1000))


class Entity:
    """Inbox, clock, alarm, calls, renewal and lingering of an entity."""

    messages: ClassVar[Mapping[str, "pydantic.TypeAdapter[Any]"]] = {}
    """Type of the argument of each signal. Unknown fields are ignored, so that two versions of this
    package work side by side."""
    believes_stamps: ClassVar[bool] = True
    """Whether the stamps of messages move the clock; if not, only timers do."""

    @workflow.init
    def __init__(self, carried: Carried = None) -> None:
        self.clock = Clock()
        self._alarm = Alarm()
        self._calls = Calls()
        self._inbox: deque[tuple[str, RawValue, int]] = deque()
        self._stirred = False
        self._cost = self._bytes = self._renew_at = 0
        self._used = False
        self.sent_ms = self.clock.now_ms
        """When the current message was sent."""
        self.load(carried or {})

    # The rule.

    def load(self, state: dict[str, Any]) -> None:
        """Begin with the result of `dump`; `{}` in the first execution."""

    def dump(self) -> dict[str, Any]:
        """The state with which the next execution begins."""
        return {}

    def memo(self) -> dict[str, Any]:
        """What can be read without a worker."""
        return {}

    async def take(self, name: str, message: Any) -> None:
        """Do what a message (of a type in `messages`) asks for."""
        raise NotImplementedError

    async def act(self) -> None:
        """Do what is due. Called after messages, and at the time of `due_ms`."""

    def due_ms(self) -> int | None:
        """When there is something to do even without a message; None: the entity holds nothing."""
        return None

    # What the rule may use.

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms

    @property
    def task_ms(self) -> int:
        """When the workflow task began. It must decide nothing: replay may see another time."""
        return workflow.time_ns() // 1_000_000

    def asked(self, sent_ms: int) -> None:
        """Called first in the handler of each update, which may change when something is due."""
        self._calls.new_task()
        self._cost += UPDATE_COST
        self._note(sent_ms)
        self.stir()

    def stir(self) -> None:
        """Have the main loop call `act` soon, without a message or a timer."""
        self._stirred = True

    async def call(self, activity: str, args: Sequence[Any], result_type: type[T]) -> T:
        """The result of an activity that is harmless to repeat, however long that takes."""
        self._cost += LOCAL_COST
        self._used = True
        return await self._calls.call(activity, args, result_type)

    async def call_regularly(self, activity: str, args: Sequence[Any], result_type: type[T]) -> T:
        """The same, but all that was done so far is in history before the activity begins."""
        self._cost += REGULAR_COST
        self._used = True
        return await self._calls.call_regularly(activity, args, result_type)

    async def end_task(self) -> None:
        """End the workflow task, so that what was done is in history.

        During a long task signals pile up until Temporal gives it up (at 2 MB), and then all that
        it has started is started again. A timer would end the task as well, but takes a second.
        """
        self._cost += REGULAR_COST
        await workflow.execute_activity(
            "inngest.pause", start_to_close_timeout=timedelta(seconds=10)
        )
        self._calls.new_task()

    async def take_all(self) -> None:
        """Take all messages that have arrived."""
        while self._inbox:
            name, raw, sent_ms = self._inbox.popleft()
            self._note(sent_ms)
            payload = workflow.payload_converter().from_payload(raw.payload)
            try:
                message = self.messages[name].validate_python(payload)
            except pydantic.ValidationError as error:
                # If it stayed in the inbox, this task would fail for ever.
                workflow.logger.error("A message %r can't be read, and is dropped: %s", name, error)
                continue
            await self.take(name, message)

    # The loop.

    async def live(self) -> None:
        """The entity's whole life, or one execution of it."""
        while True:
            if not (self._inbox or self._stirred):
                self._set_alarm()
                await workflow.wait_condition(
                    lambda: bool(self._inbox) or self._stirred or self._alarm.rang
                )
            self._stirred = False
            rang = self._alarm.rang
            if rang:
                self._calls.new_task()
                self._cost += TIMER_COST
                self.clock.see(self._alarm.at_ms)
            await self.take_all()
            await self.act()
            if self.is_long:
                await self.take_all()
            elif self._inbox or self._stirred:
                continue
            if not workflow.all_handlers_finished():
                await workflow.wait_condition(workflow.all_handlers_finished)
                continue
            if rang and self.due_ms() is None:
                if not self._used:
                    return
                self._used = False
            if self.is_long:
                self._renew()

    def _set_alarm(self) -> None:
        due = self.due_ms()
        if due == NEVER_MS:
            return
        if due is None:
            self._alarm.set(self.now_ms + LINGER_MS, LINGER_MS)
        else:
            # Replay compares only the numbers of timers, so their length may depend on the task's
            # clock. The entity's own clock is ahead if the clock of one sender was.
            self._alarm.set(due, min(due - self.now_ms, due - self.task_ms))

    @property
    def is_long(self) -> bool:
        """Whether history is so long that the entity should continue as new."""
        return self._cost >= max(MAX_COST, self._renew_at) or (
            self._bytes >= MAX_BYTES and self._cost >= self._renew_at
        )

    def _renew(self) -> None:
        """Continue as new, unless that would carry over too much."""
        state = self.dump()
        size = len(json.dumps(state, separators=(",", ":")))
        if size <= MAX_STATE:
            workflow.continue_as_new(state, memo=self.memo() or None)
        self._renew_at = self._cost + RETRY_COST
        workflow.logger.warning("%d bytes are too many for this workflow to continue as new", size)

    def _note(self, sent_ms: int) -> None:
        self._used = True
        self.sent_ms = sent_ms
        if self.believes_stamps:
            self.clock.see(sent_ms)

    @workflow.signal(dynamic=True)
    def _receive(self, name: str, args: Sequence[RawValue]) -> None:
        """Put a message, and the time when it was sent, into the inbox."""
        if name not in self.messages or not args:
            workflow.logger.error("Message %r is unknown here, and is dropped", name)
            return
        self._calls.new_task()
        self._cost += SIGNAL_COST
        self._bytes += args[0].payload.ByteSize()
        stamp = workflow.payload_converter().from_payload(args[1].payload) if args[1:] else 0
        self._inbox.append((name, args[0], int(stamp)))


def entity(name: str) -> Callable[[type[E]], type[E]]:
    """Make a subclass of `Entity` the workflow type of that name."""

    def define(cls: type[E]) -> type[E]:
        async def run(self: E, carried: Carried = None) -> None:
            await self.live()

        # Temporal wants `run` to be defined in the class itself, with the parameters of `__init__`:
        # it checks the function's module, name and annotations.
        del run.__annotations__["self"]
        run.__module__, run.__qualname__ = cls.__module__, f"{cls.__qualname__}.run"
        cls.run = workflow.run(run)  # type: ignore[attr-defined]
        return workflow.defn(name=name, sandboxed=False)(cls)

    return define
