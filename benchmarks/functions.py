"""What is measured: our functions, and beside each the same written by hand with temporalio.

The hand-written ones are as a careful user of temporalio writes them: plain activities with a
timeout, eager execution (the SDK's default), and, as ours, without the workflow sandbox.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

import inngest_temporal as inngest

SIZES = (0, 1, 5, 20)
HAND_QUEUE = "hand-written"
STEPS_EVENT = "bench/steps-{size}"
PARALLEL_EVENT = "bench/parallel"
AT_ONCE = 50
"""Parallel steps."""
FAN_OUT_EVENT = "bench/fan-out"
SLOW_EVENT = "bench/slow"
SLOW_SECONDS = 0.01
BUFFERED_EVENT = "bench/buffered"
THOUSAND_EVENT = "bench/thousand"
WAIT_EVENT = "bench/wait"
PAID_EVENT = "bench/paid"
WAIT_TIMEOUT = timedelta(hours=1)

client = inngest.Inngest(app_id="bench", is_production=False)


async def work(number: int) -> dict[str, int]:
    """A step's body, and an activity's."""
    return {"number": number}


async def slow_work(number: int) -> dict[str, int]:
    """The same, for a step that waits for something."""
    await asyncio.sleep(SLOW_SECONDS)
    return {"number": number}


def function_of(
    fn_id: str,
    event: str,
    size: int,
    body: Callable[[int], Awaitable[dict[str, int]]] = work,
    buffered_steps: int = 1,
) -> inngest.Function[Any]:
    """A function of that many steps, one after the other."""

    @client.create_function(
        fn_id=fn_id,
        trigger=inngest.TriggerEvent(event=event),
        retries=3,
        checkpointing=inngest.Checkpointing(buffered_steps=buffered_steps),
    )
    async def steps(ctx: inngest.Context) -> int:
        total = 0
        for number in range(size):
            result = await ctx.step.run(f"step-{number}", body, number)
            total += result["number"]
        return total

    return steps


FUNCTIONS = {
    size: function_of(f"steps-{size}", STEPS_EVENT.format(size=size), size) for size in SIZES
}
slow = function_of("slow", SLOW_EVENT, 20, slow_work)
buffered = function_of("buffered", BUFFERED_EVENT, 20, buffered_steps=25)


@client.create_function(fn_id="wait", trigger=inngest.TriggerEvent(event=WAIT_EVENT))
async def wait(ctx: inngest.Context) -> Any:
    paid = await ctx.step.wait_for_event(
        "paid",
        event=PAID_EVENT,
        if_exp="event.data.orderId == async.data.orderId",
        timeout=WAIT_TIMEOUT,
    )
    return paid.data["orderId"] if paid else None


@client.create_function(
    fn_id="parallel", trigger=inngest.TriggerEvent(event=PARALLEL_EVENT), retries=3
)
async def parallel(ctx: inngest.Context) -> int:
    results = await asyncio.gather(
        *(ctx.step.run(f"step-{number}", work, number) for number in range(AT_ONCE))
    )
    return sum(result["number"] for result in results)


def fanned_out(number: int) -> inngest.Function[Any]:
    """One of the functions that the same event starts."""

    @client.create_function(
        fn_id=f"fan-out-{number}", trigger=inngest.TriggerEvent(event=FAN_OUT_EVENT), retries=3
    )
    async def one_step(ctx: inngest.Context) -> int:
        return (await ctx.step.run("step-0", work, 0))["number"]

    return one_step


FAN_OUT = [fanned_out(number) for number in range(20)]


@client.create_function(
    fn_id="thousand", trigger=inngest.TriggerEvent(event=THOUSAND_EVENT), retries=3
)
async def thousand(ctx: inngest.Context) -> list[float]:
    """Nearly a thousand steps of 1 KB. Returns when each tenth of them ended, in seconds since
    1970."""
    times = []
    for number in range(980):
        await ctx.step.run(f"step-{number}", lambda: "x" * 1_000)
        if number % 98 == 97:
            times.append(await ctx.step.run(f"time-{number}", time.time))
    return times


ALL_FUNCTIONS: list[inngest.Function[Any]] = [
    *FUNCTIONS.values(),
    *FAN_OUT,
    slow,
    buffered,
    wait,
    parallel,
    thousand,
]


work_activity = activity.defn(name="work")(work)
slow_activity = activity.defn(name="slow-work")(slow_work)


@workflow.defn(name="hand-steps", sandboxed=False)
class HandSteps:
    @workflow.run
    async def run(self, size: int, slow: bool = False) -> int:
        work = slow_activity if slow else work_activity
        total = 0
        for number in range(size):
            result = await workflow.execute_activity(
                work, number, start_to_close_timeout=timedelta(minutes=1)
            )
            total += result["number"]
        return total


@workflow.defn(name="hand-parallel", sandboxed=False)
class HandParallel:
    @workflow.run
    async def run(self) -> int:
        results = await asyncio.gather(
            *(
                workflow.execute_activity(
                    work_activity, number, start_to_close_timeout=timedelta(minutes=1)
                )
                for number in range(AT_ONCE)
            )
        )
        return sum(result["number"] for result in results)


@workflow.defn(name="hand-wait", sandboxed=False)
class HandWait:
    def __init__(self) -> None:
        self._paid: dict[str, Any] | None = None

    @workflow.run
    async def run(self, order: str) -> str | None:
        try:
            await workflow.wait_condition(lambda: self._paid is not None, timeout=WAIT_TIMEOUT)
        except TimeoutError:
            return None
        return order

    @workflow.signal
    def paid(self, event: dict[str, Any]) -> None:
        self._paid = event


HAND_WORKFLOWS = [HandSteps, HandParallel, HandWait]
