"""The run: one generic workflow that interprets what a handler needs.

It has the handler executed, stores the steps that were done as memos, starts what is needed next,
and waits until one of those ends. The first execution is a local activity if possible, which finds
out what is needed and executes quick steps. All others are regular activities, which execute a
planned step or a chain of steps.

Attempts are counted only here. An execution that did not begin user code does not count. One that
was lost with its worker counts, and is repeated for at least ten minutes, whatever the function's
`retries` are; but without retries a step that has begun is not executed again.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

from temporalio import workflow
from temporalio.exceptions import (
    is_cancelled_exception,
)

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.drivers.losses import Losses, step_lost
from inngest_temporal.drivers.protocol import (
    Done,
    ErrorInfo,
    ExecutionRequest,
    Failed,
    Memo,
    Op,
    Ops,
    Outcome,
    Progress,
    Returned,
)
from inngest_temporal.logger import told_of
from inngest_temporal.routing.run_input import RunInput
from inngest_temporal.routing.waits import UNHEARD_SECONDS, Delivery
from inngest_temporal.temporal import names
from inngest_temporal.wire import from_wire
from inngest_temporal_workers.calls import Calls

from .admission import Admission
from .checkpoints import CHECKPOINT_SIGNAL
from .executing import Executing
from .executions import RunSettings
from .memory import RunMemory, page
from .times import now_ms
from .waiting import StepWaits

logger = logging.getLogger(__name__)

MAX_VANISHED = 10
"""How often the handler may ask for a step and then not reach it."""
MAX_STATE_BYTES = 32 * 1024 * 1024
"""Maximum size of a run's memos."""


@dataclass(frozen=True)
class _Ended:
    """How an op has ended: with a memo, the progress of its execution, or an error that ends the
    run."""

    op: Op
    memo: Memo | None = None
    progress: Progress | None = None
    attempt: int = 0
    """Zero-based number of the attempt that made this progress."""
    error: BaseException | None = None


class RunWorkflow:
    """The run workflow. `run_workflows` makes the classes that Temporal knows."""

    settings: ClassVar[RunSettings]

    @workflow.init
    def __init__(self, input: dict[str, Any]) -> None:
        self._input = RunInput.from_json(input)
        self._memory = RunMemory(self._input.events)
        self._ended: deque[_Ended] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ops: dict[str, Op] = {}
        self._vanished: Counter[str] = Counter()
        self._deadlines: list[asyncio.Task[None]] = []
        self._calls = Calls()
        self._admission = Admission(self._calls)
        self._executing = Executing(self._memory, self._calls)
        self._waiting = StepWaits(self._input, self._calls, self._expects, self._woke)
        self._inputs = dict(self._input.inputs)
        """The replaced arguments of steps that have not ended."""
        self._attempt = 0
        """Number of the handler's attempt."""
        self._stored: set[str] = set()
        """Hashed ids of the steps that have ended."""
        self._exceeded: RunFailure | None = None
        """The failure of a run that was handed more than a run may have."""
        self._losses = Losses()
        self._unheard = False
        """Whether nobody but the invoker listens for the run's end, as of this workflow task."""
        self._unheard_ms: int | None = None
        """When nobody but the invoker listened, by Temporal's clock."""

    @workflow.run
    async def run(self, input: dict[str, Any]) -> Any:
        """`input` is a `RunInput` as JSON."""
        self._remember()
        for done in self._input.memos:
            self._know(done.op)
            self._store(done)
        try:
            if not await self._begin():
                await _shielded(self._finish("Skipped"))
                workflow.upsert_memo({names.STATUS_MEMO: "Skipped"})
                return None
            value = await self._interpret()
        except RunFailure as failure:
            _tell(failure)
            await _shielded(self._finish("Failed", error=failure.error))
            raise
        except BaseException as error:
            if is_cancelled_exception(error):
                self._calls.new_task()
                await _shielded(self._finish("Cancelled"))
            raise
        await _shielded(self._finish("Completed", value=value))
        return value

    async def _interpret(self) -> Any:
        outcome: Outcome | None = await self._look()
        while True:
            if isinstance(outcome, Returned):
                return outcome.value
            if isinstance(outcome, Failed):
                outcome = await self._retry(outcome)
                continue
            if isinstance(outcome, Ops):
                self._start(outcome.ops)
                if not self._tasks and not self._ended:
                    error = ErrorInfo(
                        "Error", "The handler waits for steps that have all finished."
                    )
                    raise RunFailure(error)
            self._admission.return_unused()
            await workflow.wait_condition(lambda: bool(self._ended))
            outcome = await self._take()

    async def _begin(self) -> bool:
        """Wait for admission; False if the run is to be skipped. A run that is admitted or ends too
        late (Inngest's `timeouts`) is cancelled; it does not fail."""
        created_ms = self._created_ms
        late = None
        if "start" in self._input.timeouts:
            late = await self._start_deadline(self._input.timeouts["start"])
        self._admission.begin(self._input.needs, self._input.factor, created_ms)
        if not await self._admission.enter():
            return False
        if late is not None:
            late.cancel()
        if "finish" in self._input.timeouts:
            self._deadline("finish", self._input.timeouts["finish"])
        return True

    async def _start_deadline(self, limit_ms: int) -> asyncio.Task[None]:
        # An activity tells the time, because replay may see another time in a workflow task.
        now_ms = (await self._call("inngest.now", {}))["ms"]
        remaining_ms = self._created_ms + limit_ms - now_ms
        late = self._deadline("start", max(1, remaining_ms))
        if remaining_ms <= 0:
            await workflow.wait_condition(lambda: False)
        return late

    @property
    def _created_ms(self) -> int:
        started = workflow.info().workflow_start_time.timestamp() * 1000
        return max(round(started), self._input.not_before_ms)

    def _deadline(self, name: str, after_ms: int) -> asyncio.Task[None]:
        async def cancel() -> None:
            await workflow.sleep(timedelta(milliseconds=after_ms), summary=f"timeouts.{name}")
            self._calls.new_task()
            await self._call("inngest.cancel", {})

        task = asyncio.create_task(cancel())
        self._deadlines.append(task)
        return task

    async def _take(self) -> Outcome | None:
        """Store what has ended, and return what the handler needs next, if that is known.

        An execution knows what the handler needs after the memos on which it was based. If another
        step has ended since, the handler may need something else: it may be past a gather of both
        steps, or the race between them may have another winner.
        """
        look = False
        while self._ended:
            ended = self._ended.popleft()
            del self._tasks[ended.op.id]
            self._memory.pending.discard(ended.op.id)
            if ended.error is not None:
                raise ended.error
            if ended.progress is None:
                assert ended.memo is not None
                self._store(Done(ended.op, ended.memo.data, ended.memo.error))
                look = look or self._looks_beside(ended.op)
                continue
            following, planned = await self._apply(ended.progress, ended.op, ended.attempt)
            if isinstance(following, Ops):
                self._start(following.ops)
            elif following is not None:
                return following
            elif not planned:
                look = look or self._looks_beside(ended.op)
        if look or not self._tasks:
            return await self._look()
        return None

    async def _apply(
        self, progress: Progress, target: Op | None = None, attempt: int = 0
    ) -> tuple[Outcome | None, bool]:
        """Store the steps that were done.

        Returns what is needed next, if that is still true; and whether a step is to be tried again,
        so that the handler has to wait for that.
        """
        if self._exceeded is not None:
            raise self._exceeded
        holds, planned = self._holds(progress), False
        progress = replace(progress, done=[*filter(self._is_news, progress.done)])
        for done in progress.done:
            if done.op.id not in self._ops:
                self._know(done.op)
            if done.retry_ms is None:
                self._store(done)
            else:
                tried = attempt if target is not None and done.op.id == target.id else 0
                if target is None and done is progress.done[0]:
                    tried = self._losses.count
                self._plan(self._ops[done.op.id], tried + 1, done.retry_ms)
                planned = True
        if any(done.error is not None and done.retry_ms is None for done in progress.done):
            planned = False  # the handler also has to get the error of another step
        self._unheard, self._unheard_ms = progress.unheard, progress.unheard_ms
        if progress.lost is not None:
            return None, await self._after_loss(progress, target, attempt)
        if (
            target is not None
            and target.id not in self._stored
            and all(done.op.id != target.id for done in progress.done)
        ):
            self._forget(target, progress)
        return progress.next if holds else None, planned

    @workflow.signal(name=CHECKPOINT_SIGNAL)
    def _on_checkpoint(self, steps: list[Any]) -> None:
        """Take steps that were executed in an execution that is still under way."""
        try:
            for done in [from_wire(Done, each) for each in steps]:
                if self._is_news(done):
                    self._know(done.op)
                    self._store(done)
        except RunFailure as failure:
            self._exceeded = failure

    def _is_news(self, done: Done) -> bool:
        """Whether a step is neither known to have ended nor waiting for another attempt."""
        is_again = done.retry_ms is not None and done.op.id in self._tasks
        return done.op.id not in self._stored and not is_again

    def _holds(self, progress: Progress) -> bool:
        """Whether what is needed next is still true: no step has ended during the execution."""
        return progress.base == len(self._memory.memos)

    def _looks_beside(self, ended: Op) -> bool:
        """Whether to execute the handler when a step has ended, although others are under way."""
        return True

    def _forget(self, op: Op, progress: Progress) -> None:
        """Forget a step that the handler asked for and did not reach when it was to be executed. A
        deploy may have removed it. But if this happens again and again, the handler decides by
        something that differs each time."""
        del self._ops[op.id]
        if progress.failed is not None:
            return  # the handler failed before it, and is tried again as often as it may be
        self._vanished[op.id] += 1
        if self._vanished[op.id] > MAX_VANISHED:
            message = (
                f'The handler asks for step "{op.name}", but does not reach it when it is to be'
                " executed: whatever decides that must be a step too."
            )
            raise RunFailure(ErrorInfo("StepUnexpectedError", message, retriable=False))

    async def _after_loss(self, progress: Progress, target: Op | None, attempt: int) -> bool:
        """Have an execution repeated that was lost with its worker, or give up. Returns whether a
        step is to be tried again."""
        if target is not None and target.id in self._stored:
            target = None  # it had ended: a later step was lost
        begun = target if progress.begun is None else progress.begun
        if target is None:
            target, attempt = progress.begun, 0
        if begun is not None and not self._input.retries:
            self._know(begun)
            self._store(Done(begun, error=step_lost(begun)))
            return False
        pause = self._losses.add()
        if self._losses.end_it(attempt, self._input.retries):
            error = self._losses.error(progress.lost or "")
            if target is None:
                raise RunFailure(error)
            self._store(Done(target, error=error))
        elif target is not None:
            self._know(target)
            self._plan(target, attempt + 1, pause * 1000)
            return True
        else:
            self._attempt += 1
            self._admission.return_unused()
            await workflow.sleep(pause, summary="a worker was lost")
            self._calls.new_task()
        return False

    def _store(self, done: Done) -> None:
        """Store a step once, with the first result. A worker may have handed it over before the
        worker was lost, and an app may report it twice."""
        if done.op.id in self._stored:
            return
        self._stored.add(done.op.id)
        text = self._text_of(done)
        self._memory.append(done.op.id, text)
        self._inputs.pop(done.op.id, None)
        self._remember()
        self._attempt = 0
        self._losses.reset()
        if self._memory.size > MAX_STATE_BYTES:
            message = f"The function run exceeded the state size limit of {MAX_STATE_BYTES} bytes."
            raise RunFailure(ErrorInfo("InngestErrStateOverflowed", message))

    def _text_of(self, done: Done) -> str:
        """A finished step's memo as JSON text, the form in which executions get it."""
        memo = Memo(done.data, done.error)
        return json.dumps(protocol.memo_to_json(memo), separators=(",", ":"))

    def _remember(self) -> None:
        """Let activities of this process find the run's events and memos."""
        self.settings.cache.put(workflow.info().run_id, self._memory)

    # Executions.

    async def _look(self) -> Outcome | None:
        """Execute the handler without a planned step, until it is known what it needs next, or a
        step is to be tried again."""
        while True:
            self._admission.want()
            await self._admission.permit()
            attempt = self._attempt
            try:
                progress = await self._execute(None, attempt)
            finally:
                self._admission.done()
            following, planned = await self._apply(progress, attempt=attempt)
            if following is not None or planned or self._ended:
                return following

    async def _execute(self, target: Op | None, attempt: int) -> Progress:
        self._remember()
        return await self._executing.execute(self._request(target, attempt), target)

    def _request(self, target: Op | None, attempt: int) -> ExecutionRequest:
        others = [op for op in self._tasks if target is None or op != target.id]
        return ExecutionRequest(
            base=len(self._memory.memos),
            target=None if target is None else target.id,
            attempt=attempt,
            losses=self._losses.count if target is None else 0,
            retries=self._input.retries,
            started_ms=self._created_ms,
            alone=not others,
            inputs=self._inputs,
            until_over=self._admission.counts,
        )

    async def _retry(self, failed: Failed) -> Outcome | None:
        if failed.retry_ms is None:
            raise RunFailure(failed.error, told=True)
        attempt = self._attempt + 1
        self._admission.return_unused()
        summary = names.summary_of(f"retry {attempt}: {failed.error.name}")
        await workflow.sleep(timedelta(milliseconds=max(1, failed.retry_ms)), summary=summary)
        self._calls.new_task()
        self._attempt = attempt
        return await self._look()

    # The ops.

    def _know(self, op: Op) -> None:
        if op.id not in self._ops and len(self._ops) >= protocol.MAX_STEPS:
            raise RunFailure(protocol.STEPS_EXCEEDED)
        self._ops[op.id] = op

    def _start(self, ops: list[Op]) -> None:
        """Start the ops that are new. Waits begin before the steps that were found together with
        them. So an event that such a step causes can't come before the wait for it has begun."""
        new = [op for op in ops if op.id not in self._ops]
        waits = {
            op.id for op in new if op.kind in (protocol.WAIT_FOR_EVENT, protocol.WAIT_FOR_SIGNAL)
        }
        self._waiting.registering |= waits
        # Before any of them begins: giving up a thousand ops that have begun takes a second.
        for op in new:
            self._know(op)
        for op in new:
            after = waits if op.kind in (protocol.RUN, protocol.INVOKE) else set()
            if op.kind == protocol.RUN:
                self._plan(op, 0, 0, after)
            else:
                self._begin_op(op, self._wait(op, after))

    def _plan(
        self, op: Op, attempt: int, delay_ms: int, after: frozenset[str] | set[str] = frozenset()
    ) -> None:
        """Have a step executed, after a pause if this is not the first attempt."""
        if not delay_ms:
            self._admission.want()
        self._begin_op(op, self._step(op, attempt, delay_ms, after))

    def _begin_op(self, op: Op, work: Coroutine[Any, Any, _Ended]) -> None:
        async def perform() -> None:
            try:
                self._ended.append(await work)
            except Exception as error:
                self._waiting.registering.discard(op.id)
                self._ended.append(_Ended(op, error=error))

        self._memory.pending.add(op.id)
        self._tasks[op.id] = asyncio.create_task(perform())

    async def _step(
        self, op: Op, attempt: int, delay_ms: int, after: frozenset[str] | set[str]
    ) -> _Ended:
        if after:
            await workflow.wait_condition(lambda: self._waiting.registering.isdisjoint(after))
        if delay_ms:
            summary = f"retry {attempt}: {names.summary_of(op.name)}"
            await workflow.sleep(timedelta(milliseconds=delay_ms), summary=summary)
            self._calls.new_task()
            self._admission.want()
        await self._admission.permit()
        try:
            progress = await self._execute(op, attempt)
        finally:
            self._admission.done()
        return _Ended(op, progress=progress, attempt=attempt)

    async def _wait(self, op: Op, after: set[str]) -> _Ended:
        return _Ended(op, memo=await self._waiting.perform(op, after))

    # What comes from outside.

    def _expects(self, step: str) -> bool:
        """Whether an answer is for a step that has not ended. A step that is not known was asked
        for in a workflow task that was lost, and will be asked for again."""
        return step in self._tasks or step not in self._ops

    def _woke(self, at_ms: int) -> None:
        """A workflow task has begun because of something that happened at a time of Temporal's
        clock."""
        self._calls.new_task()
        self._executing.woke(at_ms)

    @workflow.signal(name="event")
    def _on_event(self, delivery: Delivery) -> None:
        self._woke(delivery.at_ms)
        self._waiting.event(delivery)

    @workflow.signal(name="signal")
    def _on_signal(self, step: str, signal: str, data: Any, at_ms: int = 0) -> None:
        self._woke(at_ms)
        self._waiting.signal(step, signal, data)

    @workflow.signal(name="invoked")
    def _on_invoked(self, step: str, result: dict[str, Any], at_ms: int = 0) -> None:
        self._woke(at_ms)
        self._waiting.invoked(step, result)

    @workflow.signal(name="admission")
    def _on_admission(self, lock: str, verdicts: dict[str, list[int]]) -> None:
        """Take the answer of a lock."""
        self._calls.new_task()
        self._admission.receive(lock, verdicts)

    async def _call(self, activity: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A short call to Temporal, repeated until it works."""
        return await self._calls.call(activity, [arguments], dict)

    # The end.

    async def _finish(
        self, status: str, *, value: Any = None, error: ErrorInfo | None = None
    ) -> None:
        """Give locks and waits back, answer the invoker, and emit Inngest's lifecycle events."""
        under_way = self._executing.under_way
        for task in (*self._tasks.values(), *self._deadlines, *under_way):
            task.cancel()
        if under_way:
            # Permits are given back only once no user code of the run is executed any more.
            await asyncio.wait([*under_way])
        await self._admission.leave()
        waits = self._waiting.mailboxes | {
            wait: [mailbox] for wait, mailbox in self._input.cancels.items()
        }
        is_told = status != "Completed" or self._input.invoker is not None or not self._is_unheard()
        if is_told or waits or self._waiting.signals:
            result: dict[str, Any] = {
                "status": status,
                "ts": now_ms(),
                "waits": waits,
                "signals": self._waiting.signals,
                "input": self._input.to_json(),
            }
            if status == "Completed":
                result["value"] = value
            if error is not None:
                result["error"] = protocol.memo_to_json(Memo(error=error))["error"]
            await self._call("inngest.finish", result)
        self.settings.cache.forget(workflow.info().run_id)

    def _is_unheard(self) -> bool:
        """Whether nobody but the invoker listens for the run's end.

        The task's clock may decide here, although replay may see a later time. That happens only if
        the task was heartbeated, which takes a call. If what is known is recent enough, the run
        ends at once, without a call. If it is too old, it is too old at a later time as well.
        """
        if self._unheard_ms is None or not self._calls.is_new_task:
            return self._unheard
        return now_ms() - self._unheard_ms < UNHEARD_SECONDS * 1000

    # What activities of other processes ask.

    @workflow.query(name="events")
    def _query_events(self, start: int) -> dict[str, Any]:
        events = self._memory.events
        return {
            "items": page(events, start, lambda event: len(json.dumps(event))),
            "total": len(events),
        }

    @workflow.query(name="memos")
    def _query_memos(self, start: int) -> dict[str, Any]:
        memos = self._memory.memos
        items = [
            [step, json.loads(text)] for step, text in page(memos, start, lambda memo: len(memo[1]))
        ]
        return {"items": items, "total": len(memos), "pending": sorted(self._memory.pending)}


def run_workflows(function_ids: Sequence[str], settings: RunSettings) -> list[type]:
    """The workflow classes of functions; the name of each type is the function's id."""
    members = {"settings": settings, "run": RunWorkflow.run, "__module__": __name__}
    # Temporal wants `run` to be defined in the class itself, and checks that by the class's name.
    return [
        workflow.defn(name=function_id, sandboxed=False)(
            type(RunWorkflow.__name__, (RunWorkflow,), members)
        )
        for function_id in function_ids
    ]


def _tell(failure: RunFailure) -> None:
    """Log a failure that ends a run, unless it is of user code, which activities log."""
    if not failure.told and not workflow.unsafe.is_replaying():
        info, error = workflow.info(), failure.error
        logger.error(
            "Function %s failed (run %s): %s: %s",
            info.workflow_type,
            info.workflow_id,
            error.name,
            error.message,
            extra=told_of(info.workflow_type, info.workflow_id),
        )


async def _shielded(finish: Coroutine[Any, Any, None]) -> None:
    """Finish a run, even if it is cancelled meanwhile: it has ended already."""
    task = asyncio.create_task(finish)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
