"""The machine of a singleton. Source: Inngest's semantics §4.7."""

from collections import OrderedDict
from typing import Any, Self

from inngest_temporal.routing.locks import GRANTED, SKIPPED, LimitSettings, LockRequest, Ticket

from .queue import REMEMBERED, YOUNG_MS, Decisions


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
        self._decisions = Decisions()

    def take(self, request: LockRequest, now_ms: int) -> None:
        for number in request.release:
            self._release((request.run, number), now_ms)
        if request.alive and self.holder is not None and request.run == self.holder[0]:
            self._decisions.verdicts += [(*ticket, SKIPPED) for ticket in self._doubtful]
            self._doubtful.clear()
        for number in request.acquire:
            self._acquire((request.run, number), request.settings or LimitSettings(), now_ms)

    def _acquire(self, ticket: Ticket, settings: LimitSettings, now_ms: int) -> None:
        if ticket == self.holder:
            self._decisions.verdicts.append((*ticket, GRANTED))
        elif self.holder is None:
            self._grant(ticket, now_ms)
        elif ticket == self._next or ticket in self._replaced:
            pass
        elif settings.mode == "cancel":
            self._decisions.cancel.append(self._next or self.holder)
            if self._next is not None:
                # It was cancelled for the one that is replaced now, but that may not have been told
                # yet.
                self._decisions.cancel.append(self.holder)
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
        self._decisions.verdicts.append((*ticket, GRANTED))

    def _doubt(self) -> None:
        if self.holder is not None:
            self._decisions.check = [self.holder]
            self._decisions.reply = True

    def advance(self, now_ms: int) -> None:
        pass

    def suspect(self, now_ms: int) -> None:
        if self.holder is not None and self._since + YOUNG_MS <= now_ms:
            self._decisions.check = [self.holder]

    def decisions(self) -> Decisions:
        done, self._decisions = self._decisions, Decisions()
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
    def holding(self) -> int:
        return int(self.holder is not None)

    @property
    def waiting(self) -> int:
        return len(self._doubtful) + (self._next is not None)

    def dump(self) -> dict[str, Any]:
        if self._doubtful:
            self._doubt()
        decisions = self.decisions()
        return {
            "holder": self.holder,
            "since": self._since,
            "next": self._next,
            "doubtful": [*self._doubtful],
            "replaced": [*self._replaced],
            "told": decisions.verdicts,
            "cancel": decisions.cancel,
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
                ((run, number), None) for run, number in state["replaced"]
            )
            singleton._decisions.verdicts = [
                (run, number, verdict) for run, number, verdict in state["told"]
            ]
            singleton._decisions.cancel = [(run, number) for run, number in state["cancel"]]
            if singleton._doubtful:
                singleton._doubt()
        return singleton


def _ticket(value: list[Any] | None) -> Ticket | None:
    return None if value is None else (value[0], value[1])
