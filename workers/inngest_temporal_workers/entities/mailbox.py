"""A mailbox: the runs that wait for events of one name with one value at one path (empty path: all
such events).

It takes signals in the order of its history, so an event that arrives after a registration finds
the wait. An activity signals the runs that match, so an event adds one marker to the history,
however many runs it resumes. A delivery is repeated rather than lost; runs ignore the second one.

A run that ends takes its waits back. It can't if it was terminated; and a worker that stood still
may register a wait after another worker has ended the run. So a mailbox looks now and then which
runs are gone.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pydantic
from temporalio import workflow

from inngest_temporal.expressions import compile_expression
from inngest_temporal.routing.waits import (
    CANCEL,
    Delivery,
    Deregistration,
    Resumed,
    Wait,
    cancels,
)
from inngest_temporal.temporal import names

from .entity import Entity, entity
from .fan_out import CHUNK
from .looks import Key, Looks
from .packing import pack, unpack
from .seen import Seen

SEEN = 1_000
"""How many events are remembered, so that a sender's retry delivers none twice."""
NAMED_EVENTS, NAMED_RUNS = 100, 20
"""For how many of the latest events it remembers the runs that they resumed, and how many of those.
"""
MAX_TASK_WORK = 300_000
"""Work of expressions after which it ends the workflow task, because Temporal lets a task compute
for two seconds only."""
EXPIRY_GRACE_MS = 60_000
"""How long an expired wait is kept: its run takes it back, unless the run is gone."""

_WAITS = pydantic.TypeAdapter(list[Wait])


@entity(names.MAILBOX_TYPE)
class MailboxWorkflow(Entity):
    believes_stamps = False  # a sender whose clock is wrong must not make all waits expire
    messages: ClassVar = {
        "register": pydantic.TypeAdapter(Wait),
        "deregister": pydantic.TypeAdapter(Deregistration),
        "deliver": pydantic.TypeAdapter(Delivery),
    }

    def load(self, state: dict[str, Any]) -> None:
        waits = unpack_waits(state["waits"]) if state else []
        self._waits = {(wait.run, wait.id): wait for wait in waits}
        self._seen = Seen(SEEN, state.get("seen", ()))
        self._first_expiry_ms = min((wait.expires_ms for wait in waits), default=0)
        self._looks = Looks()
        for key in self._waits:
            self._looks.carry_over(key, self.now_ms)
        self._work = 0
        self._resumed: dict[str, list[Resumed]] = {}

    def dump(self) -> dict[str, Any]:
        return {"waits": pack_waits(self._waits.values()), "seen": list(self._seen)}

    def due_ms(self) -> int | None:
        look_ms = self._looks.due_ms()
        if not self._waits or look_ms is None:
            return None
        return min(look_ms, self._first_expiry_ms + EXPIRY_GRACE_MS)

    async def act(self) -> None:
        """Forget waits that have expired, and those whose runs are gone."""
        if self._waits and self.now_ms >= self._first_expiry_ms + EXPIRY_GRACE_MS:
            for key in [key for key, wait in self._waits.items() if wait.expires_ms <= self.now_ms]:
                self._forget(key)
            self._first_expiry_ms = min(
                (wait.expires_ms for wait in self._waits.values()), default=0
            )
        looked_at = self._looks.take(self.now_ms)
        for start in range(0, len(looked_at), CHUNK):
            part = looked_at[start : start + CHUNK]
            runs = list(dict.fromkeys(run for run, _ in part))
            gone = set(await self.call("inngest.gone", [runs], list[str]))
            for key in part:
                if key[0] in gone:
                    self._forget(key)

    def _forget(self, key: Key) -> None:
        self._waits.pop(key, None)
        self._looks.discard(key)

    async def take(self, name: str, message: Any) -> None:
        if isinstance(message, Delivery):
            await self._deliver(message)
        elif isinstance(message, Wait):
            # The first expiry may turn out to be too early, because a wait that is taken back does
            # not change it. That costs one more search and is harmless.
            if not self._waits or message.expires_ms < self._first_expiry_ms:
                self._first_expiry_ms = message.expires_ms
            key = (message.run, message.id)
            self._waits[key] = message
            # The run of a `cancel` entry may not have been started yet.
            looks = 1 if message.id.startswith(CANCEL) else 0
            # This entity's clock moves by timers only, which may be a day apart.
            self._looks.add(key, max(self.now_ms, self.sent_ms), looks)
        else:
            self._forget((message.run, message.wait))

    async def _deliver(self, delivery: Delivery) -> None:
        if not self._seen.add(delivery.id):
            return
        matching: dict[str, list[str]] = {}
        now_ms = self.sent_ms
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        for wait in self._waits.values():
            if wait.expires_ms <= now_ms:
                continue
            matched, work = _matches(wait, delivery, now)
            if matched:
                matching.setdefault(wait.run, []).append(wait.id)
            self._work += work
            if self._work > MAX_TASK_WORK:
                self._work = 0
                await self.end_task()
        runs, told = list(matching), replace(delivery, at_ms=self.task_ms)
        for start in range(0, len(runs), CHUNK):
            part = {run: matching[run] for run in runs[start : start + CHUNK]}
            gone = set(await self.call("inngest.resume", [part, vars(told)], list[str]))
            for run, ids in part.items():
                # A `cancel` entry is registered before its run is started. So it stays even if
                # the run is not there.
                for wait_id in ids if run not in gone else _steps(ids):
                    self._forget((run, wait_id))
                if run not in gone:
                    self._name(delivery.id, Resumed(run, cancels(ids)))

    def _name(self, event_id: str, resumed: Resumed) -> None:
        named = self._resumed.setdefault(event_id, [])
        if len(named) < NAMED_RUNS:
            named.append(resumed)
        if len(self._resumed) > NAMED_EVENTS:
            del self._resumed[next(iter(self._resumed))]

    @workflow.query(name="resumed")
    def _query_resumed(self, event_id: str) -> list[Resumed]:
        """For people: the runs that an event resumed or cancelled."""
        return self._resumed.get(event_id, [])


def pack_waits(waits: Iterable[Wait]) -> str:
    """Waits in few bytes, about 40 each if their conditions are alike: tens of thousands of them
    must fit one payload."""
    return pack(json.dumps(vars(wait), separators=(",", ":")) for wait in waits)


def unpack_waits(packed: str) -> list[Wait]:
    """The inverse of `pack_waits`."""
    return _WAITS.validate_json(f"[{','.join(unpack(packed))}]")


def _steps(ids: Sequence[str]) -> list[str]:
    return [wait_id for wait_id in ids if not wait_id.startswith(CANCEL)]


def _matches(wait: Wait, delivery: Delivery, now: datetime) -> tuple[bool, int]:
    """Whether an event matches a wait, and the work that it took to find out."""
    if delivery.id in wait.own:
        return False, 1
    if wait.rest is None:
        return True, 1
    return compile_expression(wait.rest).measured_match(wait.event, delivery.event, now)
