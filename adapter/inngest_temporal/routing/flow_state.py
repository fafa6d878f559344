"""The current state of a function's flow control: which of its gates and locks are open, who holds
them, who waits, and when the next run starts.

One query of visibility finds them, so a gate or lock that has just begun is missing for about a
second. Each one is then asked for its state, which needs a worker of the system queue.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from inngest_temporal.config import FunctionConfig
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT
from inngest_temporal.temporal.entity import EntityHandle
from inngest_temporal.temporal.runs import input_of, quoted
from inngest_temporal.temporal.visibility import Visibility

from .gates import rate_of
from .locks import Limit, limits_of, settings_of
from .registry import RegisteredFunction

MAX_ENTITIES = 20
"""Maximum number of gates and locks that are asked: a key may have any number of values."""
MAX_RUNS = 20
"""Maximum number of holders, and of waiting runs, that are named for each lock."""


@dataclass(frozen=True)
class FlowEntity:
    """A gate or a lock of a function, for one value of its key."""

    kind: str
    """`pause`, `singleton`, `throttle`, `run` or `step` (concurrency of runs, of steps);
    `rate_limit`, `debounce`, `batch`."""
    id: str
    """Its workflow id."""
    key: str | None = None
    """The key expression."""
    scope: str = "fn"
    limit: int = 0
    """How many the configuration allows at once or in a period; 0: no number."""
    value: str | None = None
    """The key's value, if a run of it could be read."""
    holding: int = 0
    waiting: int = 0
    """Number of runs that wait; for a gate, of events."""
    holders: tuple[str, ...] = ()
    """Ids of the first runs that hold the lock."""
    waiters: tuple[str, ...] = ()
    """Ids of the first runs that wait, in their order."""
    next_ms: int | None = None
    """When time alone changes something: the next start, or the moment when a rate is unused again
    (ms since 1970)."""
    problem: str | None = None
    """Why its state is not known."""


@dataclass(frozen=True)
class FlowState:
    """The open gates and locks of one function."""

    entities: tuple[FlowEntity, ...]
    complete: bool = True
    """Whether no further ones are open."""


@dataclass(frozen=True)
class _Source:
    """The gates or locks that one setting of a configuration can have."""

    start: str
    """What their ids begin with; without a key, the only id."""
    kind: str
    key: str | None = None
    scope: str = "fn"
    limit: int = 0

    def has(self, id: str) -> bool:
        return id.startswith(self.start) if self.key else id == self.start


async def flow_state(client: Client, function: RegisteredFunction) -> FlowState:
    """The open gates and locks of a function. Raises `VisibilityBusyError`, `RPCError`."""
    sources = [*_sources(function.config)]
    starts = " OR ".join(f"WorkflowId STARTS_WITH {quoted(each.start)}" for each in sources)
    query = (
        f"TaskQueue = '{names.SYSTEM_TASK_QUEUE}' AND ExecutionStatus = 'Running' AND ({starts})"
    )
    page = await Visibility.of(client).list(query, 2 * MAX_ENTITIES)
    found = []
    for workflow in page.workflows:
        source = next((each for each in sources if each.has(workflow.id)), None)
        if source is not None:
            limit = source.limit
            found.append(FlowEntity(source.kind, workflow.id, source.key, source.scope, limit))
    asked = await asyncio.gather(*(_ask(client, each) for each in found[:MAX_ENTITIES]))
    busy = [each for each in asked if each.holding or each.waiting or each.next_ms or each.problem]
    return FlowState(tuple(busy), len(found) <= MAX_ENTITIES and not page.token)


def _sources(config: FunctionConfig) -> Iterator[_Source]:
    # The lock of a pause may still have runs once the function is resumed.
    pauses = [] if config.paused else [Limit("pause", config.id, None)]
    for limit in (*pauses, *limits_of(config)):
        start = (
            names.lock_prefix(limit.kind, limit.owner, limit.key)
            if limit.key
            else names.lock_id(limit.kind, limit.owner)
        )
        allowed = max(0, settings_of(config, limit, 0).limit) if limit.kind != "pause" else 0
        yield _Source(start, limit.kind, limit.key, limit.scope, allowed)
    rate = rate_of(config)
    gates = (
        ("rate_limit", "ratelimit", rate is not None, rate and rate[2], rate[0] if rate else 0),
        ("debounce", "debounce", *_key_of(config.debounce), 0),
        ("batch", "batch", *_key_of(config.batch_events), 0),
    )
    for kind, word, is_there, key, allowed in gates:
        if is_there:
            start = names.gate_id(word, config.id) + (":" if key else "")
            yield _Source(start, kind, key or None, limit=allowed)


def _key_of(gate: object) -> tuple[bool, str | None]:
    return gate is not None, getattr(gate, "key", None)


async def _ask(client: Client, entity: FlowEntity) -> FlowEntity:
    handle = EntityHandle(client, "", entity.id, RPC_TIMEOUT)
    try:
        state = await handle.query("state", dict, MAX_RUNS) or {}
    except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
        return replace(entity, problem=f"No worker answered for it: {error}")
    holders, waiters = tuple(state.get("holders", ())), tuple(state.get("waiters", ()))
    asked = replace(
        entity,
        holding=state.get("holding", 0),
        waiting=state.get("waiting", 0),
        holders=holders,
        waiters=waiters,
        next_ms=state.get("next_ms"),
    )
    if entity.key is None:
        return asked
    return replace(asked, value=await _value(client, entity.id, (*holders, *waiters)[:1]))


async def _value(client: Client, lock: str, runs: tuple[str, ...]) -> str | None:
    """The value of the lock's key, from the input of a run that has to pass it."""
    for run in runs:
        given = await input_of(client, run)
        for need in [] if given is None else given.needs:
            if need.lock == lock:
                return need.value
    return None
