"""Gates, from the outside: whether an event starts a run of a function, and when. Rate limits,
debounces, batches.

Each (function, value of the key expression) has an entity workflow of its own
(`inngest_temporal_workers.entities.gates`). A rate limit is asked with an update and answers; a
debounce or a batch takes the event over with a signal, and starts the run later. The function's
configuration comes with every message, so that what a deploy changes applies at once.

Source: Inngest's flow control (semantics §4.2, §4.4, §4.6, §4.8, §4.9). An event of an id that a
gate remembers counts once.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.config import FunctionConfig
from inngest_temporal.expressions import EvaluationError, ExpressionError, compile_expression
from inngest_temporal.models import Batch, Debounce, milliseconds
from inngest_temporal.routing.run_input import Invoker
from inngest_temporal.temporal import names

from . import events
from .events import Stamped
from .gcra import Arrival
from .registry import RegisteredFunction

logger = logging.getLogger(__name__)

RATE_LIMITED = "invoked function is rate limited"
"""What the invoker of a rate limited function is told, as in Inngest."""
BATCH_TIMEOUT = timedelta(seconds=60)
"""Of a batch that has none configured: Inngest's default."""
DAY_MS = 86_400_000

MAX_CALL_BYTES = 1_000_000
"""Of events that go to an entity together; a single one may have more."""
MAX_CALL_ITEMS = 500
MAX_WAITING_BYTES = 15_000_000
MAX_WAITING = 15_000
"""Bytes and events of an entity's history with which it is given no more: Temporal would end it at
50 MB or 51,200, and all that it holds would be lost. It continues as new when it has caught up."""
CHECKED_BYTES = 4_000
"""Of a call before which the entity's history is looked at. Temporal itself takes no more than
10,000 smaller ones."""
ENTRY_OVERHEAD = 200
"""Bytes of an entry besides its event, about."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Target:
    """A function, as entities keep it."""

    app_id: str
    task_queue: str
    config: dict[str, Any]
    """`FunctionConfig` as JSON."""

    @classmethod
    def of(cls, function: RegisteredFunction) -> Self:
        return cls(function.app_id, function.task_queue, function.config.to_wire())

    def function(self) -> RegisteredFunction:
        return RegisteredFunction(
            self.app_id, self.task_queue, FunctionConfig.from_wire(self.config)
        )


@dataclass(frozen=True)
class Entry:
    """An event that a gate has taken over."""

    key: str
    """What tells that it is the same event: the id of the run that it alone would start."""
    id: str
    """Internal id (ULID)."""
    event: dict[str, Any]
    size: int
    """Bytes."""
    invoker: Invoker | None = None


@dataclass
class RateLimitState:
    """Argument of a rate limit's workflow; carried over when it continues as new."""

    arrival: Arrival = field(default_factory=Arrival)
    seen: dict[str, bool] = field(default_factory=dict)
    """Key of an event -> whether it was admitted; the last ones."""


@dataclass(frozen=True)
class AdmitRequest:
    """Argument of the update `admit`, whose result has a bool for each key."""

    keys: list[str]
    limit: int
    period_ms: int


@dataclass(frozen=True)
class DebounceState:
    """Argument of a debounce's workflow; carried over when it continues as new."""

    last: Entry | None = None
    """What it will start; None: nothing."""
    target: Target | None = None
    first_ms: int = 0
    """When the first of the events came that `last` stands for."""
    deadline_ms: int = 0
    seen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DebounceOffer:
    """Argument of a debounce's signal `offer`: events that came together."""

    target: Target
    period_ms: int
    timeout_ms: int | None
    newest: Entry
    """The last of them."""
    older: list[str]
    """Keys of others; in histories of earlier versions, which did not tell their events."""
    others: list[Entry] = field(default_factory=list)
    """Those before, in their order: only the debounce knows which of them it has had already."""


@dataclass(frozen=True)
class BatchState:
    """Argument of a batch's workflow; carried over when it continues as new."""

    entries: list[Entry] = field(default_factory=list)
    target: Target | None = None
    max_size: int = 0
    timeout_ms: int = 0
    opened_ms: int = 0
    """When the first of the entries came, of those that are no batch yet."""
    seen: list[str] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    """How many of the entries, from the first, are in each batch that is to be started."""


@dataclass(frozen=True)
class BatchOffer:
    """Argument of a batch's signal `offer`: events in their order."""

    target: Target
    max_size: int
    timeout_ms: int
    entries: list[Entry]


@dataclass(frozen=True)
class StartRequest:
    """A run that an entity starts: argument of the activity `inngest.start`."""

    target: Target
    run_id: str
    entries: list[Entry]


@dataclass(frozen=True)
class Verdict:
    """What becomes of an event at a function's gates."""

    start: bool
    """Whether whoever asked starts the run now."""
    refusal: str | None = None
    """Why the event starts no run; None also if a debounce or a batch will start it."""


START, HELD = Verdict(start=True), Verdict(start=False)


@dataclass(frozen=True)
class _Asked:
    """An event on its way to an entity."""

    function: RegisteredFunction
    entry: Entry


class Gates:
    """The gates of one namespace, for one process."""

    def __init__(self, client: Client, rpc_timeout: timedelta) -> None:
        self._client = client
        self._timeout = rpc_timeout
        self._limits = Coalescer(self._admit)
        self._debounces = Coalescer(self._debounce)
        self._batches = Coalescer(self._batch)

    @staticmethod
    def guard(config: FunctionConfig) -> bool:
        """Whether a function has a gate."""
        return bool(
            config.batch_events or config.debounce or config.rate_limit or config.idempotency
        )

    async def ask(
        self,
        function: RegisteredFunction,
        stamped: Stamped,
        run_id: str,
        invoker: Invoker | None = None,
    ) -> Verdict:
        """Whether to start a run; anything else is settled, and durable, when this returns.

        `run_id`: of the run that the event alone would start. Order and combinations are Inngest's:
        a rate limit does not count what is batched, and counts each event that is debounced. Raises
        `RPCError` or `TimeoutError` if Temporal can't be reached.
        """
        config, event = function.config, stamped.event
        try:
            if config.batch_events is not None and _is_batched(config.batch_events, event):
                entity = _entity("batch", function.id, config.batch_events.key, event)
                asked = _asked(function, stamped, run_id, invoker)
                await self._batches.ask(entity, asked, asked.entry.size)
                return HELD
            admission = rate_of(config)
            if admission is not None:
                key = admission[2]
                # False is Inngest's way to say that there is no limit.
                if key is None or compile_expression(key).evaluate(event) is not False:
                    entity = _entity("ratelimit", function.id, key, event)
                    asked = _Asked(function, Entry(run_id, stamped.internal_id, {}, 0))
                    if not await self._limits.ask(entity, asked, 0):
                        return Verdict(start=False, refusal=RATE_LIMITED)
            if config.debounce is not None:
                # Inngest takes an empty key for none, here only.
                entity = _entity("debounce", function.id, config.debounce.key or None, event)
                asked = _asked(function, stamped, run_id, invoker)
                await self._debounces.ask(entity, asked, asked.entry.size)
                return HELD
        except (EvaluationError, ExpressionError) as error:
            # As in Inngest, where scheduling fails; the sender can't know, so the log must tell.
            logger.warning(
                "Event %s starts no run of %s: %s", stamped.internal_id, function.id, error
            )
            return Verdict(
                start=False, refusal=f"a key of {function.id} has no value for the event: {error}"
            )
        return START

    async def _admit(self, entity: str, asked: Sequence[_Asked]) -> Sequence[bool]:
        rate = rate_of(asked[-1].function.config)
        assert rate is not None
        request = AdmitRequest([one.entry.key for one in asked], rate[0], rate[1])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout.total_seconds()
        # Repeated while the entity is full (Temporal allows 10 updates in flight), ends or
        # continues as new.
        while (rest := deadline - loop.time()) > 0:
            start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
                names.RATE_LIMIT_TYPE,
                RateLimitState(),
                id=entity,
                task_queue=names.SYSTEM_TASK_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            try:
                admitted: list[bool] = await self._client.execute_update_with_start_workflow(
                    "admit",
                    request,
                    start_workflow_operation=start,
                    result_type=list[bool],
                    rpc_timeout=timedelta(seconds=rest),
                )
                return admitted
            except WorkflowUpdateRPCTimeoutOrCancelledError:
                await _forget(start)
                break
            except RPCError as error:
                await _forget(start)
                if error.status not in _PASSING:
                    raise
            except WorkflowUpdateFailedError as error:
                logger.debug("Rate limit %s did not answer, asking again: %s", entity, error.cause)
            await asyncio.sleep(random.uniform(0.02, 0.1))
        raise TimeoutError(
            f"{entity} did not answer within {self._timeout.total_seconds():g} s: "
            f"a worker must poll task queue {names.SYSTEM_TASK_QUEUE!r}."
        )

    async def _debounce(self, entity: str, asked: Sequence[_Asked]) -> Sequence[None]:
        config = asked[-1].function.config.debounce
        assert config is not None
        *others, last = [one.entry for one in asked]
        offer = DebounceOffer(Target.of(asked[-1].function), *_periods(config), last, [], others)
        await self._signal(
            entity,
            names.DEBOUNCE_TYPE,
            DebounceState(),
            offer,
            sum(one.entry.size for one in asked),
        )
        return [None] * len(asked)

    async def _batch(self, entity: str, asked: Sequence[_Asked]) -> Sequence[None]:
        config = asked[-1].function.config.batch_events
        assert config is not None
        timeout = milliseconds(BATCH_TIMEOUT if config.timeout is None else config.timeout)
        offer = BatchOffer(
            Target.of(asked[-1].function), config.max_size, timeout, [one.entry for one in asked]
        )
        await self._signal(
            entity, names.BATCH_TYPE, BatchState(), offer, sum(one.entry.size for one in asked)
        )
        return [None] * len(asked)

    async def _signal(
        self, entity: str, workflow_type: str, state: object, offer: object, size: int
    ) -> None:
        async with asyncio.timeout(self._timeout.total_seconds()):
            if size > CHECKED_BYTES:
                await self._check_room(entity)
            await self._client.start_workflow(
                workflow_type,
                state,
                id=entity,
                task_queue=names.SYSTEM_TASK_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="offer",
                start_signal_args=[offer],
                rpc_timeout=self._timeout,
            )

    async def _check_room(self, entity: str) -> None:
        """Raises `TimeoutError` if too much waits already."""
        try:
            found = await self._client.get_workflow_handle(entity).describe(
                rpc_timeout=self._timeout
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return
        info = found.raw_description.workflow_execution_info
        is_full = info.history_size_bytes > MAX_WAITING_BYTES or info.history_length > MAX_WAITING
        if is_full and found.status == WorkflowExecutionStatus.RUNNING:
            raise TimeoutError(
                f"{entity} has not kept up with its events ({info.history_size_bytes:,} bytes):"
                " send fewer at once to one key, and see to it that workers poll task queue"
                f" {names.SYSTEM_TASK_QUEUE!r}."
            )


class Coalescer(Generic[Item, Answer]):
    """Calls to entities, one at a time for each: what is asked meanwhile goes along with the next
    call, in order.

    One entity takes tens of calls per second; this way it takes thousands of events.
    """

    def __init__(self, call: Callable[[str, Sequence[Item]], Awaitable[Sequence[Answer]]]) -> None:
        """`call` is given an entity and what to ask it, and has an answer for each."""
        self._call = call
        self._queues: dict[str, deque[tuple[Item, int, asyncio.Future[Answer]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, entity: str, item: Item, size: int) -> Answer:
        """The answer for one item (of `size` bytes); raises what the call raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(entity)
        if queue is None:
            queue = self._queues[entity] = deque()
            task = asyncio.create_task(self._work(entity, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append((item, size, future))
        return await future

    async def _work(
        self, entity: str, queue: deque[tuple[Item, int, asyncio.Future[Answer]]]
    ) -> None:
        try:
            while queue:
                items: list[Item] = []
                futures: list[asyncio.Future[Answer]] = []
                total = 0
                while (
                    queue
                    and len(items) < MAX_CALL_ITEMS
                    and (not items or total + queue[0][1] <= MAX_CALL_BYTES)
                ):
                    item, size, future = queue.popleft()
                    items.append(item)
                    futures.append(future)
                    total += size
                try:
                    answers = await self._call(entity, items)
                except Exception as error:
                    # What waits would meet the same outage, one timeout after the other.
                    for future in [*futures, *(future for _, _, future in queue)]:
                        if not future.done():
                            future.set_exception(error)
                    queue.clear()
                    continue
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        finally:
            del self._queues[entity]
            for _, _, future in queue:
                future.cancel()


def rate_of(config: FunctionConfig) -> tuple[int, int, str | None] | None:
    """Limit, period in ms and key of a function's rate limit; `idempotency` replaces it (§4.9)."""
    if config.idempotency is not None:
        return 1, DAY_MS, config.idempotency
    if config.rate_limit is not None:
        return (
            config.rate_limit.limit,
            milliseconds(config.rate_limit.period),
            config.rate_limit.key,
        )
    return None


def _is_batched(config: Batch, event: Mapping[str, Any]) -> bool:
    return config.if_exp is None or compile_expression(config.if_exp).matches(event)


def _periods(config: Debounce) -> tuple[int, int | None]:
    return milliseconds(config.period), (
        None if config.timeout is None else milliseconds(config.timeout)
    )


def _entity(kind: str, function_id: str, key: str | None, event: Mapping[str, Any]) -> str:
    if key is None:
        return names.gate_id(kind, function_id)
    value = compile_expression(key).evaluate(event)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 5.0 is 5
    return names.gate_id(kind, function_id, value)


def _asked(
    function: RegisteredFunction, stamped: Stamped, run_id: str, invoker: Invoker | None
) -> _Asked:
    size = len(json.dumps(stamped.event, separators=(",", ":"))) + ENTRY_OVERHEAD
    return _Asked(function, Entry(run_id, stamped.internal_id, stamped.event, size, invoker))


def debounced_run_id(function_id: str, entry: Entry) -> str:
    """As in Inngest, the run of a debounced event goes by its internal id, not by the sender's."""
    return events.run_id(function_id, Stamped({"id": entry.id}, entry.id))


async def _forget(start: WithStartWorkflowOperation[Any, Any]) -> None:
    """The operation keeps its error a second time, which asyncio reports unless someone looks at
    it."""
    with contextlib.suppress(RPCError, TimeoutError):
        async with asyncio.timeout(0.1):
            await start.workflow_handle()


_PASSING = {
    RPCStatusCode.ABORTED,
    RPCStatusCode.ALREADY_EXISTS,
    RPCStatusCode.FAILED_PRECONDITION,
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.RESOURCE_EXHAUSTED,
}
