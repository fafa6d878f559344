"""The app under test that is served over HTTP, on the official SDK for Python. Its functions write
to the same journal as those of `functions`."""

import asyncio
import datetime
import logging
import os
from typing import Any

import fastapi
import inngest
import inngest.fast_api
import uvicorn

from tests.chaos.notes import LAST, expect, noted

PATH = "/api/inngest"
WAIT = datetime.timedelta(minutes=30)
GRACE = 5
"""Seconds that a call may go on after SIGTERM."""

# `INNGEST_DEV` says where the ingress is.
client = inngest.Inngest(app_id="chaos-http", is_production=False, logger=logging.getLogger("app"))


def function(kind: str, **options: Any) -> Any:
    trigger = inngest.TriggerEvent(event=f"chaos/{kind}")
    return client.create_function(fn_id=kind, trigger=trigger, retries=20, **options)


async def step(ctx: inngest.Context, name: str, order: int, seconds: float = 0.0) -> None:
    async def body() -> int:
        with noted(ctx, name, order):
            await asyncio.sleep(seconds)
        return order

    expect(ctx, name, await ctx.step.run(name, body), order)


@function("http-steps")
async def http_steps(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0)
    await ctx.step.sleep("nap", datetime.timedelta(seconds=1.5))
    await ctx.group.parallel(tuple(lambda n=n: step(ctx, f"side-{n}", 1, 0.1) for n in range(2)))
    await step(ctx, "second", 2, 0.05)
    await step(ctx, "last", LAST)


@function("http-waits")
async def http_waits(ctx: inngest.Context) -> None:
    """A function of the other app answers."""
    # With an id: the SDK sends it from within the app, again if the step was lost, and adds no id.
    id = f"question-{ctx.event.data['n']}"
    question = inngest.Event(name="chaos/question", id=id, data=ctx.event.data)
    answer, _ = await ctx.group.parallel(
        (
            lambda: ctx.step.wait_for_event(
                "answer", event="chaos/answer", if_exp="event.data.n == async.data.n", timeout=WAIT
            ),
            lambda: ctx.step.send_event("ask", question),
        )
    )
    got = answer.data["n"] if isinstance(answer, inngest.Event) else answer
    expect(ctx, "answer", got, ctx.event.data["n"])
    await step(ctx, "last", LAST)


@function("http-keyed", concurrency=[inngest.Concurrency(limit=2, key="event.data.key")])
async def http_keyed(ctx: inngest.Context) -> None:
    await step(ctx, "first", 0, 0.2)
    await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
    await step(ctx, "last", LAST, 0.2)


if __name__ == "__main__":
    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, [http_steps, http_waits, http_keyed], serve_path=PATH)
    uvicorn.run(
        app,
        port=int(os.environ["PORT"]),
        log_level="warning",
        timeout_graceful_shutdown=GRACE,
    )
