import asyncio
import logging

import pytest
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal_workers.commands.ends import report_ends
from tests.harness import TRIGGER, new_client, running, until


async def test_the_end_of_each_run_is_logged_once_with_its_function_and_run(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inngest_temporal.runs")
    app_client = new_client()

    @app_client.create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> None:
        if ctx.event.data["n"] == 1:
            raise ValueError
        if ctx.event.data["n"] == 2:
            await ctx.step.sleep("long", 3_600_000)

    def said() -> list[tuple[str, str]]:
        return [
            (record.__dict__["inngest"]["runId"], record.getMessage().rsplit(" ", 3)[0])
            for record in caplog.records
            if record.name == "inngest_temporal.runs"
        ]

    reporting = asyncio.create_task(report_ends(client))
    async with running(client, fn) as app:
        runs = [app.run_of(fn, await app.send("test/event", {"n": n})) for n in range(3)]
        await until(lambda: len(said()) == 2)
        await runs[2].cancel()
        await until(lambda: len(said()) == 3)
        again = app.run_of(fn, await app.send("test/event", {"n": 0}))
        await until(lambda: len(said()) == 4)
    reporting.cancel()
    ends = ["The run completed", "The run failed", "The run was cancelled", "The run completed"]
    assert dict(said()) == dict(zip([run.id for run in (*runs, again)], ends, strict=True))
