"""Events accepted per second by the real ingress, beside bare `start_workflow` calls: 32 at once,
from one process.

Each event starts one run. No worker runs on either side, so only the accepting is measured: our
functions are published by a worker that has stopped by then. The ingress is a process of its own
under uvicorn, reached over HTTP on loopback.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from temporalio.client import Client

from . import functions
from .bench import HAND, OURS, Report, cpu_seconds, embedded_server, process, take_turns
from .http import Sender

AT_ONCE = 32
EACH_TURN = 320
TURNS = 9
ARRAY = 100
"""Events in an array."""
ARRAYS = 8
"""Arrays at once."""
ARRAY_BAR = 6.5
"""Ten times what it was when each event was one call, which was 0.65 of bare `start_workflow`."""


async def load(call: Callable[[], Awaitable[None]]) -> float:
    """How many calls a second `AT_ONCE` callers make."""
    left = iter(range(EACH_TURN))

    async def caller() -> None:
        for _ in left:
            await call()

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return EACH_TURN / (time.perf_counter() - begun)


async def main(report: Report) -> None:
    """Print the comparison."""
    async with embedded_server() as client:
        address = client.service_client.config.target_host
        async with process("benchmarks.worker", "ours", address):
            pass
        async with process("benchmarks.serve", address) as serve:
            await compare(report, client, int(serve.line.split()[1]), serve.pid)


async def compare(report: Report, client: Client, port: int, pid: int) -> None:
    size = 1
    name = functions.STEPS_EVENT.format(size=size)
    data = {"orderId": "o-1", "plan": "enterprise", "amount": 12.5}

    async def start() -> None:
        await client.start_workflow(
            "hand-steps",
            {"name": name, "data": data},
            id=str(uuid4()),
            task_queue=functions.HAND_QUEUE,
        )

    async with Sender(port, 1) as sender:
        for _ in range(300):
            if (await sender.post("/e/key", {"name": name, "data": data}))[0] == 200:
                break
            await asyncio.sleep(0.1)  # the ingress has not read the registry yet

    cpu: list[float] = []

    async def ours() -> float:
        # Connect again for each turn: the server closes connections that are idle during the other
        # side's turn.
        async with Sender(port, AT_ONCE) as sender:

            async def post() -> None:
                status, body = await sender.post("/e/key", {"name": name, "data": data})
                assert status == 200, body

            before = cpu_seconds(pid)
            rate = await load(post)
            cpu.append((cpu_seconds(pid) - before) / EACH_TURN * 1000)
            return rate

    samples = await take_turns({OURS: ours, HAND: lambda: load(start)}, TURNS)
    report.title(
        f"ingress: events accepted, {AT_ONCE} at once, median of {TURNS} turns of {EACH_TURN}"
    )
    report.compare("POST /e, start_workflow", samples[OURS], samples[HAND], "/s", at_least=0.8)
    report.line(f"CPU of the ingress process: {sum(cpu) / len(cpu):.2f} ms an event")
    await compare_arrays(report, start, port, {"name": name, "data": data})


async def compare_arrays(
    report: Report, start: Callable[[], Awaitable[None]], port: int, event: dict[str, Any]
) -> None:
    """Events in arrays, of which each is one durable write, beside as many started runs."""

    async def arrays() -> float:
        async with Sender(port, ARRAYS) as sender:

            async def post() -> None:
                status, body = await sender.post("/e/key", [event] * ARRAY)
                assert status == 200, body

            begun = time.perf_counter()
            await asyncio.gather(*(post() for _ in range(ARRAYS)))
            return ARRAY * ARRAYS / (time.perf_counter() - begun)

    samples = await take_turns({OURS: arrays, HAND: lambda: load(start)}, TURNS)
    what = f"arrays of {ARRAY} events"
    report.compare(what, samples[OURS], samples[HAND], "events/s", at_least=ARRAY_BAR)
