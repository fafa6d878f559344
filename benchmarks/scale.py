"""10,000 waits over 50 event names with 3 paths each, of which 2,000 are resumed at random: how
many go wrong, and how much memory they take.

Takes about ten minutes on two cores, so `python -m benchmarks` leaves it out: `python -m benchmarks
scale`.
"""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

from temporalio.client import Client

from inngest_temporal.routing import events
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names

from . import scale_functions as functions
from .bench import Report, embedded_server, process, routing

WAITS = 10_000
RESUMED = 2_000
AT_ONCE = 40


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def server_pid(client: Client) -> int:
    port = client.service_client.config.target_host.rpartition(":")[2]
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        words = status.read_bytes().split(b"\0")
        if b"start-dev" in words and port.encode() in words:
            return int(status.parent.name)
    return 0


async def main(report: Report) -> None:
    report.title(
        f"scale: {WAITS:,} waits on {functions.NAMES} event names with {functions.PATHS} paths each"
    )
    async with embedded_server() as client:
        address = client.service_client.config.target_host
        async with (
            process("benchmarks.scale_functions", address) as worker,
            routing(client) as router,
        ):
            server = server_pid(client)
            before = memory_mb(worker.pid), memory_mb(server)
            begun = time.monotonic()
            limit = asyncio.Semaphore(AT_ONCE)

            async def start(number: int) -> str:
                async with limit:
                    event = events.stamp(
                        {"name": functions.event_of(number), "data": {"number": number}}
                    )
                    await router.route([event])
                    run = client.get_workflow_handle(
                        events.run_id(functions.function_of(number).id, event)
                    )
                    async for item in run.fetch_history_events(wait_new_event=True):
                        if item.HasField("timer_started_event_attributes"):
                            return run.id
                    raise RuntimeError(f"{run.id} ended before its wait began")

            runs = await asyncio.gather(*(start(number) for number in range(WAITS)))
            took = time.monotonic() - begun
            report.line(
                f"{WAITS:,} runs started and waiting in {took:.0f} s ({WAITS / took:.0f}/s)"
            )
            during = memory_mb(worker.pid), memory_mb(server)

            chosen = random.Random(7).sample(range(WAITS), RESUMED)
            begun = time.monotonic()
            wrong = sum(
                await asyncio.gather(*(resume(client, router, limit, runs[n], n) for n in chosen))
            )
            took = time.monotonic() - begun
            report.line(
                f"{RESUMED:,} resumed by their events in {took:.0f} s ({RESUMED / took:.0f}/s);"
                f" wrong: {wrong}"
            )
            resumed = set(chosen)
            others = [n for n in range(WAITS) if n not in resumed]
            sample = random.Random(8).sample(others, 500)
            ended = sum(await asyncio.gather(*(has_ended(client, limit, runs[n]) for n in sample)))
            report.line(f"of 500 others, resumed without their event: {ended}")
            hub = client.get_workflow_handle(names.hub_id(functions.name_of(0)))
            size = (await hub.describe()).raw_description.workflow_execution_info.history_size_bytes
            box = client.get_workflow_handle(names.mailbox_id(*functions.place_of(others[0])))
            mailbox = (
                await box.describe()
            ).raw_description.workflow_execution_info.history_size_bytes
            after = memory_mb(worker.pid), memory_mb(server)
            report.line(f"history of a hub {size} bytes, of a mailbox {mailbox} bytes")
            for when, (ours, theirs) in (("before", before), ("waiting", during), ("after", after)):
                report.line(
                    f"memory {when:<8} worker {ours:6.0f} MB, Temporal server {theirs:6.0f} MB"
                )
            if wrong or ended:
                report.missed.append("scale: wrong, lost or double resumes")


async def resume(
    client: Client, router: Router, limit: asyncio.Semaphore, run_id: str, number: int
) -> bool:
    """Resume a run by its event. Returns whether that went wrong."""
    async with limit:
        name, path, value = functions.place_of(number)
        event = events.stamp(
            {"name": name, "data": {path.removeprefix("data."): value, "number": number}}
        )
        await router.route([event])
        try:
            result: Any = await asyncio.wait_for(client.get_workflow_handle(run_id).result(), 60)
        except TimeoutError:
            return True
        return bool(result != number)


async def has_ended(client: Client, limit: asyncio.Semaphore, run_id: str) -> bool:
    async with limit:
        return (await client.get_workflow_handle(run_id).describe()).close_time is not None
