"""Patterns: parallel steps, loops, retries, errors that no retry helps, on_failure.

inngest-temporal dev examples/patterns.py
"""

import asyncio
import datetime

import inngest_temporal as inngest

client = inngest.Inngest(app_id="patterns")


@client.create_function(fn_id="parallel", trigger=inngest.TriggerEvent(event="patterns/parallel"))
async def parallel(ctx: inngest.Context) -> list[int]:
    """Parallel steps: each is retried on its own, and the results come in the order given."""

    async def price(shop: str) -> int:
        await asyncio.sleep(0.1)
        return len(shop)

    return list(
        await ctx.group.parallel(
            (
                lambda: ctx.step.run("price-north", price, "north"),
                lambda: ctx.step.run("price-southern", price, "southern"),
            )
        )
    )


@client.create_function(fn_id="loop", trigger=inngest.TriggerEvent(event="patterns/loop"))
def loop(ctx: inngest.ContextSync) -> int:
    """A loop: the index makes the ids unique, so each round is remembered on its own. The handler
    need not be async."""
    total = 0
    for index in range(int(str(ctx.event.data.get("rounds", 3)))):
        total += ctx.step.run(f"square-{index}", square, index)
        ctx.step.sleep(f"pause-{index}", datetime.timedelta(milliseconds=100))
    return total


def square(number: int) -> int:
    """A step's body is an ordinary function."""
    return number * number


@client.create_function(
    fn_id="flaky", retries=3, trigger=inngest.TriggerEvent(event="patterns/flaky")
)
async def flaky(ctx: inngest.Context) -> str:
    """Retries: a step that raises is tried again, the steps before it are not. An error may say
    when."""
    token = await ctx.step.run("log-in", log_in)

    async def fetch() -> str:
        if ctx.attempt == 0:
            raise inngest.RetryAfterError("the service is busy", datetime.timedelta(seconds=1))
        return f"fetched with {token} in attempt {ctx.attempt + 1}"

    return await ctx.step.run("fetch", fetch)


async def log_in() -> str:
    """A real one would ask for the token."""
    return "token"


@client.create_function(
    fn_id="fallback", retries=0, trigger=inngest.TriggerEvent(event="patterns/fallback")
)
async def fallback(ctx: inngest.Context) -> str:
    """A step whose attempts are used up raises StepError; the handler may catch it, and go another
    way."""

    async def primary() -> str:
        raise ConnectionError("the first service is down")

    async def secondary() -> str:
        return "the second service answered"

    try:
        return await ctx.step.run("primary", primary)
    except inngest.StepError as error:
        ctx.logger.warning("going another way: %s", error.message)
        return await ctx.step.run("secondary", secondary)


async def refund(ctx: inngest.Context) -> str:
    """Runs when a run of `charge` has failed for good; its event says which, and with what
    error."""
    return await ctx.step.run("tell-support", open_ticket, ctx.event.data["error"])


async def open_ticket(error: object) -> str:
    """A real one would write to the people who can help."""
    return f"ticket: {error}"


@client.create_function(
    fn_id="charge",
    on_failure=refund,
    trigger=inngest.TriggerEvent(event="patterns/charge", expression="event.data.amount > 0"),
)
async def charge(ctx: inngest.Context) -> str:
    """An error that no retry helps fails the run at once. The trigger's expression lets only some
    events start it."""

    async def authorize() -> str:
        if ctx.event.data.get("card") != "valid":
            raise inngest.NonRetriableError("the card was declined")
        return "authorized"

    return await ctx.step.run("authorize", authorize)
