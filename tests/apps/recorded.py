"""The functions of the recorded histories under `tests/histories`. Those must continue to replay:
functions may be added here, but nothing may be taken away once a version is released."""

import asyncio
from typing import Any

import inngest_temporal as inngest

client = inngest.Inngest(app_id="recorded", is_production=False)


def on(event: str) -> inngest.TriggerEvent:
    return inngest.TriggerEvent(event=event)


@client.create_function(fn_id="plain", trigger=on("r/plain"))
async def plain(ctx: inngest.Context) -> Any:
    return ctx.event.data


@client.create_function(fn_id="steps", trigger=on("r/steps"), retries=2)
async def steps(ctx: inngest.Context) -> Any:
    def flaky() -> str:
        if ctx.attempt == 0:
            raise ValueError("first attempt")
        return "flaky"

    results = [await ctx.step.run("flaky", flaky)]
    await ctx.step.sleep("nap", 10)
    results += await ctx.group.parallel(
        tuple(lambda n=n: ctx.step.run(f"p{n}", lambda: n) for n in range(3))
    )
    results += await asyncio.gather(
        ctx.step.sleep("other nap", 20), ctx.step.run("beside", lambda: "beside")
    )
    await ctx.step.send_event("send", inngest.Event(name="r/nobody"))
    return results


@client.create_function(fn_id="sync", trigger=on("r/sync"))
def sync(ctx: inngest.ContextSync) -> Any:
    return [ctx.step.run("a", lambda: 1), ctx.step.run("b", lambda: 2)]


async def gave_up(ctx: inngest.Context) -> Any:
    return await ctx.step.run("told", lambda: ctx.event.data["error"]["message"])  # type: ignore[index,call-overload]


@client.create_function(fn_id="fails", trigger=on("r/fails"), retries=1, on_failure=gave_up)
async def fails(ctx: inngest.Context) -> None:
    await ctx.step.run("before", lambda: None)
    raise LookupError("no such thing")


@client.create_function(fn_id="waits", trigger=on("r/waits"))
async def waits(ctx: inngest.Context) -> Any:
    found = await ctx.step.wait_for_event(
        "found", event=["r/go", "r/other"], if_exp="event.data.id == async.data.id", timeout=60_000
    )
    never = await ctx.step.wait_for_event("never", event="r/never", timeout=1_000)
    return [found is not None, never]


@client.create_function(fn_id="parent", trigger=on("r/parent"))
async def parent(ctx: inngest.Context) -> Any:
    child = await ctx.step.invoke("child", function=plain, data={"n": 1})
    try:
        await ctx.step.invoke_by_id("nobody", function_id="nobody")
    except inngest.StepError as error:
        return [child["n"], error.message]


@client.create_function(fn_id="signalled", trigger=on("r/signalled"))
async def signalled(ctx: inngest.Context) -> Any:
    found = await ctx.step.wait_for_signal("signal", signal="recorded", timeout=60_000)
    return found and found.data


@client.create_function(
    fn_id="cancelled",
    trigger=on("r/cancelled"),
    cancel=[inngest.Cancel(event="r/stop", if_exp="event.data.id == async.data.id")],
    timeouts=inngest.Timeouts(start=3_600_000, finish=3_600_000),
)
async def cancelled(ctx: inngest.Context) -> None:
    await ctx.step.sleep("long", 3_600_000)


def limited_to(limit: int) -> inngest.Function[Any]:
    @client.create_function(
        fn_id="limited",
        trigger=on("r/limited"),
        concurrency=[inngest.Concurrency(limit=limit, key="event.data.k")],
        throttle=inngest.Throttle(limit=5, period=1_000),
        priority=inngest.Priority(run="100"),
    )
    async def limited(ctx: inngest.Context) -> Any:
        await ctx.step.run("a", lambda: None)
        await ctx.step.sleep("nap", 10)
        return await ctx.step.run("b", lambda: "b")

    return limited


limited = limited_to(1)


@client.create_function(
    fn_id="single", trigger=on("r/single"), singleton=inngest.Singleton(mode="skip")
)
async def single(ctx: inngest.Context) -> None:
    await ctx.step.wait_for_event("go", event="r/single-go", timeout=60_000)


@client.create_function(
    fn_id="rated", trigger=on("r/rated"), rate_limit=inngest.RateLimit(limit=1, period=60_000)
)
async def rated(ctx: inngest.Context) -> None: ...


@client.create_function(
    fn_id="debounced", trigger=on("r/debounced"), debounce=inngest.Debounce(period=1_000)
)
async def debounced(ctx: inngest.Context) -> None: ...


@client.create_function(
    fn_id="batched", trigger=on("r/batched"), batch_events=inngest.Batch(max_size=2, timeout=60_000)
)
async def batched(ctx: inngest.Context) -> int:
    return len(ctx.events)


@client.create_function(fn_id="yearly", trigger=inngest.TriggerCron(cron="0 0 1 1 *"))
async def yearly(ctx: inngest.Context) -> object:
    return ctx.event.data["cron"]


@client.create_function(fn_id="sleeper", trigger=on("r/sleeper"))
async def sleeper(ctx: inngest.Context) -> None:
    await ctx.step.sleep("long", 3_600_000)


@client.create_function(
    fn_id="stopped", trigger=on("r/stopped"), concurrency=[inngest.Concurrency(limit=1)]
)
async def stopped(ctx: inngest.Context) -> None:
    await ctx.step.run("long", asyncio.sleep, 60)


@client.create_function(fn_id="pausable", trigger=on("r/pausable"))
async def pausable(ctx: inngest.Context) -> None: ...


FUNCTIONS = [
    yearly,
    sleeper,
    plain,
    steps,
    sync,
    fails,
    waits,
    parent,
    signalled,
    cancelled,
    limited,
    single,
    rated,
    debounced,
    batched,
    stopped,
    pausable,
]
DEPLOYED = [limited_to(2) if each is limited else each for each in FUNCTIONS]
"""A later version of the app."""
