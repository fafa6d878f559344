"""Whether overload feeds itself: the throughput of one key while ten times as many runs wait for
it, and how many of the requests to its lock were repetitions.

Takes some minutes: `python -m benchmarks overload`. `OVERLOAD_RUNS=300` makes it larger,
`OVERLOAD_BURNERS=4` makes that many processes compete for the cores.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from subprocess import Popen
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names

from . import flow_functions as functions
from .bench import NO_PAUSE, Report, embedded_server, process, routing

RUNS = int(os.environ.get("OVERLOAD_RUNS", "60"))
BURNERS = int(os.environ.get("OVERLOAD_BURNERS", "0"))
TIMES = 10
LIMIT = 10
SENT = 50
"""Events that are sent together."""
LEAST = 0.7
"""Throughput under overload, at least, as a part of the usual one."""


async def main(report: Report) -> None:
    function = functions.HOT[LIMIT]
    report.title(f"overload: {RUNS} and {TIMES * RUNS} runs at once for {LIMIT} permits of one key")
    async with embedded_server(NO_PAUSE) as client:
        address = client.service_client.config.target_host
        async with process("benchmarks.flow_functions", address), routing(client) as router:
            await throughput(client, router, RUNS)  # warms up
            with burners():
                usual = [await throughput(client, router, RUNS)]
                overloaded = await throughput(client, router, TIMES * RUNS)
                usual.append(await throughput(client, router, RUNS))
        runs = (3 + TIMES) * RUNS
        requests = await requests_of(client, names.lock_id("step", function.id))
    part = overloaded / (sum(usual) / len(usual))
    report.line(
        f"{BURNERS} burners: {usual[0]:.1f} and {usual[1]:.1f} runs/s, overloaded"
        f" {overloaded:.1f} runs/s ({part:.0%})"
    )
    report.line(f"the lock had {requests / runs:.2f} requests for each run (2 are real)")
    if part < LEAST:
        report.missed.append(f"overload: {LEAST:.0%} of the usual throughput")


async def throughput(client: Client, router: Router, count: int) -> float:
    """Runs per second, of `count` runs that are started at once."""
    function = functions.HOT[LIMIT]
    name = f"flow-bench/{function.local_id}"
    stamped = [events.stamp({"name": name, "data": {}}) for _ in range(count)]
    begun = time.perf_counter()
    for first in range(0, count, SENT):
        await send(router, stamped[first : first + SENT])
    runs = [client.get_workflow_handle(events.run_id(function.id, one)) for one in stamped]
    await asyncio.gather(*(ended(run) for run in runs))
    return count / (time.perf_counter() - begun)


async def ended(run: WorkflowHandle[Any, Any]) -> None:
    """Wait for a run's end; again, if Temporal does not answer in time."""
    while True:
        try:
            return await run.result()
        except RPCError:
            await asyncio.sleep(1)


async def send(router: Router, stamped: list[events.Stamped]) -> None:
    """Send events as a sender does: again, if Temporal does not answer in time."""
    while True:
        try:
            return await router.route(stamped)
        except* (RPCError, TimeoutError):
            await asyncio.sleep(1)


async def requests_of(client: Client, lock: str) -> int:
    """How many requests a lock has had, in all of its executions."""
    count = 0
    async for execution in client.list_workflows(f"WorkflowId = '{lock}'"):
        handle = client.get_workflow_handle(lock, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            if event.HasField("workflow_execution_signaled_event_attributes"):
                payloads = event.workflow_execution_signaled_event_attributes.input.payloads
                count += len(json.loads(payloads[0].data))
    return count


@contextlib.contextmanager
def burners() -> Iterator[None]:
    """Processes that compete for the cores."""
    burning = [Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BURNERS)]
    try:
        yield
    finally:
        for each in burning:
            each.kill()
            each.wait()
