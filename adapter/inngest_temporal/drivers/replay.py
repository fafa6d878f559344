"""The order in which an execution gives finished steps back to the handler."""

import asyncio
from collections.abc import Sequence
from typing import Any


class Replay:
    """Releases memos in the order in which their steps ended.

    So a race between steps has the same winner in every execution. If several tasks of the handler
    wait for memos, only one continues at a time, and the next memo is released only when that task
    has come to rest.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        """`steps` are hashed ids, in order of completion."""
        self._positions = {step: position for position, step in enumerate(steps)}
        self._released: set[int] = set()
        self._next = 0
        self._held: dict[int, asyncio.Future[None]] = {}
        self._going_on: asyncio.Task[Any] | None = None

    def position(self, step: str) -> int | None:
        """Position of the step's memo; None if it has none."""
        return self._positions.get(step)

    @property
    def is_complete(self) -> bool:
        """Whether all memos were released."""
        return len(self._released) == len(self._positions)

    @property
    def holds(self) -> bool:
        """Whether a task waits for the release of a memo."""
        return bool(self._held)

    async def turn(self, position: int) -> None:
        """Wait until the current task may get this memo."""
        if self._may_go_on(position):
            self.release(position)
            return
        turn = self._held[position] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            self._held.pop(position, None)

    def _may_go_on(self, position: int) -> bool:
        # At once, if this step was the next to end and no other task has got a memo since all tasks
        # last came to rest.
        task = asyncio.current_task()
        if position > self._next or self._going_on not in (None, task):
            return False
        self._going_on = task
        return True

    def release(self, position: int) -> None:
        """Release a memo to the task that waits for it."""
        self._released.add(position)
        while self._next in self._released:
            self._next += 1
        turn = self._held.pop(position, None)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def release_next(self) -> None:
        """Called when all tasks have come to rest: release the earliest memo that is waited for."""
        self._going_on = None
        self.release(min(self._held))
