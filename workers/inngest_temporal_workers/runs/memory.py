"""What this process knows about the runs that it executes: their events and memos.

The handler needs the memos, but an activity's input has only their number. The run workflow puts
its own memory here. An activity that does not find it, because the workflow is in another process,
asks the run for it.
"""

import asyncio
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError

from inngest_temporal.drivers.protocol import ExecutionRequest

QUERY_TIMEOUT = timedelta(seconds=3)
"""How long a run is asked for its memos: under load that may fail for a long time."""


@dataclass
class RunMemory:
    """One run's events and memos. Only the run workflow writes it, and it only appends. So each
    version is a prefix of the next one, and every memo in it is in the run's history.
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
    """Runs by Temporal run id; the least recently used ones are forgotten first.

    It has a lock because workflow threads write it and the event loop reads it.
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


class Memories:
    """Where the activities of a process get a run's events and memos."""

    def __init__(self, client: Client, cache: MemoCache) -> None:
        self._client = client
        self._cache = cache

    async def of(self, request: ExecutionRequest) -> RunMemory | None:
        """The events of the current activity's run and at least its first `base` memos; None if the
        request has to carry them."""
        info = activity.info()
        assert info.workflow_run_id is not None
        assert info.workflow_id is not None
        memory = self._cache.get(info.workflow_run_id)
        if memory is not None and len(memory.memos) >= request.base:
            return memory
        if request.events is not None:
            memory = RunMemory(request.events)
            for step, text in request.memos:
                memory.append(step, text)
        else:
            run = self._client.get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
            try:
                async with asyncio.timeout(QUERY_TIMEOUT.total_seconds()):
                    memory = await _asked(run, memory, request.base)
            except (RPCError, WorkflowQueryFailedError, TimeoutError) as error:
                activity.logger.debug("Run %s did not answer: %s", info.workflow_id, error)
                return None
        if len(memory.memos) < request.base:
            return None
        self._cache.put(info.workflow_run_id, memory)
        return memory


async def _asked(run: WorkflowHandle[Any, Any], known: RunMemory | None, base: int) -> RunMemory:
    """Ask the run for its events, unless they are known, and for further memos."""
    if known is None:
        events: list[dict[str, Any]] = []
        total = 1
        while len(events) < total:
            answer = await run.query("events", len(events), result_type=dict)
            events.extend(answer["items"])
            total = answer["total"]
        known = RunMemory(events)
    memory = RunMemory(known.events, list(known.memos), size=known.size)
    while len(memory.memos) < base:
        answer = await run.query("memos", len(memory.memos), result_type=dict)
        if not answer["items"]:
            break
        for step, memo in answer["items"]:
            memory.append(step, json.dumps(memo, separators=(",", ":")))
        memory.pending = set(answer["pending"])
    return memory


def page(
    items: list[Any], start: int, size_of: Callable[[Any], int], limit: int = 1_000_000
) -> list[Any]:
    """Items from `start` on, at least one and up to about `limit` bytes, which is what one query
    can answer."""
    taken: list[Any] = []
    total = 0
    for item in items[start:]:
        total += size_of(item)
        if taken and total > limit:
            break
        taken.append(item)
    return taken
