"""The order in which an execution gives finished steps back to the handler."""

import asyncio
from collections.abc import Sequence
from typing import Any


class Replay:
    """Releases memos in the order in which their steps ended.

    A race between steps then has the same winner in every execution: when several tasks of the
    handler wait for memos, one goes on at a time, and the next memo is released only once that task
    has come to rest.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        """`steps`: hashed ids in order of completion."""
        self._positions = {step: position for position, step in enumerate(steps)}
        self._released: set[int] = set()
        self._next = 0
        self._held: dict[int, asyncio.Future[None]] = {}
        self._going_on: asyncio.Task[Any] | None = None

    def position(self, step: str) -> int | None:
        """Where the step's memo is; None if it has none."""
        return self._positions.get(step)

    @property
    def is_complete(self) -> bool:
        """Whether every memo was given back."""
        return len(self._released) == len(self._positions)

    @property
    def holds(self) -> bool:
        """Whether a task waits for a memo that is there."""
        return bool(self._held)

    async def turn(self, position: int) -> None:
        """Wait until the memo may be given to the current task."""
        if self._may_go_on(position):
            self.release(position)
            return
        turn = self._held[position] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            self._held.pop(position, None)

    def _may_go_on(self, position: int) -> bool:
        # At once, if it is the next to have ended and no other task got a memo since things were
        # quiet.
        task = asyncio.current_task()
        if position > self._next or self._going_on not in (None, task):
            return False
        self._going_on = task
        return True

    def release(self, position: int) -> None:
        """Give a memo back."""
        self._released.add(position)
        while self._next in self._released:
            self._next += 1
        turn = self._held.pop(position, None)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def release_next(self) -> None:
        """All tasks have come to rest: let the one that waits for the earliest memo go on."""
        self._going_on = None
        self.release(min(self._held))
