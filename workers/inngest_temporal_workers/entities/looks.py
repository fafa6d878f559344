"""When an entity looks whether the runs for which it keeps something are still there.

A run takes back what entities keep for it. But a run that was terminated in Temporal can't, and a
worker that stood still may register something for a run that has ended meanwhile. So entities look
whether the run is there: first soon, then less and less often. Workflow code.
"""

import heapq
import zlib
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]
"""Id of a run, and id of what is kept for it."""

INTERVALS_MS = (60_000, 600_000, 7_200_000, 86_400_000)
"""Time before the first look, the second, and so on; the last one is used from then on."""


class Looks:
    """The keys that have to be looked at, and when."""

    def __init__(self) -> None:
        self._next: dict[Key, tuple[int, int]] = {}
        """Key -> when it is looked at next, and how often it was."""
        self._heap: list[tuple[int, int, Key]] = []

    def add(self, key: Key, now_ms: int, looks: int = 0) -> None:
        """Begin to look at a key, as if it had been looked at `looks` times."""
        self._put(key, now_ms + INTERVALS_MS[min(looks, len(INTERVALS_MS) - 1)], looks)

    def discard(self, key: Key) -> None:
        """Stop looking at a key."""
        self._next.pop(key, None)

    def due_ms(self) -> int | None:
        """When there is something to look at."""
        while self._heap:
            due_ms, looks, key = self._heap[0]
            if self._next.get(key) == (due_ms, looks):
                return due_ms
            heapq.heappop(self._heap)
        return None

    def take(self, now_ms: int) -> list[Key]:
        """The keys that are due now and, if there are any, those that would be due within half a
        minute. Sets the times of their next looks."""
        due_ms = self.due_ms()
        if due_ms is None or due_ms > now_ms:
            return []
        found = []
        until_ms = now_ms + INTERVALS_MS[0] // 2
        while (due_ms := self.due_ms()) is not None and due_ms <= until_ms:
            _, looks, key = heapq.heappop(self._heap)
            del self._next[key]
            found.append((key, looks))
        for key, looks in found:
            self.add(key, now_ms, looks + 1)
        return [key for key, _ in found]

    def carry_over(self, key: Key, now_ms: int) -> None:
        """Begin to look at a key that an earlier execution of the entity had. Each key has its own
        time of the day, so that an entity that often continues as new gets to all of them."""
        day_ms = INTERVALS_MS[-1]
        own_ms = zlib.crc32("/".join(key).encode()) % day_ms
        self._put(key, now_ms + (own_ms - now_ms) % day_ms, len(INTERVALS_MS))

    def _put(self, key: Key, due_ms: int, looks: int) -> None:
        self._next[key] = (due_ms, looks)
        heapq.heappush(self._heap, (due_ms, looks, key))
