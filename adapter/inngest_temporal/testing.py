"""Test functions without a server.

    event = inngest.Event(name="shop/order.created")
    result = trigger(fulfil_order, event, step_stubs={"payment": Timeout})
    assert result.status is Status.COMPLETED

The function is executed by the same driver as in a worker, pass after pass. `step.run` executes for
real unless it has a stub, sleeps are skipped, and a wait or an invocation needs a stub. What fails
is tried again at once, as often as the function's `retries` say. Events that the function sends are
recorded, not delivered.
"""

import asyncio
import concurrent.futures
import enum
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ulid import ULID

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.failures import error_info
from inngest_temporal.drivers.local import Execution, ExecutionInput
from inngest_temporal.drivers.protocol import ErrorInfo, Failed, Memo, Op, Outcome, Returned
from inngest_temporal.routing.events import stamp

from .client import Inngest
from .errors import BodyInvalidError, NonRetriableError, StepUnexpectedError, UnstubbedStepError
from .functions import Function, FunctionPart
from .models import Event
from .serialization import event_to_json, to_json


class Status(enum.Enum):
    """How a run ended."""

    COMPLETED = "Completed"
    FAILED = "Failed"


class Timeout:
    """The class itself, as a stub: the wait or invocation times out."""


@dataclass
class Result:
    """The result of a run."""

    status: Status
    output: Any = None
    """What the function returned, as JSON."""
    error: ErrorInfo | None = None
    steps: list[str] = field(default_factory=list)
    """Ids of the finished steps, in order of completion."""
    sent: list[Event] = field(default_factory=list)
    """Events sent with `step.send_event`."""


def trigger(
    function: Function[Any],
    event: Event | list[Event],
    client: Inngest | None = None,
    *,
    step_stubs: Mapping[str, object] | None = None,
) -> Result:
    """Run a function to its end. `client` is accepted for the sake of Inngest's own test helper;
    the function knows it.

    `step_stubs`: step id -> result of the step; an exception is raised there, `Timeout` times out.

    Raises `UnstubbedStepError` for a wait or an invocation without a stub, `ValueError` without an
    event.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(
            asyncio.run, trigger_async(function, event, client, step_stubs=step_stubs)
        ).result()


async def trigger_async(
    function: Function[Any],
    event: Event | list[Event],
    client: Inngest | None = None,
    *,
    step_stubs: Mapping[str, object] | None = None,
) -> Result:
    """Like `trigger`, in a running event loop."""
    events = [event] if isinstance(event, Event) else list(event)
    if not events:
        raise ValueError(
            f"Function {function.id} needs an event to be triggered by: the list is empty."
        )
    run = _Run(function.parts()[0], [_wire(each) for each in events], step_stubs or {})
    return await run.to_its_end()


def _wire(event: Event) -> dict[str, Any]:
    """An event in the form in which a run would get it."""
    wire = {"data": {}, **event_to_json(event, "In a test")}
    wire.setdefault("id", str(ULID()))
    wire.setdefault("ts", time.time_ns() // 1_000_000)
    return wire


class _Run:
    def __init__(
        self, part: FunctionPart, events: list[dict[str, Any]], stubs: Mapping[str, object]
    ) -> None:
        self._part = part
        self._events = events
        self._stubs = stubs
        self._id = str(ULID())
        self._memos: list[tuple[str, str]] = []
        self._result = Result(Status.COMPLETED)

    async def to_its_end(self) -> Result:
        while True:
            outcome = await self._discover()
            if isinstance(outcome, Returned):
                self._result.output = outcome.value
                return self._result
            if isinstance(outcome, Failed):
                self._result.status = Status.FAILED
                self._result.error = outcome.error
                return self._result
            known = len(self._memos)
            for op in outcome.ops:
                refused = self._refusal(op)
                if refused is not None:
                    self._result.status, self._result.error = Status.FAILED, refused
                    return self._result
                memo = await self._memo(op)
                if memo is not None:
                    self._memos.append((op.id, json.dumps(protocol.memo_to_json(memo))))
                    self._result.steps.append(op.name)
            if len(self._memos) == known:
                asked = ", ".join(f'"{op.name}"' for op in outcome.ops)
                raise StepUnexpectedError(
                    f"Function {self._part.id} asks for {asked}, and does not when it is executed"
                    " again: make what decides that a step too."
                )

    async def _discover(self) -> Outcome:
        attempt = 0
        while True:
            outcome, _ = await self._execute(attempt)
            assert outcome is not None
            if (
                not isinstance(outcome, Failed)
                or not outcome.error.retriable
                or attempt >= self._part.retries
            ):
                return outcome
            attempt += 1

    def _refusal(self, op: Op) -> ErrorInfo | None:
        """The error of a step at which a run would fail, whatever the step's result; None if
        none."""
        if len(self._memos) >= protocol.MAX_STEPS:
            return protocol.STEPS_EXCEEDED
        ms = op.options.get("duration_ms", op.options.get("timeout_ms", 0))
        if "until_ms" in op.options:
            ms = op.options["until_ms"] - time.time() * 1000
        return protocol.too_long(op, ms)

    async def _memo(self, op: Op) -> Memo | None:
        """A step's result; None if the handler does not ask for it any more."""
        if op.name in self._stubs:
            return _stubbed(op, self._stubs[op.name])
        if op.kind == protocol.SLEEP:
            return Memo()
        if op.kind == protocol.RUN:
            for attempt in range(self._part.retries + 1):
                _, executed = await self._execute(attempt, op.id)
                if executed is None or executed.error is None or not executed.error.retriable:
                    break
            return executed
        raise UnstubbedStepError(
            f'Step "{op.name}" ({op.kind}) of function {self._part.id} needs an entry in'
            " step_stubs: its result, or Timeout."
        )

    async def _execute(
        self, attempt: int, target: str | None = None
    ) -> tuple[Outcome | None, Memo | None]:
        """What the handler needs next, and what the target's attempt came to."""
        input = ExecutionInput(
            self._id, self._events, attempt, memos=list(self._memos), target=target
        )
        execution = Execution(self._part, input, outside=self)
        execution.start()
        try:
            outcome = await execution.outcome
        finally:
            execution.close()
        if not execution.done:
            return outcome, None
        [done] = execution.done
        return outcome, Memo(done.data, done.error)

    async def send_events(self, seed: str, events: list[dict[str, Any]]) -> list[str]:
        """Called by the driver for `step.send_event`."""
        try:
            for event in events:
                stamp(event)
        except BodyInvalidError as error:
            raise NonRetriableError(error.message) from error
        self._result.sent.extend(Event.model_validate(event) for event in events)
        return [str(ULID()) for _ in events]

    async def send_signal(self, seed: str, signal: str, data: Any) -> str | None:
        """Called by the driver for `step.send_signal`; no other run waits for it here."""
        return None


def _stubbed(op: Op, stub: object) -> Memo:
    if stub is Timeout:
        if op.kind == protocol.INVOKE:
            return Memo(
                error=ErrorInfo(protocol.INVOKE_TIMEOUT_NAME, protocol.INVOKE_TIMEOUT_MESSAGE)
            )
        return Memo()
    if isinstance(stub, BaseException):
        error = error_info(stub)
        # An invocation always raises `StepError`, whatever the other function's error says of
        # retries.
        return Memo(error=replace(error, retriable=True) if op.kind == protocol.INVOKE else error)
    if isinstance(stub, Event):
        return Memo(data=_wire(stub))
    if op.kind == protocol.WAIT_FOR_EVENT and stub is not None:
        raise UnstubbedStepError(
            f'The entry of step "{op.name}" in step_stubs must be an Event or Timeout, not'
            f" {stub!r}."
        )
    return Memo(data=to_json(stub, op.name))
