"""Reading Temporal's visibility, of which a namespace takes only ten requests a second by default.

All that shows lists of runs asks here. Identical queries share one call and its answer for a
second, and one process sends few calls however many browsers and scripts ask; so refreshing pages
never uses up what workers need. Visibility is eventually consistent: a new run is missing for about
a second.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from temporalio.client import Client, WorkflowExecution

from inngest_temporal.errors import VisibilityBusyError

from .connection import RPC_TIMEOUT

FRESH = 1.0
"""Seconds for which an answer is good enough for whoever asks the same."""
RATE = 5.0
"""Calls a second of one process: half of what Temporal allows a namespace."""
BURST = 5
"""Calls that may go at once after a pause, so that one page may ask several things."""
MAX_WAIT = 5.0
"""Seconds that a query may wait for its turn; one that would wait longer is refused at once."""

T = TypeVar("T")


@dataclass(frozen=True)
class Listed:
    """One page of workflows."""

    workflows: tuple[WorkflowExecution, ...]
    token: bytes
    """Where the next page begins; empty at the end."""


class Visibility:
    """The reader of one client's namespace. Both methods raise `VisibilityBusyError` if too many
    queries wait, and `RPCError` if Temporal can't be reached or refuses the query."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._answers: dict[object, tuple[float, asyncio.Task[Any]]] = {}
        """Query -> until when its answer counts, which is for ever while it is under way."""
        self._free_at = 0.0
        """When all calls so far would be paid for (GCRA)."""
        self.calls = 0
        """Calls that were sent."""

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def of(client: Client) -> "Visibility":
        """The one of a client: answers are shared by all that use it."""
        return Visibility(client)

    async def list(self, query: str, size: int, token: bytes = b"") -> Listed:
        """A page of at most `size` workflows: those that run, then those that have ended, the
        latest first. Temporal's SQL stores know no other order."""

        async def read() -> Listed:
            found = self._client.list_workflows(
                query, page_size=size, next_page_token=token or None, rpc_timeout=RPC_TIMEOUT
            )
            await found.fetch_next_page(page_size=size)
            return Listed(tuple(found.current_page or ()), found.next_page_token or b"")

        return await self._shared(("list", query, size, token), read)

    async def count(self, query: str) -> dict[str, int]:
        """How many workflows there are, by their status in Temporal, such as `Running`."""

        async def read() -> dict[str, int]:
            found = await self._client.count_workflows(
                f"{query} GROUP BY ExecutionStatus", rpc_timeout=RPC_TIMEOUT
            )
            return {str(group.group_values[0]): group.count for group in found.groups}

        return await self._shared(("count", query), read)

    async def _shared(self, key: object, read: Callable[[], Awaitable[T]]) -> T:
        now = time.monotonic()
        for each in [each for each, (until, _) in self._answers.items() if until <= now]:
            del self._answers[each]
        if key not in self._answers:
            delay = self._turn(now)
            task = asyncio.create_task(self._read(key, read, delay))
            self._answers[key] = float("inf"), task
        # Who stops waiting does not stop the others.
        return cast(T, await asyncio.shield(self._answers[key][1]))

    async def _read(self, key: object, read: Callable[[], Awaitable[T]], delay: float) -> T:
        await asyncio.sleep(delay)
        self.calls += 1
        try:
            answer = await read()
        except BaseException:
            self._answers.pop(key, None)
            raise
        task = self._answers[key][1]
        self._answers[key] = time.monotonic() + FRESH, task
        return answer

    def _turn(self, now: float) -> float:
        """Seconds until the next call may go, which is taken."""
        free_at = max(self._free_at, now)
        delay = free_at - (BURST - 1) / RATE - now
        if delay > MAX_WAIT:
            raise VisibilityBusyError
        self._free_at = free_at + 1 / RATE
        return max(0.0, delay)
