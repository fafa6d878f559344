"""A function for the test of bulk cancellation: it sleeps for a day."""

import inngest_temporal as inngest

client = inngest.Inngest(app_id="sleepers", is_production=False)


@client.create_function(fn_id="sleep", trigger=inngest.TriggerEvent(event="sleepers/sleep"))
async def sleep(ctx: inngest.Context) -> None:
    await ctx.step.sleep("long", 86_400_000)
