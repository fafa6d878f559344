"""Functions with flow control for the tests that kill processes. Steps leave lines when they begin
and end."""

import inngest_temporal as inngest
from tests.apps.chaos import body, note

client = inngest.Inngest(app_id="flow", is_production=False)
LIMIT = 3
BATCH = 10


@client.create_function(
    fn_id="limited",
    trigger=inngest.TriggerEvent(event="flow/limited"),
    concurrency=[inngest.Concurrency(limit=LIMIT, key="event.data.key")],
    retries=20,
)
async def limited(ctx: inngest.Context) -> str:
    key = str(ctx.event.data["key"])
    return await ctx.step.run("work", body, key, str(ctx.event.data["n"]), 0.1)


@client.create_function(
    fn_id="batched",
    trigger=inngest.TriggerEvent(event="flow/batched"),
    batch_events=inngest.Batch(max_size=BATCH, timeout=3_000, key="event.data.key"),
    retries=20,
)
async def batched(ctx: inngest.Context) -> list[int]:
    numbers = [int(str(event.data["n"])) for event in ctx.events]
    await ctx.step.run("work", note, "batch", ctx.run_id, ",".join(map(str, numbers)))
    return numbers


@client.create_function(
    fn_id="rated",
    trigger=inngest.TriggerEvent(event="flow/rated"),
    rate_limit=inngest.RateLimit(limit=1, period=3_600_000, key="event.data.key"),
)
async def rated(ctx: inngest.Context) -> None: ...


@client.create_function(
    fn_id="debounced",
    trigger=inngest.TriggerEvent(event="flow/debounced"),
    debounce=inngest.Debounce(period=3_000, key="event.data.key"),
    retries=20,
)
async def debounced(ctx: inngest.Context) -> int:
    return int(str(ctx.event.data["n"]))


FUNCTIONS = [limited, batched, rated, debounced]
