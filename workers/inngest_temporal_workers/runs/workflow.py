"""The run: one generic workflow that interprets what a handler needs.

It discovers (a local activity executes the handler to where it waits), starts what was found, and
stores each result as a memo. A step's activity answers with its result and with what the handler
needs next, so n sequential steps cost n activities. Only what was not looked ahead to is discovered
again.
"""

import asyncio
import builtins
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    is_cancelled_exception,
)

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.failures import RunFailure, error_of
from inngest_temporal.drivers.protocol import ErrorInfo, Failed, Memo, Op, Ops, Outcome, Returned
from inngest_temporal.functions import FunctionPart
from inngest_temporal.routing.run_input import RunInput
from inngest_temporal.routing.waits import Delivery
from inngest_temporal.temporal import names
from inngest_temporal_workers.calls import Calls

from .admission import Admission
from .memory import MemoCache, RunMemory, page

MAX_VANISHED = 10
"""How often a step may be asked for and then not be there."""
MAX_STATE_BYTES = 32 * 1024 * 1024
DEFAULT_TIMEOUT = timedelta(days=365)
"""Inngest's default, of invocations and waits for signals."""

STEP_TIMEOUT = timedelta(hours=2)
"""Inngest's limit of one call to an app."""
HEARTBEAT_TIMEOUT = timedelta(seconds=30)
"""How soon a killed worker is noticed. Steps heartbeat by themselves."""
LOST_RETRY = timedelta(seconds=1)
"""After which a step of a lost worker is given to another one."""
LOCAL_TIMEOUT = timedelta(seconds=30)
FIRST_LOOK, LONGEST_LOOK = timedelta(minutes=1), timedelta(days=1)
"""After which a run that was invoked is looked after, and how seldom at last: a look is six events
of history."""
LAST_ANSWER = timedelta(seconds=10)
"""In which the answer of a run that has ended arrives, if there is one."""
REGISTRATION_TIME = timedelta(minutes=1)
"""What the registration of a wait may take, and is added to how long it is kept."""


@dataclass
class _Ended:
    """An op that ended: with a memo, or (memo None) with an error that ends the run."""

    op: Op
    memo: Memo | None
    next: Outcome | None = None
    """What the handler needs next, if that is known."""
    vanished: bool = False
    version: int | None = None
    """How many memos `next` builds on, besides its own; None: not told (in histories of earlier
    versions)."""
    error: BaseException | None = None


class Run:
    """The run workflow. `workflow_for` makes the class that Temporal knows, one for each
    function."""

    function: ClassVar[FunctionPart]
    settings: ClassVar["RunSettings"]

    def __init__(self) -> None:
        self._ended: deque[_Ended] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ops: dict[str, Op] = {}
        self._vanished: Counter[str] = Counter()
        self._mailboxes: dict[str, list[str]] = {}
        self._registering: set[str] = set()
        self._wait_order: dict[str, int] = {}
        self._consumed: dict[str, int] = {}
        self._arrived: dict[str, dict[str, Any]] = {}
        self._invoked: dict[str, Memo] = {}
        self._signals: dict[str, str] = {}
        self._signalled: dict[str, dict[str, Any]] = {}
        self._deadlines: list[asyncio.Task[None]] = []
        self._executing: set[asyncio.Task[Any]] = set()
        """Activities with user code that a lock counts."""
        self._admission = Admission(Calls())
        self._unheard = False
        self._attempt = 0

    @workflow.run
    async def run(self, given: dict[str, Any]) -> Any:
        """`given`: a `RunInput`, as JSON."""
        self._given = RunInput.from_json(given)
        self._memory = RunMemory(self._given.events)
        self._remember()
        try:
            if not await self._begin():
                await _shielded(self._finish("Skipped"))
                workflow.upsert_memo({names.STATUS_MEMO: "Skipped"})
                return None
            value = await self._interpret()
        except RunFailure as failure:
            await _shielded(self._finish("Failed", error=failure.error))
            raise
        except BaseException as error:
            if is_cancelled_exception(error):
                await _shielded(self._finish("Cancelled"))
            raise
        await _shielded(self._finish("Completed", value=value))
        return value

    async def _interpret(self) -> Any:
        outcome: Outcome | None = await self._discover()
        while True:
            if isinstance(outcome, Returned):
                self._unheard = outcome.unheard
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
            self._admission.settle()
            await workflow.wait_condition(lambda: bool(self._ended))
            outcome = await self._take()

    async def _begin(self) -> bool:
        """Wait for admission; False: the run is to be skipped. A run that is admitted too late is
        cancelled, and so is one that ends too late (Inngest's `timeouts`); it does not fail."""
        timeouts = self._given.timeouts
        created_ms = max(
            round(workflow.info().workflow_start_time.timestamp() * 1000),
            self._given.events[0]["ts"],
        )
        late = self._deadline("start", created_ms)
        if late is not None and _now_ms() >= created_ms + timeouts["start"]:
            await workflow.wait_condition(lambda: False)
        self._admission.begin(self._given.needs, self._given.factor, created_ms)
        if not await self._admission.enter():
            return False
        if late is not None:
            late.cancel()
        self._deadline("finish", _now_ms())
        return True

    def _deadline(self, name: str, since_ms: int) -> asyncio.Task[None] | None:
        limit_ms = self._given.timeouts.get(name)
        if limit_ms is None:
            return None
        remaining = timedelta(milliseconds=max(0, since_ms + limit_ms - _now_ms()))

        async def cancel() -> None:
            await workflow.sleep(remaining, summary=f"timeouts.{name}")
            await self._local("inngest.cancel", {})

        task = asyncio.create_task(cancel())
        self._deadlines.append(task)
        return task

    async def _take(self) -> Outcome | None:
        """Store what has ended, and say what the handler needs next.

        A step's activity looks ahead from the memos that were there when it began. Where another
        step has ended since, the handler may be elsewhere: past a gather of the two, or the race
        between them has another winner.
        """
        discover = False
        while self._ended:
            ended = self._ended.popleft()
            del self._tasks[ended.op.id]
            self._memory.pending.discard(ended.op.id)
            if ended.error is not None:
                raise ended.error
            following = ended.next if ended.version in (None, len(self._memory.memos)) else None
            if ended.vanished:
                self._forget(ended)
            if ended.memo is not None:
                self._store(ended.op, ended.memo)
            if isinstance(following, Ops):
                self._start(following.ops)
            elif following is not None:
                return following
            else:
                discover = True
        if discover or not self._tasks:
            return await self._discover()
        return None

    def _forget(self, ended: _Ended) -> None:
        """The handler asked for a step, and did not when that was to be executed. A deploy may have
        removed it; but if this goes on, the handler decides by something that is not the same each
        time."""
        del self._ops[ended.op.id]
        if isinstance(ended.next, Failed):
            return  # it will be tried again, as often as that may be
        self._vanished[ended.op.id] += 1
        if self._vanished[ended.op.id] > MAX_VANISHED:
            message = (
                f'The handler asks for step "{ended.op.name}", and does not when that is to be'
                " executed"
            )
            remedy = "make what decides that a step too."
            raise RunFailure(
                ErrorInfo("StepUnexpectedError", f"{message}: {remedy}", retriable=False)
            )

    def _store(self, op: Op, memo: Memo) -> None:
        text = json.dumps(protocol.memo_to_json(memo), separators=(",", ":"))
        self._memory.append(op.id, text)
        self._remember()
        self._attempt = 0
        if self._memory.size > MAX_STATE_BYTES:
            raise RunFailure(
                ErrorInfo(
                    "InngestErrStateOverflowed",
                    f"The function run exceeded the state size limit of {MAX_STATE_BYTES} bytes.",
                )
            )

    def _remember(self) -> None:
        """Before each local activity, too: one that had to ask this workflow would wait for its own
        workflow task."""
        self.settings.cache.put(workflow.info().run_id, self._memory)

    # What the handler needs next.

    async def _discover(self) -> Outcome:
        self._admission.want()
        await self._admission.permit()
        outcome, local = await self._execute_handler()
        self._admission.done(local=local)
        return outcome

    async def _execute_handler(self) -> tuple[Outcome, bool]:
        """What it needs next, and whether a local activity found that out."""
        arguments: dict[str, Any] = {"version": len(self._memory.memos), "attempt": self._attempt}
        self._remember()
        reply = await workflow.execute_local_activity(
            "inngest.discover",
            arguments,
            start_to_close_timeout=STEP_TIMEOUT,  # a handler may block the event loop
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
            result_type=dict,
        )
        if "slow" in reply:
            # It goes on in that process; this activity, which the server most often gives to the
            # same one, adopts it.
            try:
                reply = await self._execute(
                    "inngest.discover_slowly", arguments, "handler", self._retry_policy()
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                return Failed(error_of(error)), False
            return protocol.outcome_from_json(reply), False
        return protocol.outcome_from_json(reply), True

    async def _retry(self, failed: Failed) -> Outcome:
        if failed.retry_ms is None:
            raise RunFailure(failed.error)
        attempt = self._attempt + 1
        self._admission.settle()
        summary = _summary(f"retry {attempt}: {failed.error.name}")
        await workflow.sleep(timedelta(milliseconds=failed.retry_ms), summary=summary)
        self._attempt = attempt
        return await self._discover()

    # The ops.

    def _start(self, ops: list[Op]) -> None:
        """Start those that are new. Waits begin before anything is executed that was found with
        them: so what a step asks for can't be answered before the wait for the answer has begun."""
        new = [op for op in ops if op.id not in self._ops]
        waits = {
            op.id for op in new if op.kind in (protocol.WAIT_FOR_EVENT, protocol.WAIT_FOR_SIGNAL)
        }
        self._registering |= waits
        for op in new:
            if len(self._ops) >= protocol.MAX_STEPS:
                raise RunFailure(protocol.STEPS_EXCEEDED)
            self._ops[op.id] = op
            self._memory.pending.add(op.id)
            if op.kind == protocol.RUN:
                self._admission.want()
            after = waits if op.kind in (protocol.RUN, protocol.INVOKE) else set()
            self._tasks[op.id] = asyncio.create_task(self._perform(op, after))

    async def _perform(self, op: Op, after: set[str]) -> None:
        if after:
            await workflow.wait_condition(lambda: self._registering.isdisjoint(after))
        work: Awaitable[_Ended]
        if op.kind == protocol.RUN:
            work = self._run_step(op)
        elif op.kind == protocol.SLEEP:
            work = self._sleep(op)
        elif op.kind == protocol.WAIT_FOR_EVENT:
            work = self._wait_for_event(op)
        elif op.kind == protocol.WAIT_FOR_SIGNAL:
            work = self._wait_for_signal(op)
        else:
            work = self._invoke(op)
        try:
            self._ended.append(await work)
        except Exception as error:
            self._registering.discard(op.id)
            self._ended.append(_Ended(op, None, error=error))

    async def _run_step(self, op: Op) -> _Ended:
        since_ms = _now_ms()
        attempt = 0
        while True:
            await self._admission.permit()
            try:
                reply = await self._attempt_step(op, attempt, since_ms)
                break
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                delay = self._delay_after(error, attempt)
                if delay is None:
                    return _Ended(op, Memo(error=error_of(error)))
            finally:
                self._admission.done()
            self._admission.settle()
            attempt += 1
            await workflow.sleep(delay, summary=f"retry {attempt}: {_summary(op.name)}")
            self._admission.want()
        following = protocol.outcome_from_json(reply["next"]) if "next" in reply else None
        version = reply.get("version")
        if "vanished" in reply:
            return _Ended(op, None, following, vanished=True, version=version)
        return _Ended(op, Memo(data=reply.get("data")), following, version=version)

    async def _attempt_step(self, op: Op, attempt: int, since_ms: int) -> dict[str, Any]:
        """Temporal repeats attempts; but where each needs a permit, this workflow does, and holds
        none in between."""
        arguments: dict[str, Any] = {
            "step": op.id,
            "version": len(self._memory.memos),
            "tried": self._attempt,
        }
        once = self._admission.per_step
        if once:
            arguments |= {"attempt": attempt, "since_ms": since_ms}
        retry_policy = RetryPolicy(maximum_attempts=1) if once else self._retry_policy()
        return await self._execute("inngest.step", arguments, _summary(op.name), retry_policy)

    async def _execute(
        self, activity: str, arguments: dict[str, Any], summary: str, retry_policy: RetryPolicy
    ) -> dict[str, Any]:
        """Have user code executed. If a lock counts that, a cancelled run has to wait for its end:
        `_finish`."""
        counted = self._admission.counts
        kind = workflow.ActivityCancellationType
        work: asyncio.Task[dict[str, Any]] = workflow.start_activity(
            activity,
            arguments | {"until_over": True} if counted else arguments,
            summary=summary,
            start_to_close_timeout=STEP_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=retry_policy,
            cancellation_type=kind.WAIT_CANCELLATION_COMPLETED if counted else kind.TRY_CANCEL,
            result_type=dict,
        )
        if not counted:
            return await work
        self._executing.add(work)
        work.add_done_callback(self._executing.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            raise

    def _delay_after(self, error: ActivityError, attempt: int) -> timedelta | None:
        """When to try a step again that needs permits; None: not at all. By what history says, not
        by the function as it is deployed now."""
        if not self._admission.per_step:
            return None
        if isinstance(error.cause, ApplicationError):
            return error.cause.next_retry_delay
        return LOST_RETRY if attempt < self._given.retries else None

    def _retry_policy(self) -> RetryPolicy:
        """User errors say themselves when to retry; the intervals here are for workers that were
        lost."""
        return RetryPolicy(
            initial_interval=LOST_RETRY,
            maximum_interval=timedelta(seconds=10),
            maximum_attempts=self.function.retries + 1,
        )

    async def _sleep(self, op: Op) -> _Ended:
        until = op.options.get("until_ms")
        duration = _duration(
            op, op.options["duration_ms"] if until is None else until - workflow.time() * 1000
        )
        if duration > timedelta(0):
            await workflow.sleep(duration, summary=_summary(op.name))
        return _Ended(op, Memo())

    async def _wait_for_event(self, op: Op) -> _Ended:
        timeout = _duration(op, op.options["timeout_ms"])
        self._wait_order[op.id] = len(self._consumed)
        registered = await self._local(
            "inngest.wait",
            {
                "step": op.id,
                "events": op.options["events"],
                "own": self._given.event_ids,
                "if": op.options.get("if"),
                "expires_ms": _expires_ms(timeout),
            },
        )
        if "error" in registered:
            raise RunFailure(
                ErrorInfo(protocol.INVALID_EXPRESSION, registered["error"], retriable=False)
            )
        mailboxes = self._mailboxes[op.id] = registered["mailboxes"]
        self._registering.discard(op.id)
        early = op.id in self._arrived and workflow.patched("early answers")
        try:
            await workflow.wait_condition(
                lambda: op.id in self._arrived, timeout=timeout, timeout_summary=_summary(op.name)
            )
        except builtins.TimeoutError:
            pass
        # A mailbox forgets a wait that it has resumed; but one that was resumed before was
        # registered once more.
        if early or op.id not in self._arrived or len(mailboxes) > 1:
            await self._local("inngest.unwait", {"mailboxes": mailboxes, "step": op.id})
        del self._mailboxes[op.id]
        return _Ended(op, Memo(data=self._arrived.pop(op.id, None)))

    @workflow.signal(name="event")
    def _on_event(self, delivery: Delivery) -> None:
        """A mailbox found that these waits match. One event resumes each wait once, and never one
        that began later."""
        order = self._consumed.setdefault(delivery.id, len(self._consumed) + 1)
        for step in delivery.waits:
            if (
                step not in self._arrived
                and self._wait_order.get(step, 0) < order
                and self._expects(step)
            ):
                self._arrived[step] = delivery.event

    def _expects(self, step: str) -> bool:
        """Whether an answer is for a step that has not ended. One that is not known was asked for
        in a workflow task that was lost, and will be again."""
        return step in self._tasks or (step not in self._ops and workflow.patched("early answers"))

    async def _wait_for_signal(self, op: Op) -> _Ended:
        timeout = _timeout_of(op)
        signal = op.options["signal"]
        wait = {"step": op.id, "signal": signal, "replace": op.options["replace"]}
        if "conflict" in await self._local(
            "inngest.claim_signal", wait | {"expires_ms": _expires_ms(timeout)}
        ):
            message = "Signal conflict; signal wait already exists for another run"
            raise RunFailure(ErrorInfo("Error", message, retriable=False))
        self._signals[op.id] = signal
        self._registering.discard(op.id)
        try:
            await workflow.wait_condition(
                lambda: op.id in self._signalled, timeout=timeout, timeout_summary=_summary(op.name)
            )
        except builtins.TimeoutError:
            await self._local("inngest.release_signal", wait)
        del self._signals[op.id]
        return _Ended(op, Memo(data=self._signalled.pop(op.id, None)))

    @workflow.signal(name="signal")
    def _on_signal(self, step: str, signal: str, data: Any) -> None:
        """The signal that a step waits for."""
        if step not in self._signalled and self._expects(step):
            self._signalled[step] = {"signal": signal, "data": data}

    async def _invoke(self, op: Op) -> _Ended:
        timeout = _timeout_of(op)
        started = await self._local(
            "inngest.invoke", {"step": op.id, "ts": _now_ms(), **op.options}
        )
        if "error" in started:
            return _Ended(op, Memo(error=ErrorInfo("Error", started["error"])))
        error = await self._invoked_or_error(op, timeout, started.get("run"))
        if error is not None:
            return _Ended(op, Memo(error=error))
        memo = self._invoked.pop(op.id)
        if memo.error is not None:
            # Whether the other run could be tried again says nothing here: it is a `StepError`, as
            # in Inngest.
            memo = Memo(error=replace(memo.error, retriable=True))
        return _Ended(op, memo)

    async def _invoked_or_error(
        self, op: Op, timeout: timedelta, run: str | None
    ) -> ErrorInfo | None:
        """Wait for the answer of the run that a step invoked. One that was terminated in Temporal
        gives none, so it is looked after, ever less often."""
        deadline = workflow.time() + timeout.total_seconds()
        look, gone = FIRST_LOOK, False
        while True:
            remaining = timedelta(seconds=deadline - workflow.time())
            patience = remaining if run is None else min(remaining, LAST_ANSWER if gone else look)
            try:
                await workflow.wait_condition(
                    lambda: op.id in self._invoked,
                    timeout=patience,
                    timeout_summary=_summary(op.name),
                )
                return None
            except builtins.TimeoutError:
                if patience == remaining:
                    return ErrorInfo(protocol.INVOKE_TIMEOUT_NAME, protocol.INVOKE_TIMEOUT_MESSAGE)
            if gone:
                message = (
                    f"The invoked run {run} ended without an answer: it was skipped, or terminated"
                    " in Temporal."
                )
                return ErrorInfo("Error", message)
            gone = not (await self._local("inngest.executes", {"run": run}))["executes"]
            look = min(look * 2, LONGEST_LOOK)

    @workflow.signal(name="invoked")
    def _on_invoked(self, step: str, result: dict[str, Any]) -> None:
        """A run that one of this run's steps invoked has ended."""
        if self._expects(step):
            self._invoked[step] = protocol.memo_from_json(result)

    @workflow.signal(name="admission")
    def _on_admission(self, lock: str, verdicts: dict[str, list[int]]) -> None:
        """What a lock says."""
        self._admission.receive(lock, verdicts)

    async def _local(self, activity: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """A short call to Temporal, repeated until it works."""
        self._remember()
        reply: dict[str, Any] = await workflow.execute_local_activity(
            activity,
            arguments,
            start_to_close_timeout=LOCAL_TIMEOUT,
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
            result_type=dict,
        )
        return reply

    # The end.

    async def _finish(
        self, status: str, *, value: Any = None, error: ErrorInfo | None = None
    ) -> None:
        """Give back what is held, take back waits, answer the invoker, emit Inngest's lifecycle
        events."""
        if self._executing and workflow.patched("end after what executes"):
            for task in (*self._tasks.values(), *self._deadlines, *self._executing):
                task.cancel()
            await asyncio.wait([*self._executing])
        await self._admission.leave()
        waits = self._mailboxes | {wait: [mailbox] for wait, mailbox in self._given.cancels.items()}
        result: dict[str, Any] = {
            "status": status,
            "ts": _now_ms(),
            "waits": waits,
            "signals": self._signals,
        }
        for task in (*self._tasks.values(), *self._deadlines):
            task.cancel()
        if status == "Completed":
            if self._unheard and not waits and not self._signals and self._given.invoker is None:
                self.settings.cache.forget(workflow.info().run_id)
                return
            result["value"] = value
        if error is not None:
            result["error"] = protocol.memo_to_json(Memo(error=error))["error"]
        await self._local("inngest.finish", result | {"input": self._given.to_json()})
        self.settings.cache.forget(workflow.info().run_id)

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


@dataclass(frozen=True)
class RunSettings:
    """What all runs of a process share."""

    cache: MemoCache
    retry_interval: timedelta | None = None
    """Replaces Inngest's table of waits, for development and tests."""


def workflow_for(part: FunctionPart, settings: RunSettings) -> type:
    """The workflow class of one function; its type name is the function's id."""

    members = {"function": part, "settings": settings, "run": Run.run, "__module__": __name__}
    # Temporal wants `run` on the class itself, and goes by the class's name to see that it is.
    return workflow.defn(name=part.id, sandboxed=False)(type(Run.__name__, (Run,), members))


class Leftover(Run):
    """The workflow of runs whose function was there when they began, and is not any more: they fail
    with that message, and can be cancelled. `leftover_workflow` makes the class that Temporal
    knows."""

    missing: Callable[[str], FunctionPart]

    @workflow.run
    async def run(self, given: Sequence[RawValue]) -> Any:  # type: ignore[override]
        self._stands_for = self.missing(workflow.info().workflow_type)
        return await Run.run(self, workflow.payload_converter().from_payload(given[0].payload))

    @property
    def function(self) -> FunctionPart:  # type: ignore[override]
        return self._stands_for

    async def _execute_handler(self) -> tuple[Outcome, bool]:
        self.missing(workflow.info().workflow_type)  # it may have come back
        return await super()._execute_handler()


def leftover_workflow(settings: RunSettings, missing: Callable[[str], FunctionPart]) -> type:
    """`missing`: what stands for such a function; raises if the worker has nothing to do with
    it."""
    members = {
        "settings": settings,
        "missing": staticmethod(missing),
        "run": Leftover.run,
        "__module__": __name__,
    }
    return workflow.defn(dynamic=True, sandboxed=False)(
        type(Leftover.__name__, (Leftover,), members)
    )


async def _shielded(finish: Coroutine[Any, Any, None]) -> None:
    """A run that has ended can't be cancelled any more."""
    task = asyncio.create_task(finish)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise


def _now_ms() -> int:
    return round(workflow.time() * 1000)


def _summary(name: str) -> str:
    """Temporal shows up to 400 bytes of it."""
    name = name.encode(errors="replace").decode()
    return name if len(name) <= 100 else name[:99] + "…"


def _timeout_of(op: Op) -> timedelta:
    """Of a step that may have none."""
    return (
        _duration(op, op.options["timeout_ms"]) if "timeout_ms" in op.options else DEFAULT_TIMEOUT
    )


def _duration(op: Op, ms: float) -> timedelta:
    """How long a step waits; a negative duration counts as none."""
    error = protocol.too_long(op, ms)
    if error is not None:
        raise RunFailure(error)
    return timedelta(milliseconds=max(0, ms))


def _expires_ms(timeout: timedelta) -> int:
    """Until when a wait is kept for its run, which counts the timeout from when it is registered,
    and takes it back."""
    return _now_ms() + round((timeout + REGISTRATION_TIME).total_seconds() * 1000)
