"""The activities of runs and mailboxes: everything that touches user code or Temporal's API."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.failures import RunFailure, error_info
from inngest_temporal.drivers.local import Call, Pass
from inngest_temporal.drivers.protocol import ErrorInfo, Failed, Memo, Ops, Outcome, Returned
from inngest_temporal.errors import (
    BodyInvalidError,
    ExpressionError,
    NonRetriableError,
    OutputTooLargeError,
    OutputUnserializableError,
)
from inngest_temporal.functions import FunctionPart, part_of
from inngest_temporal.routing import events, signals
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.run_input import Invoker, RunInput
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal.runs import executes

from .heartbeats import Heartbeats
from .memory import RunMemory
from .retries import next_delay
from .workflow import LOST_RETRY, RunSettings

DISCOVERY_TIME = 0.5
"""Seconds a handler may take inside a workflow task; one that needs longer goes on in a regular
activity."""
LOOK_AHEAD_TIME = 0.1
"""Seconds a step's activity waits for what the handler needs next, before it reports the step's
result alone."""
ADOPTION_TIME = 60.0
"""Seconds for which a pass that outlived its activity is kept for the next one."""
MAX_OUTPUT_BYTES = 1_800_000
"""Of a step's output and of a function's: Temporal's payloads end at 2 MB."""

_PassKey = tuple[str, int, str, int]


@dataclass(frozen=True)
class RunActivities:
    """Executes the functions of one app."""

    client: Client
    parts: Mapping[str, FunctionPart]
    settings: RunSettings
    router: Router
    waits: Waits
    executor: concurrent.futures.Executor
    heartbeats: Heartbeats

    _adoptable: dict[_PassKey, Pass] = field(default_factory=dict, init=False)

    def all(self) -> list[Callable[..., Any]]:
        return [
            self.discover,
            self.discover_slowly,
            self.step,
            self.wait,
            self.unwait,
            self.cancel,
            self.claim_signal,
            self.release_signal,
            self.invoke,
            self.executes,
            self.finish,
        ]

    # User code.

    @activity.defn(name="inngest.discover")
    async def discover(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the handler needs next; `{"slow": true}` if that takes longer than a workflow task
        should."""
        key, pass_, pending = await self._discovery(arguments)
        try:
            await asyncio.wait([pass_.outcome], timeout=DISCOVERY_TIME)
        except asyncio.CancelledError:
            pass_.close()
            raise
        if not pass_.outcome.done():
            self._offer(key, pass_)
            return {"slow": True}
        return await self._reply(pass_.outcome.result(), int(arguments["attempt"]), pending)

    @activity.defn(name="inngest.discover_slowly")
    async def discover_slowly(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `discover`, for as long as it takes."""
        _, pass_, _ = await self._discovery(
            arguments
        )  # in another process, what is pending may be out of date
        async with self._attended(
            pass_, activity.info().attempt - 1, until_over="until_over" in arguments
        ):
            return await self._reply(await pass_.outcome, int(arguments["attempt"]))

    async def _discovery(self, arguments: dict[str, Any]) -> tuple[_PassKey, Pass, Container[str]]:
        info = activity.info()
        version, attempt = int(arguments["version"]), int(arguments["attempt"])
        memory = await self._memory(version)
        last = memory.memos[version - 1][0] if version else ""
        assert info.workflow_run_id is not None
        key = (info.workflow_run_id, version, last, attempt)
        adopted = self._adoptable.pop(key, None)
        return key, adopted or self._start(memory, attempt=attempt), memory.pending

    @activity.defn(name="inngest.step")
    async def step(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Execute one step; its result, and what the handler needs next: `{"data", "next"?}`."""
        info = activity.info()
        # A step that needs permits is tried again by its run.
        attempt = info.attempt - 1 + int(arguments.get("attempt", 0))
        try:
            memory = await self._memory(int(arguments["version"]))
        except (RPCError, WorkflowQueryFailedError) as error:
            message = f"The results of finished steps could not be read: {error}"
            raise self._lost(ErrorInfo(type(error).__name__, message), attempt) from error
        version = len(memory.memos)
        # A run that says nothing of the handler's attempt is one of an earlier version, which
        # ignores it.
        known = {"version": version} if "tried" in arguments else {}
        target = str(arguments["step"])
        pass_ = self._start(
            memory, attempt=attempt, target=target, since_ms=arguments.get("since_ms")
        )
        async with self._attended(pass_, attempt, until_over="until_over" in arguments):
            await pass_.answered()
            if not pass_.executed.done():
                following = await self._reply(
                    pass_.outcome.result(), int(arguments.get("tried", 0)), memory.pending
                )
                return {"vanished": True, "next": following} | known
            memo = pass_.executed.result()
            if memo.error is not None:
                raise self._attempt_failed(memo.error, attempt, pass_.target_name)
            reply: dict[str, Any] = {"data": memo.data} | known
            size = _size(memo.data)
            if size > MAX_OUTPUT_BYTES:
                raise RunFailure(_too_large("The step's output", size))
            await asyncio.wait([pass_.outcome], timeout=LOOK_AHEAD_TIME)
            if pass_.outcome.cancelled():
                pass  # the result can't be looked ahead with
            elif pass_.outcome.done():
                following = await self._reply(pass_.outcome.result(), pending=memory.pending)
                if size + _size(following) <= MAX_OUTPUT_BYTES:
                    reply["next"] = following
            else:
                assert info.workflow_run_id is not None
                self._offer((info.workflow_run_id, version + 1, target, 0), pass_)
            return reply

    def _start(
        self,
        memory: RunMemory,
        *,
        attempt: int,
        target: str | None = None,
        since_ms: int | None = None,
    ) -> Pass:
        """`since_ms`: when the step was first to be executed, if this activity is not the only one
        for it."""
        info = activity.info()
        assert info.workflow_id is not None
        call = Call(
            run_id=info.workflow_id,
            events=memory.events,
            attempt=attempt,
            memos=list(memory.memos),
            target=target,
            pending=memory.pending,
            request_id=info.activity_id,
        )
        outside = _Outside(
            self.client, self.router, since_ms or round(info.scheduled_time.timestamp() * 1000)
        )
        pass_ = Pass(self._part(), call, outside=outside, executor=self.executor)
        pass_.start()
        return pass_

    def _offer(self, key: _PassKey, pass_: Pass) -> None:
        """Let a later activity go on with this pass, so that no code of the handler is executed
        twice at once."""
        self._adoptable[key] = pass_

        def expire() -> None:
            if self._adoptable.get(key) is pass_:
                del self._adoptable[key]
                pass_.close()

        asyncio.get_running_loop().call_later(ADOPTION_TIME, expire)

    @contextlib.asynccontextmanager
    async def _attended(
        self, pass_: Pass, attempt: int, *, until_over: bool
    ) -> AsyncIterator[None]:
        """Heartbeat while user code runs, and stop it when the activity fails or is cancelled.

        `until_over`: a cancelled activity ends once user code has, because then its run gives
        permits back.
        """
        with self.heartbeats.sent():
            try:
                yield
            except BaseException as error:
                pass_.close()
                if not isinstance(error, asyncio.CancelledError):
                    raise
                if activity.is_worker_shutdown():
                    message = "The worker stopped while it executed this step; another one goes on."
                    raise self._lost(ErrorInfo("WorkerStopped", message), attempt) from None
                if until_over:
                    await pass_.over()
                raise

    def _lost(self, error: ErrorInfo, attempt: int) -> RunFailure:
        """An attempt that did not fail by user code. It is repeated soon, as if the worker had been
        killed: by Temporal or, if its steps need permits, by the run."""
        part = self._part()
        part.client.logger.warning(
            "%s: %s (run %s)", part.id, error.message, activity.info().workflow_id
        )
        return RunFailure(
            error, retry_delay=LOST_RETRY if attempt < part.retries else None, final=False
        )

    def _attempt_failed(self, error: ErrorInfo, attempt: int, step: str) -> RunFailure:
        delay = None
        if attempt < self._part().retries:
            delay = next_delay(error, attempt, self.settings.retry_interval)
        self._log(f'Step "{step}"', error, attempt, delay)
        return RunFailure(error, retry_delay=delay, final=not error.retriable)

    async def _reply(
        self, outcome: Outcome, attempt: int = 0, pending: Container[str] = ()
    ) -> dict[str, Any]:
        """As it crosses to the run: without the steps that are pending, which each of a thousand
        others would name."""
        if isinstance(outcome, Ops):
            outcome = Ops([op for op in outcome.ops if op.id not in pending])
        what = (
            "The function's output"
            if isinstance(outcome, Returned)
            else "What the handler gives to its steps"
        )
        try:
            size = 0 if isinstance(outcome, Failed) else _size(protocol.outcome_to_json(outcome))
            if size > MAX_OUTPUT_BYTES:
                outcome = Failed(_too_large(what, size))
        except RecursionError:  # a thread, where the handler may have been, has a few levels more
            outcome = Failed(error_info(OutputUnserializableError(f"{what} is nested too deeply.")))
        if isinstance(outcome, Returned):
            outcome = replace(outcome, unheard=await self._unheard())
        if isinstance(outcome, Failed):
            delay = None
            if attempt < self._part().retries:
                delay = next_delay(outcome.error, attempt, self.settings.retry_interval)
            outcome = replace(
                outcome, retry_ms=None if delay is None else round(delay.total_seconds() * 1000)
            )
            self._log("The handler", outcome.error, attempt, delay)
        return protocol.outcome_to_json(outcome)

    def _log(self, what: str, error: ErrorInfo, attempt: int, delay: timedelta | None) -> None:
        """What failed in user code, to the client's logger: with the user's stack, not with
        ours."""
        if error.quiet:
            return
        part = self._part()
        when = (
            "and is not tried again"
            if delay is None
            else f"and is tried again in {delay.total_seconds():.1f} s"
        )
        part.client.logger.log(
            logging.ERROR if delay is None else logging.WARNING,
            "%s of %s failed in attempt %d of %d, %s (run %s): %s",
            what,
            part.id,
            attempt + 1,
            part.retries + 1,
            when,
            activity.info().workflow_id,
            error.stack or f"{error.name}: {error.message}",
        )

    async def _unheard(self) -> bool:
        """Whether nobody listens for the end of runs; if that can't be found out, somebody
        might."""
        snapshot = self.router.snapshot
        if snapshot is None or snapshot.listens(events.FINISHED):
            return False
        try:
            async with asyncio.timeout(1):
                return not await self.waits.heard(events.FINISHED)
        except (RPCError, TimeoutError):
            return False

    def _part(self) -> FunctionPart:
        workflow_type = activity.info().workflow_type
        assert workflow_type is not None
        return part_of(workflow_type, self.parts)

    async def _memory(self, version: int) -> RunMemory:
        """The run's events and memos, up to `version` at least; asked of the run if this process
        does not know them."""
        info = activity.info()
        assert info.workflow_run_id is not None
        assert info.workflow_id is not None
        memory = self.settings.cache.get(info.workflow_run_id)
        if memory is not None and len(memory.memos) >= version:
            return memory
        run = self.client.get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
        if memory is None:
            given: list[dict[str, Any]] = []
            total = 1
            while len(given) < total:
                answer = await run.query("events", len(given), result_type=dict)
                given.extend(answer["items"])
                total = answer["total"]
            memory = RunMemory(given)
        known = RunMemory(memory.events, list(memory.memos), size=memory.size)
        while len(known.memos) < version:
            answer = await run.query("memos", len(known.memos), result_type=dict)
            for step, memo in answer["items"]:
                known.append(step, json.dumps(memo, separators=(",", ":")))
            known.pending = set(answer["pending"])
        self.settings.cache.put(info.workflow_run_id, known)
        return known

    # Temporal's API.

    @activity.defn(name="inngest.wait")
    async def wait(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Register a wait: `{"mailboxes": [...]}`, one for each event, or `{"error"}`: a bad
        condition."""
        run = activity.info().workflow_id
        assert run is not None
        memory = await self._memory(0)
        try:
            mailboxes = await asyncio.gather(
                *(
                    self.waits.register(
                        run=run,
                        wait=arguments["step"],
                        event_name=name,
                        condition=arguments["if"],
                        event=memory.events[0],
                        own=arguments["own"],
                        expires_ms=arguments["expires_ms"],
                    )
                    for name in arguments["events"]
                )
            )
        except ExpressionError as error:
            return {"error": protocol.invalid_condition(error).message}
        return {"mailboxes": mailboxes}

    @activity.defn(name="inngest.unwait")
    async def unwait(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take a wait back."""
        run = activity.info().workflow_id
        assert run is not None
        await self._unwait(run, {arguments["step"]: arguments["mailboxes"]})
        return {}

    async def _unwait(self, run: str, waits: Mapping[str, list[str]]) -> None:
        await asyncio.gather(
            *(
                self.waits.deregister(mailbox, run, wait)
                for wait, mailboxes in waits.items()
                for mailbox in mailboxes
            )
        )

    @activity.defn(name="inngest.cancel")
    async def cancel(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Cancel the run itself: a run can end as cancelled only if somebody asks for it."""
        info = activity.info()
        assert info.workflow_id is not None
        await self.client.get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        ).cancel()
        return {}

    @activity.defn(name="inngest.claim_signal")
    async def claim_signal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Wait for a signal: `{}`, or `{"conflict": true}` if another run does."""
        run = activity.info().workflow_id
        assert run is not None
        wait = signals.Claim(run, arguments["step"], arguments["expires_ms"], arguments["replace"])
        claimed = await signals.claim(self.client, arguments["signal"], wait)
        return {} if claimed else {"conflict": True}

    @activity.defn(name="inngest.release_signal")
    async def release_signal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Wait for a signal no longer."""
        run = activity.info().workflow_id
        assert run is not None
        await signals.release(self.client, arguments["signal"], run, arguments["step"])
        return {}

    @activity.defn(name="inngest.invoke")
    async def invoke(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Start the run that a step invokes: `{"run"?}`, or `{"error"}`: no such function, or it
        does not run."""
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_type is not None
        function_id = arguments["function_id"]
        try:
            stamped = events.invoked(
                function_id,
                arguments["payload"]["data"],
                run_id=info.workflow_id,
                step=arguments["step"],
                source_function_id=info.workflow_type,
                source_app_id=self._part().client.app_id,
                ts=arguments["ts"],
                v=arguments["payload"].get("v"),
            )
        except BodyInvalidError as error:
            return {"error": error.message}
        routed = await self.router.invoke(stamped)
        if routed.missing is not None:
            return {"error": f"could not find function with ID: {function_id}"}
        if routed.refused is not None:
            return {"error": routed.refused}
        return {} if routed.invoked is None else {"run": routed.invoked}

    @activity.defn(name="inngest.executes")
    async def executes(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Whether another run has not ended: `{"executes"}`."""
        return {"executes": await executes(self.client, arguments["run"])}

    @activity.defn(name="inngest.finish")
    async def finish(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """After a run: waits taken back, the invoker answered, lifecycle events routed."""
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_type is not None
        given = RunInput.from_json(arguments["input"])
        result: dict[str, Any] = {
            key: arguments[key] for key in ("value", "error") if key in arguments
        }
        await self._unwait(info.workflow_id, arguments["waits"])
        for step, signal in arguments["signals"].items():
            await signals.release(self.client, signal, info.workflow_id, step)
        if arguments["status"] == "Skipped":
            return {}  # as in Inngest, nobody is told
        for invoker in [] if given.invoker is None else [given.invoker, *given.more_invokers]:
            await self._answer(invoker, arguments["status"], result, info.workflow_type)
        error = protocol.memo_from_json(result).error
        lifecycle = events.ended(
            info.workflow_type,
            info.workflow_id,
            given.events,
            arguments["status"],
            ts=arguments["ts"],
            result=result.get("value"),
            error=error,
        )
        await self.router.route(lifecycle)
        return {}

    async def _answer(
        self, invoker: Invoker, status: str, result: dict[str, Any], function_id: str
    ) -> None:
        if status == "Cancelled":
            memo = Memo(
                error=ErrorInfo("Error", f"The invoked function {function_id} was cancelled.")
            )
            answer = protocol.memo_to_json(memo)
        else:
            answer = (
                {"error": result["error"]} if "error" in result else {"data": result.get("value")}
            )
        try:
            await self.client.get_workflow_handle(invoker.workflow_id).signal(
                "invoked", args=[invoker.step, answer]
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise


@dataclass(frozen=True)
class _Outside:
    """What steps do outside their run: ids derive from the seed and from when the step was first
    scheduled (ms)."""

    client: Client
    router: Router
    ms: int

    async def send_events(self, seed: str, batch: list[dict[str, Any]]) -> list[str]:
        """Route events as the ingress does."""
        ids = events.Seed(self.ms, hashlib.sha256(seed.encode()).digest()[:10])
        try:
            stamped = [
                events.stamp(event, ids.internal_id(index)) for index, event in enumerate(batch, 1)
            ]
        except BodyInvalidError as error:
            raise NonRetriableError(error.message) from error
        await self.router.route(stamped)
        return [one.internal_id for one in stamped]

    async def send_signal(self, seed: str, signal: str, data: Any) -> str | None:
        """Send a signal as the ingress does."""
        try:
            return await signals.send(self.client, signal, data, send_id=seed)
        except BodyInvalidError as error:
            raise NonRetriableError(error.message) from error


def _size(value: Any) -> int:
    """Bytes of a value as Temporal's JSON converter writes it."""
    return len(json.dumps(value, separators=(",", ":")))


def _too_large(what: str, size: int) -> ErrorInfo:
    return replace(error_info(OutputTooLargeError(what, size, MAX_OUTPUT_BYTES)), stack=None)
