"""A retry storm against gates: 200 requests a second for a minute, a third of which are answered
503 though Temporal has accepted them. Each request is repeated until it is answered 200, and once
more when its gate has been idle for a while. Each event must be in exactly one run.

`python -m benchmarks.storm [SECONDS]`. It is not part of `python -m benchmarks`, as its figures
should be zeros.
"""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    StartWorkflowInput,
    WorkflowHandle,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from inngest_temporal.config import FunctionConfig
from inngest_temporal.models import Batch, Debounce, TriggerEvent
from inngest_temporal.routing import events
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.gates import Gates
from inngest_temporal.routing.registry import RegisteredFunction
from inngest_temporal.temporal.runs import input_of
from inngest_temporal_workers.commands.embedded import server_program
from inngest_temporal_workers.entities import entity
from inngest_temporal_workers.plugin import system_worker

RATE = 200
LOST = 1 / 3
"""Share of the accepted requests whose reply is lost."""
KEYS = 20
SETTLED_SECONDS = 120
"""How long the last events may take to be in a run."""


class _Losing(Interceptor):
    """Loses replies: Temporal has accepted a call, and the sender does not learn that."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        return _LosingCalls(next)


class _LosingCalls(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        handle = await super().start_workflow(input)
        if random.random() < LOST:
            raise RPCError("the reply is lost", RPCStatusCode.UNAVAILABLE, b"")
        return handle


def _function(name: str, **gate: Any) -> RegisteredFunction:
    trigger = TriggerEvent(event="storm")
    return RegisteredFunction(
        "storm", "nobody", FunctionConfig(id=f"storm-{name}", name=name, triggers=[trigger], **gate)
    )


FUNCTIONS = [
    _function("batch", batch_events=Batch(max_size=50, timeout=1_000, key="event.data.key")),
    _function("debounce", debounce=Debounce(period=1_000, key="event.data.id")),
]


async def _send(gates: Gates, function: RegisteredFunction, one: Stamped) -> int:
    """Send an event until it is answered 200. Returns how often it was not."""
    refused = 0
    while True:
        try:
            await gates.ask(function, one, events.run_id(function.id, one))
            return refused
        except (RPCError, TimeoutError):
            refused += 1
            await asyncio.sleep(random.uniform(0.05, 2.0))


async def storm(client: Client, seconds: float) -> Counter[str]:
    """What came of it: `sent`, `refused` (503), `lost` and `twice` (events)."""
    losing = Client(client.service_client, namespace=client.namespace, interceptors=[_Losing()])
    ingresses = [Gates(losing, timedelta(seconds=10)) for _ in range(3)]
    found: Counter[str] = Counter()
    sent: list[tuple[RegisteredFunction, Stamped]] = []

    async def request(number: int) -> None:
        function = FUNCTIONS[0] if number % 10 else FUNCTIONS[1]
        # Half of the senders give ids of their own, and so get another internal id each time.
        own = f"own-{number}" if number % 2 else ""
        event = {"name": "storm", "data": {"key": number % KEYS, "id": number}, "id": own}
        one = events.stamp(dict(event))
        sent.append((function, one))
        refused = await _send(random.choice(ingresses), function, one)
        await asyncio.sleep(random.uniform(3, 12))  # by then the gate is idle, or was
        again = events.stamp(dict(event)) if own else one
        refused += await _send(random.choice(ingresses), function, again)
        found["refused"] += refused

    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(round(seconds * RATE)):
            await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
            tasks.create_task(request(number))
    expected = {int(one.event["data"]["id"]) for _, one in sent}
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        runs = await _runs_of_events(client)
        if expected <= runs.keys() or time.monotonic() > deadline:
            break
        await asyncio.sleep(2)
    await asyncio.sleep(5)
    runs = await _runs_of_events(client)
    found["sent"] = len(sent)
    found["lost"] = len(expected - runs.keys())
    found["twice"] = sum(count > 1 for count in runs.values())
    return found


async def _runs_of_events(client: Client) -> Counter[int]:
    runs: Counter[int] = Counter()
    async for run in client.list_workflows("TaskQueue = 'nobody'"):
        given = await input_of(client, run.id)
        assert given is not None
        runs.update(event["data"]["id"] for event in given.events)
    return runs


async def main() -> None:
    seconds = float(sys.argv[1]) if sys.argv[1:] else 60.0
    entity.LINGER_MS = 500
    env = await WorkflowEnvironment.start_local(
        dev_server_existing_path=server_program(),
        dev_server_log_level="error",
    )
    async with env, system_worker(env.client):
        found = await storm(env.client, seconds)
    print(
        f"{found['sent']:,} events at {RATE}/s for {seconds:g} s, {found['refused']:,} answered"
        f" 503: {found['lost']} in no run, {found['twice']} in two."
    )


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)
