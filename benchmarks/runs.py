"""Functions of 0, 1, 5 and 20 steps beside a workflow of as many activities: throughput and
latency.

Ours are started by their event, through the router of the ingress (which also looks for waits that
the event would resume), the hand-written by `start_workflow`. A second line starts ours by
`start_workflow`, too.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from temporalio.client import Client

from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.run_input import RunInput
from inngest_temporal.temporal import names

from . import functions
from .bench import (
    HAND,
    NO_PAUSE,
    OURS,
    Report,
    Start,
    cpu_seconds,
    embedded_server,
    latency,
    routing,
    take_turns,
    workers,
)

DIRECT = "ours, started directly"
AT_ONCE = {0: 60, 1: 40, 5: 20, 20: 10}
"""Runs at once, by number of steps."""
THROUGHPUT_TURNS = 9
LATENCY_TURNS = {0: 24, 1: 16, 5: 12, 20: 9}
THROUGHPUT_BARS = {0: 0.92, 1: 1.2, 5: 2.0, 20: 3.0}
LATENCY_BARS = {0: 1.3, 1: 1.0, 5: 0.6, 20: 0.4}


def starters(client: Client, router: Router, size: int) -> dict[str, Start]:
    """The ways to run a function of that many steps."""
    function = functions.FUNCTIONS[size]
    numbers = itertools.count()
    queue = names.task_queue(function.client.app_id)

    async def ours() -> object:
        event = events.stamp(
            {"name": functions.STEPS_EVENT.format(size=size), "data": {"number": next(numbers)}}
        )
        await router.route([event])
        return await client.get_workflow_handle(events.run_id(function.id, event)).result()

    async def direct() -> object:
        event = events.stamp(
            {"name": functions.STEPS_EVENT.format(size=size), "data": {"number": next(numbers)}}
        )
        run = RunInput([event.event], [event.internal_id])
        return await client.execute_workflow(function.id, run, id=str(uuid4()), task_queue=queue)

    async def hand() -> object:
        return await client.execute_workflow(
            functions.HandSteps.run, size, id=str(uuid4()), task_queue=functions.HAND_QUEUE
        )

    return {OURS: ours, HAND: hand, DIRECT: direct}


async def main(report: Report) -> None:
    """Print throughput, latency, and the workers' CPU, on a server that does not pause between
    workflow tasks."""
    async with (
        embedded_server(NO_PAUSE) as client,
        workers(client) as processes,
        routing(client) as router,
    ):
        pids = {name: child.pid for name, child in processes.items()} | {
            DIRECT: processes[OURS].pid
        }
        await throughputs(report, client, router, pids)
        await latencies(report, client, router)


async def throughputs(report: Report, client: Client, router: Router, pids: dict[str, int]) -> None:
    cpu: dict[tuple[str, int], list[float]] = {}
    report.title(f"runs: throughput, median of {THROUGHPUT_TURNS} turns")
    for size, at_once in AT_ONCE.items():

        def throughput(
            name: str, start: Start, size: int = size, at_once: int = at_once
        ) -> Callable[[], Awaitable[float]]:
            async def turn() -> float:
                cpu_before, begun = cpu_seconds(pids[name]), time.perf_counter()
                results = await asyncio.gather(*(start() for _ in range(at_once)))
                elapsed = time.perf_counter() - begun
                assert results == [sum(range(size))] * at_once
                cpu.setdefault((name, size), []).append(
                    (cpu_seconds(pids[name]) - cpu_before) / at_once
                )
                return at_once / elapsed

            return turn

        sides = {
            name: throughput(name, start) for name, start in starters(client, router, size).items()
        }
        samples = await take_turns(sides, THROUGHPUT_TURNS)
        what, bar = f"{size} steps, {at_once} at once", THROUGHPUT_BARS[size]
        report.compare(what, samples[OURS], samples[HAND], "runs/s", at_least=bar)
        report.compare("   started directly", samples[DIRECT], samples[HAND], "runs/s")

    report.title("runs: CPU of the worker process, in the throughput turns above")
    spent = {key: sum(values) / len(values) * 1000 for key, values in cpu.items()}
    small, large = min(AT_ONCE), max(AT_ONCE)
    report.compare("a run without steps", spent[OURS, small], spent[HAND, small], "ms")
    each = {
        name: (spent[name, large] - spent[name, small]) / (large - small) for name in (OURS, HAND)
    }
    report.compare("a step", each[OURS], each[HAND], "ms")


async def latencies(report: Report, client: Client, router: Router) -> None:
    report.title("runs: latency of one at a time, from its start to its result, median")
    for size, turns in LATENCY_TURNS.items():
        sides = {name: latency(start) for name, start in starters(client, router, size).items()}
        del sides[DIRECT]
        samples = await take_turns(sides, turns)
        bar = LATENCY_BARS[size]
        report.compare(f"{size} steps", samples[OURS], samples[HAND], "ms", at_most=bar)
