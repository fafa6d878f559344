"""What the machines of locks have in common: their queue, and the form of their decisions.

Three machines decide who may execute, who waits, and in what order: `.permits` (concurrency),
`.throttle` and `.singleton`. The entity workflows around them (`.lock`) give them requests in the
order of history and carry out the `Decisions`; nothing here reads a clock or calls anything.

**Requests are taken one at a time, and all that follows from one is decided before the next one is
taken.** So a decision depends only on the requests before it, in the order of history. A workflow
task that is lost after it told runs that they may execute is repeated with the same requests, and
perhaps further ones, and decides the same again: a permit that was announced is never given to
another run.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from inngest_temporal.routing.locks import LockRequest, Ticket

from .packing import pack, unpack


@dataclass
class Decisions:
    """What a lock has decided: what to tell runs, and which runs to check or cancel."""

    verdicts: list[tuple[str, int, str]] = field(default_factory=list)
    """Run, number of its ticket, verdict."""
    check: list[Ticket] = field(default_factory=list)
    """Tickets whose runs may be gone."""
    reply: bool = False
    """Whether the lock must also be told which runs of `check` are not gone."""
    cancel: list[Ticket] = field(default_factory=list)
    """Tickets whose runs must be cancelled."""

    def __bool__(self) -> bool:
        return bool(self.verdicts or self.check or self.cancel)

    @property
    def size(self) -> int:
        """How many calls it takes at most to carry them out."""
        return len(self.verdicts) + len(self.check) + len(self.cancel)

    def parts(self, size: int) -> Iterator["Decisions"]:
        """The same, in parts with at most `size` of each kind; no parts if there is nothing to
        do."""
        for start in range(0, max(len(self.verdicts), len(self.check), len(self.cancel)), size):
            part = slice(start, start + size)
            yield Decisions(self.verdicts[part], self.check[part], self.reply, self.cancel[part])


class Queue:
    """Tickets that wait: by score, then in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Ticket]] = []
        self._waiting: dict[Ticket, int] = {}
        """Ticket -> its number of arrival. An entry of the heap with another number is stale."""
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._waiting

    def add(self, ticket: Ticket, score: int) -> None:
        if ticket not in self._waiting:
            self._arrivals += 1
            self._waiting[ticket] = self._arrivals
            heapq.heappush(self._heap, (score, self._arrivals, ticket))

    def discard(self, ticket: Ticket) -> bool:
        """Remove a ticket; whether it was there."""
        return self._waiting.pop(ticket, None) is not None

    def first(self) -> tuple[int, int] | None:
        """Score and arrival of the first."""
        while self._heap:
            score, arrival, ticket = self._heap[0]
            if self._waiting.get(ticket) == arrival:
                return score, arrival
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Ticket:
        """Remove the first ticket; there must be one."""
        self.first()
        _, _, ticket = heapq.heappop(self._heap)
        del self._waiting[ticket]
        return ticket

    def __iter__(self) -> Iterator[tuple[Ticket, int]]:
        """Ticket and score, in order."""
        for score, arrival, ticket in sorted(self._heap):
            if self._waiting.get(ticket) == arrival:
                yield ticket, score

    def pack(self) -> str:
        """The queue as compact text, about 20 bytes for each ticket: a lock that continues as new
        may have to carry over 20,000 waiting runs."""
        waiting = list(self)
        base = waiting[0][1] if waiting else 0
        return pack(
            [str(base), *(f"{score - base} {number} {run}" for (run, number), score in waiting)]
        )

    @classmethod
    def unpack(cls, text: str) -> Self:
        queue = cls()
        base, *lines = unpack(text)
        for line in lines:
            score, number, run = line.split(" ", 2)
            queue.add((run, int(number)), int(base) + int(score))
        return queue


class Machine(Protocol):
    """Interface of the three machines. Times are milliseconds since 1970, by the lock's own
    clock."""

    gathers: ClassVar[bool]
    """Whether the lock gathers requests from a backlog, to take them in the order of creation."""

    def take(self, request: LockRequest, now_ms: int) -> None:
        """Take one request; the next `decisions` have what follows from it."""

    def advance(self, now_ms: int) -> None:
        """Decide what follows from the time alone."""

    def suspect(self) -> None:
        """Have the next `decisions` check the holders that were there already at the last call."""

    def decisions(self) -> Decisions:
        """What was decided since the last call."""

    def due_ms(self) -> int | None:
        """When time alone changes something."""

    def idle(self, now_ms: int) -> bool:
        """Whether its state can be forgotten without a loss."""

    @property
    def holding(self) -> int:
        """How many tickets are held."""

    @property
    def waiting(self) -> int:
        """How many tickets wait."""

    def people(self, count: int) -> tuple[list[str], list[str]]:
        """For people: the runs that hold tickets, and those that wait, in their order; at most
        `count` of each."""

    def dump(self) -> dict[str, Any]:
        """The state as JSON, which does not include `decisions`."""

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        """The inverse of `dump`; `{}` gives a new machine."""
