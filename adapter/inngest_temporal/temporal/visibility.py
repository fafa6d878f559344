"""Reads Temporal's visibility, which takes only ten requests a second for a namespace by default.

Everything that lists runs asks here. Identical queries share one call and its answer for a second,
and one process sends few calls, however many browsers and scripts ask. So refreshing pages never
uses up what workers need. Visibility is eventually consistent: a new run is missing for about a
second.
"""

import asyncio
import functools
import time
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecution

from inngest_temporal.errors import VisibilityBusyError

from .connection import RPC_TIMEOUT
from .shared import Shared

RATE = 5.0
"""Maximum number of calls a second of one process: half of what Temporal allows a namespace."""
BURST = 5
"""Maximum number of calls at once after a pause, so that one page may make several queries."""
MAX_WAIT = 5.0
"""Seconds that a query may wait for its turn. A query that would wait longer is refused at once."""
MAX_KEPT = 64
"""Maximum number of lists, and of counts, that are kept: more than can wait for their turn."""


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
        self._lists = Shared(self._list, max_kept=MAX_KEPT)
        self._counts = Shared(self._count, max_kept=MAX_KEPT)
        self._free_at = 0.0
        """When the whole burst is available again (theoretical arrival time of GCRA)."""
        self.calls = 0
        """Number of calls that were sent."""

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def of(client: Client) -> "Visibility":
        """The reader that all users of a client share, and so its answers."""
        return Visibility(client)

    async def list(self, query: str, size: int, token: bytes = b"") -> Listed:
        """A page of at most `size` workflows: first running ones, then ended ones, the latest
        first. Temporal's SQL stores know no other order."""
        return await self._lists.get((query, size, token))

    async def count(self, query: str) -> dict[str, int]:
        """How many workflows there are, by their status in Temporal, such as `Running`."""
        return await self._counts.get(query)

    async def _list(self, request: tuple[str, int, bytes]) -> Listed:
        query, size, token = request
        await self._turn()
        found = self._client.list_workflows(
            query, page_size=size, next_page_token=token or None, rpc_timeout=RPC_TIMEOUT
        )
        await found.fetch_next_page(page_size=size)
        return Listed(tuple(found.current_page or ()), found.next_page_token or b"")

    async def _count(self, query: str) -> dict[str, int]:
        await self._turn()
        found = await self._client.count_workflows(
            f"{query} GROUP BY ExecutionStatus", rpc_timeout=RPC_TIMEOUT
        )
        return {str(group.group_values[0]): group.count for group in found.groups}

    async def _turn(self) -> None:
        """Wait until the next call may be sent. Raises `VisibilityBusyError`."""
        now = time.monotonic()
        free_at = max(self._free_at, now)
        delay = free_at - (BURST - 1) / RATE - now
        if delay > MAX_WAIT:
            raise VisibilityBusyError
        self._free_at = free_at + 1 / RATE
        await asyncio.sleep(max(0.0, delay))
        self.calls += 1
