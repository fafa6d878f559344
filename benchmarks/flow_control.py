"""What flow control costs: a function of one step with each feature beside the same without it,
one run at a time; then runs through one hot key."""

import asyncio
import time
from typing import Any
from uuid import uuid4

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router

from . import flow_functions as functions
from .bench import NO_PAUSE, Report, embedded_server, process, routing, take_turns

TURNS = 15
HOT_RUNS = 150


async def main(report: Report) -> None:
    # Without the pause: its limiter would save up tokens during a debounce's second, for the
    # features that are measured next.
    async with embedded_server(NO_PAUSE) as client:
        address = client.service_client.config.target_host
        async with process("benchmarks.flow_functions", address), routing(client) as router:
            await features(report, client, router)
            await hot_key(report, client, router)


async def features(report: Report, client: Client, router: Router) -> None:
    last: dict[str, str] = {}

    def turn(name: str) -> Any:
        async def once() -> float:
            """Milliseconds from the last event, or from the end of a debounce's period, to the
            result. Each run has a new key, and so has each pair of events of a batch."""
            function = functions.FEATURES[name]
            event_name, key = f"flow-bench/{function.local_id}", str(uuid4())
            if name == "batch":
                await router.route([events.stamp({"name": event_name, "data": {"key": key}})])
            event = events.stamp({"name": event_name, "data": {"key": key}})
            begun = time.perf_counter()
            await router.route([event])
            if name == "batch":
                run = await batch_of(client, function.id, last)
            elif name == "debounce":
                run = events.run_id(function.id, event)
                await started(client, run)
                begun += functions.DEBOUNCE.total_seconds()
            else:
                run = events.run_id(function.id, event)
            await client.get_workflow_handle(run).result()
            last[name] = run
            return (time.perf_counter() - begun) * 1000

        return once

    samples = await take_turns({name: turn(name) for name in functions.FEATURES}, TURNS)
    plain = samples[functions.PLAIN].median
    history = {
        name: len((await client.get_workflow_handle(run).fetch_history()).events)
        for name, run in last.items()
    }
    report.title(f"flow control: a run of one step with a key of its own, median of {TURNS} turns")
    for name, sample in samples.items():
        count = history[name]
        extra = count - history[functions.PLAIN]
        report.line(
            f"{name:<14}{sample.median:7.1f} ms  {sample.median - plain:+7.1f} ms   history"
            f" {count:3} ({extra:+d})"
        )


async def batch_of(client: Client, function_id: str, last: dict[str, str]) -> str:
    """The run of the batch that was started last."""
    while True:
        async for run in client.list_workflows(f"WorkflowType = '{function_id}'", limit=1):
            if run.id != last.get("batch"):
                return run.id


async def started(client: Client, run: str) -> None:
    """Wait until there is such a run."""
    while True:
        try:
            await client.get_workflow_handle(run).describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            await asyncio.sleep(0.005)
        else:
            return


async def hot_key(report: Report, client: Client, router: Router) -> None:
    report.title(f"flow control: {HOT_RUNS} runs at once through one key")
    keys = {"no limit": functions.FEATURES[functions.PLAIN]}
    keys |= {f"limit {limit}": function for limit, function in functions.HOT.items()}
    for what, function in keys.items():
        name = f"flow-bench/{function.local_id}"
        stamped = [events.stamp({"name": name, "data": {}}) for _ in range(HOT_RUNS)]
        begun = time.perf_counter()
        await router.route(stamped)
        for event in stamped:
            await client.get_workflow_handle(events.run_id(function.id, event)).result()
        took = time.perf_counter() - begun
        report.line(f"{what:<10} {HOT_RUNS / took:6.1f} runs/s")
