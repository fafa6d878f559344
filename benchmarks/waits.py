"""`wait_for_event` with an equality beside a workflow that waits for a signal: from the event to
the run's result.

Then ours alone: with 10 to 20 and with 2,000 registered waits of distinct values on one event name.
Those that are measured are real runs: some were registered before all others (their mailboxes have
left the worker's cache by then), some after. The others are registered as a run registers them, for
runs that don't exist.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits

from . import functions
from .bench import (
    HAND,
    NO_PAUSE,
    OURS,
    Report,
    Samples,
    embedded_server,
    routing,
    take_turns,
    workers,
)

TURNS = 40
MANY = 2_000
MEASURED = 10
REGISTER_AT_ONCE = 50
SETTLED = 15
"""Seconds after which a wait that was registered leaves nothing to do: its mailbox sets its long
timer after 10."""

CONDITION = "event.data.orderId == async.data.orderId"


@dataclass
class Waiting:
    """A run that waits for the payment of its order."""

    order: str
    run: WorkflowHandle[Any, Any]

    async def begun(self) -> "Waiting":
        """The same, once its wait is registered: then the timer of its timeout runs."""
        async for event in self.run.fetch_history_events(wait_new_event=True):
            if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED:
                return self
        raise RuntimeError(f"{self.run.id} ended before its wait began")

    async def ended(self) -> None:
        assert await self.run.result() == self.order


class Orders:
    """Starts runs that wait, and resumes them."""

    def __init__(self, client: Client, router: Router) -> None:
        self._client = client
        self._router = router
        self._numbers = itertools.count()

    def _next(self) -> str:
        return f"order-{next(self._numbers)}"

    async def start_ours(self) -> Waiting:
        order = self._next()
        event = events.stamp({"name": functions.WAIT_EVENT, "data": {"orderId": order}})
        await self._router.route([event])
        run = self._client.get_workflow_handle(events.run_id(functions.wait.id, event))
        return await Waiting(order, run).begun()

    async def start_hand(self) -> Waiting:
        order = self._next()
        run = await self._client.start_workflow(
            functions.HandWait.run, order, id=str(uuid4()), task_queue=functions.HAND_QUEUE
        )
        return await Waiting(order, run).begun()

    async def resume_ours(self, waiting: Waiting) -> float:
        """Milliseconds from the event to the result."""
        event = events.stamp({"name": functions.PAID_EVENT, "data": {"orderId": waiting.order}})
        begun = time.perf_counter()
        await self._router.route([event])
        await waiting.ended()
        return (time.perf_counter() - begun) * 1000

    async def resume_hand(self, waiting: Waiting) -> float:
        """Milliseconds from the signal to the result."""
        event = {"name": functions.PAID_EVENT, "data": {"orderId": waiting.order}}
        begun = time.perf_counter()
        await waiting.run.signal("paid", event)
        await waiting.ended()
        return (time.perf_counter() - begun) * 1000

    async def ours(self) -> float:
        return await self.resume_ours(await self.start_ours())

    async def hand(self) -> float:
        return await self.resume_hand(await self.start_hand())

    async def several(self, count: int) -> list[Waiting]:
        return list(await asyncio.gather(*(self.start_ours() for _ in range(count))))

    async def resume_all(self, waiting: Sequence[Waiting]) -> Samples:
        """Resume runs, one after the other."""
        return Samples([await self.resume_ours(one) for one in waiting])


async def fill(client: Client, count: int) -> float:
    """Register waits, each with its own value. Returns how many a second."""
    waits = Waits(client)
    limit = asyncio.Semaphore(REGISTER_AT_ONCE)
    expires = round((time.time() + timedelta(hours=1).total_seconds()) * 1000)

    async def register(number: int) -> None:
        async with limit:
            event = {"name": functions.WAIT_EVENT, "data": {"orderId": f"other-{number}"}}
            await waits.register(
                run=f"run-{number}",
                wait="step",
                event_name=functions.PAID_EVENT,
                condition=CONDITION,
                event=event,
                own=[],
                expires_ms=expires,
            )

    begun = time.perf_counter()
    await asyncio.gather(*(register(number) for number in range(count)))
    return count / (time.perf_counter() - begun)


async def main(report: Report) -> None:
    """Print both comparisons."""
    async with embedded_server() as client, workers(client), routing(client) as router:
        orders = Orders(client, router)
        report.title(
            f"waits: from the event (or the signal) to the run's result, median of {TURNS} turns"
        )
        samples = await take_turns({OURS: orders.ours, HAND: orders.hand}, TURNS, warm_up=3)
        report.compare("wait_for_event", samples[OURS], samples[HAND], "ms", at_most=2.5)

        first = await orders.several(MEASURED)
        few = await orders.resume_all(await orders.several(MEASURED))
        rate = await fill(client, MANY - MEASURED)
        last = await orders.several(MEASURED)
        await asyncio.sleep(SETTLED)
        report.title(
            f"waits: the same of ours, with {MEASURED} to {2 * MEASURED} and with {MANY:,} waits on"
            " one event name",
            f"({MANY - MEASURED:,} of them were registered at {rate:.0f}/s)",
        )
        titles = (f"{MANY:,} waits", f"{2 * MEASURED} waits")
        for what, waiting in (("registered last", last), ("registered first", first)):
            many = await orders.resume_all(waiting)
            report.compare(what, many.median, few.median, "ms", at_most=1.25, names=titles)

    async with embedded_server(NO_PAUSE) as client, workers(client), routing(client) as router:
        orders = Orders(client, router)
        report.title("waits: wait_for_event on a server that does not pause between workflow tasks")
        samples = await take_turns({OURS: orders.ours, HAND: orders.hand}, TURNS, warm_up=3)
        report.compare("wait_for_event", samples[OURS], samples[HAND], "ms")
