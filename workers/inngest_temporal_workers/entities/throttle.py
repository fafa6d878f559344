"""The machine of a throttle. Source: Inngest's semantics §4.5."""

import itertools
from collections import OrderedDict
from typing import Any, ClassVar, Self

from inngest_temporal.routing.locks import GRANTED, LockRequest, Ticket

from .gcra import Arrival, Rate, admit
from .packing import pack, unpack
from .queue import Decisions, Queue

REMEMBERED = 1_000
"""Maximum number of admitted tickets that a throttle remembers, so that one that asks again is not
counted again."""


class ThrottleMachine:
    """A limit of starts in a period, by GCRA: `limit + burst` at once, then one each period/limit.

    A ticket that is granted is used up. A run that was cancelled or gone before it could start
    gives its ticket back; then the start is not counted any more.
    """

    gathers: ClassVar[bool] = False

    def __init__(self) -> None:
        self._queue = Queue()
        self._arrival = Arrival()
        self._rate = Rate(1, 0)
        self._version = 0
        """Version of the rate."""
        self._due_ms = 0
        """When the first of the waiting tickets may start."""
        self._admitted: OrderedDict[Ticket, None] = OrderedDict()
        self._returned: set[Ticket] = set()
        """Tickets that were given back before their runs were told."""
        self._decisions = Decisions()

    def take(self, request: LockRequest, now_ms: int) -> None:
        # Tickets that are due are admitted first: a repeated task must not prefer a later request.
        self.advance(now_ms)
        settings = request.settings
        if settings is not None and settings.version >= self._version:
            self._version = settings.version
            self._rate = Rate.throttling(settings.limit, settings.period_ms, settings.burst)
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
                self._decisions.verdicts.append((*ticket, GRANTED))
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
            self._decisions.verdicts.append((*ticket, GRANTED))

    def suspect(self) -> None:
        pass

    def decisions(self) -> Decisions:
        done, self._decisions = self._decisions, Decisions()
        done.verdicts = [each for each in done.verdicts if (each[0], each[1]) not in self._returned]
        self._returned.clear()
        # Not before they are told, because thousands may be admitted at once.
        while len(self._admitted) > REMEMBERED:
            self._admitted.popitem(last=False)
        return done

    def due_ms(self) -> int | None:
        # When the rate is unused again, the throttle has nothing to remember.
        return self._due_ms if self._queue else self._arrival.ms()

    def idle(self, now_ms: int) -> bool:
        return not self._queue and self._arrival.ms() <= now_ms

    @property
    def holding(self) -> int:
        return 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def people(self, count: int) -> tuple[list[str], list[str]]:
        return [], [run for (run, _), _ in itertools.islice(self._queue, count)]

    def dump(self) -> dict[str, Any]:
        return {
            "queue": self._queue.pack(),
            "arrival": [self._arrival.ticks, self._arrival.per_ms],
            "rate": [self._rate.limit, self._rate.period_ms, self._rate.burst],
            "admitted": pack([f"{number} {run}" for run, number in self._admitted]),
            "version": self._version,
            "due": self._due_ms,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        throttle = cls()
        if state:
            throttle._queue = Queue.unpack(state["queue"])
            throttle._arrival = Arrival(*state["arrival"])
            throttle._rate = Rate(*state["rate"])
            throttle._version = state["version"]
            throttle._due_ms = state["due"]
            for line in unpack(state["admitted"]):
                number, run = line.split(" ", 1)
                throttle._admitted[run, int(number)] = None
        return throttle
