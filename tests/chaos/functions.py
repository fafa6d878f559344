"""The app under test: every kind of function, in two versions (`CHAOS_VERSION`).

A kind's function is triggered by `chaos/KIND`. Each step appends a line to the journal when it
begins and when it ends, and the step that proves a run's success is the one named `last` (for
`fatal`, `cancelled` and `timed-out`: see `sender.PROOF`).
"""

import asyncio
import time
from datetime import timedelta
from typing import Any

import inngest_temporal as inngest
from tests.chaos.notes import LAST, VERSION, expect, identity, note, noted

WAIT = timedelta(minutes=30)

client = inngest.Inngest(app_id="chaos", is_production=False)


async def body(ctx: inngest.Context, step: str, order: int, seconds: float) -> int:
    with noted(ctx, step, order):
        await asyncio.sleep(seconds)
    return order


async def step(ctx: inngest.Context, name: str, order: int, seconds: float = 0.0) -> None:
    """A step whose result is checked. Steps of a greater `order` begin after its end."""
    result = await ctx.step.run(name, body, ctx, name, order, seconds)
    expect(ctx, name, result, order)


async def last(ctx: inngest.Context) -> None:
    await step(ctx, "last", LAST)


def function(kind: str, **options: Any) -> Any:
    trigger = inngest.TriggerEvent(event=f"chaos/{kind}")
    return client.create_function(fn_id=kind, trigger=trigger, **{"retries": 20, **options})


def event(kind: str, ctx: inngest.Context) -> inngest.Event:
    """An event with the data of the run's own event."""
    return inngest.Event(name=f"chaos/{kind}", data=ctx.event.data)


@function("steps-0")
async def steps_0(ctx: inngest.Context) -> None:
    with noted(ctx, "last", LAST):
        pass


@function("steps-1")
async def steps_1(ctx: inngest.Context) -> None:
    await last(ctx)


@function("steps-5")
async def steps_5(ctx: inngest.Context) -> None:
    for place in range(4):
        # A deploy in the middle of a run renames a step that may have been executed.
        name = f"s{place}-renamed" if VERSION == "2" and place == 2 else f"s{place}"
        await step(ctx, name, place, 0.05)
    await last(ctx)


@function("steps-20")
async def steps_20(ctx: inngest.Context) -> None:
    for place in range(19):
        await step(ctx, f"s{place}", place)
    await last(ctx)


@function("parallel")
async def parallel(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    await ctx.group.parallel(
        tuple(lambda n=n: step(ctx, f"side-{n}", 1, 0.1 * n) for n in range(4))
    )
    await last(ctx)


@function("sleeps")
async def sleeps(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    await ctx.step.sleep("nap", 1_500)
    await step(ctx, "second", 1)
    await ctx.step.sleep("long nap", 8_000)
    await last(ctx)


@function("waits")
async def waits(ctx: inngest.Context) -> None:
    answer, _ = await asyncio.gather(
        ctx.step.wait_for_event(
            "answer", event="chaos/answer", if_exp="event.data.n == async.data.n", timeout=WAIT
        ),
        ctx.step.send_event("ask", event("question", ctx)),
    )
    expect(ctx, "answer", answer and answer.data["n"], ctx.event.data["n"])
    await last(ctx)


@function("question")
async def question(ctx: inngest.Context) -> None:
    await step(ctx, "read", 0)
    await ctx.step.send_event("answer", event("answer", ctx))


@function("invokes")
async def invokes(ctx: inngest.Context) -> None:
    answer = await ctx.step.invoke("child", function=child, data=ctx.event.data)
    expect(ctx, "child", answer, ctx.event.data["n"])
    await last(ctx)


@client.create_function(
    fn_id="child", trigger=inngest.TriggerEvent(event="chaos/child"), retries=20
)
async def child(ctx: inngest.Context) -> Any:
    await step(ctx, "in the child", 0, 0.1)
    return ctx.event.data["n"]


@function("chain")
async def chain(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    await ctx.step.send_event("next", [event("link", ctx), event("nobody", ctx)])


@function("link")
async def link(ctx: inngest.Context) -> None:
    await ctx.step.send_event("next", event("tail", ctx))


@function("tail")
async def tail(ctx: inngest.Context) -> None:
    await last(ctx)


@function("signals")
async def signals(ctx: inngest.Context) -> None:
    n = ctx.event.data["n"]
    found, _ = await asyncio.gather(
        ctx.step.wait_for_signal("signal", signal=f"chaos-{n}", timeout=WAIT),
        ctx.step.send_event("ask", event("signaller", ctx)),
    )
    expect(ctx, "signal", found and found.data, n)
    await last(ctx)


@function("signaller")
async def signaller(ctx: inngest.Context) -> None:
    n = ctx.event.data["n"]
    await ctx.step.send_signal("send", signal=f"chaos-{n}", data=n)


@function("flaky")
async def flaky(ctx: inngest.Context) -> None:
    async def fails_twice() -> str:
        with noted(ctx, "flaky", 0):
            if ctx.attempt < 2:
                raise ValueError("not yet")
        return "at last"

    expect(ctx, "flaky", await ctx.step.run("flaky", fails_twice), "at last")
    await last(ctx)


@function("retry-after")
async def retry_after(ctx: inngest.Context) -> None:
    async def fails_once() -> None:
        with noted(ctx, "later", 0):
            if ctx.attempt == 0:
                raise inngest.RetryAfterError("later", 2_000)

    await ctx.step.run("later", fails_once)
    await last(ctx)


async def fatal_failed(ctx: inngest.Context) -> None:
    try:
        await step(ctx, "failed", 1)
    except inngest.StepError as error:
        # It has no retries: a step that had begun when its worker was lost is not executed again.
        expect(ctx, "failed", error.name, "StepLostError")
        with noted(ctx, "failed", 1):
            pass


@function("fatal", on_failure=fatal_failed)
async def fatal(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    raise inngest.NonRetriableError("as it should")


@function("no-retries", retries=0)
async def no_retries(ctx: inngest.Context) -> None:
    # A step may be lost with its worker, but fails for no other reason.
    for place in range(5):
        try:
            await step(ctx, f"s{place}", place, 0.2)
        except inngest.StepError as error:
            expect(ctx, f"s{place}", error.name, "StepLostError")
    try:
        await last(ctx)
    except inngest.StepError as error:
        expect(ctx, "last", error.name, "StepLostError")
        with noted(ctx, "last", LAST):
            pass


STOP = inngest.Cancel(event="chaos/stop", if_exp="event.data.n == async.data.n")


@function("cancelled", cancel=[STOP])
async def cancelled(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    await ctx.step.send_event("stop", event("stop", ctx))
    await ctx.step.sleep("long", WAIT)


@function("timed-out", timeouts=inngest.Timeouts(start=1_800_000, finish=3_000))
async def timed_out(ctx: inngest.Context) -> None:
    await ctx.step.sleep("long", WAIT)


@client.create_function(
    fn_id="after-cancellation",
    trigger=inngest.TriggerEvent(event="inngest/function.cancelled"),
    retries=20,
)
async def after_cancellation(ctx: inngest.Context) -> None:
    await step(ctx, "cancelled", 0)


@client.create_function(
    fn_id="after-failure",
    trigger=inngest.TriggerEvent(
        event="inngest/function.failed", expression="event.data.function_id != 'chaos-fatal'"
    ),
    retries=20,
)
async def after_failure(ctx: inngest.Context) -> None:
    data: Any = ctx.event.data
    note("failed", **identity(ctx), function=data["function_id"], error=str(data["error"])[:300])


@function("per-key", concurrency=[inngest.Concurrency(limit=2, key="event.data.key")])
async def per_key(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0, 0.3)
    await ctx.step.sleep("nap", 200)
    await step(ctx, "last", LAST, 0.3)


SHARED = [inngest.Concurrency(limit=3, key='"shared"', scope="env")]


@function("shared-a", concurrency=SHARED)
async def shared_a(ctx: inngest.Context) -> None:
    await step(ctx, "last", LAST, 0.3)


@function("shared-b", concurrency=SHARED)
async def shared_b(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0, 0.2)
    await step(ctx, "last", LAST, 0.2)


@function("throttled", throttle=inngest.Throttle(limit=5, period=1_000))
async def throttled(ctx: inngest.Context) -> None:
    await last(ctx)


@function(
    "rate-limited", rate_limit=inngest.RateLimit(limit=1, period=3_600_000, key="event.data.key")
)
async def rate_limited(ctx: inngest.Context) -> None:
    await last(ctx)


@function("idempotent", idempotency="event.data.key")
async def idempotent(ctx: inngest.Context) -> None:
    await last(ctx)


@function("debounced", debounce=inngest.Debounce(period=2_000, key="event.data.key"))
async def debounced(ctx: inngest.Context) -> None:
    await last(ctx)


@function("batched", batch_events=inngest.Batch(max_size=4, timeout=3_000, key="event.data.key"))
async def batched(ctx: inngest.Context) -> None:
    await last(ctx)


@function("single-skip", singleton=inngest.Singleton(mode="skip", key="event.data.key"))
async def single_skip(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0, 0.3)
    await ctx.step.sleep("nap", 500)
    await last(ctx)


@function("single-cancel", singleton=inngest.Singleton(mode="cancel", key="event.data.key"))
async def single_cancel(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0, 0.3)
    await ctx.step.sleep("nap", 2_000)
    await last(ctx)


@function(
    "priority",
    priority=inngest.Priority(run="event.data.key == 'k0' ? 100 : 0"),
    concurrency=[inngest.Concurrency(limit=2)],
)
async def priority(ctx: inngest.Context) -> None:
    await step(ctx, "last", LAST, 0.1)


@client.create_function(fn_id="cron", trigger=inngest.TriggerCron(cron="@every 10s"), retries=20)
async def cron(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    await last(ctx)


@function("sync")
def sync(ctx: inngest.ContextSync) -> None:
    def sync_body(name: str, order: int) -> int:
        with noted(ctx, name, order):
            time.sleep(0.1)
        return order

    for order, name in enumerate(("first", "second")):
        expect(ctx, name, ctx.step.run(name, sync_body, name, order), order)
    ctx.step.run("last", sync_body, "last", LAST)


@function("large")
async def large(ctx: inngest.Context) -> None:
    async def much(place: int) -> str:
        with noted(ctx, f"much-{place}", place):
            return "y" * 200_000

    for place in range(3):
        expect(ctx, "much", len(await ctx.step.run(f"much-{place}", much, place)), 200_000)
    expect(ctx, "blob", len(str(ctx.event.data["blob"])), 300_000)
    await last(ctx)


if VERSION == "2":

    @function("extra")
    async def extra(ctx: inngest.Context) -> None:
        await last(ctx)
