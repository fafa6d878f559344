"""The app over HTTP whose runs are recorded by `python -m tests.record_histories`."""

import asyncio
import datetime
import logging
from typing import Any

import fastapi
import inngest as official
import inngest.fast_api

EVENTS = ("h/steps", "h/fails", "h/waits")


def make_app(ingress: str) -> fastapi.FastAPI:
    """The app; `ingress`: the URL at which it registers."""
    client = official.Inngest(
        app_id="http",
        is_production=False,
        api_base_url=ingress,
        event_api_base_url=ingress,
        logger=logging.getLogger("official"),
    )

    async def value(number: int) -> int:
        return number

    @client.create_function(fn_id="steps", trigger=official.TriggerEvent(event="h/steps"))
    async def steps(ctx: official.Context) -> Any:
        first = await ctx.step.run("a", value, 1)
        second = await ctx.step.run("b", value, 2)
        await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
        both = await ctx.group.parallel(
            (lambda: ctx.step.run("p", value, 3), lambda: ctx.step.run("q", value, 4))
        )
        return [first, second, *both]

    @client.create_function(
        fn_id="fails", retries=1, trigger=official.TriggerEvent(event="h/fails")
    )
    async def fails(ctx: official.Context) -> Any:
        async def bad() -> None:
            raise ValueError("boom")

        try:
            await ctx.step.run("bad", bad)
        except official.StepError:
            await asyncio.sleep(0)
        raise official.NonRetriableError("no way")

    @client.create_function(fn_id="waits", trigger=official.TriggerEvent(event="h/waits"))
    async def waits(ctx: official.Context) -> Any:
        invoked = await ctx.step.invoke("call", function=steps)
        never = await ctx.step.wait_for_event(
            "wait", event="h/never", timeout=datetime.timedelta(seconds=1)
        )
        return [invoked, never]

    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, [steps, fails, waits])
    return app
