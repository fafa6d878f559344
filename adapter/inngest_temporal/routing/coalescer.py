"""Groups calls to entities, because one entity takes only tens of calls a second."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

MAX_CALL_BYTES = 1_000_000
"""Maximum size of the items that go to an entity together; a single one may have more."""
MAX_CALL_ITEMS = 500
"""Maximum number of items that go to an entity together."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Makes one call at a time to each entity. Whatever is asked meanwhile goes together in the
    next call, in order; so an entity takes thousands of events a second.
    """

    def __init__(self, call: Callable[[str, Sequence[Item]], Awaitable[Sequence[Answer]]]) -> None:
        """`call` gets an entity and a sequence of items; it returns one answer for each item."""
        self._call = call
        self._queues: dict[str, deque[tuple[Item, int, asyncio.Future[Answer]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, entity: str, item: Item, size: int) -> Answer:
        """The answer for one item (of `size` bytes); raises what the call raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(entity)
        if queue is None:
            queue = self._queues[entity] = deque()
            task = asyncio.create_task(self._work(entity, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.append((item, size, future))
        try:
            return await future
        except Exception as error:
            # All that wait get the same error, and each would add to its traceback.
            error.__traceback__ = None
            raise

    async def _work(
        self, entity: str, queue: deque[tuple[Item, int, asyncio.Future[Answer]]]
    ) -> None:
        try:
            while queue:
                items: list[Item] = []
                futures: list[asyncio.Future[Answer]] = []
                total = 0
                while (
                    queue
                    and len(items) < MAX_CALL_ITEMS
                    and (not items or total + queue[0][1] <= MAX_CALL_BYTES)
                ):
                    item, size, future = queue.popleft()
                    items.append(item)
                    futures.append(future)
                    total += size
                try:
                    answers = await self._call(entity, items)
                except Exception as error:
                    # Items that wait would meet the same outage, one timeout after the other.
                    for future in [*futures, *(future for _, _, future in queue)]:
                        if not future.done():
                            future.set_exception(error)
                    queue.clear()
                    continue
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        finally:
            del self._queues[entity]
            for _, _, future in queue:
                future.cancel()
