"""The latest events that one process accepted, with what became of each.

Temporal keeps no log of events, so this log is in memory: each ingress replica has its own, which
is gone when the replica stops. What must last is found through the runs that an event started.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import events
from .events import Stamped
from .reports import Outcome

MAX_EVENTS = 1_000
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of all events' JSON; the oldest events are forgotten first."""


@dataclass(frozen=True)
class RecentEvent:
    """An event that was accepted, or that Temporal could not take."""

    internal_id: str
    name: str
    json: bytes
    """The event as it was stamped, or the body of a request that had no other event."""
    ts: int
    """The event's time, which a body may lack."""
    received_ms: int
    """Milliseconds since 1970."""
    outcomes: tuple[Outcome, ...]

    @property
    def event(self) -> dict[str, Any]:
        """The event as it was stamped: `{id, name, data, ts, user, v?}`."""
        posted = events.parse(self.json)
        posted = posted[0] if isinstance(posted, list) else posted
        if events.is_internal(self.name):
            event: dict[str, Any] = posted
        else:
            event = events.stamp(posted, self.internal_id).event
        return {**event, "ts": self.ts}


class RecentEvents:
    """The latest events of this process."""

    def __init__(self, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self.since_ms = _now_ms()
        """When this process began to remember, in milliseconds since 1970."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: OrderedDict[str, RecentEvent] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, stamped: Stamped, outcomes: Sequence[Outcome], body: bytes | None = None) -> None:
        """Remember an event. Senders repeat requests: an event that came before keeps its place,
        and gets the new outcomes. `body` is that of a request that had no other event."""
        # Bytes, because decoded JSON takes many times as much memory, and each garbage collection
        # would walk it. The body is kept as it is because encoding a large event once more would
        # cost as much as everything else.
        text = body or json.dumps(stamped.event, separators=(",", ":")).encode()
        id, event = stamped.internal_id, stamped.event
        known = self._events.get(id)
        received = _now_ms() if known is None else known.received_ms
        self._events[id] = RecentEvent(
            id, event["name"], text, event["ts"], received, tuple(outcomes)
        )
        self._bytes += len(text) - (0 if known is None else len(known.json))
        while len(self._events) > self._max_events or self._bytes > self._max_bytes:
            _, gone = self._events.popitem(last=False)
            self._bytes -= len(gone.json)

    def get(self, internal_id: str) -> RecentEvent | None:
        """The event of an internal id, if it is still remembered."""
        return self._events.get(internal_id)

    def latest(self, after: str | None = None) -> Iterator[RecentEvent]:
        """All events, the latest first; `after` (an internal id) gives only those that came before
        that event, or none if it is forgotten."""
        latest = reversed(self._events.values())
        if after is not None:
            for event in latest:
                if event.internal_id == after:
                    break
        return latest


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
