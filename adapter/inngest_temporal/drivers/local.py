"""The driver for handlers in this process: it calls a handler again, with the memos of its finished
steps.

An `Execution` ends when the handler returns, raises, or waits for steps that may not be executed
here. It executes the body of its *target*. If a `Ledger` allows it, it also executes each further
step that is the only one the handler waits for (a *chain*), or several steps *together* if the
handler waits for all of them. The ledger makes results durable before the next bodies begin.

Async handlers run as tasks of the worker's event loop. A step that must wait suspends its task, so
`asyncio.gather` and `TaskGroup` over steps work. Other handlers run in a thread, where such a step
raises an interrupt.
"""

import asyncio
import concurrent.futures
import contextvars
import hashlib
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from inngest_temporal.context import Context, ContextSync
from inngest_temporal.errors import (
    Error,
    Interrupt,
    OutputTooLargeError,
    OutputUnserializableError,
    StepInvalidError,
    StepNestedError,
)
from inngest_temporal.functions import App, FunctionPart
from inngest_temporal.logger import told_of
from inngest_temporal.middleware import (
    Opcode,
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

from .failures import as_raised, error_info
from .hooks import Hooks
from .protocol import (
    INVOKE,
    MAX_OUTPUT_BYTES,
    RUN,
    SLEEP,
    WAIT_FOR_EVENT,
    WAIT_FOR_SIGNAL,
    Done,
    ErrorInfo,
    Failed,
    Memo,
    Op,
    OpKind,
    Ops,
    Outcome,
    Returned,
    json_size,
    memo_from_json,
)
from .replay import Replay

T = TypeVar("T")

Body = Callable[[], Awaitable[object]]


class Outside(Protocol):
    """What the bodies of our own steps do outside the run. Repeating a call with the same seed has
    no second effect."""

    async def send_events(self, seed: str, events: list[dict[str, Any]]) -> list[str]:
        """Send events; returns their ids."""
        ...

    async def send_signal(self, seed: str, signal: str, data: Any) -> str | None:
        """Send a signal; returns the id of the run that waited for it, or None."""
        ...


class Ledger(Protocol):
    """Decides how far an execution goes, and keeps what it has done."""

    async def choose(self, ops: Sequence[Op]) -> Sequence[Op]:
        """Which of the steps that the handler waits for to execute now, in this execution. None of
        them if the chain is long enough, or if the worker stops."""
        ...

    async def begin(self, op: Op) -> None:
        """Called before the body of a step is executed."""
        ...

    async def record(self, done: Done) -> None:
        """Keep the result of a step."""
        ...


_THREADS = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="inngest-handler")

SETTLE_TICKS = 6
"""Turns of the event loop without a new step call after which a handler counts as settled. That is
enough for a result to pass through a task, a gather and a nested gather."""
KNOWN_GRACE = 0.01
"""Seconds to wait for further steps if all those that were found are pending already."""
VANISHED_GRACE = 10.0
"""Seconds to wait for the target while some branch of the handler waits at another step."""

_OPCODES = {
    RUN: Opcode.STEP_RUN,
    SLEEP: Opcode.SLEEP,
    WAIT_FOR_EVENT: Opcode.WAIT_FOR_EVENT,
    WAIT_FOR_SIGNAL: Opcode.WAIT_FOR_SIGNAL,
    INVOKE: Opcode.INVOKE,
}

_step: contextvars.ContextVar[Op | None] = contextvars.ContextVar("inngest_step", default=None)
"""The step whose body is being executed."""


@dataclass(frozen=True)
class ExecutionInput:
    """The input of an execution."""

    run_id: str
    events: Sequence[Mapping[str, Any]]
    attempt: int = 0
    losses: int = 0
    """Number of the first step's attempt, if that step is not the target."""
    memos: Sequence[tuple[str, str]] = ()
    """Hashed step id and JSON text of the memo, in order of completion."""
    target: str | None = None
    """Hashed id of the step to execute."""
    pending: Container[str] = frozenset()
    """Hashed ids of the steps that are under way elsewhere."""
    request_id: str | None = None
    inputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Hashed id of a step -> the arguments that its body gets in place of the handler's."""


class _Branches:
    """The tasks of a handler, and the steps at which they wait."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        """All tasks that have called a step."""
        self.waiting: set[asyncio.Task[Any]] = set()
        """The tasks that wait at a step without a memo."""
        self.blocked: dict[str, Op] = {}
        """Hashed id -> step without a memo at which a task waits."""
        self.turns: dict[str, asyncio.Future[None]] = {}
        """Hashed id of such a step, if it has a body -> set when that is to be executed here."""
        self.changed = asyncio.Event()
        self.asked: list[tuple[Any, Coroutine[Any, Any, Any]]] = []
        """The id and the coroutine of each step that was called."""


class Execution:
    """One execution of a handler: call `start`, await `outcome`, and finally call `close`."""

    def __init__(
        self,
        function: FunctionPart,
        input: ExecutionInput,
        *,
        outside: Outside,
        ledger: Ledger | None = None,
        executor: concurrent.futures.Executor | None = None,
    ) -> None:
        """`ledger`: None executes only the target, and keeps nothing."""
        self.client: App = function.client
        self.app_id = function.client.app_id
        self.function_id = function.id
        self.is_async = function.is_async
        self.ended = False
        self.unwinding = False
        """Whether a handler that is not async is leaving a step by an interrupt. Steps that it
        reaches in a `finally` are not executed in this execution."""
        self.side_by_side = False
        """Whether a handler that is not async collects parallel steps."""
        self.done: list[Done] = []
        """The steps that were executed, in order."""
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Outcome | None] = self._loop.create_future()
        """What the handler needs next; None if that is not known, because its last step failed."""

        self._function = function
        self._input = input
        self._outside = outside
        self._ledger = ledger
        self._executor = executor or _THREADS
        self._thread: concurrent.futures.Future[Outcome | None] | None = None
        """The handler's work in a thread, if it is not async."""
        self._variables = contextvars.copy_context()
        self._hooks = Hooks(function, self._variables, self._log_context)

        self._replay = Replay([step for step, _ in input.memos])
        self._changed_memos: dict[str, Memo] = {}
        self._counts: dict[str, int] = {}
        self._branches = _Branches()
        self._bodies: set[str] = set()
        """Hashed ids of the steps whose bodies are being executed."""
        self._together = False
        """Whether several bodies are executed together."""
        self._has_failed = False
        """Whether one of these failed; its branch of the handler stays there."""
        self._target_begun = False
        self._context: Context | ContextSync | None = None
        self._task: asyncio.Task[None] | None = None

    def _log_context(self) -> dict[str, Any]:
        step, context = _step.get(), self._context
        return {
            "functionId": self.function_id,
            "runId": self._input.run_id,
            "stepId": "" if step is None else step.name,
            "attempt": self._input.attempt if context is None else context.attempt,
        }

    def start(self) -> None:
        self._task = self._loop.create_task(self._run(), context=self._variables)
        self._task.add_done_callback(_retrieve)

    def close(self) -> None:
        """Stop the handler where it is. A thread can't be stopped; it ends at its next step."""
        self.ended = True
        if self._task is not None:
            self._task.cancel()
        for task in self._branches.tasks:
            task.cancel()

    async def over(self) -> None:
        """Wait until a closed execution executes nothing any more: a thread runs to its next step,
        and async code may catch its cancellation."""
        tasks: list[asyncio.Future[Any]] = [*self._branches.tasks]
        if self._thread is not None and not self._thread.cancel():
            tasks.append(asyncio.wrap_future(self._thread))
        if tasks:
            await asyncio.wait(tasks)

    # The handler, from its beginning to where it ends or waits.

    async def _run(self) -> None:
        try:
            function = self._function
            self._hooks.open()
            self._context = self._new_context()
            if function.is_async:
                outcome = await self._run_async(self._context)
            else:
                self._thread = self._executor.submit(contextvars.copy_context().run, self._run_sync)
                outcome = await asyncio.wrap_future(self._thread)
        except asyncio.CancelledError:
            self.outcome.cancel()
            raise
        except Interrupt:
            outcome = None
        except Exception as error:
            outcome = Failed(error_info(error))
        finally:
            self.ended = True
            for task in self._branches.tasks:
                task.cancel()
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def _new_context(self) -> Context | ContextSync:
        input = self._input
        # A copy, because nobody else may see what the handler changes in its input.
        copies = json.loads(json.dumps(list(input.events)))
        events = [Event.model_validate(event) for event in copies]
        shared: dict[str, Any] = {
            "attempt": input.attempt,
            "event": events[0],
            "events": events,
            "job_id": None,
            "logger": self._hooks.logger,
            "request_id": input.request_id,
            "run_id": input.run_id,
        }
        if self._function.is_async:
            return Context(group=Group(), step=Step(self), **shared)
        return ContextSync(group=GroupSync(self), step=StepSync(self), **shared)

    async def _run_async(self, context: Context | ContextSync) -> Outcome | None:
        await self._prepare(context)
        user = self._loop.create_task(self._call_handler(context), context=self._variables)
        self._branches.tasks.add(user)
        user.add_done_callback(lambda _: self._branches.changed.set())
        user.add_done_callback(_retrieve)
        ops = await self._settle(user)
        if ops is not None and ops.ops:
            return await self._conclude(ops)
        if ops is not None or (not user.cancelled() and isinstance(user.exception(), Interrupt)):
            await self._hooks.conclude()
            return None
        if user.cancelled():
            error = ErrorInfo("CancelledError", "The handler cancelled itself.")
            return await self._conclude(Failed(error))
        return await self._conclude(user.result())

    async def _call_handler(self, context: Context | ContextSync) -> Outcome:
        try:
            value = await self._function.handler(context)
        except (asyncio.CancelledError, Interrupt):
            raise
        except BaseException as error:
            if self.ended:
                raise Interrupt from None  # a TaskGroup has put the interrupt into a group
            return await self._outcome_of(None, error)
        # Tasks that it began last reach their step, or notice that they are cancelled.
        await asyncio.sleep(0)
        outcome = await self._outcome_of(value, None)
        if isinstance(outcome, Returned):
            self._warn_of_dropped_steps()
        return outcome

    def _warn_of_dropped_steps(self) -> None:
        """Warn of steps that are not executed, because the handler returned without awaiting them,
        or while a task of it waited at them. Steps that are pending elsewhere have begun, for
        example the loser of a race."""
        pending, target = self._input.pending, self._input.target
        dropped = [
            op.name
            for op in self._branches.blocked.values()
            if op.id not in pending and op.id != target
        ]
        for step_id, call in self._branches.asked:
            if inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
                call.close()  # otherwise Python would warn as well, without the step's name
                dropped.append(str(step_id))
        if dropped:
            self.client.logger.warning(
                "Function %s returned without waiting for %s: these steps are dropped. Is an await"
                " missing? (run %s)",
                self.function_id,
                ", ".join(f'"{name}"' for name in dropped),
                self._input.run_id,
                extra=told_of(self.function_id, self._input.run_id),
            )

    def _run_sync(self) -> Outcome | None:
        context = self._context
        assert context is not None
        drive(self._prepare(context))
        value: object = None
        error: BaseException | None = None
        try:
            value = self._function.handler(context)
        except BaseException as raised:
            error = raised
        if self.ended:
            drive(self._hooks.conclude())
            return None
        if self.unwinding:
            # Whatever the handler returned or raised, it is at a step without a result: a bare
            # `except:` may have swallowed the interrupt, or turned it into another error.
            return drive(self._conclude(Ops(list(self._branches.blocked.values()))))
        return drive(self._conclude(drive(self._outcome_of(value, error))))

    async def _prepare(self, context: Context | ContextSync) -> None:
        self._changed_memos = await self._hooks.transform_input(context, self._input.memos)
        if not self._input.memos and self._input.target is None:
            await self._hooks.reach_new_code()

    async def _outcome_of(self, value: object, error: BaseException | None) -> Outcome:
        await self._hooks.reach_new_code()
        output: Any = EmptySentinel
        if error is None:
            try:
                output = self._encode(value, self._function.output_type, self._function.id)
            except Exception as raised:
                error = raised
            else:
                await self._hooks.after_execution()
        output, error = await self._hooks.transform_output(output, error, None)
        return Returned(output) if error is None else Failed(error_info(error))

    async def _conclude(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Ops):
            await self._hooks.after_execution()
            outcome = Ops([await self._shown(op) for op in outcome.ops])
        await self._hooks.before_response()
        return outcome

    async def _shown(self, op: Op) -> Op:
        """A step that begins elsewhere, as middleware changed it in `transform_output`, for example
        to encrypt the data of an invocation."""
        if op.kind == RUN or op.id in self._input.pending:
            return op
        info = TransformOutputStepInfo(id=op.name, op=_OPCODES[op.kind], opts=op.options)
        await self._hooks.planned(info)
        return replace(op, options=info.opts or {})

    async def _settle(self, user: "asyncio.Task[Outcome]") -> Ops | None:
        """Let an async handler run until it has ended (None) or waits for steps that are not to be
        executed here. The `Ops` are empty if all steps that it waits for have failed."""
        # Nothing tells when a handler waits for nothing but steps: its tasks may await each other,
        # or other things. So it counts as settled after some turns of the event loop in which it
        # called no step. Only then the next memo is released, or the next step executed: each may
        # start further calls, which must come before the next decision in every execution.
        while True:
            await self._branches.changed.wait()
            quiet = 0
            while quiet < SETTLE_TICKS and not user.done():
                self._branches.changed.clear()
                await asyncio.sleep(0)
                quiet = 0 if self._branches.changed.is_set() else quiet + 1
            if user.done():
                return None
            if self._replay.holds:
                self._replay.release_next()
                self._branches.changed.set()
            elif self._bodies and not self._together:
                continue
            elif (
                (self._has_failed or (self._branches.blocked and await self._is_at_rest(user)))
                and not await self._execute_next()
                and not self._bodies
            ):
                return Ops(list(self._branches.blocked.values()))

    async def _is_at_rest(self, user: "asyncio.Task[Outcome]") -> bool:
        """Whether a handler that waits at steps will probably call no further ones."""
        if self._input.target is not None and not self._target_begun:
            # Unless the handler's own task waits, a branch may still be on its way to the target.
            return user in self._branches.waiting or not await self._changes_within(VANISHED_GRACE)
        if any(op not in self._input.pending for op in self._branches.blocked):
            return True
        return not await self._changes_within(KNOWN_GRACE)

    async def _changes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._branches.changed.wait()
        except TimeoutError:
            return False
        return True

    async def _execute_next(self) -> bool:
        """Continue the chain: execute the steps for which the handler waits here, if the ledger
        allows it."""
        ops, turns = list(self._branches.blocked.values()), self._branches.turns
        if not ops or self._has_failed or any(op.id not in turns for op in ops):
            return False
        if len(ops) > 1 and not self._hooks.is_empty:
            return False  # middleware gets to know one step at a time
        chosen = await self._choose(ops)
        self._together = len(chosen) + len(self._bodies) > 1
        for op in chosen:
            if not turns[op.id].done():
                turns[op.id].set_result(None)
        return bool(chosen)

    async def _choose(self, ops: Sequence[Op]) -> Sequence[Op]:
        if self._ledger is None or (self._input.target is not None and not self._target_begun):
            return []
        return await self._ledger.choose(ops)

    # One step, as the handler calls it.

    async def step(
        self,
        kind: OpKind,
        step_id: str,
        options: dict[str, Any],
        body: Body | None = None,
        output_type: object = EmptySentinel,
    ) -> Any:
        """The result of a step: its memo, or the result of its body if that is executed here.
        Otherwise the handler stops at this step."""
        if _step.get() is not None:
            raise _NestedStep(step_id)
        if self.ended or self.unwinding:
            raise Interrupt
        if not isinstance(step_id, str):
            raise Error(
                f"A step id must be a string, not {type(step_id).__name__} (function"
                f" {self._function.id})."
            )
        self._branches.changed.set()
        op = Op(kind, self._hashed(step_id), step_id, options)
        position = self._replay.position(op.id)
        if position is not None:
            return await self._recall(op, position, output_type)
        if body is not None and await self._is_executed_here(op):
            return await self._execute(op, body, output_type)
        if self._input.target is None or self._target_begun:
            await self._hooks.reach_new_code()
        await self._block(op, body)
        assert body is not None
        return await self._execute(op, body, output_type)

    async def _is_executed_here(self, op: Op) -> bool:
        """Whether a step's body is executed at once: that of the target, and of the next step of a
        chain in a handler that is not async, because it does one thing at a time."""
        if op.id == self._input.target:
            return not self._target_begun
        if self._function.is_async or self.side_by_side:
            return False
        return bool(await self._from_anywhere(self._choose([op])))

    def asked(self, step_id: Any, call: Coroutine[Any, Any, Any]) -> None:
        self._branches.asked.append((step_id, call))

    def arguments(self, usual: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the current step's body: those that the handler passed (`usual`), or
        those by which a rerun replaced them."""
        step = _step.get()
        replaced = None if step is None else self._input.inputs.get(step.id)
        return usual if replaced is None else tuple(replaced)

    def _refuse_arguments(self) -> None:
        step = _step.get()
        if step is not None and step.id in self._input.inputs:
            problem = "a rerun replaced its input, but it has none. Rerun from it without an input."
            raise StepInvalidError(self.function_id, step.name, problem)

    async def send_events(self, step_id: str, events: list[Event]) -> list[str]:
        """The body of `step.send_event`: a durable send between hooks of middleware."""
        self._refuse_arguments()
        await self._hooks.before_send_events(events)
        wire = [event_to_json(event, f'Step "{step_id}"') for event in events]
        try:
            ids = await self._from_anywhere(self._outside.send_events(self._seed, wire))
        except Exception as error:
            await self._hooks.after_send_events(SendEventsResult(error=str(error)))
            raise
        result = SendEventsResult(ids=ids)
        await self._hooks.after_send_events(result)
        return result.ids

    async def send_signal(self, signal: str, data: Any) -> str | None:
        """The body of `step.send_signal`."""
        self._refuse_arguments()
        return await self._from_anywhere(self._outside.send_signal(self._seed, signal, data))

    @property
    def _seed(self) -> str:
        step = _step.get()
        assert step is not None
        return f"{self._input.run_id}:{step.id}"

    async def _from_anywhere(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the event loop, even from the thread of a handler that is not
        async."""
        if self._function.is_async:
            return await coroutine
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _hashed(self, step_id: str) -> str:
        count = self._counts.get(step_id, 0)
        self._counts[step_id] = count + 1
        return hashed(step_id, count)

    async def _recall(self, op: Op, position: int, output_type: object) -> Any:
        if self._function.is_async:
            self._watch_current_task()
            await self._replay.turn(position)
        else:
            self._replay.release(position)
        if self._replay.is_complete and self._input.target is None:
            await self._hooks.reach_new_code()
        memo = self._changed_memos.get(op.id)
        if memo is None:
            memo = memo_from_json(json.loads(self._input.memos[position][1]))
        if memo.error is not None:
            raise as_raised(memo.error)
        return self._decode(memo.data, output_type)

    async def _execute(self, op: Op, body: Body, output_type: object) -> Any:
        if op.id == self._input.target:
            self._target_begun = True
        elif self._context is not None:
            self._context.attempt = 0 if self.done else self._input.losses
        self._bodies.add(op.id)
        try:
            value, error, began_ms = await self._call_body(op, body, output_type)
            output, error = await self._settled(op, value, error)
            info = None if error is None else error_info(error)
            await self._record(Done(op, output, info, None, began_ms, _now_ms()))
        finally:
            self._bodies.discard(op.id)
            self._branches.changed.set()
        if error is not None:
            if self._together:
                self._has_failed = True
                await self._loop.create_future()  # stop this branch; the others continue
            self.ended = True
            raise Interrupt
        try:
            value = output if value is EmptySentinel else to_json(value)
        except OutputUnserializableError:
            # Only middleware could encode this value, and only middleware can decode it. The next
            # execution gives the handler the decoded value.
            self.ended = True
            raise Interrupt from None
        if self._context is not None:
            self._context.attempt = 0
        return self._decode(value, output_type)

    async def _call_body(
        self, op: Op, body: Body, output_type: object
    ) -> tuple[Any, BaseException | None, int]:
        """Execute a step's body: the encoded result, or the error that it raised; and when it
        began."""
        inside, began_ms = _step.set(op), _now_ms()
        try:
            await self._hooks.reach_new_code()
            if self._ledger is not None:
                await self._from_anywhere(self._ledger.begin(op))
                began_ms = _now_ms()
            return self._encode(await body(), output_type, op.name), None, began_ms
        except _NestedStep as nested:
            error = StepNestedError(self.function_id, op.name, nested.step_id)
            return None, error, began_ms
        except asyncio.CancelledError as raised:
            task = asyncio.current_task()
            if self.ended or (task is not None and task.cancelling()):
                raise
            return None, raised, began_ms
        except BaseException as raised:
            if self.ended:
                raise
            return None, raised, began_ms
        finally:
            _step.reset(inside)

    async def _settled(
        self, op: Op, value: Any, error: BaseException | None
    ) -> tuple[Any, BaseException | None]:
        """A step's output or error, as the middleware's hooks changed it."""
        info = TransformOutputStepInfo(id=op.name, op=Opcode.STEP_RUN, opts=op.options)
        try:
            if error is not None:
                await self._hooks.after_execution()
            output, error = await self._hooks.transform_output(value, error, info)
            if error is not None:
                await self._hooks.before_response()
        except Exception as raised:
            return None, raised
        size = 0 if error is not None else json_size(output)
        if size > MAX_OUTPUT_BYTES:
            return None, OutputTooLargeError("The step's output", size, MAX_OUTPUT_BYTES)
        return output, error

    async def _record(self, done: Done) -> None:
        if self.ended:
            raise Interrupt
        self.done.append(done)
        if self._ledger is not None:
            await self._from_anywhere(self._ledger.record(done))

    async def _block(self, op: Op, body: Body | None) -> None:
        """Wait at a step without a memo. Returns only if its body is to be executed here."""
        self._branches.blocked[op.id] = op
        if not self._function.is_async:
            self.unwinding = True
            raise Interrupt
        task = self._watch_current_task()
        self._branches.waiting.add(task)
        turn: asyncio.Future[None] = self._loop.create_future()
        if body is not None:
            self._branches.turns[op.id] = turn
        try:
            await turn
        finally:
            if not self.ended:
                self._branches.blocked.pop(op.id, None)
                self._branches.turns.pop(op.id, None)
                self._branches.waiting.discard(task)

    def _watch_current_task(self) -> "asyncio.Task[Any]":
        task = asyncio.current_task()
        assert task is not None
        self._branches.tasks.add(task)
        return task

    def _encode(self, value: object, output_type: object, name: str) -> Any:
        """A value as JSON. If there is middleware, which may encode any value, the result of the
        serializer is left as it is."""
        return serialize(
            self.client.serializer, value, output_type, name, raw=not self._hooks.is_empty
        )

    def _decode(self, value: Any, output_type: object) -> Any:
        return deserialize(self.client.serializer, value, output_type)


class _NestedStep(Interrupt):
    """A step was called inside the body of a step."""

    def __init__(self, step_id: object) -> None:
        super().__init__()
        self.step_id = step_id


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def hashed(step_id: str, count: int = 0) -> str:
    """Inngest's id of a step: SHA-1 of the user's id, or of `id:count` if it was used before."""
    text = step_id if count == 0 else f"{step_id}:{count}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Mark a task's exception as seen, because nobody awaits the tasks of an ended execution."""
    if not task.cancelled():
        task.exception()
