"""Runs of other shapes beside the same by hand: steps that wait for something, results that are
recorded many at a time, parallel steps, one event that starts 20 functions. Then a thousand steps,
of ours alone.
"""

import asyncio
import statistics
from itertools import pairwise
from typing import Any
from uuid import uuid4

from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router

from . import functions
from .bench import (
    HAND,
    NO_PAUSE,
    OURS,
    Report,
    embedded_server,
    latency,
    routing,
    take_turns,
    throughput,
    workers,
)
from .starters import by_event, by_hand

TURNS = 9
AT_ONCE = 10
LONG_TURNS = 3


async def main(report: Report) -> None:
    """Print the comparisons, on a server that does not pause between workflow tasks."""
    async with (
        embedded_server(NO_PAUSE) as client,
        workers(client),
        routing(client) as router,
    ):
        report.title(f"shapes: throughput of {AT_ONCE} at once, median of {TURNS} turns")
        await twenty(
            report,
            client,
            router,
            "20 steps of 10 ms",
            functions.slow,
            functions.SLOW_EVENT,
            slow=True,
            bar=2.5,
        )
        await twenty(
            report,
            client,
            router,
            "20, buffered_steps=25",
            functions.buffered,
            functions.BUFFERED_EVENT,
            slow=False,
            bar=4,
        )
        report.title(f"shapes: from the start to the result, median of {TURNS} turns")
        await parallel(report, client, router)
        await fan_out(report, client, router)
        await thousand(report, client, router)


async def twenty(
    report: Report,
    client: Client,
    router: Router,
    what: str,
    function: inngest.Function[Any],
    event: str,
    *,
    slow: bool,
    bar: float,
) -> None:
    """By hand, each step is an activity."""

    sides = {
        name: throughput(start, AT_ONCE, sum(range(20)))
        for name, start in (
            (OURS, by_event(client, router, function.id, event)),
            (HAND, by_hand(client, functions.HandSteps.run, 20, slow)),
        )
    }
    samples = await take_turns(sides, TURNS)
    report.compare(what, samples[OURS], samples[HAND], "runs/s", at_least=bar)


async def parallel(report: Report, client: Client, router: Router) -> None:
    sides = {
        OURS: latency(by_event(client, router, functions.parallel.id, functions.PARALLEL_EVENT)),
        HAND: latency(by_hand(client, functions.HandParallel.run)),
    }
    samples = await take_turns(sides, TURNS, warm_up=2)
    what = f"{functions.AT_ONCE} parallel steps"
    report.compare(what, samples[OURS], samples[HAND], "ms", at_most=1.2)


async def fan_out(report: Report, client: Client, router: Router) -> None:
    """By hand, each function is a workflow of one activity."""
    count = len(functions.FAN_OUT)

    async def ours() -> None:
        event = events.stamp({"name": functions.FAN_OUT_EVENT})
        await router.route([event])
        runs = [events.run_id(function.id, event) for function in functions.FAN_OUT]
        await asyncio.gather(*(client.get_workflow_handle(run).result() for run in runs))

    async def hand() -> None:
        await asyncio.gather(
            *(
                client.execute_workflow(
                    functions.HandSteps.run, 1, id=str(uuid4()), task_queue=functions.HAND_QUEUE
                )
                for _ in range(count)
            )
        )

    samples = await take_turns({OURS: latency(ours), HAND: latency(hand)}, TURNS, warm_up=2)
    what = f"one event, {count} functions"
    report.compare(what, samples[OURS], samples[HAND], "ms", at_most=1.0)


async def thousand(report: Report, client: Client, router: Router) -> None:
    first, last = [], []
    for _ in range(LONG_TURNS):
        event = events.stamp({"name": functions.THOUSAND_EVENT})
        await router.route([event])
        run = client.get_workflow_handle(events.run_id(functions.thousand.id, event))
        tenths = [(after - before) * 1000 for before, after in pairwise(await run.result())]
        first.append(tenths[0])
        last.append(tenths[-1])
    history = (await run.fetch_history()).events
    size = sum(event.ByteSize() for event in history)
    names = ("the last", "the first")
    report.title(f"shapes: a thousand steps of 1 KB in one run, median of {LONG_TURNS}")
    report.compare(
        "a tenth of the steps",
        statistics.median(last),
        statistics.median(first),
        "ms",
        at_most=1.2,
        names=names,
    )
    report.line(f"{len(history)} events of history, {size / 1000:.0f} bytes for each step")
