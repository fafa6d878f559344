"""When an entity looks whether the runs for which it keeps something are still there.

A run takes back what others keep for it. One that was terminated in Temporal can't, and a worker
that stood still may ask for a run that has ended meanwhile. So what is kept is looked after: soon,
then ever less often. Workflow code.
"""

import heapq
import zlib
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]
"""A run, and what is kept for it."""

INTERVALS_MS = (60_000, 600_000, 7_200_000, 86_400_000)
"""Before the first look, the second, and so on; the last one stays."""


class Looks:
    """What is to be looked at, and when."""

    def __init__(self) -> None:
        self._next: dict[Key, tuple[int, int]] = {}
        """When, and how often it was looked at."""
        self._heap: list[tuple[int, int, Key]] = []

    def add(self, key: Key, now_ms: int, looks: int = 0) -> None:
        """Begin with one as if it had been looked at so many times."""
        self._put(key, now_ms + INTERVALS_MS[min(looks, len(INTERVALS_MS) - 1)], looks)

    def discard(self, key: Key) -> None:
        """Look at one no longer."""
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
        """What is to be looked at now, with what would be in a moment if anything is. Their next
        looks come later."""
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
        """Begin with one that an earlier execution of the entity looked after. It has its own time
        of the day, so that an entity that often continues as new comes to all of them."""
        day_ms = INTERVALS_MS[-1]
        own_ms = zlib.crc32("/".join(key).encode()) % day_ms
        self._put(key, now_ms + (own_ms - now_ms) % day_ms, len(INTERVALS_MS))

    def _put(self, key: Key, due_ms: int, looks: int) -> None:
        self._next[key] = (due_ms, looks)
        heapq.heappush(self._heap, (due_ms, looks, key))
