"""Locks, as plain state machines: who may execute, who waits, and in what order.

Three kinds: `Permits` (concurrency), `Throttle` and `Singleton`. The entity workflows around them
(`inngest_temporal_workers.entities.lock`) give them requests in the order of their history and
carry out the `Effects`; nothing here reads a clock or calls anything. Source: Inngest's semantics
§4.3, §4.5, §4.7, §4.10.

**Requests are taken one at a time, and whatever follows from one is decided before the next is
looked at.** So what a lock has decided is a function of the requests before it, in the order of
history. A workflow task that is lost after it told runs that they may execute is repeated with the
same requests and perhaps some more, and decides the same again: a permit that was announced is
never given to another.

A *ticket* is a run and a number of its own: a run may hold several. Everything may be repeated:
asking twice for a ticket has the same answer, and giving back one that is not held is nothing.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, Self, TypeAlias

from .gcra import Arrival, Rate, admit
from .packing import pack, unpack

Ticket: TypeAlias = tuple[str, int]
"""Run id, and the number by which the run knows it."""

GRANTED: Final = "granted"
SKIPPED: Final = "skipped"
Verdict: TypeAlias = Literal["granted", "skipped"]

YOUNG_MS = 8_000
"""A ticket that was granted so recently is not suspected: together with the interval between two
checks (`inngest_temporal_workers.entities.lock.CHECK`) this stays below the 30 s in which a lost
holder must be found."""
REMEMBERED = 1_000
"""Tickets that a throttle remembers to have admitted, so that one that asks again is not counted
again; and that a singleton remembers to have replaced."""
MARKS = 200
"""Points of a queue by which a place in it is told."""


@dataclass(frozen=True)
class Terms:
    """What the current configuration of a function says of a lock; the part that may change while
    runs wait."""

    limit: int = 0
    """Of tickets held at once, 0: any number. Of a throttle: starts in a period."""
    period_ms: int = 0
    burst: int = 0
    mode: str = "skip"
    """Of a singleton."""
    version: int = 0
    """Of the configuration that says so. A worker may not have heard yet of a newer one: a lock
    ignores what is older than what it knows."""


@dataclass(frozen=True)
class Request:
    """What a run asks of a lock; the argument of the lock's signal, several in a list."""

    run: str
    function: str = ""
    """Its full id. The limit of a lock that functions share is counted for each by its own
    configuration."""
    acquire: list[int] = field(default_factory=list)
    release: list[int] = field(default_factory=list)
    """Numbers of tickets, held or waited for. They are given back before others are asked for."""
    score: int = 0
    """Order among those that wait, lowest first: milliseconds since 1970, less those of the run's
    priority."""
    terms: Terms | None = None
    """None: unchanged. A request of nothing else is no run's: another configuration was published.
    """
    alive: bool = False
    """Not from the run: it was looked for, and it executes."""


@dataclass
class Effects:
    """What a lock has decided and runs must be told, or Temporal asked."""

    verdicts: list[tuple[str, int, str]] = field(default_factory=list)
    """Run, number of its ticket, verdict."""
    check: list[Ticket] = field(default_factory=list)
    """Tickets whose runs may be gone."""
    reply: bool = False
    """Whether the lock must also know which of `check` are not gone."""
    cancel: list[Ticket] = field(default_factory=list)
    """Tickets whose runs must be cancelled."""

    def __bool__(self) -> bool:
        return bool(self.verdicts or self.check or self.cancel)

    def parts(self, size: int) -> Iterator["Effects"]:
        """The same, in parts of at most so many of each; none if there is nothing."""
        for start in range(0, max(len(self.verdicts), len(self.check), len(self.cancel)), size):
            part = slice(start, start + size)
            yield Effects(self.verdicts[part], self.check[part], self.reply, self.cancel[part])


class Queue:
    """Tickets that wait: by score, then in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Ticket]] = []
        self._waiting: dict[Ticket, int] = {}
        """Ticket -> its arrival. An entry of the heap with another one is a leftover."""
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
        """Whether it was there."""
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
        """Take the first; there must be one."""
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
        """As compact text, about 20 bytes each: 20,000 waiting runs must travel when a lock
        continues as new."""
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


class Lock(Protocol):
    """What the three have in common. Times are milliseconds since 1970."""

    def take(self, request: Request, now_ms: int) -> None:
        """Take one request; what follows from it is in the next `effects`."""

    def advance(self, now_ms: int) -> None:
        """Let time pass."""

    def suspect(self, now_ms: int) -> None:
        """Ask in the next `effects` for the holders that have been silent."""

    def effects(self) -> Effects:
        """What is to be done, once."""

    def due_ms(self) -> int | None:
        """When time alone changes something."""

    def idle(self, now_ms: int) -> bool:
        """Whether nothing would be lost if it was forgotten."""

    @property
    def waiting(self) -> int:
        """How many tickets wait."""

    def summary(self) -> dict[str, Any]:
        """For people: `{holding, waiting, limit, marks}`. `marks` are `[score, place]`, in order,
        of some that wait."""

    def dump(self) -> dict[str, Any]:
        """The state, as JSON."""

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        """The inverse of `dump`; `{}` is a new one."""


@dataclass
class _Group:
    """The tickets of one function that wait for permits."""

    limit: int = 0
    queue: Queue = field(default_factory=Queue)
    version: int = 0
    """Of `limit`."""


class Permits:
    """A concurrency limit: at most `limit` tickets are held, by function and the configuration it
    has now.

    A limit that was lowered takes no ticket away. Functions that share the lock wait in one order;
    one whose own limit is reached lets those of others pass.
    """

    def __init__(self) -> None:
        self.holders: dict[Ticket, int] = {}
        """Ticket -> when it was granted."""
        self._groups: dict[str, _Group] = {}
        self._limit = 0
        self._effects = Effects()

    def take(self, request: Request, now_ms: int) -> None:
        group = self._groups.get(request.function)
        if group is None and request.acquire:
            group = self._groups[request.function] = _Group()
        if (
            group is not None
            and request.terms is not None
            and request.terms.version >= group.version
        ):
            group.limit = self._limit = request.terms.limit
            group.version = request.terms.version
        for number in request.release:
            ticket = (request.run, number)
            if self.holders.pop(ticket, None) is None:
                any(each.queue.discard(ticket) for each in self._groups.values())
        for number in request.acquire:
            ticket = (request.run, number)
            if ticket in self.holders:
                self._effects.verdicts.append((*ticket, GRANTED))
            elif group is not None and not any(
                ticket in each.queue for each in self._groups.values()
            ):
                group.queue.add(ticket, request.score)
        self._grant(now_ms)

    def _grant(self, now_ms: int) -> None:
        while True:
            held = len(self.holders)
            best: tuple[int, str, Queue] | None = None
            for name, group in self._groups.items():
                if group.limit == 0 or held < group.limit:
                    first = group.queue.first()
                    if first is not None and (best is None or (first[0], name) < best[:2]):
                        best = (first[0], name, group.queue)
            if best is None:
                return
            ticket = best[2].pop()
            self.holders[ticket] = now_ms
            self._effects.verdicts.append((*ticket, GRANTED))

    def advance(self, now_ms: int) -> None:
        pass

    def suspect(self, now_ms: int) -> None:
        self._effects.check += [
            ticket for ticket, since in self.holders.items() if since + YOUNG_MS <= now_ms
        ]

    def effects(self) -> Effects:
        # One that was given back since need not be told.
        done, self._effects = self._effects, Effects()
        done.verdicts = [each for each in done.verdicts if (each[0], each[1]) in self.holders]
        return done

    def due_ms(self) -> int | None:
        return None

    def idle(self, now_ms: int) -> bool:
        return not self.holders and not self.waiting

    @property
    def waiting(self) -> int:
        return sum(len(group.queue) for group in self._groups.values())

    def summary(self) -> dict[str, Any]:
        queues = [group.queue for group in self._groups.values()]
        return {"holding": len(self.holders), "limit": self._limit, **_places(queues)}

    def dump(self) -> dict[str, Any]:
        groups = {
            name: [group.limit, group.queue.pack(), group.version]
            for name, group in self._groups.items()
        }
        return {
            "holders": [[*ticket, since] for ticket, since in self.holders.items()],
            "groups": groups,
            "limit": self._limit,
            "told": self.effects().verdicts,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        permits = cls()
        permits.holders = {(run, number): since for run, number, since in state.get("holders", ())}
        for name, (limit, queue, *version) in state.get("groups", {}).items():
            permits._groups[name] = _Group(limit, Queue.unpack(queue), *version)
        permits._limit = state.get("limit", 0)
        permits._effects.verdicts = [
            (run, number, verdict) for run, number, verdict in state.get("told", ())
        ]
        return permits


class Throttle:
    """A limit of starts in a period, by GCRA: `limit + burst` at once, then one each period/limit.

    A ticket that is granted is used up. If it is given back after all, its run was cancelled, or
    gone, before it could start: then the start counts no longer.
    """

    def __init__(self) -> None:
        self._queue = Queue()
        self._arrival = Arrival()
        self._rate = Rate(1, 0)
        self._version = 0
        """Of the rate."""
        self._due_ms = 0
        """When the first of those that wait may start."""
        self._admitted: OrderedDict[Ticket, None] = OrderedDict()
        self._returned: set[Ticket] = set()
        """They need not be told any more."""
        self._effects = Effects()

    def take(self, request: Request, now_ms: int) -> None:
        # Who was due is admitted first: a task that is repeated may not prefer one that came later.
        self.advance(now_ms)
        terms = request.terms
        if terms is not None and terms.version >= self._version:
            self._version = terms.version
            self._rate = Rate.throttling(terms.limit, terms.period_ms, terms.burst)
        for number in request.release:
            ticket = (request.run, number)
            if not self._queue.discard(ticket) and ticket in self._admitted:
                del self._admitted[ticket]
                self._returned.add(ticket)
                if self._arrival.per_ms == self._rate.limit:
                    self._arrival = Arrival(
                        self._arrival.ticks - self._rate.period_ms, self._rate.limit
                    )
        for number in request.acquire:
            ticket = (request.run, number)
            if ticket in self._admitted:
                self._effects.verdicts.append((*ticket, GRANTED))
            else:
                self._queue.add(ticket, request.score)
        self.advance(now_ms)

    def advance(self, now_ms: int) -> None:
        while self._queue:
            decision = admit(self._arrival, now_ms, self._rate)
            self._arrival = decision.arrival
            if not decision.admitted:
                self._due_ms = decision.retry_at_ms
                return
            ticket = self._queue.pop()
            self._admitted[ticket] = None
            self._returned.discard(ticket)
            self._effects.verdicts.append((*ticket, GRANTED))

    def suspect(self, now_ms: int) -> None:
        pass

    def effects(self) -> Effects:
        done, self._effects = self._effects, Effects()
        done.verdicts = [each for each in done.verdicts if (each[0], each[1]) not in self._returned]
        self._returned.clear()
        while (
            len(self._admitted) > REMEMBERED
        ):  # not before they are told: thousands may be admitted at once
            self._admitted.popitem(last=False)
        return done

    def due_ms(self) -> int | None:
        return self._due_ms if self._queue else None

    def idle(self, now_ms: int) -> bool:
        return not self._queue and self._arrival.ms() <= now_ms

    @property
    def free_ms(self) -> int:
        """From when on it is as if nothing had ever started."""
        return self._arrival.ms()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def summary(self) -> dict[str, Any]:
        return {"holding": 0, "limit": self._rate.limit, **_places([self._queue])}

    def dump(self) -> dict[str, Any]:
        return {
            "queue": self._queue.pack(),
            "arrival": [self._arrival.ticks, self._arrival.per_ms],
            "rate": [self._rate.limit, self._rate.period_ms, self._rate.burst],
            "admitted": pack([f"{number} {run}" for run, number in self._admitted]),
            "version": self._version,
            "due": self._due_ms,
            "told": self.effects().verdicts,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        throttle = cls()
        if state:
            throttle._queue = Queue.unpack(state["queue"])
            throttle._arrival = Arrival(*state["arrival"])
            throttle._rate = Rate(*state["rate"])
            throttle._version = state.get("version", 0)
            throttle._due_ms = state["due"]
            for line in filter(None, unpack(state["admitted"])):
                number, run = line.split(" ", 1)
                throttle._admitted[run, int(number)] = None
            throttle._effects.verdicts = [
                (run, number, verdict) for run, number, verdict in state["told"]
            ]
        return throttle


class Singleton:
    """One run at a time. `skip`: others end at once. `cancel`: the newest takes over from whoever
    is there.

    The holder is looked for before a run is skipped, so that one that was terminated stands in
    nobody's way. A run that takes over waits until the one before it has ended.
    """

    def __init__(self) -> None:
        self.holder: Ticket | None = None
        self._since = 0
        self._next: Ticket | None = None
        """It takes over; `holder` has been cancelled."""
        self._doubtful: dict[Ticket, None] = {}
        """They are skipped if the holder turns out to be alive."""
        self._replaced: OrderedDict[Ticket, None] = OrderedDict()
        """They waited to take over, and are being cancelled for a newer one."""
        self._effects = Effects()

    def take(self, request: Request, now_ms: int) -> None:
        for number in request.release:
            self._release((request.run, number), now_ms)
        if request.alive and self.holder is not None and request.run == self.holder[0]:
            self._effects.verdicts += [(*ticket, SKIPPED) for ticket in self._doubtful]
            self._doubtful.clear()
        for number in request.acquire:
            self._acquire((request.run, number), request.terms or Terms(), now_ms)

    def _acquire(self, ticket: Ticket, terms: Terms, now_ms: int) -> None:
        if ticket == self.holder:
            self._effects.verdicts.append((*ticket, GRANTED))
        elif self.holder is None:
            self._grant(ticket, now_ms)
        elif ticket == self._next or ticket in self._replaced:
            pass
        elif terms.mode == "cancel":
            self._effects.cancel.append(self._next or self.holder)
            if self._next is not None:
                # It was cancelled for the one that is replaced now, but that may not have been told
                # yet.
                self._effects.cancel.append(self.holder)
                self._replaced[self._next] = None
                if len(self._replaced) > REMEMBERED:
                    self._replaced.popitem(last=False)
            self._next = ticket
        else:
            self._doubtful[ticket] = None
            self._doubt()

    def _release(self, ticket: Ticket, now_ms: int) -> None:
        self._doubtful.pop(ticket, None)
        self._replaced.pop(ticket, None)
        if ticket == self._next:
            self._next = None
        if ticket != self.holder:
            return
        self.holder = None
        if self._next is not None:
            following, self._next = self._next, None
            self._grant(following, now_ms)
        elif self._doubtful:
            first = next(iter(self._doubtful))
            del self._doubtful[first]
            self._grant(first, now_ms)
        if self._doubtful:
            self._doubt()

    def _grant(self, ticket: Ticket, now_ms: int) -> None:
        self.holder, self._since = ticket, now_ms
        self._effects.verdicts.append((*ticket, GRANTED))

    def _doubt(self) -> None:
        if self.holder is not None:
            self._effects.check = [self.holder]
            self._effects.reply = True

    def advance(self, now_ms: int) -> None:
        pass

    def suspect(self, now_ms: int) -> None:
        if self.holder is not None and self._since + YOUNG_MS <= now_ms:
            self._effects.check = [self.holder]

    def effects(self) -> Effects:
        done, self._effects = self._effects, Effects()
        done.verdicts = [
            (run, number, verdict)
            for run, number, verdict in done.verdicts
            if verdict == SKIPPED or (run, number) == self.holder
        ]
        return done

    def due_ms(self) -> int | None:
        return None

    def idle(self, now_ms: int) -> bool:
        return self.holder is None

    @property
    def waiting(self) -> int:
        return len(self._doubtful) + (self._next is not None)

    def summary(self) -> dict[str, Any]:
        return {
            "holding": int(self.holder is not None),
            "limit": 1,
            "waiting": self.waiting,
            "marks": [],
        }

    def dump(self) -> dict[str, Any]:
        if self._doubtful:
            self._doubt()
        effects = self.effects()
        return {
            "holder": self.holder,
            "since": self._since,
            "next": self._next,
            "doubtful": [*self._doubtful],
            "replaced": [*self._replaced],
            "told": effects.verdicts,
            "cancel": effects.cancel,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        singleton = cls()
        if state:
            singleton.holder = _ticket(state["holder"])
            singleton._since = state["since"]
            singleton._next = _ticket(state["next"])
            singleton._doubtful = dict.fromkeys((run, number) for run, number in state["doubtful"])
            singleton._replaced = OrderedDict(
                ((run, number), None) for run, number in state.get("replaced", ())
            )
            singleton._effects.verdicts = [
                (run, number, verdict) for run, number, verdict in state["told"]
            ]
            singleton._effects.cancel = [(run, number) for run, number in state["cancel"]]
            if singleton._doubtful:
                singleton._doubt()
        return singleton


def place(summary: dict[str, Any], score: int) -> int:
    """About the place in the queue of a ticket with this score, counted from 1, by a
    `Lock.summary`."""
    before = [at for mark, at in summary["marks"] if mark < score]
    return (before[-1] if before else 0) + 1


def _places(queues: list[Queue]) -> dict[str, Any]:
    scores = sorted(score for queue in queues for _, score in queue)
    step = max(1, len(scores) // MARKS)
    marks = [
        [score, index + 1]
        for index, score in enumerate(scores)
        if index % step == 0 or index == len(scores) - 1
    ]
    return {"waiting": len(scores), "marks": marks}


def _ticket(value: list[Any] | None) -> Ticket | None:
    return None if value is None else (value[0], value[1])
