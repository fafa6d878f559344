"""Routing: from an accepted event to the runs that it starts and the waits that it resumes.

Every call to Temporal may be repeated here without a second effect: the id of a run derives from
function and event, and Temporal refuses to start an id twice for as long as it keeps the first run
(the namespace's retention). So there are no retries here: the sender repeats the whole request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import RegistryNotReadyError
from inngest_temporal.models import milliseconds
from inngest_temporal.routing.run_input import Invoker, RerunInput, RunInput
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT

from . import events, reports
from .events import Stamped
from .gates import START, Gates
from .locks import factor_of, needs_of, priority_of
from .registry import RegisteredFunction, Snapshot
from .reports import Outcome
from .waits import Waits

MAX_CONCURRENT = 200
"""Maximum number of runs and deliveries that one router starts at once, and of events about which
it asks gates at once; the rest wait."""
MAX_EVENTS = 100
"""Maximum number of events of one request that are routed at once."""

T = TypeVar("T")

Deliver = Callable[[dict[str, Any], str], Awaitable[bool]]
"""Delivers an event, with its internal id, to the waits that are registered for it; False if there
can't be any (`Waits.deliver`)."""


class SnapshotSource(Protocol):
    """Where the registry is read: a `Follower`."""

    @property
    def snapshot(self) -> Snapshot | None:
        """None: not read yet."""


@dataclass(frozen=True)
class Routed:
    """What became of one event."""

    runs: tuple[str, ...]
    """Ids of the runs that it starts; they may have been started before."""
    missing: str | None = None
    """For an invocation: id of the function, if that does not exist."""
    refused: str | None = None
    """For an invocation: why the function does not run."""
    invoked: str | None = None
    """For an invocation: the run of that function; None if a gate may start one later."""
    unmatched: bool = False
    """Whether no function is triggered by it, and no run waits for it."""
    outcomes: tuple[Outcome, ...] = field(default=(), compare=False)
    """The same, as a list for people."""


@dataclass(frozen=True)
class _Started:
    """What became of one event for one function."""

    run: str | None
    """None: no run was started; a gate may start one later."""
    outcome: Outcome | None = None
    """None: no run waits for the event."""


class Router:
    """Routes events for one process."""

    def __init__(
        self,
        client: Client,
        source: SnapshotSource,
        deliver: Deliver | None = None,
        *,
        concurrency: int = MAX_CONCURRENT,
        rpc_timeout: timedelta = RPC_TIMEOUT,
    ) -> None:
        """`deliver`: None routes events to functions only. `rpc_timeout`: limit for each start of a
        run and for each delivery."""
        self._client = client
        self._source = source
        self._deliver = deliver
        self._rpc_timeout = rpc_timeout
        self._slots = asyncio.Semaphore(concurrency)
        # A gate may take seconds to answer; events of other functions must not wait for that.
        self._gate_slots = asyncio.Semaphore(concurrency)
        self._gates = Gates(client, rpc_timeout)

    @property
    def snapshot(self) -> Snapshot | None:
        """All functions, as far as they are known now."""
        return self._source.snapshot

    @property
    def functions(self) -> Snapshot:
        """All functions. Raises `RegistryNotReadyError` until the registry was read."""
        snapshot = self._source.snapshot
        if snapshot is None:
            raise RegistryNotReadyError
        return snapshot

    async def route(self, stamped: Sequence[Stamped]) -> list[Routed]:
        """Start the runs that the events trigger and resume those that wait for them; one result
        for each event, in order.

        Events are independent of each other. Returns when Temporal has accepted everything; if
        anything failed, raises the error of the first event that failed: `RegistryNotReadyError`,
        or what Temporal's client raises.
        """
        if len(stamped) == 1:
            return [await self._route(stamped[0])]
        routed: dict[int, Routed] = {}
        errors: dict[int, Exception] = {}
        remaining = iter(enumerate(stamped))

        async def route_remaining() -> None:
            for index, one in remaining:
                try:
                    routed[index] = await self._route(one)
                except Exception as error:
                    errors[index] = error
                if errors:  # if Temporal is down, thousands of further calls would fail as well
                    return

        await asyncio.gather(*(route_remaining() for _ in range(min(len(stamped), MAX_EVENTS))))
        if errors:
            raise errors[min(errors)]
        return [routed[index] for index in range(len(stamped))]

    async def invoke(self, stamped: Stamped) -> Routed:
        """Route an `inngest/function.invoked`."""
        return await self._route(stamped)

    async def _route(self, stamped: Stamped) -> Routed:
        snapshot = self.functions
        functions = snapshot.match(stamped.event)
        work: list[Coroutine[Any, Any, _Started]] = []
        target = missing = None
        if stamped.event["name"] == events.INVOKED:
            target_id = stamped.event["data"]["_inngest"]["fn_id"]
            target = snapshot.function(target_id)
            if target is None:
                missing = target_id
            else:
                functions = [function for function in functions if function is not target]
                work.append(self._start(target, stamped, _invoker(stamped)))
        work += [self._start(function, stamped) for function in functions]
        if self._deliver is not None:
            work.append(self._pass_on(self._deliver, stamped))
        results = [await work[0]] if len(work) == 1 else await _all_or_error(work)
        runs = tuple(result.run for result in results if result.run is not None)
        outcomes = [result.outcome for result in results if result.outcome is not None]
        if missing is not None:
            outcomes.append(Outcome("missing", missing))
        unmatched = not outcomes
        if unmatched:
            outcomes.append(Outcome("unmatched"))
        reports.routed(stamped, snapshot, outcomes)
        first = results[0] if target is not None else None
        return Routed(
            runs,
            missing,
            None if first is None or first.outcome is None else first.outcome.reason,
            None if first is None else first.run,
            unmatched,
            tuple(outcomes),
        )

    async def has_listeners(self, name: str) -> bool:
        """Whether a function or a wait listens for events of that name; True if that is not known.
        Raises `RPCError`."""
        snapshot = self._source.snapshot
        if snapshot is None or snapshot.listens(name):
            return True
        return await Waits.of(self._client).listens(name)

    async def start(self, function: RegisteredFunction, stamped: Stamped) -> str | None:
        """Start one function for an event that no other function gets; returns the run's id, or
        None if a gate starts it later or never. Raises what Temporal's client raises."""
        return (await self._start(function, stamped)).run

    async def _start(
        self,
        function: RegisteredFunction,
        stamped: Stamped,
        invoker: Invoker | None = None,
    ) -> _Started:
        run_id = events.run_id(function.id, stamped)
        invokers = [] if invoker is None else [invoker]
        if Gates.guard(function.config):
            async with self._gate_slots:
                verdict = await self._gates.ask(function, stamped, run_id, invoker)
            if verdict != START:
                kind = verdict.kind
                return _Started(None, Outcome(kind, function.id, reason=verdict.refusal))
        async with self._slots:
            is_new = await start_run(
                self._client,
                function,
                [stamped],
                run_id,
                invokers=invokers,
                rpc_timeout=self._rpc_timeout,
            )
        return _Started(run_id, Outcome("started" if is_new else "existed", function.id, run_id))

    async def _pass_on(self, deliver: Deliver, stamped: Stamped) -> _Started:
        async with self._slots, asyncio.timeout(self._rpc_timeout.total_seconds()):
            is_delivered = await deliver(stamped.event, stamped.internal_id)
            return _Started(None, Outcome("delivered") if is_delivered else None)


async def start_run(
    client: Client,
    function: RegisteredFunction,
    stamped: Sequence[Stamped],
    run_id: str,
    *,
    invokers: Sequence[Invoker] = (),
    batched: bool = False,
    rerun: RerunInput | None = None,
    rpc_timeout: timedelta | None = None,
) -> bool:
    """Start one run of a function; False if a run with that id exists already, running or ended.

    If the event's time is in the future, the run begins then; but not a run with a batch, even of
    one event (§1.8), nor a `rerun`.
    """
    event_ids = [one.internal_id for one in stamped]
    first = stamped[0].event
    waits = Waits.of(client)
    cancels = {}
    if function.config.cancel:
        async with asyncio.timeout(None if rpc_timeout is None else rpc_timeout.total_seconds()):
            cancels = await waits.register_cancels(function.config.cancel, run_id, first, event_ids)
    # Our own events always mean now: another clock may have set a time that seems to come.
    is_now = batched or rerun is not None or events.is_internal(first["name"])
    delay_ms = 0 if is_now else first["ts"] - time.time() * 1000
    input = _run_input(function, stamped, invokers, cancels, batched, is_delayed=delay_ms > 0)
    summary = _summary(stamped)
    memo: dict[str, Any] = {names.EVENTS_MEMO: event_ids, names.TRIGGER_MEMO: summary}
    if rerun is not None:
        input, memo[names.ORIGINAL_MEMO] = rerun.applied_to(input), rerun.original
    try:
        await client.start_workflow(
            function.id,
            input.to_json(),
            id=run_id,
            task_queue=function.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            memo=memo,
            start_delay=timedelta(milliseconds=delay_ms) if delay_ms > 0 else None,
            rpc_timeout=rpc_timeout,
            priority=priority_of(input.factor),
            static_summary=summary,
        )
    except WorkflowAlreadyStartedError:
        if cancels:
            await _take_back(client, waits, run_id, cancels, rpc_timeout)
        return False
    return True


def _run_input(
    function: RegisteredFunction,
    stamped: Sequence[Stamped],
    invokers: Sequence[Invoker],
    cancels: dict[str, str],
    batched: bool,
    *,
    is_delayed: bool,
) -> RunInput:
    first = stamped[0].event
    return RunInput(
        [one.event for one in stamped],
        [one.internal_id for one in stamped],
        invoker=next(iter(invokers), None),
        timeouts=_timeouts(function.config, batched),
        cancels=cancels,
        more_invokers=[*invokers[1:]],
        retries=function.config.retries,
        not_before_ms=first["ts"] if is_delayed else 0,
        needs=needs_of(function.config, first),
        factor=factor_of(function.config, first),
        url=function.config.url,
    )


def _summary(stamped: Sequence[Stamped]) -> str:
    """The event that started a run, as lists of runs show it."""
    name: str = stamped[0].event["name"][:150]
    return name if len(stamped) == 1 else f"{name} and {len(stamped) - 1} more"


async def _take_back(
    client: Client,
    waits: Waits,
    run_id: str,
    cancels: dict[str, str],
    rpc_timeout: timedelta | None,
) -> None:
    """Deregister the `cancel` entries of a run, if it has ended and can't do so itself."""
    run = await client.get_workflow_handle(run_id).describe(rpc_timeout=rpc_timeout)
    if run.status != WorkflowExecutionStatus.RUNNING:
        await asyncio.gather(
            *(waits.deregister(mailbox, run_id, wait) for wait, mailbox in cancels.items())
        )


def refuses(error: RPCError) -> bool:
    """Whether Temporal would refuse the same request again. A workflow that has had 10,000 signals
    is another case: it takes more of them once it has continued as new."""
    is_temporary = "limit for signal events" in error.message
    return error.status == RPCStatusCode.INVALID_ARGUMENT and not is_temporary


async def _all_or_error(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; waits for all of them, and then raises an error if there was one. An
    error that a retry may cure goes first, so that the caller tries again."""
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        temporary = [each for each in errors if not (isinstance(each, RPCError) and refuses(each))]
        raise [*temporary, *errors][0]
    return [result for result in results if not isinstance(result, BaseException)]


def _invoker(stamped: Stamped) -> Invoker | None:
    """The step that waits for the invoked run: its correlation id is `<run id>.<hashed step
    id>`."""
    run_id, dot, step = (events.correlation_id(stamped.event) or "").rpartition(".")
    return Invoker(run_id, step) if dot else None


def _timeouts(config: FunctionConfig, batched: bool) -> dict[str, int]:
    """A batch has no `start`, as in Inngest (§4.2)."""
    if config.timeouts is None:
        return {}
    limits = {"finish": config.timeouts.finish}
    if not batched:
        limits["start"] = config.timeouts.start
    return {name: milliseconds(limit) for name, limit in limits.items() if limit is not None}
