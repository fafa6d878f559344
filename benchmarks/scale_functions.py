"""The functions of `benchmarks.scale`, and their worker: `python -m benchmarks.scale_functions
ADDRESS`."""

import asyncio
import sys
from datetime import timedelta
from typing import Any

from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal_workers.worker import create_worker

from .worker import until_published

NAMES, PATHS = 50, 3

client = inngest.Inngest(app_id="scale", is_production=False)


def name_of(number: int) -> str:
    return f"scale/event-{number % NAMES}"


def path_number(number: int) -> int:
    return number // NAMES % PATHS


def place_of(number: int) -> tuple[str, str, int]:
    """Event name, path and value by which the wait of run `number` is found."""
    return name_of(number), f"data.key{path_number(number)}", number


def waiting_function(path: int) -> inngest.Function[Any]:
    @client.create_function(
        fn_id=f"wait-{path}", trigger=inngest.TriggerEvent(event=f"scale/start-{path}")
    )
    async def wait(ctx: inngest.Context) -> Any:
        number = int(str(ctx.event.data["number"]))
        found = await ctx.step.wait_for_event(
            "wait",
            event=name_of(number),
            if_exp=f"event.data.number == async.data.key{path}",
            timeout=timedelta(hours=2),
        )
        return found and found.data["number"]

    return wait


FUNCTIONS = [waiting_function(path) for path in range(PATHS)]


def function_of(number: int) -> inngest.Function[Any]:
    return FUNCTIONS[path_number(number)]


def event_of(number: int) -> str:
    """Name of the event that starts run `number`."""
    return f"scale/start-{path_number(number)}"


async def main(address: str) -> None:
    worker = create_worker(await Client.connect(address), FUNCTIONS)
    async with worker:
        await until_published(worker)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
