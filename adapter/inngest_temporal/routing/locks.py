"""Locks, from the outside: which ones a run must pass before it executes, and how one is asked.

What a run must pass is settled when it is started, from its trigger event and the configuration of
that moment, and travels in its input: a deploy can't change the way of a run that is under way. The
limits are not part of it: each request to a lock carries those that the published configuration has
then, and when an app is published with other ones, the locks that are open are told
(`inngest_temporal_workers.entities.registry`). So they apply at once.

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
"""Seconds by which a priority can move a run: twelve hours, as in Inngest's server."""
STRONG_FACTOR = 600
"""Seconds from which on a priority gets Temporal's first (or last) key, not the second (or last but
one)."""
MAX_SHOWN = 80
"""Maximum length of a key's value as people are shown it."""
UNTHROTTLED = 1_000_000
"""Starts in a millisecond of those that still wait when a deploy removes a throttle: all at once.
"""

CLOSED = -1
"""Limit of a lock that admits none: the function is paused."""
RESUMED_AT_ONCE = 50
"""Runs that wait for a function to be resumed and are let go on at once: the next follow when
workers have dealt with these, so a backlog of thousands does not bury them."""

FRESH = 5.0
"""Seconds for which a look at a lock is good enough for all runs of a process."""
REMEMBERED = 10_000
"""Executions of locks that a process remembers."""

_SCOPES = ("fn", "env", "account")

Ticket: TypeAlias = tuple[str, int]
"""Run id, and the number by which the run knows it. A run may hold several."""

GRANTED: Final = "granted"
SKIPPED: Final = "skipped"


@dataclass(frozen=True)
class LimitSettings:
    """What the current configuration of a function says of a lock; the part that may change while
    runs wait."""

    limit: int = 0
    """Tickets held at once, 0: any number, `CLOSED`: none. For a throttle: starts in a period."""
    period_ms: int = 0
    burst: int = 0
    mode: str = "skip"
    """A singleton's mode."""
    version: int = 0
    """The configuration's version. A worker may not have heard yet of a newer one: a lock ignores
    what is older than what it knows."""


@dataclass(frozen=True)
class LockRequest:
    """What a run asks of a lock; the argument of the lock's signal, several in a list.

    Everything may be repeated: asking twice for a ticket has the same answer, and releasing one
    that is not held is a no-op.
    """

    run: str
    function: str = ""
    """Its full id. The limit of a lock that functions share is counted for each by its own
    configuration."""
    acquire: list[int] = field(default_factory=list)
    release: list[int] = field(default_factory=list)
    """Numbers of tickets, held or waited for. They are released before others are asked for."""
    score: int = 0
    """Order among those that wait, lowest first: milliseconds since 1970, less those of the run's
    priority."""
    created_ms: int = 0
    """When the run was created, ms since 1970: for singletons, which go by age."""
    late: bool = False
    """Whether the run asks so long after its creation that older ones may ask still later: a
    backlog is being worked off."""
    settings: LimitSettings | None = None
    """None: unchanged. A request with nothing else is no run's: another configuration was
    published."""
    alive: bool = False
    """Sent by the lock's own check: the run is still running."""


@dataclass(frozen=True)
class Limit:
    """What makes a function's runs pass locks: the locks of one kind, one for each value of the
    key."""

    kind: str
    """As in `LockNeed`."""
    owner: str
    """The function's id; `env` or `account` if functions share it."""
    key: str | None
    scope: str = "fn"


def limits_of(config: FunctionConfig) -> list[Limit]:
    """What runs must pass, in order: a pause, singleton, throttle, whole-run concurrency, step
    concurrency.

    The steps' locks are in one order for all runs, so no two can wait for each other: narrow ones
    first (a key of one function, then the function, then what functions share). So what a run may
    hold while it waits for another permit is one that few others want, never a permit of the lock
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
    """What a run of this event must pass, in order.

    A singleton's key that is false or has no value is no singleton; any other key that has no value
    counts as null.
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


def settings_of(config: FunctionConfig, of: LockNeed | Limit, version: int) -> LimitSettings:
    """What a function's configuration says of a lock now; no limit if it is not in it any more.

    `version`: the one of the configuration (`RegisteredFunction.version`).
    """
    if of.kind == "pause":
        return LimitSettings(CLOSED if config.paused else RESUMED_AT_ONCE, version=version)
    if of.kind == "singleton":
        return LimitSettings(
            mode=config.singleton.mode if config.singleton else "skip", version=version
        )
    if of.kind == "throttle":
        throttle = config.throttle
        if throttle is None:
            return LimitSettings(limit=UNTHROTTLED, period_ms=1, version=version)
        burst = 1 if throttle.burst is None else throttle.burst
        return LimitSettings(throttle.limit, milliseconds(throttle.period), burst, version=version)
    wanted = ("fn" if of.kind == "run" else "step", of.scope, of.key)
    limits = [
        limit.limit
        for limit in config.concurrency or []
        if _identity(limit) == wanted and limit.limit
    ]
    return LimitSettings(min(limits, default=0), version=version)


@dataclass(frozen=True)
class Change:
    """What the locks of a limit are told when another configuration is published."""

    function: str
    limit: Limit
    settings: LimitSettings


def changes(before: FunctionConfig, after: FunctionConfig, version: int) -> list[Change]:
    """The limits of a function that have other settings after (with this version) than before."""
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
    """The seconds by which a run goes before others; 0 if the expression is no integer or has no
    value."""
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
    """Temporal's priority of a run and its activities, for backlogs of task queues: keys 1 (first)
    to 5."""
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
        """Execution of a lock -> the first one of its chain; the last ones."""

    async def ask(self, need: LockNeed, request: LockRequest) -> str:
        """Give a request to a lock; which execution of it has got it ("": it was not there, and
        had no use for the request). Requests of this process to one lock stay in order.

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
            # One that is not there has no use for the requests.
            execution = ""
            await lock.signal("ask", requests)
        return [execution] * len(requests)

    async def knows(self, lock: str, execution: str) -> bool:
        """Whether a lock still knows what that execution of it was asked: one that continued as new
        does, one that was ended by an operator does not.

        All runs of this process that ask within `FRESH` share one look, and the lock itself has no
        work with it. One that can't be replayed any more is healed. Raises `RPCError` if Temporal
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
        for each in [each for each, (at, _) in self._looks.items() if at + FRESH <= now]:
            del self._looks[each]
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
    """What Temporal says of a lock."""

    execution: str
    """The current one, "" if there is none."""
    first: str | None
    """The first one of its chain."""


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
