"""Ways to start a run and wait for its result, which the benchmarks measure."""

import itertools
from typing import Any
from uuid import uuid4

from temporalio.client import Client

from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router

from . import functions
from .bench import Start


def by_event(client: Client, router: Router, function_id: str, name: str) -> Start:
    """One of our functions, started by an event; each event has a number of its own."""
    numbers = itertools.count()

    async def start() -> object:
        event = events.stamp({"name": name, "data": {"number": next(numbers)}})
        await router.route([event])
        run = events.run_id(function_id, event)
        return await client.get_workflow_handle(run).result()

    return start


def by_hand(client: Client, workflow: Any, *args: object) -> Start:
    """A hand-written workflow, started by the client."""

    async def start() -> object:
        return await client.execute_workflow(
            workflow, args=args, id=str(uuid4()), task_queue=functions.HAND_QUEUE
        )

    return start
