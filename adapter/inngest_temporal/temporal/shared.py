"""What was read of Temporal a moment ago, for all who ask for the same."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

FRESH = 1.0
"""Seconds for which what may change is good enough."""
MAX_KEPT = 8
"""Things of a kind that are kept at most, unless it is said otherwise."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Shared(Generic[K, T]):
    """What was read last, by its key. Who asks while it is read waits for the same."""

    def __init__(
        self,
        read: Callable[[K], Awaitable[T]],
        fresh: Callable[[T], float] = lambda _: FRESH,
        max_kept: int = MAX_KEPT,
    ) -> None:
        """`fresh`: for how many seconds something is good enough."""
        self._read = read
        self._fresh = fresh
        self._max_kept = max_kept
        self._found: dict[K, tuple[float, asyncio.Task[Any]]] = {}
        """Key -> until when it counts, which is for ever while it is read."""

    async def get(self, key: K) -> T:
        """What there is of a key. Raises what reading it raises."""
        now = time.monotonic()
        for each in [each for each, (until, _) in self._found.items() if until <= now]:
            del self._found[each]
        until, task = self._found.pop(key, (0.0, None))
        if task is None:
            until, task = float("inf"), asyncio.create_task(self._reading(key))
        self._found[key] = until, task  # the latest comes last
        while len(self._found) > self._max_kept:
            del self._found[next(iter(self._found))]
        # Who stops waiting does not stop the others.
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
