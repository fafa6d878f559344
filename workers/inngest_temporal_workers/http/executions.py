"""The activity that executes functions over HTTP: an execution is one call to the app, or a chain
of them.

During a call the app may report steps that it has executed (`Dispatches`). The steps of the reply
come after them.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError
from ulid import ULID

from inngest_temporal.drivers.protocol import (
    Done,
    ErrorInfo,
    ExecutionRequest,
    Progress,
)
from inngest_temporal.http.checkpoints import Committed
from inngest_temporal.logger import told_of
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.sdk.replies import Answer, read_reply
from inngest_temporal.sdk.requests import HttpCall, execution_call
from inngest_temporal.temporal.connection import is_temporary
from inngest_temporal.wire import from_wire, to_wire
from inngest_temporal_workers.runs.checkpoints import is_stale
from inngest_temporal_workers.runs.executions import RunSettings
from inngest_temporal_workers.runs.hearing import with_listeners
from inngest_temporal_workers.runs.heartbeats import Heartbeats
from inngest_temporal_workers.runs.memory import Memories, RunMemory

from .caller import AppCaller, CallError
from .dispatches import Dispatches, Reports
from .gateway import Gateway
from .memos import memo_text
from .telling import Telling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpExecutions:
    """Executes the functions of all apps that are served over HTTP."""

    client: Client
    settings: RunSettings
    registry: Follower
    router: Router
    caller: AppCaller
    gateway: Gateway
    dispatches: Dispatches
    heartbeats: Heartbeats
    keys: tuple[str, ...]
    """The first one signs calls."""
    may_checkpoint: bool
    """Whether ingresses can reach this process, so that apps may report steps during a call."""

    @functools.cached_property
    def _memories(self) -> Memories:
        return Memories(self.client, self.settings.cache)

    def all(self) -> list[Callable[..., Any]]:
        return [self.execute]

    @activity.defn(name="inngest.execute")
    async def execute(self, wire: dict[str, Any]) -> dict[str, Any]:
        """Execute the function once, as an `ExecutionRequest` says, and answer with `Progress`;
        both are JSON."""
        begun = time.monotonic()
        progress = await self._progress(from_wire(ExecutionRequest, wire))
        answer: dict[str, Any] = to_wire(
            await with_listeners(progress, self.router.has_listeners, begun)
        )
        return answer

    async def _progress(self, request: ExecutionRequest) -> Progress:
        if await is_stale(self.client):
            return Progress(unstarted="the worker stood still before it began")
        memory = await self._memories.of(request)
        if memory is None:
            return Progress(unstarted="this worker does not know the run", forgotten=True)
        function_id = activity.info().workflow_type or ""
        place = await self._place(function_id, request)
        if place is None:
            return Progress(unstarted=f"function {function_id} is not registered", missing=True)
        if self.caller.is_crowded(place.url):
            return Progress(unstarted="its app has too many calls under way", busy=True)
        memos = memory.memos[: request.base]
        reports = Reports(self.client, request, None, known={step for step, _ in memos})
        async with self._attended(request, reports) as attended:
            attended.task = asyncio.create_task(self._chain(place, memory, reports))
            answer = await asyncio.shield(attended.task)
        reports.over = True
        if attended.lost is not None:
            return Progress(reports.base, reports.steps, lost=attended.lost)
        made = Telling(function_id, memos, reports, self.settings.retry_interval)
        return made.progress(answer)

    async def _chain(self, place: "_Place", memory: RunMemory, reports: Reports) -> Answer:
        """Call the app, and call it again as long as it only executed a step, because an SDK
        without checkpoints answers after each step."""
        request = reports.request
        while True:
            dispatch = str(ULID())
            call = self._call(place, memory, reports, request, dispatch)
            with self.dispatches.under_way(dispatch, reports):
                answer = _located(await self._answered(request, call), place.url)
            goes_on = (
                answer.has_only_executed
                and not all(reports.has(step.op.id) for step in answer.done)
                and reports.may_go_on
                and await _is_committed(reports, answer.done)
                and reports.may_go_on
            )
            if not goes_on:
                await reports.make_room(answer.done)
                return answer
            version = answer.version if request.version < 0 else None
            request = replace(request, attempt=0, version=version or request.version)

    async def _place(self, function_id: str, request: ExecutionRequest) -> "_Place | None":
        """Where the function is served now. A function that was removed is called at its old URL,
        because its app may still have it."""
        snapshot = self.registry.snapshot
        with contextlib.suppress(RPCError, RuntimeError, TimeoutError):
            # Its app may have registered a moment ago, with functions that this one triggers.
            snapshot = await self.registry.knowing(function_id)
        function = None if snapshot is None else snapshot.function(function_id)
        if snapshot is None or function is None or function.config.url is None:
            return None if request.url is None else _Place(function_id, request.url, "")
        [app] = [each for each in snapshot.apps if each.app_id == function.app_id][:1]
        sdk = "" if app.http is None else app.http.sdk
        return _Place(function_id, function.config.url, sdk)

    def _call(
        self,
        place: "_Place",
        memory: RunMemory,
        reports: Reports,
        request: ExecutionRequest,
        dispatch: str,
    ) -> HttpCall:
        run = activity.info().workflow_id
        assert run is not None
        return execution_call(
            url=place.url,
            function_id=place.function_id,
            run_id=run,
            events=memory.events,
            memos=[
                *memory.memos[: reports.base],
                *((step.op.id, memo_text(step)) for step in reports.steps),
            ],
            request=request,
            dispatch=dispatch if reports.is_free and self.may_checkpoint else None,
            keys=self.keys,
            now=round(time.time()),
            sdk=place.sdk,
        )

    async def _answered(self, request: ExecutionRequest, call: HttpCall) -> Answer:
        """Call the app once. If it only needs a request that it leaves to us, perform that."""
        try:
            answer = read_reply(await self.caller.call(call))
        except CallError as error:
            return Answer(failed=ErrorInfo("ConnectionError", str(error)))
        [*ops] = answer.ops or []
        wanted = request.target or (ops[0].id if len(ops) == 1 else None)
        if wanted not in answer.gateways:
            return answer
        [op] = [each for each in ops if each.id == wanted]
        data, failed = await self.gateway.perform(answer.gateways[wanted])
        if failed is not None and failed.retriable:
            return replace(answer, ops=None, retry=Done(op, error=failed))
        return replace(answer, ops=None, done=[*answer.done, Done(op, data, failed)])

    @contextlib.asynccontextmanager
    async def _attended(
        self, request: ExecutionRequest, reports: Reports
    ) -> AsyncIterator["_Attended"]:
        """Heartbeat during the calls. If the activity is cancelled, abandon the call, or wait for
        its end if it holds permits."""
        attended = _Attended()
        stopping = asyncio.create_task(reports.stop_with_worker())
        try:
            async with self.heartbeats.sent(reports):
                try:
                    yield attended
                except asyncio.CancelledError:
                    if not activity.is_worker_shutdown():
                        if request.until_over and attended.task is not None:
                            reports.stopping = True
                            await asyncio.wait([attended.task])
                        raise
                    attended.lost = "The worker stopped during the call; another one repeats it."
                    info = activity.info()
                    logger.warning(
                        "%s: %s (run %s)",
                        info.workflow_type,
                        attended.lost,
                        info.workflow_id,
                        extra=told_of(
                            info.workflow_type, info.workflow_id, attempt=request.attempt
                        ),
                    )
        finally:
            stopping.cancel()
            if attended.task is not None:
                attended.task.cancel()


@dataclass(frozen=True)
class _Place:
    """A function, and the URL and SDK that serve it."""

    function_id: str
    url: str
    sdk: str


async def _is_committed(reports: Reports, steps: list[Done]) -> bool:
    """Whether steps are durable before the app is called again. If Temporal can't be reached, the
    execution ends with them: its answer is sent until it arrives."""
    try:
        return await reports.commit(steps) is Committed.DONE
    except RPCError as error:
        if not is_temporary(error):
            raise
        return False


def _located(answer: Answer, url: str) -> Answer:
    """The answer; if it is not that of an SDK, its error says which URL was called."""
    if answer.failed is None or not answer.is_foreign:
        return answer
    message = f"{answer.failed.message.removesuffix('.')}. It was called at {url}."
    return replace(answer, failed=replace(answer.failed, message=message))


@dataclass
class _Attended:
    """The calls of one execution while they are under way."""

    task: "asyncio.Task[Answer] | None" = None
    lost: str | None = None
    """Why the execution does not wait for their end."""
