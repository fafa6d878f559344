"""The machine of a concurrency limit. Source: Inngest's semantics §4.3."""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from inngest_temporal.routing.locks import GRANTED, LockRequest, Ticket

from .queue import Decisions, Queue


@dataclass
class _Group:
    """The tickets of one function that wait for permits."""

    limit: int = 0
    queue: Queue = field(default_factory=Queue)
    version: int = 0
    """Version of `limit`."""


class Permits:
    """A concurrency limit: at most `limit` tickets are held at once. Functions that share the lock
    have a limit each, from their current configuration.

    Lowering a limit takes no ticket away. All functions wait in one order; but tickets of a
    function whose limit is reached let others pass.
    """

    gathers: ClassVar[bool] = False

    def __init__(self) -> None:
        self.holders: dict[Ticket, bool] = {}
        """Ticket -> whether it was already held at the last call of `suspect`."""
        self._groups: dict[str, _Group] = {}
        self._decisions = Decisions()

    def take(self, request: LockRequest, now_ms: int) -> None:
        group = self._groups.get(request.function)
        if group is None and request.acquire:
            group = self._groups[request.function] = _Group()
        if (
            group is not None
            and request.settings is not None
            and request.settings.version >= group.version
        ):
            group.limit = request.settings.limit
            group.version = request.settings.version
        for number in request.release:
            ticket = (request.run, number)
            if self.holders.pop(ticket, None) is None:
                any(each.queue.discard(ticket) for each in self._groups.values())
        for number in request.acquire:
            ticket = (request.run, number)
            if ticket in self.holders:
                self._decisions.verdicts.append((*ticket, GRANTED))
            elif group is not None and not any(
                ticket in each.queue for each in self._groups.values()
            ):
                group.queue.add(ticket, request.score)
        self._grant()

    def _grant(self) -> None:
        # One ticket at a time: each one that is granted may reach the limit of another function.
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
            self.holders[ticket] = False
            self._decisions.verdicts.append((*ticket, GRANTED))

    def advance(self, now_ms: int) -> None:
        pass

    def suspect(self) -> None:
        self._decisions.check += [ticket for ticket, is_old in self.holders.items() if is_old]
        self.holders = dict.fromkeys(self.holders, True)

    def decisions(self) -> Decisions:
        # A run that has given its ticket back meanwhile need not be told.
        done, self._decisions = self._decisions, Decisions()
        done.verdicts = [each for each in done.verdicts if (each[0], each[1]) in self.holders]
        return done

    def due_ms(self) -> int | None:
        return None

    def idle(self, now_ms: int) -> bool:
        return not self.holders and not self.waiting

    @property
    def holding(self) -> int:
        return len(self.holders)

    @property
    def waiting(self) -> int:
        return sum(len(group.queue) for group in self._groups.values())

    def people(self, count: int) -> tuple[list[str], list[str]]:
        waiting = [
            (score, name, run)
            for name, group in self._groups.items()
            for (run, _), score in itertools.islice(group.queue, count)
        ]
        holders = dict.fromkeys(run for run, _ in self.holders)
        waiters = dict.fromkeys(run for _, _, run in sorted(waiting, key=lambda each: each[:2]))
        return [*holders][:count], [*waiters][:count]

    def dump(self) -> dict[str, Any]:
        groups = {
            name: [group.limit, group.queue.pack(), group.version]
            for name, group in self._groups.items()
        }
        return {
            "holders": [[*ticket, is_old] for ticket, is_old in self.holders.items()],
            "groups": groups,
        }

    @classmethod
    def load(cls, state: dict[str, Any]) -> Self:
        permits = cls()
        permits.holders = {
            (run, number): is_old for run, number, is_old in state.get("holders", ())
        }
        for name, (limit, queue, version) in state.get("groups", {}).items():
            permits._groups[name] = _Group(limit, Queue.unpack(queue), version)
        return permits
