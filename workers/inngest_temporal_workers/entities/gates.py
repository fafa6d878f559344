"""The entity workflows of gates: one for each function and key (`inngest_temporal.routing.gates` is
the other side).

The rules are the functions at the end, which know no Temporal. A run is started from a local
activity; if the worker is lost before history has its marker, it is started again under the same
id, and the entity learns which events the first start took, so each event is in one run.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pydantic
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from inngest_temporal.routing import events
from inngest_temporal.routing.gates import (
    AdmitRequest,
    BatchOffer,
    BatchState,
    DebounceOffer,
    DebounceState,
    Entry,
    RateLimitState,
    StartRequest,
    Target,
    debounced_run_id,
)
from inngest_temporal.routing.gcra import Rate, admit
from inngest_temporal.temporal import names

from .entity import end_task, is_long

LINGER_MS = 10_000
"""How long an idle one stays: Temporal Cloud starts the same id only about once a second."""
SEEN = 6_000
"""Events remembered, so that a sender's retry counts none twice: more than a request holds."""
MAX_UPDATES = 1_000
"""Before a rate limit continues as new: Temporal allows 2,000 updates in one execution."""
MAX_BATCH_BYTES = 1_500_000
"""Of a batch: Inngest allows 10 MiB, but a run's events are one Temporal payload, which is limited
to 2 MiB."""
MAX_CARRIED = 1_600_000
"""Bytes of events that a batch's workflow carries over when it continues as new, besides what it
has seen."""
STARTS = 20
"""Runs that it starts at once."""
MAX_TASK_ENTRIES = 10_000
"""Events that a batch reads in one workflow task, which may compute for 2 s, and would fail for
ever if it took longer: 150,000 may have come while no worker was there."""

# temporalio's own conversion takes 65 us for an event, this one 4.
_DEBOUNCE_OFFER = pydantic.TypeAdapter(DebounceOffer)
_BATCH_OFFER = pydantic.TypeAdapter(BatchOffer)


@workflow.defn(name=names.RATE_LIMIT_TYPE, sandboxed=False)
class RateLimit:
    """Admits or refuses events. Ends once all that was used up is free again."""

    @workflow.init
    def __init__(self, state: RateLimitState) -> None:
        self._arrival = state.arrival
        self._seen = OrderedDict(state.seen)
        self._updates = 0
        self._asked_ms = _now_ms()

    @workflow.run
    async def run(self, state: RateLimitState) -> None:
        while not self._is_full():
            rest = max(self._arrival.ms(), self._asked_ms + LINGER_MS) - _now_ms()
            if rest <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(self._is_full, timeout=rest / 1000)
        workflow.continue_as_new(RateLimitState(self._arrival, dict(self._seen)))

    def _is_full(self) -> bool:
        return self._updates >= MAX_UPDATES or is_long()

    @workflow.update
    def admit(self, request: AdmitRequest) -> list[bool]:
        """Whether each event is admitted; an event that was asked for before has the same
        answer."""
        self._updates += 1
        self._asked_ms = now = _now_ms()
        rate = Rate.limiting(request.limit, request.period_ms)
        for key in request.keys:
            if key not in self._seen:
                decision = admit(self._arrival, now, rate)
                self._arrival = decision.arrival
                self._seen[key] = decision.admitted
        answers = [self._seen[key] for key in request.keys]
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        return answers


@workflow.defn(name=names.DEBOUNCE_TYPE, sandboxed=False)
class Debounce:
    """Keeps the newest event and starts a run with it when none came for a period."""

    @workflow.init
    def __init__(self, state: DebounceState) -> None:
        self._state = state
        self._seen = _Seen(state.seen)
        self._inbox: deque[DebounceOffer] = deque()

    @workflow.run
    async def run(self, state: DebounceState) -> None:
        alarm = _Alarm()
        idle_ms = _now_ms()
        while True:
            alarm.set(idle_ms + LINGER_MS if self._state.last is None else self._state.deadline_ms)
            await workflow.wait_condition(lambda: bool(self._inbox) or alarm.rang)
            while self._inbox:
                self._take(self._inbox.popleft())
                idle_ms = _now_ms()
            now = _now_ms()
            last, target = self._state.last, self._state.target
            if last is None or target is None:
                if now >= idle_ms + LINGER_MS:
                    return
            elif now >= self._state.deadline_ms:
                self._state = replace(self._state, last=None)
                await _start(target, debounced_run_id(target.config["id"], last), [last])
                idle_ms = _now_ms()
            if is_long() and not self._inbox:
                workflow.continue_as_new(replace(self._state, seen=list(self._seen)))

    def _take(self, offer: DebounceOffer) -> None:
        new = [entry for entry in (*offer.others, offer.newest) if self._seen.add(entry.key)]
        for key in offer.older:
            self._seen.add(key)
        if new:
            self._state = debounced(self._state, offer, new, _now_ms())

    @workflow.signal
    def offer(self, offer: dict[str, Any]) -> None:
        """A `DebounceOffer`."""
        self._inbox.append(_DEBOUNCE_OFFER.validate_python(offer))


@workflow.defn(name=names.BATCH_TYPE, sandboxed=False)
class Batch:
    """Collects events and starts a run with them when the batch is full or old enough.

    What makes a batch depends on the events and their order alone, and the id of its run on its
    first event. So if a batch is started again, after a crash or in the next execution, that is
    noticed.
    """

    @workflow.init
    def __init__(self, state: BatchState) -> None:
        entries = deque(state.entries)
        self._ready = deque([entries.popleft() for _ in range(count)] for count in state.ready)
        self._state = replace(state, entries=list(entries), ready=[])
        self._seen = _Seen(state.seen)
        self._inbox: deque[RawValue] = deque()
        self._read = 0

    @workflow.run
    async def run(self, state: BatchState) -> None:
        alarm = _Alarm()
        idle_ms = _now_ms()
        while True:
            alarm.set(self._deadline_ms() if self._state.entries else idle_ms + LINGER_MS)
            await workflow.wait_condition(lambda: bool(self._inbox or self._ready) or alarm.rang)
            if self._inbox:
                idle_ms = _now_ms()
            await self._take()
            if self._state.entries and _now_ms() >= self._deadline_ms():
                self._cut(flush=True)
            if self._ready:
                await self._start()
                idle_ms = _now_ms()
                await self._take()
                if self._ready and workflow.patched("pause"):
                    await end_task()
            elif not self._state.entries and _now_ms() >= idle_ms + LINGER_MS:
                return
            if is_long():
                await self._continue_as_new()

    def _deadline_ms(self) -> int:
        return self._state.opened_ms + self._state.timeout_ms

    async def _take(self) -> None:
        """Put what has come into batches: each offer by its own configuration."""
        while self._inbox:
            payload = self._inbox.popleft().payload
            offer = _BATCH_OFFER.validate_python(workflow.payload_converter().from_payload(payload))
            new = [entry for entry in offer.entries if self._seen.add(entry.key)]
            self._state = replace(
                self._state,
                entries=[*self._state.entries, *new],
                target=offer.target,
                max_size=offer.max_size,
                timeout_ms=offer.timeout_ms,
                opened_ms=self._state.opened_ms if self._state.entries else _now_ms(),
            )
            self._cut()
            self._read += len(offer.entries)
            if self._read >= MAX_TASK_ENTRIES and workflow.patched("read in parts"):
                self._read = 0
                await end_task()

    def _cut(self, *, flush: bool = False) -> None:
        """Make batches of the entries that fill one; with `flush`, of the others too."""
        entries = self._state.entries
        while entries and (
            count := full_batch(entries, self._state.max_size) or (len(entries) if flush else 0)
        ):
            self._ready.append(entries[:count])
            entries = entries[count:]
        if len(entries) < len(self._state.entries):
            self._state = replace(self._state, entries=entries, opened_ms=_now_ms())

    async def _start(self) -> None:
        """Start runs with the first batches; events that none of them took are in the next
        batch."""
        target = self._state.target
        assert target is not None
        batches = [self._ready.popleft() for _ in range(min(STARTS, len(self._ready)))]
        ids = [
            events.batch_run_id(target.config["id"], batch[0].id, batch[0].id) for batch in batches
        ]
        taken = await asyncio.gather(
            *(_start(target, id, batch) for id, batch in zip(ids, batches, strict=True))
        )
        left = []
        for batch, known in zip(batches, map(set, taken), strict=True):
            # None: there was no such run before.
            left += [entry for entry in batch if entry.id not in known] if known else []
        if left:
            opened_ms = self._state.opened_ms if self._state.entries else _now_ms()
            self._state = replace(
                self._state, entries=[*left, *self._state.entries], opened_ms=opened_ms
            )

    async def _continue_as_new(self) -> None:
        """Unless more events wait than it can carry over."""
        await self._take()
        entries = [entry for batch in (*self._ready, self._state.entries) for entry in batch]
        if sum(entry.size for entry in entries) <= MAX_CARRIED:
            ready = [len(batch) for batch in self._ready]
            workflow.continue_as_new(
                replace(self._state, entries=entries, seen=list(self._seen), ready=ready)
            )

    @workflow.signal
    def offer(self, offer: RawValue) -> None:
        """A `BatchOffer`, which is read in its turn."""
        self._inbox.append(offer)


class _Seen:
    """The last keys that were added, in order."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = OrderedDict.fromkeys(keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def add(self, key: str) -> bool:
        """Whether it is new."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > SEEN:
            self._keys.popitem(last=False)
        return True


class _Alarm:
    """One timer at a time, not one for each message: it may ring before the time that was asked for
    last."""

    def __init__(self) -> None:
        self._at_ms = 0
        self._timer: asyncio.Task[None] | None = None

    @property
    def rang(self) -> bool:
        return self._timer is not None and self._timer.done()

    def set(self, at_ms: int) -> None:
        """Ring at this time at the latest."""
        if self._timer is not None and not self._timer.done():
            if at_ms >= self._at_ms:
                return
            self._timer.cancel()
        self._at_ms = at_ms
        self._timer = asyncio.create_task(asyncio.sleep(max(0, at_ms - _now_ms()) / 1000))


async def _start(target: Target, run_id: str, entries: Sequence[Entry]) -> list[str]:
    """Start a run; the internal ids of the events that it has, if it was started before."""
    taken: list[str] = await workflow.execute_local_activity(
        "inngest.start",
        StartRequest(target, run_id, list(entries)),
        start_to_close_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(
            initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)
        ),
        result_type=list[str],
    )
    return taken


def _now_ms() -> int:
    return workflow.time_ns() // 1_000_000


# The rules.


def debounced(
    state: DebounceState, offer: DebounceOffer, new: Sequence[Entry], now_ms: int
) -> DebounceState:
    """A debounce after an offer's new events: the newest by `ts`, the later one of two, is kept and
    moves the deadline (§4.6).

    `timeout_ms` counts from the first event.
    """
    last, newest = state.last, max(reversed(new), key=lambda entry: int(entry.event["ts"]))
    if last is not None and newest.event["ts"] < last.event["ts"]:
        return state
    first_ms = now_ms if last is None else state.first_ms
    deadline_ms = now_ms + offer.period_ms
    if offer.timeout_ms is not None:
        deadline_ms = min(deadline_ms, first_ms + offer.timeout_ms)
    return replace(
        state, last=newest, target=offer.target, first_ms=first_ms, deadline_ms=deadline_ms
    )


def full_batch(entries: Sequence[Entry], max_size: int) -> int:
    """How many of the entries, from the first, make a batch that can take no more; 0 if there is
    room (§4.8)."""
    size = 0
    for count, entry in enumerate(entries):
        if count and size + entry.size > MAX_BATCH_BYTES:
            return count
        size += entry.size
        if count + 1 == max_size or size >= MAX_BATCH_BYTES:
            return count + 1
    return 0
