"""Gates, from the outside: rate limits, debounces and batches decide whether an event starts a run
of a function, and when.

Each function and value of its key expression has an entity workflow of its own
(`inngest_temporal_workers.entities`: `rate_limit`, `debounce`, `batch`). A rate limit is asked by
an update and answers; a debounce or a batch takes the event over by a signal and starts the run
later. The function's configuration comes with every message, so changes by a deploy apply at once.

Source: Inngest's flow control (semantics §4.2, §4.4, §4.6, §4.8, §4.9). A gate counts an event once
for as long as it remembers the event's id.
"""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from temporalio.client import Client, WorkflowExecutionStatus

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import EvaluationError, ExpressionError
from inngest_temporal.expressions import compile_expression
from inngest_temporal.models import BATCH_TIMEOUT, Batch, Debounce, milliseconds
from inngest_temporal.routing.run_input import Invoker
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle
from inngest_temporal.temporal.healing import heal

from .coalescer import Coalescer
from .events import Stamped
from .registry import RegisteredFunction
from .reports import Kind

logger = logging.getLogger(__name__)

DAY_MS = 86_400_000

MAX_WAITING_BYTES = 15_000_000
MAX_WAITING = 15_000
"""Bytes and events of an entity's history beyond which it gets no further events: Temporal would
end it at 50 MB or 51,200 events, and all that it holds would be lost. It continues as new when it
has caught up."""
CHECKED_BYTES = 4_000
"""Size of a call from which on the entity's history is checked first. Smaller calls need no check:
Temporal takes only 10,000 of them."""
ENTRY_OVERHEAD = 200
"""About how many bytes an entry has in addition to its event."""


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
    """Identifies the event when it comes again: the id of the run that it alone would start."""
    id: str
    """Internal id (ULID)."""
    event: dict[str, Any]
    size: int
    """Bytes."""
    invoker: Invoker | None = None


@dataclass(frozen=True)
class AdmitRequest:
    """Argument of a rate limit's update `admit`, whose result has a bool for each key."""

    keys: list[str]
    limit: int
    period_ms: int


@dataclass(frozen=True)
class DebounceOffer:
    """Argument of a debounce's signal `offer`, for events that came together."""

    target: Target
    period_ms: int
    timeout_ms: int | None
    newest: Entry
    """The last of them."""
    others: list[Entry] = field(default_factory=list)
    """Those before it, in order: only the debounce knows which of them it has had already."""


@dataclass(frozen=True)
class BatchOffer:
    """Argument of a batch's signal `offer`, for events in order."""

    target: Target
    max_size: int
    timeout_ms: int
    entries: list[Entry]


@dataclass(frozen=True)
class StartRequest:
    """Argument of the activity `inngest.start`, by which a gate starts a run."""

    target: Target
    run_id: str
    entries: list[Entry]
    invokers: list[Invoker] = field(default_factory=list)
    """The invokers that the run answers."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of an event at a function's gates."""

    start: bool
    """Whether the caller starts the run now."""
    refusal: str | None = None
    """Why the event starts no run; None also if a debounce or a batch will start it."""
    kind: Kind = "started"
    """What became of the event, if the caller starts nothing."""


START = Verdict(start=True)
BATCHED, DEBOUNCED = Verdict(start=False, kind="batched"), Verdict(start=False, kind="debounced")
# Inngest tells the invoker the same.
RATE_LIMITING = Verdict(
    start=False, refusal="invoked function is rate limited", kind="rate_limited"
)


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
        """Whether to start a run. If not, a gate has durably taken the event over or refused it.

        `run_id` is that of the run that the event alone would start. Order and combinations are
        Inngest's: a rate limit does not count events that are batched, and counts each one that is
        debounced. Raises `RPCError` or `TimeoutError` if Temporal can't be reached.
        """
        config, event = function.config, stamped.event
        try:
            if config.batch_events is not None and _is_batched(config.batch_events, event):
                entity = _entity("batch", function.id, config.batch_events.key, event)
                asked = _asked(function, stamped, run_id, invoker)
                await self._batches.ask(entity, asked, asked.entry.size)
                return BATCHED
            admission = rate_of(config)
            if admission is not None:
                key = admission[2]
                # As in Inngest, a key that is false means that the event is not limited.
                if key is None or compile_expression(key).evaluate(event) is not False:
                    entity = _entity("ratelimit", function.id, key, event)
                    asked = _Asked(function, Entry(run_id, stamped.internal_id, {}, 0))
                    if not await self._limits.ask(entity, asked, 0):
                        return RATE_LIMITING
            if config.debounce is not None:
                # As in Inngest, an empty key is no key; for debounces only.
                entity = _entity("debounce", function.id, config.debounce.key or None, event)
                asked = _asked(function, stamped, run_id, invoker)
                await self._debounces.ask(entity, asked, asked.entry.size)
                return DEBOUNCED
        except (EvaluationError, ExpressionError) as error:
            # As in Inngest, scheduling fails. The sender is not told, so it must be logged.
            logger.warning(
                "Event %s starts no run of %s: %s", stamped.internal_id, function.id, error
            )
            refusal = f"a key of {function.id} has no value for the event: {error}"
            return Verdict(start=False, refusal=refusal, kind="refused")
        return START

    async def _admit(self, entity: str, asked: Sequence[_Asked]) -> Sequence[bool]:
        rate = rate_of(asked[-1].function.config)
        assert rate is not None
        request = AdmitRequest([one.entry.key for one in asked], rate[0], rate[1])
        limit = EntityHandle(self._client, names.RATE_LIMIT_TYPE, entity)
        return await limit.update_with_start("admit", request, list[bool], timeout=self._timeout)

    async def _debounce(self, entity: str, asked: Sequence[_Asked]) -> Sequence[None]:
        config = asked[-1].function.config.debounce
        assert config is not None
        *others, last = [one.entry for one in asked]
        offer = DebounceOffer(Target.of(asked[-1].function), *_periods(config), last, others)
        await self._offer(entity, names.DEBOUNCE_TYPE, offer, asked)
        return [None] * len(asked)

    async def _batch(self, entity: str, asked: Sequence[_Asked]) -> Sequence[None]:
        config = asked[-1].function.config.batch_events
        assert config is not None
        timeout = milliseconds(BATCH_TIMEOUT if config.timeout is None else config.timeout)
        offer = BatchOffer(
            Target.of(asked[-1].function), config.max_size, timeout, [one.entry for one in asked]
        )
        await self._offer(entity, names.BATCH_TYPE, offer, asked)
        return [None] * len(asked)

    async def _offer(
        self, entity: str, workflow_type: str, offer: object, asked: Sequence[_Asked]
    ) -> None:
        gate = EntityHandle(self._client, workflow_type, entity, self._timeout)
        async with asyncio.timeout(self._timeout.total_seconds()):
            if sum(one.entry.size for one in asked) > CHECKED_BYTES:
                await self._check_room(gate)
            await gate.signal_with_start("offer", offer)

    async def _check_room(self, gate: EntityHandle) -> None:
        """Raise `TimeoutError` if too many events wait already."""
        found = await gate.describe()
        if found is None or found.status != WorkflowExecutionStatus.RUNNING:
            return
        info = found.raw_description.workflow_execution_info
        if info.history_size_bytes > MAX_WAITING_BYTES or info.history_length > MAX_WAITING:
            await heal(self._client, gate.id)
            raise TimeoutError(
                f"{gate.id} has not kept up with its events ({info.history_size_bytes:,} bytes):"
                " send fewer at once to one key, and make sure that workers poll task queue"
                f" {names.SYSTEM_TASK_QUEUE!r}."
            )


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
