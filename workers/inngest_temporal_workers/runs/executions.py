"""The activity that executes user code: the local driver executes a run's function once."""

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from inngest_temporal.drivers.local import Execution, ExecutionInput, Ledger
from inngest_temporal.drivers.protocol import (
    MAX_OUTPUT_BYTES,
    Done,
    ErrorInfo,
    ExecutionRequest,
    Failed,
    Ops,
    Outcome,
    Progress,
    json_size,
    memo_from_json,
)
from inngest_temporal.errors import (
    BodyInvalidError,
    NonRetriableError,
    text_of,
)
from inngest_temporal.functions import FunctionPart
from inngest_temporal.logger import told_of
from inngest_temporal.routing import events, signals
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal.connection import is_temporary
from inngest_temporal.wire import from_wire, to_wire

from .checkpoints import Checkpoints, is_stale
from .failing import log_failure
from .hearing import are_ends_heard, with_listeners
from .heartbeats import Heartbeats
from .in_task import LOCAL_SECONDS, Paces, TaskSteps
from .limits import within_limits
from .memory import MemoCache, Memories, RunMemory
from .retries import retry_ms

MAX_KEPT = 1_000
"""Maximum number of answers from inside workflow tasks that are kept."""
LATE_MS = 5_000
"""Age of a workflow task (start by Temporal's clock, now by ours) from which on no step is executed
inside it: after 10 seconds Temporal gives the task to another worker."""
OUTAGE_SECONDS = 60.0
"""How long events and signals are tried again while Temporal can't be reached."""
OUTAGE_PAUSE = 0.5
ADOPTION_SECONDS = 60.0
"""Seconds for which a handler that outlived its workflow task is kept for the next activity."""
TOO_LONG = "the handler takes longer than a workflow task should"
_Key = tuple[str, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class RunSettings:
    """What all runs of one worker share."""

    cache: MemoCache
    retry_interval: timedelta | None = None
    """Replaces Inngest's table of delays, for development and tests."""


@dataclass(frozen=True)
class ExecutionActivities:
    """Executes the functions of one app."""

    client: Client
    parts: Mapping[str, FunctionPart]
    settings: RunSettings
    router: Router
    executor: concurrent.futures.Executor
    heartbeats: Heartbeats

    _adoptable: dict[_Key, tuple[Execution, TaskSteps]] = field(default_factory=dict, init=False)
    _executed: dict[_Key, Progress] = field(default_factory=dict, init=False)
    """The latest executions inside workflow tasks, the oldest first."""
    _paces: Paces = field(default_factory=Paces, init=False)

    @functools.cached_property
    def _memories(self) -> Memories:
        return Memories(self.client, self.settings.cache)

    def all(self) -> list[Callable[..., Any]]:
        return [self.execute]

    @activity.defn(name="inngest.execute")
    async def execute(self, wire: dict[str, Any]) -> dict[str, Any]:
        """Execute the handler once, as an `ExecutionRequest` says, and answer with `Progress`; both
        are JSON."""
        begun = time.monotonic()
        request = from_wire(ExecutionRequest, wire)
        info = activity.info()
        part = self.parts.get(info.workflow_type or "")
        if part is None:
            return _as_dict(self._missing(info.workflow_type or ""))
        if not info.is_local and await is_stale(self.client):
            return _as_dict(Progress(unstarted="the worker stood still before it began"))
        memory = await self._memories.of(request)
        if memory is None:
            text = "this worker does not know the run"
            return _as_dict(Progress(unstarted=text, forgotten=True))
        if info.is_local:
            return _as_dict(await self._execute_locally(part, request, memory))
        progress = await self._execute(part, request, memory)
        return _as_dict(await with_listeners(progress, self.router.has_listeners, begun))

    def _missing(self, function_id: str) -> Progress:
        snapshot = self.router.snapshot
        elsewhere = snapshot is not None and snapshot.function(function_id) is not None
        text = f"this worker does not have function {function_id}"
        return Progress(unstarted=text, missing=True, elsewhere=elsewhere)

    async def _execute_locally(
        self, part: FunctionPart, request: ExecutionRequest, memory: RunMemory
    ) -> Progress:
        """Execute inside a workflow task: find out what the handler needs first, and execute that
        if it is known to be quick."""
        if request.woken_ms is not None and request.task_ms - request.woken_ms > LATE_MS:
            return Progress(unstarted="its workflow task may have been tried before")
        after = memory.memos[request.base - 1][0] if request.base else ""
        if self._paces.is_long(part.id, after):
            return Progress(unstarted=TOO_LONG)
        key = self._key(request)
        # No step is executed here without retries: if the task is lost, nobody knows which steps
        # had begun. Nor after a stall of this process: another one may have executed the task.
        is_late = time.time() * 1000 - request.task_ms > LATE_MS
        policy = part.checkpointing if request.retries and not is_late else None
        ledger = TaskSteps(part.id, self._paces, policy)
        execution = self._begin(part, request, memory, ledger)
        self._offer(key, execution, ledger)
        begun = time.monotonic()
        await asyncio.wait([execution.outcome], timeout=LOCAL_SECONDS)
        if time.monotonic() - begun >= LOCAL_SECONDS:
            self._paces.learn_long(part.id, after)
        if not execution.outcome.done():
            ledger.closed = True
            return Progress(unstarted=TOO_LONG, begun=ledger.begun)
        self._adoptable.pop(key, None)
        outcome = None if ledger.parallel else execution.outcome.result()
        progress = self._progress(part, request, memory, execution, outcome)
        if progress.done:
            self._keep(key, progress)
        if progress.returned is None or await are_ends_heard(self.router.has_listeners):
            return progress
        return replace(progress, unheard=True)

    def _keep(self, key: _Key, progress: Progress) -> None:
        """Keep an answer for the regular activity that follows if Temporal no longer waits for this
        one."""
        self._executed[key] = progress
        if len(self._executed) > MAX_KEPT:
            del self._executed[next(iter(self._executed))]

    async def _execute(
        self, part: FunctionPart, request: ExecutionRequest, memory: RunMemory
    ) -> Progress:
        answered = self._executed.pop(self._key(request), None)
        if answered is not None and request.target is None:
            return answered
        is_quick = functools.partial(self._paces.is_quick, part.id)
        checkpoints = Checkpoints(self.client, request, part.checkpointing, is_quick)
        adopted, ledger = self._adoptable.pop(self._key(request), (None, None))
        if adopted is not None and ledger is not None and request.target is None:
            execution = adopted
            if ledger.begun is not None:
                checkpoints.under_way[ledger.begun.id] = ledger.begun
        elif request.begun is not None:
            text = "it continued in a worker process that this activity did not reach"
            return Progress(request.base, lost=text, begun=request.begun)
        else:
            execution = self._begin(part, request, memory, checkpoints)
        async with self._attended(part, request, execution, checkpoints) as lost:
            outcome = await execution.outcome
        if lost:
            done = [from_wire(Done, each) for each in checkpoints.done]
            return Progress(checkpoints.base, done, lost=lost[0], begun=checkpoints.begun)
        handed_over = checkpoints.handed_over
        return self._progress(part, request, memory, execution, outcome, handed_over)

    def _begin(
        self,
        part: FunctionPart,
        request: ExecutionRequest,
        memory: RunMemory,
        ledger: Ledger,
    ) -> Execution:
        info = activity.info()
        assert info.workflow_id is not None
        input = ExecutionInput(
            run_id=info.workflow_id,
            events=memory.events,
            attempt=request.attempt,
            losses=request.losses,
            memos=memory.memos[: request.base],
            target=request.target,
            pending=memory.pending,
            request_id=info.activity_id,
            inputs=request.inputs,
        )
        outside = _Outside(self.client, self.router, request.started_ms)
        execution = Execution(part, input, outside=outside, ledger=ledger, executor=self.executor)
        execution.start()
        return execution

    def _key(self, request: ExecutionRequest) -> _Key:
        run = activity.info().workflow_run_id
        assert run is not None
        return run, request.base, request.attempt

    def _offer(self, key: _Key, execution: Execution, ledger: TaskSteps) -> None:
        """Let the next activity continue an execution, so that the handler is not executed twice at
        the same time."""
        offer = self._adoptable[key] = execution, ledger

        def expire() -> None:
            if self._adoptable.get(key) is offer:
                del self._adoptable[key]
                execution.close()

        asyncio.get_running_loop().call_later(ADOPTION_SECONDS, expire)

    @contextlib.asynccontextmanager
    async def _attended(
        self,
        part: FunctionPart,
        request: ExecutionRequest,
        execution: Execution,
        checkpoints: Checkpoints,
    ) -> AsyncIterator[list[str]]:
        """Heartbeat while user code runs, and stop that code when the activity is cancelled.

        Yields an empty list. If the worker stops meanwhile, it gets a sentence that says so.
        """
        lost: list[str] = []
        stopping = asyncio.create_task(checkpoints.stop_with_worker())
        try:
            async with self.heartbeats.sent(checkpoints):
                yield lost
        except asyncio.CancelledError:
            execution.close()
            if not activity.is_worker_shutdown():
                if request.until_over:
                    await execution.over()
                raise
            lost.append("The worker stopped while it executed this step; another one continues.")
            run_id = activity.info().workflow_id
            part.client.logger.warning(
                "%s: %s (run %s)",
                part.id,
                lost[0],
                run_id,
                extra=told_of(part.id, run_id, *_under_way(request, checkpoints)),
            )
        finally:
            stopping.cancel()
            execution.close()
            checkpoints.close()

    def _progress(
        self,
        part: FunctionPart,
        request: ExecutionRequest,
        memory: RunMemory,
        execution: Execution,
        outcome: Outcome | None,
        handed_over: Set[str] = frozenset(),
    ) -> Progress:
        """The progress that is answered to the run, which has the steps that were handed over."""
        self._paces.learn(part.id, execution.done)
        done = [
            one
            if one.error is None
            else self._failed_step(part, request, one, one.error, is_first=not index)
            for index, one in enumerate(execution.done)
            if one.op.id not in handed_over
        ]
        base = request.base + len(handed_over)
        if any(one.error is not None and one.retry_ms is None for one in done):
            outcome = None  # first the handler has to get the error
        if isinstance(outcome, Ops):
            # Without those that are pending: each of a thousand parallel steps would name all.
            outcome = Ops([op for op in outcome.ops if op.id not in memory.pending])
        outcome = within_limits(outcome)
        if isinstance(outcome, Failed):
            attempt = 0 if execution.done or request.target is not None else request.attempt
            outcome = self._failed_handler(part, request, memory, outcome, attempt)
        progress = Progress.of(base, done, outcome)
        if done and outcome is not None and json_size(to_wire(progress)) > MAX_OUTPUT_BYTES:
            return Progress(base, done)  # the next execution finds out what is needed
        return progress

    def _failed_step(
        self,
        part: FunctionPart,
        request: ExecutionRequest,
        done: Done,
        error: ErrorInfo,
        is_first: bool,
    ) -> Done:
        attempt = request.attempt if done.op.id == request.target else 0
        if is_first and request.target is None:
            attempt = request.losses
        delay_ms = self._retry_ms(request, error, attempt)
        log_failure(
            part.client.logger,
            done.op.name,
            part.id,
            error,
            attempt,
            request.retries,
            delay_ms,
        )
        return replace(done, retry_ms=delay_ms)

    def _failed_handler(
        self,
        part: FunctionPart,
        request: ExecutionRequest,
        memory: RunMemory,
        failed: Failed,
        attempt: int,
    ) -> Failed:
        delay_ms = self._retry_ms(request, failed.error, attempt)
        if not (delay_ms is None and _is_of_a_step(failed.error, memory.memos[: request.base])):
            log_failure(
                part.client.logger,
                None,
                part.id,
                failed.error,
                attempt,
                request.retries,
                delay_ms,
            )
        return replace(failed, retry_ms=delay_ms)

    def _retry_ms(self, request: ExecutionRequest, error: ErrorInfo, attempt: int) -> int | None:
        return retry_ms(error, attempt, request.retries, self.settings.retry_interval)


def _is_of_a_step(error: ErrorInfo, memos: Sequence[tuple[str, str]]) -> bool:
    """Whether a handler failed with the error of one of its steps, which was logged already."""
    failed = (memo_from_json(json.loads(text)).error for _, text in memos if '"error"' in text)
    return error.stack is not None and any(
        each is not None and (each.name, each.stack) == (error.name, error.stack) for each in failed
    )


def _under_way(request: ExecutionRequest, checkpoints: Checkpoints) -> tuple[str | None, int]:
    """Name and attempt of the step that is executed now; None and the handler's attempt if that is
    not one step."""
    begun = checkpoints.begun
    if begun is None:
        return None, request.attempt
    if begun.id == request.target:
        return begun.name, request.attempt
    is_first = request.target is None and not checkpoints.done
    return begun.name, request.losses if is_first else 0


def _as_dict(progress: Progress) -> dict[str, Any]:
    wire: dict[str, Any] = to_wire(progress)
    return wire


@dataclass(frozen=True)
class _Outside:
    """What steps do outside their run. Ids derive from the seed and from `ms`, the run's start, so
    a step that is executed again has no second effect."""

    client: Client
    router: Router
    ms: int

    async def send_events(self, seed: str, batch: list[dict[str, Any]]) -> list[str]:
        """Route events like the ingress."""
        ids = events.Seed(self.ms, hashlib.sha256(seed.encode()).digest()[:10])
        try:
            stamped = [
                events.stamp(event, ids.internal_id(index)) for index, event in enumerate(batch, 1)
            ]
        except BodyInvalidError as error:
            raise NonRetriableError(error.message) from error
        await _through_outages(lambda: self.router.route(stamped))
        return [one.internal_id for one in stamped]

    async def send_signal(self, seed: str, signal: str, data: Any) -> str | None:
        """Send a signal like the ingress."""
        try:
            return await _through_outages(
                lambda: signals.send(self.client, signal, data, send_id=seed)
            )
        except BodyInvalidError as error:
            raise NonRetriableError(error.message) from error


async def _through_outages(call: Callable[[], Awaitable[T]]) -> T:
    """Call, and call again while Temporal can't be reached: an outage is no failure of the step
    that sends, and whatever is sent twice counts once. Raises `TimeoutError` in the end."""
    ends_at = time.monotonic() + OUTAGE_SECONDS
    while True:
        try:
            return await call()
        except (RPCError, RuntimeError, TimeoutError) as error:
            if not is_temporary(error):
                raise
            if time.monotonic() > ends_at:
                raise TimeoutError(
                    f"Temporal could not take it within {OUTAGE_SECONDS:g} s: {text_of(error)}"
                ) from error
        await asyncio.sleep(OUTAGE_PAUSE)
