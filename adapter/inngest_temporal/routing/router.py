"""Routing: from an accepted event to the runs that it starts and the waits that it resumes.

Everything that Temporal is asked here may be asked again without a second effect: the id of a run
derives from function and event, and Temporal refuses to start an id twice for as long as it keeps
the first one (the namespace's retention). So an error is left to the sender, who repeats the whole
request.
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
from inngest_temporal.routing.run_input import Again, Invoker, RunInput
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
"""Maximum number of runs to start and events to deliver that one router works on at once, and of
events that it asks gates about; the rest wait."""
MAX_EVENTS = 100
"""Events of one request that are in hand at once."""

T = TypeVar("T")

Deliver = Callable[[dict[str, Any], str], Awaitable[bool]]
"""Gives an event, with its internal id, to the waits that are registered for it; False if there can
be none (`Waits.deliver`)."""


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
    """For an invocation: id of the function that is not there."""
    refused: str | None = None
    """For an invocation: why the function does not run."""
    invoked: str | None = None
    """For an invocation: the run of that function; None if a gate may start one later."""
    unmatched: bool = False
    """No function is triggered by it, and no run waits for it."""
    outcomes: tuple[Outcome, ...] = field(default=(), compare=False)
    """The same for people, one by one."""


@dataclass(frozen=True)
class _Started:
    """What became of one event for one function."""

    run: str | None
    """None: none was started; a gate may start one later."""
    outcome: Outcome | None = None
    """None: there are no waits for it."""


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
        """`deliver`: None routes to functions only. `rpc_timeout`: for one start of a run, and for
        one delivery."""
        self._client = client
        self._source = source
        self._deliver = deliver
        self._rpc_timeout = rpc_timeout
        self._slots = asyncio.Semaphore(concurrency)
        # A gate may take seconds to answer, for which no other function's events shall wait.
        self._gate_slots = asyncio.Semaphore(concurrency)
        self._gates = Gates(client, rpc_timeout)

    @property
    def snapshot(self) -> Snapshot | None:
        """All functions, as far as they are known now."""
        return self._source.snapshot

    @property
    def functions(self) -> Snapshot:
        """All functions. Raises `RegistryNotReadyError` as long as nobody knows them."""
        snapshot = self._source.snapshot
        if snapshot is None:
            raise RegistryNotReadyError
        return snapshot

    async def route(self, stamped: Sequence[Stamped]) -> list[Routed]:
        """Start what the events trigger and resume what waits for them; one result for each, in
        order.

        Events are independent of each other. Returns when Temporal has accepted everything; if
        anything failed, raises the error of the first event that failed: `RegistryNotReadyError`,
        or what Temporal's client raises.
        """
        if len(stamped) == 1:
            return [await self._route(stamped[0])]
        routed: dict[int, Routed] = {}
        errors: dict[int, Exception] = {}
        remaining = iter(enumerate(stamped))

        async def go_on() -> None:
            for index, one in remaining:
                try:
                    routed[index] = await self._route(one)
                except Exception as error:
                    errors[index] = error
                if errors:  # a Temporal that is down is not asked once more for each of thousands
                    return

        await asyncio.gather(*(go_on() for _ in range(min(len(stamped), MAX_EVENTS))))
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

    async def is_heard(self, name: str) -> bool:
        """Whether a function or a wait listens for an event of that name, or may. Raises
        `RPCError`."""
        snapshot = self._source.snapshot
        if snapshot is None or snapshot.listens(name):
            return True
        return await Waits.of(self._client).listens(name)

    async def start(self, function: RegisteredFunction, stamped: Stamped) -> str | None:
        """Start one function for an event that is for no other; the run's id, None if a gate starts
        none or a later one. Raises what Temporal's client raises."""
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
            there = await deliver(stamped.event, stamped.internal_id)
            return _Started(None, Outcome("delivered") if there else None)


async def start_run(
    client: Client,
    function: RegisteredFunction,
    stamped: Sequence[Stamped],
    run_id: str,
    *,
    invokers: Sequence[Invoker] = (),
    batched: bool = False,
    again: Again | None = None,
    rpc_timeout: timedelta | None = None,
) -> bool:
    """Start one run of a function; False if there was one of that id already, ended or not.

    It waits until the event's time, if that is in the future; not if it was batched, even alone
    (§1.8), nor if it has the events of an earlier run (`again`).
    """
    event_ids = [one.internal_id for one in stamped]
    first = stamped[0].event
    waits = Waits.of(client)
    cancels = {}
    if function.config.cancel:
        async with asyncio.timeout(None if rpc_timeout is None else rpc_timeout.total_seconds()):
            cancels = await waits.register_cancels(function.config.cancel, run_id, first, event_ids)
    # The time of our own events is now, by another clock.
    is_now = batched or again is not None or events.is_internal(first["name"])
    delay_ms = 0 if is_now else first["ts"] - time.time() * 1000
    given = _run_input(function, stamped, invokers, cancels, batched, is_delayed=delay_ms > 0)
    summary = _summary(stamped)
    memo: dict[str, Any] = {names.EVENTS_MEMO: event_ids, names.TRIGGER_MEMO: summary}
    if again is not None:
        given, memo[names.ORIGINAL_MEMO] = again.applied_to(given), again.original
    try:
        await client.start_workflow(
            function.id,
            given.to_json(),
            id=run_id,
            task_queue=function.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            memo=memo,
            start_delay=timedelta(milliseconds=delay_ms) if delay_ms > 0 else None,
            rpc_timeout=rpc_timeout,
            priority=priority_of(given.factor),
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
    """What lists show of a run: the event that started it."""
    name: str = stamped[0].event["name"][:150]
    return name if len(stamped) == 1 else f"{name} and {len(stamped) - 1} more"


async def _take_back(
    client: Client,
    waits: Waits,
    run_id: str,
    cancels: dict[str, str],
    rpc_timeout: timedelta | None,
) -> None:
    """Take back the `cancel` entries of a run that has ended, and would not do it any more."""
    run = await client.get_workflow_handle(run_id).describe(rpc_timeout=rpc_timeout)
    if run.status != WorkflowExecutionStatus.RUNNING:
        await asyncio.gather(
            *(waits.deregister(mailbox, run_id, wait) for wait, mailbox in cancels.items())
        )


def refuses(error: RPCError) -> bool:
    """Whether Temporal would refuse the same request again. One of a workflow that has had 10,000
    signals it takes once that has continued as new."""
    passes = "limit for signal events" in error.message
    return error.status == RPCStatusCode.INVALID_ARGUMENT and not passes


async def _all_or_error(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; if any fails, an error, once none of them is still at work. One that may
    pass goes before one that will not: what it stands for is to be tried again."""
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        passing = [each for each in errors if not (isinstance(each, RPCError) and refuses(each))]
        raise [*passing, *errors][0]
    return [result for result in results if not isinstance(result, BaseException)]


def _invoker(stamped: Stamped) -> Invoker | None:
    """The step that waits for the invoked run: its correlation id is `<run id>.<hashed step
    id>`."""
    run_id, dot, step = (events.correlation_id(stamped.event) or "").rpartition(".")
    return Invoker(run_id, step) if dot else None


def _timeouts(config: FunctionConfig, batched: bool) -> dict[str, int]:
    """A batch has no `start`, as in Inngest (§4.2)."""
    given = (
        {}
        if config.timeouts is None
        else {"start": config.timeouts.start, "finish": config.timeouts.finish}
    )
    if batched:
        given.pop("start", None)
    return {name: milliseconds(limit) for name, limit in given.items() if limit is not None}
