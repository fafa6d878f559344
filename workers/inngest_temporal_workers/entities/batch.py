"""A batch: collects events and starts a run with them when there are enough, or when they have
waited long enough (`inngest_temporal.routing.gates` is the other side).

Which events make a batch depends only on the events and their order, and the id of its run on its
first event. So if a batch is started again, after a crash or by the next execution, the entity
learns which events the first start took, and each event is in one run.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pydantic
from temporalio import workflow

from inngest_temporal.routing import events
from inngest_temporal.routing.gates import BatchOffer, Entry, StartRequest, Target
from inngest_temporal.temporal import names

from .entity import Entity, entity
from .seen import SeenToday

MAX_BATCH_BYTES = 1_500_000
"""Maximum size of a batch: Inngest allows 10 MiB, but a run's events are one Temporal payload,
which is limited to 2 MiB."""
STARTS = 20
"""Maximum number of runs that are started at once."""
MAX_TASK_ENTRIES = 10_000
"""Maximum number of events that are read in one workflow task. A task may compute for 2 s and would
fail for ever if it took longer, and 150,000 events may have come while no worker was there."""


@dataclass(frozen=True)
class Open:
    """The events that are not in a batch yet, with the latest configuration."""

    entries: list[Entry] = field(default_factory=list)
    target: Target | None = None
    max_size: int = 0
    timeout_ms: int = 0
    opened_ms: int = 0
    """When the first of the entries came."""


_OPEN = pydantic.TypeAdapter(Open)
_READY = pydantic.TypeAdapter(list[list[Entry]])


@entity(names.BATCH_TYPE)
class BatchWorkflow(Entity):
    messages: ClassVar = {"offer": pydantic.TypeAdapter(BatchOffer)}

    def load(self, state: dict[str, Any]) -> None:
        self._open = _OPEN.validate_python(state.get("open", {}))
        self._ready = deque(_READY.validate_python(state.get("ready", [])))
        self._seen = SeenToday(state.get("seen", ()))
        self._read = 0
        self._probing = True
        """Whether the runs of the next batches may have been started before."""
        if self._ready:
            self.stir()

    def dump(self) -> dict[str, Any]:
        return {
            "open": _OPEN.dump_python(self._open, mode="json"),
            "ready": _READY.dump_python([*self._ready], mode="json"),
            "seen": self._seen.dump(),
        }

    @workflow.query
    def state(self, count: int) -> dict[str, Any]:
        """For people: how many events are in no run yet, and when at the latest a run starts with
        them (ms since 1970)."""
        waiting = len(self._open.entries) + sum(map(len, self._ready))
        return {"waiting": waiting, "next_ms": self._deadline_ms if self._open.entries else None}

    def due_ms(self) -> int | None:
        if self._ready:
            return self.now_ms
        return self._deadline_ms if self._open.entries else self._seen.until_ms

    @property
    def _deadline_ms(self) -> int:
        return self._open.opened_ms + self._open.timeout_ms

    async def take(self, name: str, message: BatchOffer) -> None:
        """Put the events of an offer into batches, by the configuration that came with it."""
        new = [entry for entry in message.entries if self._seen.add(entry.key, self.now_ms)]
        self._open = Open(
            [*self._open.entries, *new],
            message.target,
            message.max_size,
            message.timeout_ms,
            self._open.opened_ms if self._open.entries else self.now_ms,
        )
        self._cut()
        self._read += len(message.entries)
        if self._read >= MAX_TASK_ENTRIES:
            self._read = 0
            await self.end_task()

    async def act(self) -> None:
        if self._open.entries and self.now_ms >= self._deadline_ms:
            self._cut(flush=True)
        while self._ready:
            await self._start()
            if self.is_long:
                break  # the next execution starts the rest
            if self._ready:
                await self.end_task()
                await self.take_all()
        self._seen.forget(self.now_ms)

    def _cut(self, *, flush: bool = False) -> None:
        """Make batches of entries that fill one; with `flush`, of the remaining entries too."""
        entries = self._open.entries
        while entries and (
            count := full_batch(entries, self._open.max_size) or (len(entries) if flush else 0)
        ):
            self._ready.append(entries[:count])
            entries = entries[count:]
        if len(entries) < len(self._open.entries):
            self._open = replace(self._open, entries=entries, opened_ms=self.now_ms)

    async def _start(self) -> None:
        """Start runs with the first batches.

        A run may have been started before, in a workflow task or a history that was lost, and its
        batch may have been cut in another place. So the first batch of an execution is started
        alone; and as long as its run exists already, all entries after it are cut again.
        """
        target = self._open.target
        assert target is not None
        count = 1 if self._probing else STARTS
        batches = [self._ready.popleft() for _ in range(min(count, len(self._ready)))]
        taken = await asyncio.gather(*(self._start_run(target, batch) for batch in batches))
        left = []
        for batch, known in zip(batches, map(set, taken), strict=True):
            # Without known events, the run was started now, with the whole batch.
            left += [entry for entry in batch if entry.id not in known] if known else []
        self._probing = any(taken)
        if left:
            waiting = [entry for batch in self._ready for entry in batch]
            self._ready.clear()
            opened_ms = self._open.opened_ms if self._open.entries else self.now_ms
            entries = [*left, *waiting, *self._open.entries]
            self._open = replace(self._open, entries=entries, opened_ms=opened_ms)
            self._cut()

    async def _start_run(self, target: Target, batch: Sequence[Entry]) -> list[str]:
        """Start a run. If it was started before, returns the internal ids of its events."""
        run_id = events.batch_run_id(target.config["id"], batch[0].id)
        invokers = [entry.invoker for entry in batch if entry.invoker is not None]
        request = StartRequest(target, run_id, list(batch), invokers)
        return await self.call("inngest.start", [request], list[str])


def full_batch(entries: Sequence[Entry], max_size: int) -> int:
    """How many of the first entries make a full batch; 0 if there is room for more (§4.8)."""
    size = 0
    for count, entry in enumerate(entries):
        if count and size + entry.size > MAX_BATCH_BYTES:
            return count
        size += entry.size
        if count + 1 == max_size or size >= MAX_BATCH_BYTES:
            return count + 1
    return 0
