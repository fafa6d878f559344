"""Functions for the tests that kill processes. Each step leaves a line in a file when it begins and
when it ends."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import inngest_temporal as inngest

client = inngest.Inngest(app_id="chaos", is_production=False)
LOG = Path(os.environ.get("CHAOS_LOG", os.devnull))


def note(what: str, *parts: object) -> None:
    """Append one line, at once: `O_APPEND` keeps lines of several processes whole."""
    line = " ".join([what, str(os.getpid()), *map(str, parts)]) + "\n"
    descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


async def body(run: str, step: str, seconds: float) -> str:
    note("begin", run, step)
    await asyncio.sleep(seconds)
    note("end", run, step)
    return step


@client.create_function(fn_id="work", trigger=inngest.TriggerEvent(event="chaos/work"), retries=20)
async def work(ctx: inngest.Context) -> list[str]:
    seconds = float(str(ctx.event.data.get("seconds", 0)))
    results = [await ctx.step.run("first", body, ctx.run_id, "first", 0)]
    await ctx.step.sleep("nap", 200)
    results += await ctx.group.parallel(
        (
            lambda: ctx.step.run("left", body, ctx.run_id, "left", seconds),
            lambda: ctx.step.run("right", body, ctx.run_id, "right", seconds),
        )
    )
    results.append(await ctx.step.run("last", body, ctx.run_id, "last", 0))
    return results


def chained(fn_id: str, checkpointing: inngest.Checkpointing) -> inngest.Function[None]:
    """A function of as many steps as its event says, one after the other."""

    @client.create_function(
        fn_id=fn_id,
        trigger=inngest.TriggerEvent(event=f"chaos/{fn_id}"),
        retries=20,
        checkpointing=checkpointing,
    )
    async def steps(ctx: inngest.Context) -> None:
        for number in range(int(str(ctx.event.data["steps"]))):
            await ctx.step.run(f"{number}", body, ctx.run_id, f"{number}", 0.002)

    return steps


BUFFER = 25
"""Steps of `buffered` that a crash may repeat."""
chain = chained("chain", inngest.Checkpointing())
buffered = chained("buffered", inngest.Checkpointing(buffered_steps=BUFFER))


@client.create_function(fn_id="long", trigger=inngest.TriggerEvent(event="chaos/long"))
async def long(ctx: inngest.Context) -> list[str]:
    first = await ctx.step.run("first", body, ctx.run_id, "first", 0)

    async def stuck() -> str:
        note("begin", ctx.run_id, "stuck")
        await asyncio.sleep(3_600 if ctx.attempt == 0 else 0)
        return "stuck"

    return [first, await ctx.step.run("stuck", stuck)]


@client.create_function(
    fn_id="deadly", trigger=inngest.TriggerEvent(event="chaos/deadly"), retries=2
)
async def deadly(ctx: inngest.Context) -> int:
    """Ends its process in its first attempt, outside any step."""
    if ctx.event.data.get("sleeps"):
        await ctx.step.sleep("sleep", 1_000)
    note("deadly", ctx.run_id, ctx.attempt)
    if ctx.attempt == 0:
        os._exit(9)
    return ctx.attempt


@client.create_function(fn_id="patient", trigger=inngest.TriggerEvent(event="chaos/patient"))
async def patient(ctx: inngest.Context) -> list[object]:
    await ctx.step.run("first", body, ctx.run_id, "first", 0)
    if ctx.event.data.get("sleep"):
        await ctx.step.sleep("sleep", timedelta(seconds=10))
        return ["slept"]
    found = await ctx.step.wait_for_event(
        "wait",
        event="chaos/go",
        if_exp="event.data.id == async.data.id",
        timeout=timedelta(minutes=5),
    )
    return [found and found.data["id"]]
