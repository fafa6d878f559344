"""Admission: which locks a run must pass before it executes, and how a lock is reached.

What a run must pass is settled when it is started, from its trigger event and the configuration of
that moment, and travels in its input: a deploy can't change the way of a run that is under way. The
limits are not part of it: each request to a lock carries those that the published configuration has
then, and when an app is published with other ones, the locks that are open are told
(`inngest_temporal_workers.entities.registry`). So they apply at once.

Locks are entity workflows (`inngest_temporal_workers.entities.lock` around
`inngest_temporal.routing.permits`), one for each key. Source: semantics §1.8, §4.3, §4.5, §4.7,
§4.10.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client
from temporalio.common import Priority, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.config import FunctionConfig
from inngest_temporal.expressions import UInt, compile_expression
from inngest_temporal.models import Concurrency, milliseconds
from inngest_temporal.routing.run_input import Need
from inngest_temporal.temporal import names

from .gates import Coalescer
from .permits import Request, Terms

MAX_FACTOR = 43_200
"""Seconds by which a priority can move a run: twelve hours, as in Inngest's server."""
STRONG_FACTOR = 600
"""Seconds from which on a priority gets Temporal's first (or last) key, not the second (or last but
one)."""
MAX_SHOWN = 80

_SCOPES = ("fn", "env", "account")


UNTHROTTLED = 1_000_000
"""Starts in a millisecond of those that still wait when a deploy removes a throttle: all at once.
"""


@dataclass(frozen=True)
class Limit:
    """What makes a function's runs pass locks: the locks of one kind, one for each value of the
    key."""

    kind: str
    """As in `Need`."""
    owner: str
    """The function's id; `env` or `account` if functions share it."""
    key: str | None
    scope: str = "fn"


def limits_of(config: FunctionConfig) -> list[Limit]:
    """What runs must pass, in order: singleton, throttle, whole-run concurrency, step concurrency.

    The steps' locks are in one order for all runs, so no two can wait for each other: narrow ones
    first (a key of one function, then the function, then what functions share). So what a run may
    hold while it waits for another permit is one that few others want, never a permit of the lock
    that everybody shares.
    """
    limits: list[Limit] = []
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


def needs_of(config: FunctionConfig, event: Mapping[str, Any]) -> list[Need]:
    """What a run of this event must pass, in order.

    A singleton's key that is false or has no value is no singleton; any other key that has no value
    counts as null.
    """
    needs: list[Need] = []
    for limit in limits_of(config):
        known, value = _value(limit.key, event)
        if limit.kind == "singleton" and (not known or value is False):
            continue
        lock = names.lock_id(limit.kind, limit.owner, limit.key, value)
        shown = json.dumps(value, ensure_ascii=False) if limit.key else ""
        if len(shown) > MAX_SHOWN:
            shown = shown[: MAX_SHOWN - 1] + "…"
        needs.append(Need(limit.kind, lock, limit.key, limit.scope, shown))
    return needs


def terms_of(config: FunctionConfig, of: Need | Limit, version: int) -> Terms:
    """What a function's configuration says of a lock now; no limit if it is not in it any more.

    `version`: the one of the configuration (`RegisteredFunction.version`).
    """
    if of.kind == "singleton":
        return Terms(mode=config.singleton.mode if config.singleton else "skip", version=version)
    if of.kind == "throttle":
        throttle = config.throttle
        if throttle is None:
            return Terms(limit=UNTHROTTLED, period_ms=1, version=version)
        burst = 1 if throttle.burst is None else throttle.burst
        return Terms(throttle.limit, milliseconds(throttle.period), burst, version=version)
    wanted = ("fn" if of.kind == "run" else "step", of.scope, of.key)
    limits = [
        limit.limit
        for limit in config.concurrency or []
        if _identity(limit) == wanted and limit.limit
    ]
    return Terms(min(limits, default=0), version=version)


@dataclass(frozen=True)
class Change:
    """What the locks of a limit are told when another configuration is published."""

    function: str
    limit: Limit
    terms: Terms


def changes(before: FunctionConfig, after: FunctionConfig, version: int) -> list[Change]:
    """The limits of a function that have other terms after (with this version) than before."""
    limits = [
        limit for limit in limits_of(before) if limit.kind != "singleton"
    ]  # its mode comes with each request
    return [
        Change(before.id, limit, terms)
        for limit in limits
        if (terms := terms_of(after, limit, version)) != terms_of(before, limit, version)
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

    async def ask(self, need: Need, request: Request) -> None:
        """Give a request to a lock. Requests of this process to one lock stay in order.

        Raises `RPCError` if Temporal can't be reached.
        """
        await self._asking.ask(
            f"{names.LOCK_TYPES[need.kind]} {need.lock}", request, 100 + 8 * len(request.acquire)
        )

    async def _ask(self, target: str, requests: Sequence[Request]) -> Sequence[None]:
        workflow_type, lock = target.split(" ", 1)
        if any(request.acquire for request in requests):
            await self._client.start_workflow(
                workflow_type,
                {},
                id=lock,
                task_queue=names.SYSTEM_TASK_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="ask",
                start_signal_args=[requests],
            )
        else:
            await tell(self._client, lock, requests)
        return [None] * len(requests)

    async def summary(self, lock: str) -> dict[str, Any]:
        """A lock's `inngest_temporal.routing.permits.Lock.summary`. Raises `RPCError` if it is not
        there."""
        answer: dict[str, Any] = await self._client.get_workflow_handle(lock).query(
            "queue", result_type=dict
        )
        return answer


async def tell(client: Client, lock: str, requests: Sequence[Request]) -> None:
    """Give requests to a lock that has no use for them if it is not there."""
    try:
        await client.get_workflow_handle(lock).signal("ask", requests)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
