"""The driver for handlers in this process: it executes a handler again with the memos of its
finished steps.

One execution is a *pass*. A pass ends when the handler returns, raises, or waits only for steps
that have no memo. A pass with a target also executes the body of that one step, publishes its
result, and then looks ahead: the handler goes on with the result to whatever it needs next.

Async handlers run as tasks of the worker's event loop; a step that must wait suspends, so
`asyncio.gather` and `TaskGroup` over steps work. Other handlers run in a thread, where such a step
raises an interrupt.
"""

import asyncio
import concurrent.futures
import contextvars
import hashlib
import json
from collections.abc import Awaitable, Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from inngest_temporal.context import Context, ContextSync
from inngest_temporal.errors import (
    Error,
    Interrupt,
    OutputUnserializableError,
    StepNestedError,
)
from inngest_temporal.functions import App, FunctionPart
from inngest_temporal.logger import FilteredLogger
from inngest_temporal.middleware import (
    MiddlewareManager,
    Opcode,
    Output,
    StepMemos,
    TransformOutputResult,
    TransformOutputStepInfo,
)
from inngest_temporal.models import Event, SendEventsResult
from inngest_temporal.serialization import (
    EmptySentinel,
    deserialize,
    event_to_json,
    serialize,
    to_json,
)
from inngest_temporal.steps import Group, GroupSync, Step, StepSync
from inngest_temporal.sync import drive

from .failures import as_exception, as_raised, error_info
from .protocol import (
    INVOKE,
    RUN,
    SLEEP,
    WAIT_FOR_EVENT,
    WAIT_FOR_SIGNAL,
    ErrorInfo,
    Failed,
    Memo,
    Op,
    OpKind,
    Ops,
    Outcome,
    Returned,
    memo_from_json,
)

T = TypeVar("T")


class Outside(Protocol):
    """What the bodies of our own steps do outside the run. The same seed has the same effect
    once."""

    async def send_events(self, seed: str, events: list[dict[str, Any]]) -> list[str]:
        """Send events; their ids."""
        ...

    async def send_signal(self, seed: str, signal: str, data: Any) -> str | None:
        """Send a signal; the id of the run that waited for it."""
        ...


_THREADS = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="inngest-handler")

SETTLE_TICKS = 6
"""Turns of the event loop without a new step call after which a handler counts as settled: enough
for a result to go through a task, a gather and a nested gather."""
KNOWN_GRACE = 0.01
"""Seconds to wait for more when all that was found is pending already."""
VANISHED_GRACE = 10.0
"""Seconds to wait for a step that must be executed, while the handler waits for other steps."""

_OPCODES = {
    RUN: Opcode.STEP_RUN,
    SLEEP: Opcode.SLEEP,
    WAIT_FOR_EVENT: Opcode.WAIT_FOR_EVENT,
    WAIT_FOR_SIGNAL: Opcode.WAIT_FOR_SIGNAL,
    INVOKE: Opcode.INVOKE,
}

_inside_step: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "inngest_inside_step", default=False
)


@dataclass(frozen=True)
class Call:
    """What one pass is about."""

    run_id: str
    events: Sequence[Mapping[str, Any]]
    attempt: int = 0
    memos: Sequence[tuple[str, str]] = ()
    """Hashed step id and JSON text of the memo (`{"data": ...}` or `{"error": ...}`), in order of
    completion."""
    target: str | None = None
    """Hashed id of the step to execute."""
    pending: Container[str] = frozenset()
    """Hashed ids of the steps that run elsewhere now."""
    request_id: str | None = None


class Pass:
    """One execution of a handler. `start` it; then await `executed` (with a target) and `outcome`;
    at last, `close`."""

    def __init__(
        self,
        function: FunctionPart,
        call: Call,
        *,
        outside: Outside,
        executor: concurrent.futures.Executor | None = None,
    ) -> None:
        self.client: App = function.client
        self.app_id = function.client.app_id
        self.function_id = function.id
        self.is_async = function.is_async
        self.ended = False
        self.unwinding = False
        """A handler that is not async is on its way out of a step; a step in a `finally` is not for
        now."""
        self._function = function
        self._call = call
        self._outside = outside
        self._executor = executor or _THREADS
        self._thread: concurrent.futures.Future[Outcome | None] | None = None
        """Of a handler that is not async."""
        self._loop = asyncio.get_running_loop()
        self.executed: asyncio.Future[Memo] = self._loop.create_future()
        """The target's result."""
        self.outcome: asyncio.Future[Outcome] = self._loop.create_future()
        """What the handler needs next. Cancelled if the target failed: then there is nothing to
        look ahead to."""

        self._positions = {step: position for position, (step, _) in enumerate(call.memos)}
        self._changed_memos: dict[str, Memo] = {}
        self._counts: dict[str, int] = {}
        self._released: set[int] = set()
        self._next_release = 0
        self._held: dict[int, asyncio.Future[None]] = {}
        self._going_on: asyncio.Task[Any] | None = None
        self._blocked: dict[str, Op] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        """The handler's, as far as they have called a step."""
        self._waiting: set[asyncio.Task[Any]] = set()
        """Those of them that are at a step without a memo."""
        self._changed = asyncio.Event()
        self._executing = False
        self._target_begun = False
        self.target_name = ""
        """The id of the target, as the user wrote it, once it is executed."""
        self._reached_new_code = False

        self._middleware: MiddlewareManager
        self._has_middleware = bool(function.client.middleware or function.middleware)
        self._logger = FilteredLogger(function.client.logger, self._log_context)
        """The built-in middleware takes it as it is; made here, it needs no round of hooks where
        there is no other."""
        self._context: Context | ContextSync | None = None
        self._task: asyncio.Task[None] | None = None

    def _log_context(self) -> dict[str, str]:
        step = self.target_name if _inside_step.get() else ""
        return {"function": self.function_id, "run": self._call.run_id, "step": step}

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(_retrieve)

    def close(self) -> None:
        """Stop the handler where it is. A thread can't be stopped: it ends at its next step."""
        self.ended = True
        if self._task is not None:
            self._task.cancel()
        for task in self._tasks:
            task.cancel()

    async def over(self) -> None:
        """Until a closed pass executes nothing any more: a thread goes on to its next step, and
        async code may catch its cancellation."""
        tasks: list[asyncio.Future[Any]] = [*self._tasks]
        if self._thread is not None and not self._thread.cancel():
            tasks.append(asyncio.wrap_future(self._thread))
        if tasks:
            await asyncio.wait(tasks)

    async def answered(self) -> None:
        """Until the target was executed, or the pass ended without it."""
        either: list[asyncio.Future[Any]] = [self.executed, self.outcome]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)

    # The handler, from its beginning to where it ends or waits.

    async def _run(self) -> None:
        try:
            function = self._function
            self._middleware = MiddlewareManager.for_function(
                self.client, function.middleware, None, function.is_async
            )
            self._context = self._new_context()
            if function.is_async:
                outcome = await self._run_async(self._context)
            else:
                context = contextvars.copy_context()
                self._thread = self._executor.submit(context.run, self._run_sync)
                outcome = await asyncio.wrap_future(self._thread)
        except asyncio.CancelledError:
            raise
        except Interrupt:
            outcome = None
        except Exception as error:
            outcome = Failed(error_info(error))
        finally:
            self.ended = True
            for task in self._tasks:
                task.cancel()
        if outcome is None:
            self.outcome.cancel()
        elif not self.outcome.done():
            self.outcome.set_result(outcome)

    def _new_context(self) -> Context | ContextSync:
        call = self._call
        events = [Event.model_validate(event) for event in call.events]
        shared: dict[str, Any] = {
            "attempt": call.attempt,
            "event": events[0],
            "events": events,
            "job_id": None,
            "logger": self._logger,
            "request_id": call.request_id,
            "run_id": call.run_id,
        }
        if self._function.is_async:
            return Context(group=Group(), step=Step(self), **shared)
        return ContextSync(group=GroupSync(self), step=StepSync(self), **shared)

    async def _run_async(self, context: Context | ContextSync) -> Outcome | None:
        await self._prepare(context)
        user = self._loop.create_task(self._call_handler(context))
        self._tasks.add(user)
        user.add_done_callback(lambda _: self._changed.set())
        user.add_done_callback(_retrieve)
        ops = await self._settle(user)
        if ops is not None:
            return await self._conclude(ops)
        if user.cancelled():
            return await self._conclude(
                Failed(ErrorInfo("CancelledError", "The handler cancelled itself."))
            )
        if isinstance(user.exception(), Interrupt):
            return None
        return await self._conclude(user.result())

    async def _call_handler(self, context: Context | ContextSync) -> Outcome:
        try:
            value = await self._function.handler(context)
        except (asyncio.CancelledError, Interrupt):
            raise
        except BaseException as error:
            if self.ended:
                raise Interrupt from None  # it is in the group that a TaskGroup raised
            return await self._outcome_of(None, error)
        return await self._outcome_of(value, None)

    def _run_sync(self) -> Outcome | None:
        context = self._context
        assert context is not None
        drive(self._prepare(context))
        try:
            value = self._function.handler(context)
        except Interrupt:
            if self.ended:
                return None
            return drive(self._conclude(Ops(list(self._blocked.values()))))
        except BaseException as error:
            return drive(self._conclude(drive(self._outcome_of(None, error))))
        return drive(self._conclude(drive(self._outcome_of(value, None))))

    async def _prepare(self, context: Context | ContextSync) -> None:
        if self._has_middleware:
            memos = {step: memo_from_json(json.loads(text)) for step, text in self._call.memos}
            outputs = {step: Output(memo.data, memo.error) for step, memo in memos.items()}
            await self._middleware.transform_input(
                context, self._function.function, StepMemos(outputs)
            )
            self._changed_memos = {
                step: Memo(output.data, output.error) for step, output in outputs.items()
            }
        if not self._call.memos and self._call.target is None:
            await self._reach_new_code()

    async def _reach_new_code(self) -> None:
        """Code that no earlier pass has executed begins here."""
        if not self._reached_new_code:
            self._reached_new_code = True
            self._logger.enable()
            await self._middleware.before_execution()

    async def _outcome_of(self, value: object, error: BaseException | None) -> Outcome:
        await self._reach_new_code()
        output: Any = EmptySentinel
        if error is None:
            try:
                output = self._encode(value, self._function.output_type, self._function.id)
            except Exception as raised:
                error = raised
            else:
                await self._middleware.after_execution()
        output, error = await self._transformed(output, error, None)
        return Returned(output) if error is None else Failed(error_info(error))

    async def _transformed(
        self, output: Any, error: BaseException | None, step: TransformOutputStepInfo | None
    ) -> tuple[Any, BaseException | None]:
        """An output, as JSON, or an error after the middleware's `transform_output`."""
        shown = as_exception(error)
        result = TransformOutputResult(error=shown, output=output, step=step)
        await self._middleware.transform_output(result)
        if result.error is not None:
            return None, error if result.error is shown else result.error
        if not result.has_output():
            return None, None
        if not self._has_middleware:
            return result.output, None
        try:
            return to_json(result.output, self._function.id if step is None else step.id), None
        except OutputUnserializableError as raised:
            return None, raised

    async def _conclude(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Ops):
            await self._middleware.after_execution()
            outcome = Ops([await self._shown(op) for op in outcome.ops])
        await self._middleware.before_response()
        return outcome

    async def _shown(self, op: Op) -> Op:
        """A step that begins elsewhere, after `transform_output`: middleware may seal what an
        invocation carries."""
        if op.kind == RUN or op.id in self._call.pending:
            return op
        info = TransformOutputStepInfo(id=op.name, op=_OPCODES[op.kind], opts=op.options)
        await self._middleware.transform_output(
            TransformOutputResult(error=None, output=EmptySentinel, step=info)
        )
        return replace(op, options=info.opts or {})

    async def _settle(self, user: "asyncio.Task[Outcome]") -> Ops | None:
        """Let an async handler go on until it has ended (None) or waits only for steps that have no
        memo."""
        while True:
            await self._changed.wait()
            quiet = 0
            while quiet < SETTLE_TICKS and not user.done():
                self._changed.clear()
                await asyncio.sleep(0)
                quiet = 0 if self._changed.is_set() else quiet + 1
            if user.done():
                return None
            if self._held:
                # In order of completion, one at a time: then a race between steps has the same
                # winner in every pass.
                self._going_on = None
                self._release(min(self._held))
                self._changed.set()
            elif self._executing:
                continue
            elif self._call.target is not None and not self._target_begun:
                if user in self._waiting or not await self._changes_within(VANISHED_GRACE):
                    return Ops(list(self._blocked.values()))
            elif any(op not in self._call.pending for op in self._blocked) or (
                self._blocked and not await self._changes_within(KNOWN_GRACE)
            ):
                return Ops(list(self._blocked.values()))

    async def _changes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # One step, as the handler calls it.

    async def step(
        self,
        kind: OpKind,
        step_id: str,
        options: dict[str, Any],
        body: Callable[[], Awaitable[object]] | None = None,
        output_type: object = EmptySentinel,
    ) -> Any:
        """The result of a step: its memo, or the body's if this pass is for it; otherwise the
        handler stops here."""
        if _inside_step.get():
            raise _NestedStep(step_id)
        if self.ended or self.unwinding:
            raise Interrupt
        if not isinstance(step_id, str):
            raise Error(
                f"A step id must be a string, not {type(step_id).__name__} (function"
                f" {self._function.id})."
            )
        self._changed.set()
        op = Op(kind, self._hashed(step_id), step_id, options)
        position = self._positions.get(op.id)
        if position is not None:
            return await self._recall(op, position, output_type)
        if op.id == self._call.target and not self._target_begun and body is not None:
            return await self._execute(op, body, output_type)
        if self._call.target is None or self._target_begun:
            await self._reach_new_code()
        return await self._block(op)

    async def send_events(self, step_id: str, events: list[Event]) -> list[str]:
        """What the body of `step.send_event` does: middleware around a durable send."""
        await self._middleware.before_send_events(events)
        wire = [event_to_json(event, f'Step "{step_id}"') for event in events]
        try:
            ids = await self._from_anywhere(self._outside.send_events(self._seed, wire))
        except Exception as error:
            await self._middleware.after_send_events(SendEventsResult(error=str(error)))
            raise
        result = SendEventsResult(ids=ids)
        await self._middleware.after_send_events(result)
        return result.ids

    async def send_signal(self, signal: str, data: Any) -> str | None:
        """What the body of `step.send_signal` does."""
        return await self._from_anywhere(self._outside.send_signal(self._seed, signal, data))

    @property
    def _seed(self) -> str:
        return f"{self._call.run_id}:{self._call.target}"

    async def _from_anywhere(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await it in the event loop, also from the thread of a handler that is not async."""
        if self._function.is_async:
            return await coroutine
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _hashed(self, step_id: str) -> str:
        count = self._counts.get(step_id, 0)
        self._counts[step_id] = count + 1
        return hashed(step_id, count)

    async def _recall(self, op: Op, position: int, output_type: object) -> Any:
        if self._function.is_async and not self._may_go_on(position):
            turn = self._held[position] = self._loop.create_future()
            self._watch_current_task()
            try:
                await turn
            finally:
                self._held.pop(position, None)
        else:
            self._release(position)
        if len(self._released) == len(self._positions) and self._call.target is None:
            await self._reach_new_code()
        memo = self._changed_memos.get(op.id)
        if memo is None:
            memo = memo_from_json(json.loads(self._call.memos[position][1]))
        if memo.error is not None:
            raise as_raised(memo.error)
        return self._decode(memo.data, output_type)

    def _may_go_on(self, position: int) -> bool:
        """Whether a finished step returns at once: it is the next one to have ended, and no other
        task of the handler got a result since things were quiet. Otherwise it is released in its
        turn, when they are quiet again."""
        task = asyncio.current_task()
        if position > self._next_release or self._going_on not in (None, task):
            return False
        self._going_on = task
        return True

    def _release(self, position: int) -> None:
        self._released.add(position)
        while self._next_release in self._released:
            self._next_release += 1
        turn = self._held.pop(position, None)
        if turn is not None and not turn.done():
            turn.set_result(None)

    async def _execute(
        self, op: Op, body: Callable[[], Awaitable[object]], output_type: object
    ) -> Any:
        self._target_begun = self._executing = True
        self.target_name = op.name
        error: BaseException | None = None
        value: Any = EmptySentinel
        inside = _inside_step.set(True)
        try:
            await self._reach_new_code()
            value = self._encode(await body(), output_type, op.name)
        except _NestedStep as nested:
            error = StepNestedError(self.function_id, op.name, nested.step_id)
        except asyncio.CancelledError as raised:
            task = asyncio.current_task()
            if self.ended or (task is not None and task.cancelling()):
                raise
            error = raised
        except BaseException as raised:
            error = raised
        finally:
            _inside_step.reset(inside)
            self._executing = False
            self._changed.set()
        info = TransformOutputStepInfo(id=op.name, op=Opcode.STEP_RUN, opts=op.options)
        try:
            if error is not None:
                await self._middleware.after_execution()
            output, error = await self._transformed(value, error, info)
            if error is not None:
                await self._middleware.before_response()
        except Exception as raised:
            error = raised
        if error is not None:
            self._publish(Memo(error=error_info(error)))
            self.ended = True
            raise Interrupt
        self._publish(Memo(data=output))
        try:
            value = output if value is EmptySentinel else to_json(value)
        except OutputUnserializableError:
            # Middleware made JSON of it, and will make of that what the handler is to get.
            self.ended = True
            raise Interrupt from None
        if self._context is not None:
            self._context.attempt = 0
        return self._decode(value, output_type)

    def _publish(self, memo: Memo) -> None:
        def publish() -> None:
            if not self.executed.done():
                self.executed.set_result(memo)

        if self._function.is_async:
            publish()
        else:
            self._loop.call_soon_threadsafe(publish)

    async def _block(self, op: Op) -> Any:
        self._blocked[op.id] = op
        if not self._function.is_async:
            self.unwinding = True
            raise Interrupt
        task = self._watch_current_task()
        self._waiting.add(task)
        try:
            await self._loop.create_future()
        finally:
            if not self.ended:
                self._blocked.pop(op.id, None)
                self._waiting.discard(task)

    def _watch_current_task(self) -> "asyncio.Task[Any]":
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        return task

    def _encode(self, value: object, output_type: object, what: str) -> Any:
        """As JSON; or, for middleware, which may make JSON of anything, as the serializer leaves
        it."""
        return serialize(self.client.serializer, value, output_type, what, raw=self._has_middleware)

    def _decode(self, value: Any, output_type: object) -> Any:
        return deserialize(self.client.serializer, value, output_type)


class _NestedStep(Interrupt):
    """A step was called inside the body of a step."""

    def __init__(self, step_id: object) -> None:
        super().__init__()
        self.step_id = step_id


def hashed(step_id: str, count: int = 0) -> str:
    """Inngest's id of a step: SHA-1 of the user's id, or of `id:count` when it was used before."""
    text = step_id if count == 0 else f"{step_id}:{count}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Mark a task's exception as seen: a pass that ended does not care."""
    if not task.cancelled():
        task.exception()
