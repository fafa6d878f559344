"""Slips that a type checker finds: `test_typing` fails when mypy no longer needs one of these
comments."""

import inngest_temporal as inngest

client = inngest.Inngest(app_id="app")
TRIGGER = inngest.TriggerEvent(event="a")


async def fetch(user: str) -> int:
    """A step's body."""
    return len(user)


@client.create_function(fn_id="asynchronous", trigger=TRIGGER)
async def asynchronous(ctx: inngest.Context) -> int:
    """Each line is wrong."""
    await ctx.step.run("a", fetch("u"))  # type: ignore[arg-type]
    await ctx.step.run("b", fetch, 5)  # type: ignore[arg-type]
    await ctx.step.send_event("c", {"name": "a"})  # type: ignore[arg-type]
    await ctx.step.sleep_until("d", "2026-11-26")  # type: ignore[arg-type]
    await ctx.step.sleep("e", "1h")  # type: ignore[arg-type]
    await ctx.step.invoke("f", function="synchronous")  # type: ignore[arg-type]
    return ctx.step.run("g", fetch, "u")  # type: ignore[return-value]


@client.create_function(fn_id="synchronous", trigger=TRIGGER)
def synchronous(ctx: inngest.ContextSync) -> str:
    """Each line is wrong."""
    ctx.step.run("a", len, 5)  # type: ignore[arg-type]
    return ctx.step.invoke("b", function=asynchronous)  # type: ignore[return-value]


@client.create_function(fn_id="two", trigger=TRIGGER)  # type: ignore[arg-type]
async def two(ctx: inngest.Context, step: inngest.Step) -> None:
    """A handler of two arguments."""


inngest.Throttle(limit=1, period="1m")  # type: ignore[arg-type]
client.create_function(fn_id="five", trigger=TRIGGER, concurrency=5)  # type: ignore[arg-type]
