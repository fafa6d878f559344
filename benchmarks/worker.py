"""A worker process of one side: `python -m benchmarks.worker ours|hand ADDRESS [FILE]`. It stops
when its input ends.

With a file, it is profiled: the CPU time of its event loop and workflow threads is written there,
as `pstats` reads it.
"""

import asyncio
import cProfile
import pstats
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop
from temporalio.client import Client
from temporalio.worker import Worker

from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.worker import create_worker

from . import functions


def make_worker(side: str, client: Client, **options: Any) -> Worker:
    """Both with the SDK's default options."""
    if side == "ours":
        return create_worker(client, functions.ALL_FUNCTIONS, **options)
    return Worker(
        client,
        task_queue=functions.HAND_QUEUE,
        workflows=functions.HAND_WORKFLOWS,
        activities=[functions.work_activity, functions.slow_activity],
        **options,
    )


async def until_published(worker: Worker) -> None:
    for plugin in worker.config()["plugins"]:
        if isinstance(plugin, InngestPlugin):
            await plugin.published.wait()


async def main(side: str, address: str, file: str | None = None) -> None:
    profiles: list[cProfile.Profile] = []

    def profile() -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    options = (
        {}
        if file is None
        else {"workflow_task_executor": ThreadPoolExecutor(8, initializer=profile)}
    )
    worker = make_worker(side, await Client.connect(address), **options)
    async with worker:
        await until_published(worker)
        if file is not None:
            profile()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    if file is not None:
        stats = pstats.Stats(*profiles)
        stats.dump_stats(file)


if __name__ == "__main__":
    # Ours as the command `worker` runs it, the other as temporalio's documentation does.
    loop_factory = uvloop.new_event_loop if sys.argv[1] == "ours" else None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main(*sys.argv[1:4]))
