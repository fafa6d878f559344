"""Functions of 0, 1, 5 and 20 steps beside a workflow of as many activities: throughput and
latency.

Ours are started by their event, through the router of the ingress (which also looks for waits that
the event would resume), the hand-written by `start_workflow`. A second line starts ours by
`start_workflow`, too.
"""

import itertools
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
    Turn,
    cpu_seconds,
    embedded_server,
    latency,
    routing,
    take_turns,
    throughput,
    workers,
)
from .starters import by_event, by_hand

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

    async def direct() -> object:
        event = events.stamp(
            {"name": functions.STEPS_EVENT.format(size=size), "data": {"number": next(numbers)}}
        )
        run = RunInput([event.event], [event.internal_id])
        return await client.execute_workflow(function.id, run, id=str(uuid4()), task_queue=queue)

    return {
        OURS: by_event(client, router, function.id, functions.STEPS_EVENT.format(size=size)),
        HAND: by_hand(client, functions.HandSteps.run, size),
        DIRECT: direct,
    }


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

    def measured(name: str, size: int, turn: Turn) -> Turn:
        async def with_cpu() -> float:
            before = cpu_seconds(pids[name])
            rate = await turn()
            each = (cpu_seconds(pids[name]) - before) / AT_ONCE[size]
            cpu.setdefault((name, size), []).append(each)
            return rate

        return with_cpu

    report.title(f"runs: throughput, median of {THROUGHPUT_TURNS} turns")
    for size, at_once in AT_ONCE.items():
        sides = {
            name: measured(name, size, throughput(start, at_once, sum(range(size))))
            for name, start in starters(client, router, size).items()
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
