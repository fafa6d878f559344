"""The steps of one run, as they are found while its history is read."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import (
    INVOKE_TIMEOUT_MESSAGE,
    INVOKE_TIMEOUT_NAME,
    Done,
    ErrorInfo,
    Op,
    memo_from_json,
)
from inngest_temporal.routing import events
from inngest_temporal.temporal import names

from .models import Attempt, StepKind, StepStatus, TraceStep

INVOKE_TIMEOUT = ErrorInfo(INVOKE_TIMEOUT_NAME, INVOKE_TIMEOUT_MESSAGE)
DEFAULT_TIMEOUT_MS = 365 * 86_400_000
"""Timeout of invocations and waits for signals that set none."""
_CALLS = {
    "inngest.wait": protocol.WAIT_FOR_EVENT,
    "inngest.claim_signal": protocol.WAIT_FOR_SIGNAL,
    "inngest.invoke": protocol.INVOKE,
}
"""Activity by which a step begins -> kind of that step."""
_TAKES_BACK = ("inngest.unwait", "inngest.release_signal")


@dataclass
class StepRecord:
    """One step, as far as history has been read."""

    op: Op
    started_ms: int
    status: StepStatus
    ended_ms: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    input: Any = None
    output: Any = None
    error: ErrorInfo | None = None
    deadline_ms: int | None = None
    event: dict[str, Any] | None = None
    invoked_run: str | None = None
    together: bool = False
    from_original: bool = False
    position: int | None = None
    """Position of its memo in the order in which steps ended; None: it has not ended."""
    since: int = 0
    """How many events had been delivered when it began."""
    registered: bool = False
    has_come: bool = False
    """Whether it has got what it waits for."""
    remaining_ms: int = 0
    """The rest of an invocation's timeout."""
    is_gone: bool = False
    """Whether a check found that the invoked run has ended."""
    waits_since: int = 0
    """Id of the event that started its last timer. Steps that began to wait first continue
    first."""

    @property
    def kind(self) -> StepKind:
        gateway = self.op.options.get("gateway")
        if gateway == "fetch" or gateway == "ai":
            return "fetch" if gateway == "fetch" else "ai"
        return self.op.kind

    def attempted(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        self.error = attempt.error


class Steps:
    """All steps of one run, in the order in which they began."""

    def __init__(self, run_id: str, fails: Callable[[Exception], None]) -> None:
        """`fails` gets the error if the end of a step can't be read."""
        self._run_id = run_id
        self._fails = fails
        self._all: dict[str, StepRecord] = {}
        self._named: dict[str, Op] = {}
        """The ops that the handler asked for, whether or not they were begun."""
        self.inputs: Mapping[str, list[Any]] = {}
        """Hashed id of a step -> the arguments that a rerun gives to it."""
        self.stored = 0
        """Number of memos so far."""
        self.queue: deque[Callable[[], None]] = deque()
        """Ends that came while the run looks what the handler needs; it takes them afterwards."""
        self.held = True
        """Whether the run looks what the handler needs."""
        self.closed = False
        """Whether the run has ended, and stores nothing any more."""
        self._delivered: dict[str, int] = {}
        self._early: dict[str, list[Any]] = {}
        """Answers to steps that are not known yet."""
        self._unregistered: dict[str, deque[StepRecord]] = {each: deque() for each in _CALLS}
        self._taking_back: deque[StepRecord] = deque()
        self._checking: deque[StepRecord] = deque()
        """Invocations whose run is being checked."""
        self._resumed: list[tuple[StepRecord, int, ErrorInfo | None]] = []
        """Steps that signals of the current workflow task resume, and when these came."""
        self._untimed: dict[str, deque[StepRecord]] = {}
        """Summary -> steps whose timer has not begun yet."""
        self._timers: dict[int, tuple[StepRecord, int]] = {}
        """Id of the event that started a timer -> its step, and its length in ms."""
        self._invocations: dict[str, StepRecord] = {}
        """Id that the invoked run will have -> the step that invokes it."""

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self._all.values())

    def get(self, step: str) -> StepRecord | None:
        return self._all.get(step)

    # Beginning.

    def from_original(self, memos: Iterable[Done], at_ms: int) -> None:
        """Add the steps with which a rerun began."""
        for done in memos:
            record = self._add(done.op, at_ms, "Queued")
            record.from_original = True
            self.store(record, at_ms, done.data, done.error)

    def name(self, ops: Iterable[Op]) -> None:
        """Remember the ops that the handler asked for."""
        self._named.update((op.id, op) for op in ops)

    def begin(self, op: Op, at_ms: int) -> StepRecord:
        """Add a step, unless it is known."""
        known = self._all.get(op.id)
        if known is not None:
            return known
        if op.kind == protocol.RUN:
            record = self._add(op, at_ms, "Queued")
            record.input = self.inputs.get(op.id)
            return record
        record = self._add(op, at_ms, "Sleeping" if op.kind == protocol.SLEEP else "Waiting")
        record.input = op.options
        self._expect(record, at_ms)
        for answer in self._early.pop(op.id, ()):
            self._arrived(record, answer, at_ms)
        self.resume()
        return record

    def target(self, step: str, at_ms: int) -> StepRecord:
        """Add a step that is to be executed, unless it is known."""
        return self.begin(self._named.get(step) or Op(protocol.RUN, step, step), at_ms)

    def _add(self, op: Op, at_ms: int, status: StepStatus) -> StepRecord:
        record = self._all[op.id] = StepRecord(op, at_ms, status)
        return record

    def forget(self, step: str) -> None:
        """Remove a step that the handler does not ask for any more."""
        record = self._all.get(step)
        if record is not None and not record.attempts and record.position is None:
            del self._all[step]

    def _expect(self, record: StepRecord, at_ms: int) -> None:
        """Prepare for what history will have about a step that waits."""
        options = record.op.options
        kind = record.op.kind
        record.since = len(self._delivered)
        if kind == protocol.SLEEP and "until_ms" in options:
            record.deadline_ms = int(options["until_ms"])
        else:
            name = "duration_ms" if kind == protocol.SLEEP else "timeout_ms"
            length_ms = int(options.get(name, DEFAULT_TIMEOUT_MS))
            record.deadline_ms = at_ms + max(0, length_ms)
            record.remaining_ms = length_ms
            if kind == protocol.SLEEP and length_ms <= 0:
                self._ended(record, at_ms)
                return
        for activity, each in _CALLS.items():
            if each == kind:
                self._unregistered[activity].append(record)
        if kind == protocol.INVOKE:
            event = events.Stamped({}, events.invocation_id(self._run_id, record.op.id))
            self._invocations[events.run_id(str(options.get("function_id")), event)] = record
        self._await_timer(record)

    def _await_timer(self, record: StepRecord) -> None:
        self._untimed.setdefault(names.summary_of(record.op.name), deque()).append(record)

    # Ending.

    def store(
        self, record: StepRecord, at_ms: int, data: Any = None, error: ErrorInfo | None = None
    ) -> None:
        """Store the memo of a step that has ended."""
        if record.position is not None:
            return
        if not self.closed:
            record.position = self.stored
            self.stored += 1
        record.ended_ms = max(at_ms, record.started_ms)
        record.output, record.error = data, error
        record.status = "Completed" if error is None else "Failed"
        if error is INVOKE_TIMEOUT:
            record.status = "TimedOut"

    def _ended(
        self, record: StepRecord, at_ms: int, data: Any = None, error: ErrorInfo | None = None
    ) -> None:
        """End a step that waited, as soon as the run takes that."""

        def take() -> None:
            self.store(record, at_ms, data, error)

        self.later(take)

    def later(self, take: Callable[[], None]) -> None:
        """Call `take` as soon as the run takes what has ended."""
        if self.held:
            self.queue.append(take)
        else:
            take()

    def release(self) -> None:
        """Take what has ended while the run looked what the handler needs."""
        self.held = False
        while self.queue and not self.held:
            take = self.queue.popleft()
            try:
                take()
            except Exception as error:
                self._fails(error)

    # The answers of activities by which steps begin or stop to wait.

    def answered(self, activity: str, result: Any, step: str | None, at_ms: int) -> None:
        """An activity of a waiting step has ended; `step` is the step's hashed id, if known."""
        if activity in _TAKES_BACK:
            self._taken_back(at_ms)
            return
        if activity == "inngest.executes" and self._checking:
            self._checking.popleft().is_gone = not result["executes"]
            return
        if activity not in _CALLS or not isinstance(result, Mapping):
            return
        record = self._registered(activity, result, step)
        if record is None:
            return
        if activity == "inngest.invoke":
            record.invoked_run = None if result.get("run") is None else str(result["run"])
            if "error" in result:
                self._ended(record, at_ms, error=ErrorInfo("Error", str(result["error"])))
        elif "error" in result or "conflict" in result:
            # This error ends the run.
            record.status, record.ended_ms = "Failed", at_ms
        elif record.has_come:
            self._take_back(record)

    def _registered(
        self, activity: str, result: Mapping[str, Any], step: str | None
    ) -> StepRecord | None:
        """Find the step that an activity has registered. History does not have the input of a local
        activity; but such activities end in the order in which their steps began, unless one fails
        locally. An invocation is found by the id of its run."""
        waiting = self._unregistered[activity]
        record = None if step is None else self._all.get(step)
        if activity == "inngest.invoke" and record is None:
            record = self._invocations.get(str(result.get("run")))
        while record is None and waiting:
            first = waiting.popleft()
            record = None if first.registered else first
        if record is not None:
            record.registered = True
        return record

    def _take_back(self, record: StepRecord) -> None:
        """A wait is being taken back, and ends when that is done."""
        self._taking_back.append(record)

    def _taken_back(self, at_ms: int) -> None:
        if self._taking_back:
            self._come(self._taking_back.popleft(), at_ms)

    def _come(self, record: StepRecord, at_ms: int) -> None:
        """End a wait, with what has come or as timed out."""

        def take() -> None:
            self.store(record, at_ms, record.output)
            if not record.has_come:
                record.status = "TimedOut"

        self.later(take)

    # Timers.

    def timer_started(self, event_id: int, summary: str | None, length_ms: int, at_ms: int) -> None:
        """A timer has begun: that of a step, or another one of the run."""
        record = self._timed(summary, length_ms)
        if record is None:
            return
        self._timers[event_id] = record, length_ms
        record.waits_since = event_id
        if record.op.kind != protocol.INVOKE:
            record.deadline_ms = at_ms + length_ms

    def _timed(self, summary: str | None, length_ms: int) -> StepRecord | None:
        waiting = self._untimed.get(summary or "")
        if not waiting:
            return None
        record = waiting[0]
        exact = "until_ms" not in record.op.options and record.op.kind != protocol.INVOKE
        if exact and abs(record.remaining_ms - length_ms) > 1:
            return None  # another timer, whose summary happens to be the name of a step
        return waiting.popleft()

    def timer_fired(self, event_id: int, at_ms: int) -> None:
        """A sleep is over, or a step has not got in time what it waited for."""
        record, length_ms = self._timers.pop(event_id, (None, 0))
        if record is None or record.position is not None or record.has_come:
            return
        if record.op.kind == protocol.SLEEP:
            self._ended(record, at_ms)
        elif record.op.kind == protocol.INVOKE:
            self._invocation_waited(record, length_ms, at_ms)
        else:
            self._take_back(record)

    def _invocation_waited(self, record: StepRecord, length_ms: int, at_ms: int) -> None:
        record.remaining_ms -= length_ms
        if record.remaining_ms <= 0:
            self._ended(record, at_ms, error=INVOKE_TIMEOUT)
        elif record.is_gone:
            message = (
                f"The invoked run {record.invoked_run} ended without an answer: it was skipped, or"
                " terminated in Temporal."
            )
            self._ended(record, at_ms, error=ErrorInfo("Error", message))
        else:
            self._checking.append(record)
            self._await_timer(record)

    # What comes from outside.

    def delivered(self, delivery: Mapping[str, Any], at_ms: int) -> None:
        """An event that matches waits has come. It resumes each wait once, and none that began
        later."""
        order = self._delivered.setdefault(str(delivery["id"]), len(self._delivered) + 1)
        event = dict(delivery["event"])
        for step in delivery.get("waits", ()):
            self._answer(step, (order, event), at_ms)

    def signalled(self, step: str, signal: Any, data: Any, at_ms: int) -> None:
        """The signal has come that a step waits for."""
        self._answer(step, {"signal": signal, "data": data}, at_ms)

    def invoked(self, step: str, result: Mapping[str, Any], at_ms: int) -> None:
        """The run that a step invoked has ended."""
        self._answer(step, memo_from_json(result), at_ms)

    def _answer(self, step: str, answer: Any, at_ms: int) -> None:
        record = self._all.get(step)
        if record is None:
            self._early.setdefault(step, []).append(answer)
        else:
            self._arrived(record, answer, at_ms)

    def _arrived(self, record: StepRecord, answer: Any, at_ms: int) -> None:
        if record.has_come or record.position is not None:
            return
        error = None
        if isinstance(answer, protocol.Memo):
            record.output = answer.data
            error = None if answer.error is None else replace(answer.error, retriable=True)
        elif record.op.kind == protocol.WAIT_FOR_EVENT:
            order, event = answer
            if record.since >= order:
                return
            record.output = record.event = event
        elif record.op.kind == protocol.WAIT_FOR_SIGNAL:
            record.output = answer
        else:
            return
        record.has_come = True
        self._resumed.append((record, at_ms, error))

    def resume(self) -> None:
        """Resume steps after all signals of a workflow task were read, in the order in which the
        steps began to wait."""
        resumed, self._resumed = self._resumed, []
        for record, at_ms, error in sorted(resumed, key=lambda each: each[0].waits_since):
            if record.op.kind != protocol.WAIT_FOR_EVENT:
                self._ended(record, at_ms, record.output, error)
            elif not record.registered:
                continue  # it continues when its registration has ended
            elif len(record.op.options.get("events", ())) > 1:
                self._take_back(record)
            else:
                self._come(record, at_ms)

    # The end.

    def end(self, at_ms: int) -> None:
        """The run has ended, and with it all steps that were under way."""
        self.closed = True
        self.release()
        for record in self:
            if record.position is None and record.ended_ms is None:
                record.status, record.ended_ms = "Cancelled", at_ms

    def shown(self) -> tuple[TraceStep, ...]:
        return tuple(
            TraceStep(
                id=each.op.id,
                name=each.op.name,
                kind=each.kind,
                status=each.status,
                started_ms=each.started_ms,
                ended_ms=each.ended_ms,
                attempts=tuple(each.attempts),
                input=each.input,
                output=each.output,
                error=each.error,
                deadline_ms=each.deadline_ms,
                event=each.event,
                invoked_run=each.invoked_run,
                together=each.together,
                from_original=each.from_original,
                position=each.position,
            )
            for each in self
        )
