"""The machine of a singleton. Source: Inngest's semantics §4.7."""

from typing import Any, ClassVar, Self

from inngest_temporal.routing.locks import GRANTED, SKIPPED, LimitSettings, LockRequest, Ticket

from .queue import Decisions


class SingletonMachine:
    """At most one run at a time. Which one depends on when runs were created, not on who asks
    first.

    `skip`: a run is skipped if the holder is still there. That has to be checked first; if the
    holder turns out to be gone, the oldest of the runs that wait for the answer takes its place.
    `cancel`: the newest run cancels the holder and takes over once the holder has ended. A run that
    is older than one that has held the lock, or was to take over, is cancelled.
    """

    gathers: ClassVar[bool] = True

    def __init__(self) -> None:
        self.holder: Ticket | None = None
        self._is_old = False
        """Whether `holder` was already the holder at the last call of `suspect`."""
        self._next: Ticket | None = None
        """The ticket that takes over; `holder` has been cancelled."""
        self._newest = (0, "")
        """Time of creation and id of the newest run that was holder or next."""
        self._doubtful: dict[Ticket, int] = {}
        """Ticket -> when its run was created. They are skipped if the holder turns out to be alive.
        """
        self._decisions = Decisions()

    def take(self, request: LockRequest, now_ms: int) -> None:
        for number in request.release:
            self._release((request.run, number))
        if request.alive and self.holder is not None and request.run == self.holder[0]:
            self._decisions.verdicts += [(*ticket, SKIPPED) for ticket in self._doubtful]
            self._doubtful.clear()
        for number in request.acquire:
            self._acquire((request.run, number), request)

    def _acquire(self, ticket: Ticket, request: LockRequest) -> None:
        settings = request.settings or LimitSettings()
        age = (request.created_ms, request.run)
        if ticket == self.holder:
            self._decisions.verdicts.append((*ticket, GRANTED))
        elif ticket == self._next:
            pass
        elif settings.mode == "cancel" and age < self._newest:
            self._decisions.cancel.append(ticket)
        elif self.holder is None:
            self._grant(ticket)
            self._newest = max(self._newest, age)
        elif settings.mode == "cancel":
            # The holder is cancelled again: it was cancelled when `_next` came, but that decision
            # may not have been carried out yet.
            self._decisions.cancel += [each for each in (self._next, self.holder) if each]
            self._next, self._newest = ticket, age
        else:
            self._doubtful[ticket] = request.created_ms
            self._doubt()

    def _release(self, ticket: Ticket) -> None:
        self._doubtful.pop(ticket, None)
        if ticket == self._next:
            self._next = None
        if ticket != self.holder:
            return
        self.holder = None
        if self._next is not None:
            following, self._next = self._next, None
            self._grant(following)
        elif self._doubtful:
            oldest = min(self._doubtful, key=lambda each: (self._doubtful[each], each))
            age = (self._doubtful.pop(oldest), oldest[0])
            self._grant(oldest)
            self._newest = max(self._newest, age)
        if self._doubtful:
            self._doubt()

    def _grant(self, ticket: Ticket) -> None:
        self.holder, self._is_old = ticket, False
        self._decisions.verdicts.append((*ticket, GRANTED))

    def _doubt(self) -> None:
        if self.holder is not None:
            self._decisions.check = [self.holder]
            self._decisions.reply = True

    def advance(self, now_ms: int) -> None:
        pass

    def suspect(self) -> None:
        if self.holder is not None and self._is_old:
            self._decisions.check = [self.holder]
        self._is_old = True

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

    def people(self, count: int) -> tuple[list[str], list[str]]:
        following = [] if self._next is None else [self._next]
        waiters = [*following, *sorted(self._doubtful, key=lambda each: self._doubtful[each])]
        holders = [] if self.holder is None else [self.holder[0]]
        return holders[:count], [run for run, _ in waiters][:count]

    def dump(self) -> dict[str, Any]:
        return {
            "holder": self.holder,
            "old": self._is_old,
            "next": self._next,
            "newest": self._newest,
            "doubtful": [[*ticket, created_ms] for ticket, created_ms in self._doubtful.items()],
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        singleton = cls()
        if state:
            singleton.holder = _ticket(state["holder"])
            singleton._is_old = state["old"]
            singleton._next = _ticket(state["next"])
            singleton._newest = (state["newest"][0], state["newest"][1])
            singleton._doubtful = {
                (run, number): created_ms for run, number, created_ms in state["doubtful"]
            }
        return singleton


def _ticket(value: list[Any] | None) -> Ticket | None:
    return None if value is None else (value[0], value[1])
