"""What this process knows of the runs it executes: their events and memos.

An activity's input holds only ids and a memo version; its handler needs the memos. The run workflow
puts its own memory here, and an activity that does not find it (the workflow runs in another
process) asks the run for it.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunMemory:
    """One run's events and memos. Written by the run workflow alone, and only ever appended to: so
    any version of it is a prefix of the next one, and every memo in it stands in the run's history.
    """

    events: list[dict[str, Any]]
    memos: list[tuple[str, str]] = field(default_factory=list)
    """Hashed step id and JSON text of the memo, in order of completion."""
    pending: set[str] = field(default_factory=set)
    """Hashed ids of the steps that have begun and not ended."""
    size: int = 0
    """Bytes of `memos`."""

    def __post_init__(self) -> None:
        self.event_bytes = sum(len(json.dumps(event)) for event in self.events)

    def append(self, step: str, text: str) -> None:
        self.memos.append((step, text))
        self.size += len(text)


class MemoCache:
    """Runs by Temporal run id, the least recently used ones forgotten first.

    Filled from workflow threads, read from the event loop: hence the lock.
    """

    def __init__(self, max_runs: int = 5_000, max_bytes: int = 512 * 1024 * 1024) -> None:
        self._runs: OrderedDict[str, tuple[RunMemory, int]] = OrderedDict()
        self._bytes = 0
        self._max_runs = max_runs
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def put(self, run: str, memory: RunMemory) -> None:
        with self._lock:
            _, before = self._runs.pop(run, (None, 0))
            size = memory.size + memory.event_bytes
            self._runs[run] = (memory, size)
            self._bytes += size - before
            while len(self._runs) > 1 and (
                len(self._runs) > self._max_runs or self._bytes > self._max_bytes
            ):
                _, (_, size) = self._runs.popitem(last=False)
                self._bytes -= size

    def get(self, run: str) -> RunMemory | None:
        with self._lock:
            entry = self._runs.get(run)
            if entry is None:
                return None
            self._runs.move_to_end(run)
            return entry[0]

    def forget(self, run: str) -> None:
        with self._lock:
            _, size = self._runs.pop(run, (None, 0))
            self._bytes -= size

    def __len__(self) -> int:
        return len(self._runs)


def page(
    items: list[Any], start: int, size_of: Callable[[Any], int], limit: int = 1_000_000
) -> list[Any]:
    """Items from `start` on, at least one and up to about `limit` bytes: what one query may
    answer."""
    taken: list[Any] = []
    total = 0
    for item in items[start:]:
        total += size_of(item)
        if taken and total > limit:
            break
        taken.append(item)
    return taken
