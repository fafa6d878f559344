"""Turns a run's history into its trace: one pure function.

It follows the run workflow (`inngest_temporal_workers.runs.workflow`): events from outside are read
when a workflow task begins, signals first, like in Temporal's SDK; and the answers of executions
are applied to the steps like in the run. But nothing in a history is relied on here: it may be old,
foreign, terminated in the middle, or of a later version.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.enums.v1 import TimeoutType as Timeout
from temporalio.api.history.v1 import HistoryEvent

from inngest_temporal.drivers.losses import Losses, overdue, reported, silent, step_lost, timed_out
from inngest_temporal.drivers.protocol import (
    Done,
    ErrorInfo,
    ExecutionRequest,
    Failed,
    Op,
    Progress,
)
from inngest_temporal.routing import events
from inngest_temporal.routing.run_input import RunInput
from inngest_temporal.temporal import names
from inngest_temporal.wire import from_wire

from .admission import AdmissionRecord
from .models import Attempt, RunStatus, Trace
from .payloads import error_in, first_of, ms_of, value_of, values_of
from .steps import StepRecord, Steps

MAX_NOTES = 20
"""Maximum number of notes of one trace; further ones are only counted."""
_SUFFIX = "_event_attributes"
_EXECUTE = "inngest.execute"
_CANCEL = "workflow_execution_cancel_requested"
_LOCAL = "core_local_activity"
"""Name of the marker by which Temporal's SDKs record a local activity."""


@dataclass(frozen=True)
class PendingActivity:
    """An activity that is under way, as Temporal describes it; history does not have it yet."""

    id: str
    started_ms: int | None
    """None: no worker has it yet."""
    details: Sequence[Any] = ()
    """Details of its last heartbeat."""


@dataclass
class _Execution:
    """One activity `inngest.execute`."""

    request: ExecutionRequest
    activity: str
    queued_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int = 0


@dataclass
class _Activity:
    """An activity of another type."""

    type: str
    step: str | None
    locks: list[str] = field(default_factory=list)


def trace_of(
    run_id: str,
    history: Iterable[HistoryEvent],
    *,
    pending: Iterable[PendingActivity] = (),
    complete: bool = True,
) -> Trace:
    """What happened in a run. Takes time in proportion to the history, and raises nothing: the
    trace's notes name what can't be read.

    `pending`: the activities that are under way, if the run has not ended. `complete`: whether this
    is the whole history.
    """
    reader = _HistoryReader(run_id)
    for event in history:
        reader.read(event)
    return reader.trace([*pending], complete)


class _HistoryReader:
    """Reads a history from its beginning."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._input = RunInput([], [])
        self._function_id = ""
        self._temporal_run_id = ""
        self._original: str | None = None
        self._steps = Steps(run_id, self._fails)
        self._admission = AdmissionRecord()
        self._losses = Losses()
        self._executions: dict[int, _Execution] = {}
        """By the id of the event that scheduled it."""
        self._activities: dict[int, _Activity] = {}
        self._started: dict[int, int] = {}
        """Id of the event that scheduled an activity -> when the activity began."""
        self._first_request = ExecutionRequest()
        self._attempts: list[Attempt] = []
        self._has_lost = False
        """Whether an execution was lost, so that the run takes what has ended before it looks
        again."""
        self._is_over = False
        """Whether the handler has ended."""
        self._again: Op | None = None
        """The step for which the handler is executed again, after a failed attempt."""
        self._status: RunStatus = "Running"
        self._skipped = False
        self._queued_ms = self._now_ms = self._task_ms = 0
        self._started_ms: int | None = None
        self._ended_ms: int | None = None
        self._output: Any = None
        self._error: ErrorInfo | None = None
        self._notes: list[str] = []
        self._left_out = 0
        self._stuck = ""
        """Why the run can't continue for now; empty if it can."""
        self._inbox: list[HistoryEvent] = []
        """Events from outside since the last workflow task that was completed."""
        self._seen = 0
        """How many of these the current workflow task knows."""

    # Events.

    def read(self, event: HistoryEvent) -> None:
        if self._ended_ms is not None:
            return  # nothing follows the end of a run
        kind = (event.WhichOneof("attributes") or "").removesuffix(_SUFFIX)
        self._now_ms = max(self._now_ms, ms_of(event.event_time))
        if kind == "workflow_task_started":
            self._seen, self._task_ms = len(self._inbox), ms_of(event.event_time)
        elif kind == "workflow_task_completed":
            self._stuck = ""
            self._take(self._inbox[: self._seen])
            self._inbox, self._seen = self._inbox[self._seen :], 0
        elif kind in self._OUTSIDE or kind == _CANCEL:
            self._inbox.append(event)
        elif kind in self._COMMANDS:
            self._guarded(self._COMMANDS[kind], kind, event)
        elif kind in self._ENDS:
            self._take(self._inbox)
            self._inbox = []
            self._end(kind, event)

    def _take(self, inbox: Sequence[HistoryEvent]) -> None:
        """Read the events with which a workflow task begins."""
        others = []
        is_cancelled = False
        for event in inbox:
            if event.HasField("workflow_execution_signaled_event_attributes"):
                self._read_outside(event)
            elif event.HasField("workflow_execution_cancel_requested_event_attributes"):
                is_cancelled = True
            else:
                others.append(event)
        self._steps.resume()
        if is_cancelled:  # the run takes nothing any more, not even events before the cancellation
            self._is_over = self._admission.over = self._steps.held = True
        for event in others:
            self._read_outside(event)

    def _read_outside(self, event: HistoryEvent) -> None:
        kind = (event.WhichOneof("attributes") or "").removesuffix(_SUFFIX)
        self._guarded(self._OUTSIDE[kind], kind, event)

    def _guarded(
        self,
        read: "Callable[[_HistoryReader, Any, int, HistoryEvent], None]",
        kind: str,
        event: Any,
    ) -> None:
        """Read an event; if it can't be read, note that."""
        attributes = getattr(event, kind + _SUFFIX)
        try:
            read(self, attributes, ms_of(event.event_time), event)
        except Exception as error:
            self._note(f"Event {event.event_id} ({kind}) can't be read: {_shown(error)}")

    def _fails(self, error: Exception) -> None:
        self._note(f"The end of a step can't be read: {_shown(error)}")

    def _note(self, text: str) -> None:
        if len(self._notes) < MAX_NOTES:
            self._notes.append(text)
        else:
            self._left_out += 1

    def _begun(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        if self._function_id:
            return  # a run begins once
        self._queued_ms = at_ms
        self._function_id = attributes.workflow_type.name
        self._temporal_run_id = attributes.original_execution_run_id
        original = attributes.memo.fields.get(names.ORIGINAL_MEMO)
        if original is not None:
            self._original = str(value_of(original))
        try:
            self._input = RunInput.from_json(first_of(attributes.input.payloads))
        except Exception as error:
            text = f"Its input is not that of a function's run: {_shown(error)}"
            self._note(text)
            return
        self._steps.inputs = self._input.inputs
        self._steps.from_original(self._input.memos, at_ms)
        self._admission = AdmissionRecord(self._input.needs)
        self._first_request = ExecutionRequest(retries=self._input.retries, url=self._input.url)

    def _memo(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        status = attributes.upserted_memo.fields.get(names.STATUS_MEMO)
        if status is not None and value_of(status) == "Skipped":
            self._skipped = True

    def _task_failed(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        reason = attributes.failure.message or "no reason is given"
        self._stuck = f"Its workflow task fails, and is repeated: {reason}"

    # Activities.

    def _scheduled(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        kind = attributes.activity_type.name
        if kind != _EXECUTE:
            argument = first_of(attributes.input.payloads)
            argument = argument if isinstance(argument, Mapping) else {}
            locks = [each["need"]["lock"] for each in argument.get("locks", ())]
            activity = _Activity(kind, argument.get("step"), locks)
            self._activities[event.event_id] = activity
            self._admission.asked(locks, at_ms)
            return
        request = from_wire(ExecutionRequest, first_of(attributes.input.payloads))
        execution = _Execution(request, attributes.activity_id, at_ms)
        self._executions[event.event_id] = execution
        if request.target is None:
            if self._has_lost:
                self._steps.release()
            self._steps.held, self._has_lost = True, False
        if request.target is not None:
            record = self._steps.target(request.target, at_ms)
            if record.position is None:
                record.status = "Queued"

    def _activity_started(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        self._started[attributes.scheduled_event_id] = at_ms

    def _ended_execution(self, scheduled: int, at_ms: int) -> _Execution | None:
        execution = self._executions.pop(scheduled, None)
        if execution is not None:
            execution.started_ms = self._started.get(scheduled, execution.queued_ms)
            execution.ended_ms = at_ms
        return execution

    def _completed(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        execution = self._ended_execution(attributes.scheduled_event_id, at_ms)
        if execution is not None:
            progress = from_wire(Progress, first_of(attributes.result.payloads))
            self._apply(execution, progress)
            return
        activity = self._activities.pop(attributes.scheduled_event_id, None)
        if activity is not None:
            result = first_of(attributes.result.payloads)
            self._steps.answered(activity.type, result, activity.step, at_ms)

    def _failed(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        execution = self._ended_execution(attributes.scheduled_event_id, at_ms)
        if execution is not None:
            base = execution.request.base
            self._apply(execution, Progress(base, lost=error_in(attributes.failure).message))

    def _timed_out(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        execution = self._ended_execution(attributes.scheduled_event_id, at_ms)
        if execution is None:
            return
        base, timeout = execution.request.base, attributes.failure.timeout_failure_info
        details = values_of(timeout.last_heartbeat_details.payloads)
        if timeout.timeout_type != Timeout.TIMEOUT_TYPE_START_TO_CLOSE:
            self._apply(execution, silent(base, details))
            return
        request = execution.request
        retry_ms = None if request.attempt >= request.retries else 0
        target = self._target_of(execution)
        self._apply(execution, overdue(base, details, target, timed_out(), retry_ms))

    def _cancelled(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        """An activity was cancelled, because the run ends."""
        execution = self._ended_execution(attributes.scheduled_event_id, at_ms)
        if execution is None:
            return
        self._started_ms = self._started_ms or execution.started_ms
        op = self._awaited(execution)
        record = None if op is None else self._steps.get(op.id)
        if record is not None:
            record.attempted(self._attempt_of(execution, execution.request.attempt))

    def _target_of(self, execution: _Execution) -> Op | None:
        target = execution.request.target
        record = None if target is None else self._steps.get(target)
        return None if record is None else record.op

    def _awaited(self, execution: _Execution) -> Op | None:
        """The step for which an execution was requested."""
        return self._again if execution.request.target is None else self._target_of(execution)

    def _marker(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        """A local activity has ended; history has only its result."""
        if attributes.marker_name != _LOCAL or attributes.HasField("failure"):
            return  # after a failure, a regular activity follows
        kind = first_of(attributes.details["data"].payloads)["activity_type"]
        result = first_of(attributes.details["result"].payloads)
        if kind == _EXECUTE:
            begun_ms = self._task_ms or at_ms
            execution = _Execution(self._first_request, "", None, begun_ms, at_ms)
            self._apply(execution, from_wire(Progress, result))
        elif kind == "inngest.ask":
            self._admission.asked([*result], at_ms)
        elif kind != "inngest.finish":
            self._steps.answered(kind, result, None, at_ms)

    # The answers of executions are applied like in the run workflow.

    def _apply(self, execution: _Execution, progress: Progress) -> None:
        is_look = execution.request.target is None
        if progress.unstarted is None:
            self._started_ms = self._started_ms or execution.started_ms
        if self._steps.closed:
            for index, done in enumerate(_attempts_in(progress)):
                self._done(execution, done, index, False)
        elif self._is_over or (self._steps.held and not is_look):
            self._steps.queue.append(functools.partial(self._apply, execution, progress))
        elif self._take_progress(execution, progress) and is_look:
            self._steps.release()

    def _take_progress(self, execution: _Execution, progress: Progress) -> bool:
        """Apply an answer. Returns whether the run next takes what else has ended; it does not if
        it executes the handler now, or is about to."""
        if progress.unstarted is not None:
            if progress.missing or progress.busy:
                self._stuck = f"It can't be executed for now: {progress.unstarted}"
            return False
        self._stuck = ""
        is_final = progress.failed is not None and progress.failed.retry_ms is None
        holds = progress.base == self._steps.stored or (self._is_http and is_final)
        self._steps.name(progress.ops or ())
        attempts = _attempts_in(progress)
        for index, done in enumerate(attempts):
            self._done(execution, done, index, len(attempts) > 1)
        if progress.lost is not None:
            is_planned = self._lost(execution, progress, progress.lost)
            self._has_lost = not is_planned
            return is_planned
        target = execution.request.target
        if target is not None and all(done.op.id != target for done in progress.done):
            self._steps.forget(target)
        if target is None:
            self._again = None if progress.failed is None else progress.failed.step
        if progress.failed is not None:
            if progress.failed.step is None:
                self._handler_ended(execution, progress, progress.failed)
            self._is_over = holds and is_final
        if progress.returned is not None and holds:
            self._is_over = True
            if self._attempts:
                self._handler_ended(execution, progress, None)
        self._admission.over = self._is_over
        if holds:
            for op in progress.ops or ():
                self._steps.begin(op, execution.ended_ms)
        will_look = holds and progress.failed is not None
        self._steps.held = self._steps.held or will_look or self._is_over
        return not (will_look or self._is_over)

    @property
    def _is_http(self) -> bool:
        return self._input.url is not None

    def _done(self, execution: _Execution, done: Done, index: int, together: bool) -> None:
        """One attempt of a step."""
        began_ms = done.began_ms or execution.started_ms or execution.ended_ms
        record = self._steps.get(done.op.id)
        if record is None:
            record = self._steps.begin(done.op, began_ms)
        if record.position is not None:
            return  # only the first result of a step counts
        record.together = record.together or together
        retry_at_ms = None if done.retry_ms is None else execution.ended_ms + done.retry_ms
        is_target = done.op.id == execution.request.target
        record.attempted(
            Attempt(
                number=self._number(execution, record, index),
                started_ms=began_ms,
                ended_ms=done.ended_ms or execution.ended_ms,
                error=done.error,
                queued_ms=execution.queued_ms if is_target else None,
                retry_at_ms=retry_at_ms,
            )
        )
        if done.retry_ms is None:
            self._steps.store(record, done.ended_ms or execution.ended_ms, done.data, done.error)
            self._losses.reset()
        else:
            record.status = "Waiting"

    def _number(self, execution: _Execution, record: StepRecord, index: int) -> int:
        """The number of the attempt of a step that the result at this index is of."""
        request = execution.request
        if record.op.id == request.target or (self._is_http and not index):
            return request.attempt
        if self._is_http and record.attempts:
            return record.attempts[-1].number + 1
        return request.losses if request.target is None and not index else 0

    def _attempt_of(
        self,
        execution: _Execution,
        number: int,
        error: ErrorInfo | None = None,
        retry_at_ms: int | None = None,
    ) -> Attempt:
        """An attempt that lasted for the whole execution."""
        return Attempt(
            number,
            execution.started_ms,
            execution.ended_ms,
            error,
            execution.queued_ms,
            retry_at_ms,
        )

    def _handler_ended(
        self, execution: _Execution, progress: Progress, failed: Failed | None
    ) -> None:
        """The handler failed, or returned after earlier failures."""
        request, error, retry_at_ms = execution.request, None, None
        if failed is not None:
            error = failed.error
            if failed.retry_ms is not None:
                retry_at_ms = execution.ended_ms + failed.retry_ms
        is_first = progress.done or request.target is not None
        number = 0 if is_first else request.attempt
        self._attempts.append(self._attempt_of(execution, number, error, retry_at_ms))

    def _lost(self, execution: _Execution, progress: Progress, why: str) -> bool:
        """An execution was lost with its worker. Returns whether a step is to be tried again."""
        ids = {done.op.id for done in progress.done}
        target, attempt = self._target_of(execution), execution.request.attempt
        target = None if target is not None and target.id in ids else target
        begun = progress.begun or target
        if target is None:
            target, attempt = progress.begun, 0
        error = ErrorInfo("WorkerLostError", f"Its worker was lost: {why}")
        if begun is not None and not self._input.retries and not self._is_http:
            self._lose(execution, begun, attempt, step_lost(begun), None)
            return False
        retry_at_ms = execution.ended_ms + self._losses.add() * 1000
        if self._losses.end_it(attempt, self._input.retries) and not self._is_http:
            if target is not None:
                self._lose(execution, target, attempt, self._losses.error(why), None)
        elif target is not None:
            self._lose(execution, target, attempt, error, retry_at_ms)
            return not self._is_http or execution.request.target is not None
        elif not self._is_http:
            number = execution.request.attempt
            self._attempts.append(self._attempt_of(execution, number, error, retry_at_ms))
        return False

    def _lose(
        self, execution: _Execution, op: Op, attempt: int, error: ErrorInfo, retry_at: int | None
    ) -> None:
        """An attempt of a step was lost. If there is no next one, the step has failed."""
        record = self._steps.begin(op, execution.started_ms or execution.ended_ms)
        record.attempted(self._attempt_of(execution, attempt, error, retry_at))
        if retry_at is None:
            self._steps.store(record, execution.ended_ms, error=error)
            self._losses.reset()
        else:
            record.status = "Waiting"

    # Timers and signals.

    def _timer_started(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        length = attributes.start_to_fire_timeout
        summary = None
        if event.user_metadata.HasField("summary"):
            summary = str(value_of(event.user_metadata.summary))
        length_ms = length.seconds * 1000 + length.nanos // 1_000_000
        self._steps.timer_started(event.event_id, summary, length_ms, at_ms)

    def _timer_fired(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        self._steps.timer_fired(attributes.started_event_id, at_ms)

    def _signalled(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        name = attributes.signal_name
        arguments = values_of(attributes.input.payloads)
        if name == "event":
            self._steps.delivered(arguments[0], at_ms)
        elif name == "signal":
            self._steps.signalled(str(arguments[0]), arguments[1], arguments[2], at_ms)
        elif name == "invoked":
            self._steps.invoked(str(arguments[0]), arguments[1], at_ms)
        elif name == "admission":
            self._admission.told(str(arguments[0]), arguments[1], at_ms)
        elif name == "checkpoint":
            execution = _Execution(self._first_request, "", None, None, at_ms)
            for each in arguments[0]:
                self._done(execution, from_wire(Done, each), 1, True)

    # The end.

    def _end(self, kind: str, event: HistoryEvent) -> None:
        self._ended_ms = ms_of(event.event_time)
        self._status = "Skipped" if self._skipped else self._ENDS[kind]
        self._guarded(_HistoryReader._outcome, kind, event)
        self._admission.over = True
        for execution in self._executions.values():
            execution.ended_ms = self._ended_ms
        self._steps.end(self._ended_ms)

    def _outcome(self, attributes: Any, at_ms: int, event: HistoryEvent) -> None:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
            self._output = first_of(attributes.result.payloads)
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
            self._error = error_in(attributes.failure)
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
            reason = attributes.reason or "no reason is given"
            self._error = ErrorInfo("TerminatedError", f"It was terminated in Temporal: {reason}")
        elif event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
            self._error = ErrorInfo("TimeoutError", "It ran into a timeout of Temporal.")

    def _go_on(self, pending: Sequence[PendingActivity]) -> None:
        """Read what is under way in a run that has not ended."""
        self._take(self._inbox)
        self._inbox = []
        self._steps.closed = self._is_over
        self._steps.release()
        under_way = {each.id: each for each in pending}
        for execution in self._executions.values():
            known = under_way.get(execution.activity)
            started_ms = None if known is None else known.started_ms
            if started_ms is not None and self._started_ms is None:
                self._started_ms = started_ms
            try:
                done, begun = reported(known.details if known is not None else ())
            except Exception as error:
                self._note(f"A heartbeat can't be read: {_shown(error)}")
                done, begun = [], None
            execution.started_ms = started_ms
            execution.ended_ms = started_ms or self._now_ms
            for index, each in enumerate(done):
                self._done(execution, each, index, True)
            op = begun or execution.request.begun or self._awaited(execution)
            self._running(execution, op)

    def _running(self, execution: _Execution, op: Op | None) -> None:
        """Show the step that an execution is at."""
        if op is None:
            return
        started_ms, request = execution.started_ms, execution.request
        record = self._steps.begin(op, started_ms or self._now_ms)
        if record.position is not None:
            return
        awaited = self._awaited(execution)
        is_awaited = awaited is not None and op.id == awaited.id
        record.status = "Queued" if started_ms is None else "Running"
        number = request.attempt if is_awaited else 0
        last_ms = max((each.ended_ms or 0 for each in self._steps), default=0)
        if not is_awaited and started_ms is not None:
            started_ms = max(started_ms, last_ms)  # it began when the previous step had ended
            record.started_ms = started_ms
        queued_ms = execution.queued_ms if is_awaited else None
        error = record.error
        record.attempted(Attempt(number, started_ms, queued_ms=queued_ms))
        record.error = error

    def trace(self, pending: Sequence[PendingActivity], complete: bool) -> Trace:
        if self._ended_ms is None:
            self._go_on(pending)
            if self._started_ms is None:
                self._status = "Scheduled"
            if self._stuck:
                self._note(f"{self._stuck}.".replace("..", "."))
        if not self._function_id:
            self._note("Its history has no beginning.")
        if self._left_out:
            self._notes.append(f"{self._left_out} further problems are left out.")
        input = self._input
        return Trace(
            run_id=self._run_id,
            function_id=self._function_id,
            status=self._status,
            events=tuple(input.events),
            event_ids=tuple(input.event_ids),
            queued_ms=self._queued_ms,
            started_ms=self._started_ms,
            ended_ms=self._ended_ms,
            admission=self._admission.shown(self._ended_ms or self._now_ms),
            steps=self._steps.shown(),
            attempts=tuple(self._attempts),
            output=self._output,
            error=self._error,
            retries=input.retries,
            original_run=self._original,
            from_step=input.from_step,
            is_cron=_is_named(input, events.TIMER),
            is_batch=self._is_batch(),
            invoked_by=None if input.invoker is None else input.invoker.workflow_id,
            served_at=input.url,
            temporal_run_id=self._temporal_run_id,
            complete=complete,
            notes=tuple(self._notes),
        )

    def _is_batch(self) -> bool:
        ids = self._input.event_ids
        return len(ids) > 1 or (
            bool(ids) and self._run_id == events.batch_run_id(self._function_id, ids[0])
        )

    _OUTSIDE: ClassVar[dict[str, "Callable[[_HistoryReader, Any, int, HistoryEvent], None]"]] = {
        "workflow_execution_signaled": _signalled,
        "activity_task_started": _activity_started,
        "activity_task_completed": _completed,
        "activity_task_failed": _failed,
        "activity_task_timed_out": _timed_out,
        "activity_task_canceled": _cancelled,
        "timer_fired": _timer_fired,
    }
    """Events from outside, which a workflow task learns."""
    _COMMANDS: ClassVar[dict[str, "Callable[[_HistoryReader, Any, int, HistoryEvent], None]"]] = {
        "workflow_execution_started": _begun,
        "workflow_properties_modified": _memo,
        "workflow_task_failed": _task_failed,
        "activity_task_scheduled": _scheduled,
        "marker_recorded": _marker,
        "timer_started": _timer_started,
    }
    """Commands of a workflow task, and other events, which are read at once."""
    _ENDS: ClassVar[dict[str, RunStatus]] = {
        "workflow_execution_completed": "Completed",
        "workflow_execution_failed": "Failed",
        "workflow_execution_timed_out": "Failed",
        "workflow_execution_canceled": "Cancelled",
        "workflow_execution_terminated": "Failed",
    }


def _attempts_in(progress: Progress) -> list[Done]:
    """The attempts of steps, with a failed one for which the handler is executed again."""
    failed = progress.failed
    if failed is None or failed.step is None:
        return progress.done
    again = Done(failed.step, None, failed.error, failed.retry_ms, failed.began_ms)
    return [*progress.done, again]


def _is_named(input: RunInput, name: str) -> bool:
    return bool(input.events) and input.events[0].get("name") == name


def _shown(error: Exception) -> str:
    """An error as one line that ends with a full stop."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return text if text.endswith(".") else f"{text}."
