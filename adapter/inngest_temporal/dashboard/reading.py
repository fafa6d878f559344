"""What pages read of Temporal besides visibility, read once for all who look at the same."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from temporalio.client import Client

from inngest_temporal.traces.models import Trace
from inngest_temporal.traces.reading import load_trace

FRESH = 1.0
"""Seconds for which what may change is good enough."""
KEPT = 30.0
"""Seconds for which the trace of a run that has ended is kept: people click from step to step."""
MAX_KEPT = 8
"""Things of a kind that a process keeps at most."""

T = TypeVar("T")


class Shared(Generic[T]):
    """What was read last, by its key. Who asks while it is read waits for the same."""

    def __init__(
        self, read: Callable[[str], Awaitable[T]], fresh: Callable[[T], float] = lambda _: FRESH
    ) -> None:
        """`fresh`: for how many seconds something is good enough."""
        self._read = read
        self._fresh = fresh
        self._found: dict[str, tuple[float, asyncio.Task[Any]]] = {}
        """Key -> until when it counts, which is for ever while it is read."""

    async def get(self, key: str) -> T:
        """What there is of a key. Raises what reading it raises."""
        until, task = self._found.pop(key, (0.0, None))
        if task is None or until <= time.monotonic():
            until, task = float("inf"), asyncio.create_task(self._reading(key))
        self._found[key] = until, task  # the latest comes last
        while len(self._found) > MAX_KEPT:
            del self._found[next(iter(self._found))]
        # Who stops waiting does not stop the others.
        found: T = await asyncio.shield(task)
        return found

    async def _reading(self, key: str) -> T:
        try:
            found = await self._read(key)
        except BaseException:
            self._found.pop(key, None)
            raise
        if key in self._found:
            self._found[key] = time.monotonic() + self._fresh(found), self._found[key][1]
        return found


def shared_traces(client: Client) -> Shared[Trace | None]:
    """Traces by the ids of runs; None: there is no such run."""

    def fresh(trace: Trace | None) -> float:
        return FRESH if trace is None or trace.ended_ms is None else KEPT

    return Shared(lambda run_id: load_trace(client, run_id), fresh)
