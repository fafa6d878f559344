"""The size of histories."""

import asyncio

from temporalio.client import Client

import inngest_temporal as inngest
from tests.harness import TRIGGER, new_client, running

STEPS = 100


async def test_history_of_sequential_steps_is_linear(client: Client) -> None:
    """With results of 1 KB, there are at most 30 events and 1.3 KB a step."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        for index in range(STEPS):
            await ctx.step.run(f"step-{index}", lambda: "x" * 1_000)

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        history = await run.fetch_history()
    events = len(history.events)
    size = sum(event.ByteSize() for event in history.events)
    print(
        f"{STEPS} steps of 1 KB: {events} events, {events / STEPS:.2f} a step; {size / STEPS:.0f}"
        " bytes a step"
    )
    assert events <= 30
    assert size <= 1_300 * STEPS


async def test_history_of_parallel_steps_is_linear(client: Client) -> None:
    """Each step's answer names only steps that are not pending already: at most 2 KB a step."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        await asyncio.gather(
            *(ctx.step.run(f"step-{index}", lambda: None) for index in range(STEPS))
        )

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        history = await run.fetch_history()
    assert sum(event.ByteSize() for event in history.events) <= 2_000 * STEPS
