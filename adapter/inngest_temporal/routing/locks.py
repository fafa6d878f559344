"""Locks, from the outside: which ones a run must pass before it executes, and how one is asked.

The locks of a run are settled when it is started, from its trigger event and the configuration of
that moment, and are part of its input: a deploy does not change them. Limits are not part of it.
Each request to a lock carries the limits that are published at that time, and when an app is
published with other limits, its entity tells the open locks
(`inngest_temporal_workers.entities.app`). So new limits apply at once.

Locks are entity workflows (`inngest_temporal_workers.entities.lock`), one for each key. Source:
semantics §1.8, §4.3, §4.5, §4.7, §4.10.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.common import Priority
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.config import FunctionConfig
from inngest_temporal.expressions import UInt, compile_expression
from inngest_temporal.models import Concurrency, milliseconds
from inngest_temporal.routing.run_input import LockNeed
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle
from inngest_temporal.temporal.healing import heal

from .coalescer import Coalescer

MAX_FACTOR = 43_200
"""Maximum number of seconds by which a priority moves a run: twelve hours, as in Inngest's server.
"""
STRONG_FACTOR = 600
"""Seconds from which on a priority gets Temporal's first (or last) key instead of the second (or
last but one)."""
MAX_SHOWN = 80
"""Maximum length of a key's value that is shown to people."""
UNTHROTTLED = 1_000_000
"""Limit for each millisecond once a deploy has removed a throttle: all that still wait start at
once."""

CLOSED = -1
"""Limit of a lock that admits none: the function is paused."""
RESUMED_AT_ONCE = 50
"""How many waiting runs a resumed function lets go on at a time. The next ones follow when workers
have dealt with these, so a backlog of thousands does not bury them."""

FRESH = 5.0
"""Seconds for which all runs of a process rely on one look at a lock."""
REMEMBERED = 10_000
"""Maximum number of executions of locks that a process remembers."""

_SCOPES = ("fn", "env", "account")

Ticket: TypeAlias = tuple[str, int]
"""Run id, and the number by which the run knows it. A run may hold several."""

GRANTED: Final = "granted"
SKIPPED: Final = "skipped"


@dataclass(frozen=True)
class LimitSettings:
    """What the current configuration of a function says about a lock: the part that may change
    while runs wait."""

    limit: int = 0
    """Maximum number of tickets held at once; 0: any number, `CLOSED`: none. For a throttle: starts
    in a period."""
    period_ms: int = 0
    burst: int = 0
    mode: str = "skip"
    """A singleton's mode."""
    version: int = 0
    """The configuration's version. A worker may not know the newest one yet, so a lock ignores
    settings that are older than those it has."""


@dataclass(frozen=True)
class LockRequest:
    """What a run asks of a lock. The argument of the lock's signal is a list of these.

    Everything may be repeated: asking twice for a ticket has the same answer, and releasing one
    that is not held is a no-op.
    """

    run: str
    function: str = ""
    """Full id of the run's function. A lock that functions share has a limit for each of them, from
    its own configuration."""
    acquire: list[int] = field(default_factory=list)
    release: list[int] = field(default_factory=list)
    """Numbers of tickets, held or waited for. They are released before others are asked for."""
    score: int = 0
    """Place among those that wait, lowest first: milliseconds since 1970, minus the run's priority.
    """
    created_ms: int = 0
    """When the run was created, ms since 1970: singletons decide by age."""
    late: bool = False
    """Whether the run asks so long after its creation that older ones may ask even later, because a
    backlog is being worked off."""
    settings: LimitSettings | None = None
    """None: unchanged. A request that has nothing else comes from no run: another configuration was
    published."""
    alive: bool = False
    """Sent by the lock's own check: the run is still running."""


@dataclass(frozen=True)
class Limit:
    """A setting that makes a function's runs pass locks: one lock for each value of its key."""

    kind: str
    """As in `LockNeed`."""
    owner: str
    """The function's id; `env` or `account` if functions share it."""
    key: str | None
    scope: str = "fn"


def limits_of(config: FunctionConfig) -> list[Limit]:
    """The limits that runs must pass, in order: pause, singleton, throttle, concurrency of runs,
    concurrency of steps.

    The locks of steps have one order for all runs, so no two runs can wait for each other. Narrow
    ones come first: a key of one function, then the function, then what functions share. So while a
    run waits for another permit, it holds only permits that few others want, never one of the lock
    that everybody shares.
    """
    limits: list[Limit] = []
    if config.paused:
        limits.append(Limit("pause", config.id, None))
    if config.singleton is not None:
        limits.append(Limit("singleton", config.id, config.singleton.key or None))
    if config.throttle is not None:
        limits.append(Limit("throttle", config.id, config.throttle.key or None))
    concurrency = {_identity(limit) for limit in config.concurrency or [] if limit.limit}
    for level, scope, key in sorted(concurrency, key=_breadth):
        limits.append(
            Limit(
                "run" if level == "fn" else "step",
                config.id if scope == "fn" else scope,
                key,
                scope,
            )
        )
    return limits


def needs_of(config: FunctionConfig, event: Mapping[str, Any]) -> list[LockNeed]:
    """The locks that a run of this event must pass, in order.

    There is no singleton if its key is false or has no value. Any other key without a value counts
    as null.
    """
    needs: list[LockNeed] = []
    for limit in limits_of(config):
        known, value = _value(limit.key, event)
        if limit.kind == "singleton" and (not known or value is False):
            continue
        lock = names.lock_id(limit.kind, limit.owner, limit.key, value)
        shown = json.dumps(value, ensure_ascii=False) if limit.key else ""
        if len(shown) > MAX_SHOWN:
            shown = shown[: MAX_SHOWN - 1] + "…"
        needs.append(LockNeed(limit.kind, lock, limit.key, limit.scope, shown))
    return needs


def settings_of(config: FunctionConfig, lock: LockNeed | Limit, version: int) -> LimitSettings:
    """What a function's configuration says about a lock now; no limit if it has none any more.

    `version` is the configuration's (`RegisteredFunction.version`).
    """
    if lock.kind == "pause":
        return LimitSettings(CLOSED if config.paused else RESUMED_AT_ONCE, version=version)
    if lock.kind == "singleton":
        return LimitSettings(
            mode=config.singleton.mode if config.singleton else "skip", version=version
        )
    if lock.kind == "throttle":
        throttle = config.throttle
        if throttle is None:
            return LimitSettings(limit=UNTHROTTLED, period_ms=1, version=version)
        burst = 1 if throttle.burst is None else throttle.burst
        return LimitSettings(throttle.limit, milliseconds(throttle.period), burst, version=version)
    wanted = ("fn" if lock.kind == "run" else "step", lock.scope, lock.key)
    limits = [
        limit.limit
        for limit in config.concurrency or []
        if _identity(limit) == wanted and limit.limit
    ]
    return LimitSettings(min(limits, default=0), version=version)


@dataclass(frozen=True)
class Change:
    """New settings, which the locks of a limit are told when another configuration is published."""

    function: str
    limit: Limit
    settings: LimitSettings


def changes(before: FunctionConfig, after: FunctionConfig, version: int) -> list[Change]:
    """The limits whose settings differ in the configuration `after`, which has this version."""
    limits = [
        limit for limit in limits_of(before) if limit.kind not in ("pause", "singleton")
    ]  # a singleton's mode comes with each request
    if bool(before.paused) != bool(after.paused):
        limits.append(Limit("pause", before.id, None))
    return [
        Change(before.id, limit, settings)
        for limit in limits
        if (settings := settings_of(after, limit, version)) != settings_of(before, limit, version)
    ]


def factor_of(config: FunctionConfig, event: Mapping[str, Any]) -> int:
    """By how many seconds a run goes before others; 0 if the expression gives no integer."""
    if config.priority is None:
        return 0
    try:
        value = compile_expression(config.priority.run).evaluate_raw(event)
    except ValueError:
        return 0
    if not isinstance(value, int) or isinstance(value, bool | UInt):
        return 0
    return max(-MAX_FACTOR, min(MAX_FACTOR, value))


def priority_of(factor: int) -> Priority:
    """Temporal's priority of a run and its activities in the backlog of a task queue: keys 1
    (first) to 5."""
    if factor == 0:
        return Priority.default
    strong = abs(factor) >= STRONG_FACTOR
    if factor > 0:
        return Priority(priority_key=1 if strong else 2)
    return Priority(priority_key=5 if strong else 4)


def _identity(limit: Concurrency) -> tuple[str, str, str | None]:
    return limit.level or "step", limit.scope or "fn", limit.key or None


def _breadth(identity: tuple[str, str, str | None]) -> tuple[bool, int, bool, str]:
    level, scope, key = identity
    return level == "step", _SCOPES.index(scope), key is None, key or ""


def _value(key: str | None, event: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether a key has a value for the event, and the value."""
    if not key:
        return True, None
    try:
        value = compile_expression(key).evaluate(event)
    except ValueError:
        return False, None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 5.0 is 5
    return True, value


class Locks:
    """The locks of one namespace, for one process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asking = Coalescer(self._ask)
        self._looks: dict[str, tuple[float, asyncio.Task[_Look]]] = {}
        self._first: dict[str, str] = {}
        """Execution of a lock -> the first execution of its chain; only the latest are kept."""

    async def ask(self, need: LockNeed, request: LockRequest) -> str:
        """Send a request to a lock; returns the execution that got it, or "" if there was none and
        the request needs none. Requests of this process to one lock stay in order.

        Raises `RPCError` if Temporal can't be reached.
        """
        target = f"{names.LOCK_TYPES[need.kind]} {need.lock}"
        return await self._asking.ask(target, request, 100 + 8 * len(request.acquire))

    async def _ask(self, target: str, requests: Sequence[LockRequest]) -> Sequence[str]:
        workflow_type, lock_id = target.split(" ", 1)
        lock = EntityHandle(self._client, workflow_type, lock_id)
        if any(request.acquire for request in requests):
            execution = await lock.signal_with_start("ask", requests)
        else:
            # They only release: a lock that is not there holds nothing.
            execution = ""
            await lock.signal("ask", requests)
        return [execution] * len(requests)

    async def knows(self, lock: str, execution: str) -> bool:
        """Whether a lock still knows what was asked of this execution of it: yes if it continued as
        new since, no if an operator ended it.

        Runs of this process that ask within `FRESH` share one look, which is no work for the lock
        itself. A lock that can't be replayed any more is healed. Raises `RPCError` if Temporal
        can't be reached.
        """
        look = await self._look(lock)
        if execution == look.execution:
            return True
        if look.first is None or not execution:
            return False
        if execution not in self._first:
            found = await _describe(self._client, lock, execution)
            if found is None:
                return False
            self._first[execution] = found.raw_info.first_run_id
            while len(self._first) > REMEMBERED:
                del self._first[next(iter(self._first))]
        return self._first[execution] == look.first

    async def _look(self, lock: str) -> "_Look":
        now = time.monotonic()
        for stale in [key for key, (at, _) in self._looks.items() if at + FRESH <= now]:
            del self._looks[stale]
        if lock not in self._looks:
            self._looks[lock] = now, asyncio.create_task(self._look_now(lock))
        try:
            return await asyncio.shield(self._looks[lock][1])
        except RPCError:
            self._looks.pop(lock, None)
            raise

    async def _look_now(self, lock: str) -> "_Look":
        await heal(self._client, lock)
        found = await _describe(self._client, lock)
        if found is None or found.close_time is not None:
            return _Look("", None)
        return _Look(found.run_id, found.raw_info.first_run_id)


@dataclass(frozen=True)
class _Look:
    """What Temporal says about a lock."""

    execution: str
    """The current execution, "" if there is none."""
    first: str | None
    """The first execution of its chain."""


async def _describe(
    client: Client, lock: str, execution: str | None = None
) -> WorkflowExecutionDescription | None:
    """None if it is not there."""
    try:
        return await client.get_workflow_handle(lock, run_id=execution).describe()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None
