"""The functions of `benchmarks.flow_control`, one for each feature, and their worker: `python -m
benchmarks.flow_functions ADDRESS`."""

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal_workers.worker import create_worker

from .worker import until_published

PLAIN = "none"
HOT_LIMITS = (1, 10, 50)
DEBOUNCE = timedelta(seconds=1)
"""The shortest period that a debounce can have."""

client = inngest.Inngest(app_id="flow-bench", is_production=False)


HOLD = Path(os.environ.get("FLOW_BENCH_HOLD", os.devnull + "/none"))
"""While this file exists, steps do not end, and their runs keep their permits."""


async def work() -> str:
    """A step's body."""
    for _ in range(20_000):
        if not HOLD.exists():
            break
        await asyncio.sleep(0.2)
    return "done"


def function_of(name: str, **options: Any) -> inngest.Function[Any]:
    """A function of one step, triggered by the event of its name."""

    @client.create_function(
        fn_id=name, trigger=inngest.TriggerEvent(event=f"flow-bench/{name}"), **options
    )
    async def fn(ctx: inngest.Context) -> str:
        return await ctx.step.run("work", work)

    return fn


KEY = "event.data.key"
FEATURES = {
    PLAIN: function_of(PLAIN),
    "concurrency": function_of(
        "concurrency", concurrency=[inngest.Concurrency(limit=1_000, key=KEY)]
    ),
    "throttle": function_of(
        "throttle", throttle=inngest.Throttle(limit=100_000, period=1_000, key=KEY)
    ),
    "singleton": function_of("singleton", singleton=inngest.Singleton(mode="skip", key=KEY)),
    "rate limit": function_of(
        "rate-limit", rate_limit=inngest.RateLimit(limit=100_000, period=1_000, key=KEY)
    ),
    "batch": function_of(
        "batch", batch_events=inngest.Batch(max_size=2, timeout=timedelta(minutes=1), key=KEY)
    ),
    "debounce": function_of("debounce", debounce=inngest.Debounce(period=DEBOUNCE, key=KEY)),
    "cancel": function_of(
        "cancel",
        cancel=[inngest.Cancel(event="flow-bench/stop", if_exp=f"{KEY} == async.data.key")],
    ),
    "timeouts": function_of("timeouts", timeouts=inngest.Timeouts(finish=timedelta(hours=1))),
    "priority": function_of("priority", priority=inngest.Priority(run="100")),
}
HOT = {
    limit: function_of(f"hot-{limit}", concurrency=[inngest.Concurrency(limit=limit)])
    for limit in HOT_LIMITS
}


async def main(address: str) -> None:
    everything = [*FEATURES.values(), *HOT.values()]
    worker = create_worker(await Client.connect(address), everything, max_cached_workflows=25_000)
    async with worker:
        await until_published(worker)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
