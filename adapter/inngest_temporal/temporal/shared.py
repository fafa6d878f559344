"""A cache of what was read a moment ago, for all callers that ask for the same."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

FRESH = 1.0
"""Seconds for which a result is used by default."""
MAX_KEPT = 8
"""Maximum number of results that are kept by default."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shared(Generic[K, T]):
    """The results that were read last, by key. Callers that ask during a read share its result."""

    def __init__(
        self,
        read: Callable[[K], Awaitable[T]],
        fresh: Callable[[T], float] = lambda _: FRESH,
        max_kept: int = MAX_KEPT,
    ) -> None:
        """`fresh`: for how many seconds a result is used."""
        self._read = read
        self._fresh = fresh
        self._max_kept = max_kept
        self._found: dict[K, tuple[float, asyncio.Task[Any]]] = {}
        """Key -> when the result expires (never, while it is being read), and the read."""

    async def get(self, key: K) -> T:
        """The result for a key. Raises what reading it raises."""
        now = time.monotonic()
        for expired in [each for each, (until, _) in self._found.items() if until <= now]:
            del self._found[expired]
        until, task = self._found.pop(key, (0.0, None))
        if task is None:
            until, task = float("inf"), asyncio.create_task(self._reading(key))
        self._found[key] = until, task  # the latest comes last
        while len(self._found) > self._max_kept:
            del self._found[next(iter(self._found))]
        # A caller that is cancelled does not stop the read for the others.
        found: T = await asyncio.shield(task)
        return found

    async def _reading(self, key: K) -> T:
        try:
            found = await self._read(key)
        except BaseException:
            self._found.pop(key, None)
            raise
        if key in self._found:
            self._found[key] = time.monotonic() + self._fresh(found), self._found[key][1]
        return found
