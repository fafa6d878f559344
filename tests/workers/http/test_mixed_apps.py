"""Native functions and functions of the official JavaScript SDK, side by side."""

import asyncio
import datetime
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal_workers.http.worker import HttpAppsPlugin
from tests.harness import new_client, running
from tests.http_world import http_world
from tests.javascript import Js, js_app

SHARED = inngest.Concurrency(limit=2, key="event.data.key", scope="account")
"""The same limit as in the app."""


def native_functions() -> list[inngest.Function[Any]]:
    client = new_client("native")

    @client.create_function(fn_id="native", trigger=inngest.TriggerEvent(event="native/go"))
    async def native(ctx: inngest.Context) -> Any:
        async def value() -> Any:
            return {"native": ctx.event.data["n"]}

        return await ctx.step.run("value", value)

    @client.create_function(fn_id="invokes", trigger=inngest.TriggerEvent(event="native/invokes"))
    async def invokes(ctx: inngest.Context) -> Any:
        return await ctx.step.invoke_by_id(
            "call",
            app_id="js",
            function_id=ctx.event.data["function"],
            data={"n": ctx.event.data["n"]},
            timeout=datetime.timedelta(minutes=1),
        )

    @client.create_function(fn_id="both", trigger=inngest.TriggerEvent(event="both/go"))
    async def both(ctx: inngest.Context) -> str:
        return f"native {ctx.event.data['n']}"

    @client.create_function(
        fn_id="shared",
        trigger=inngest.TriggerEvent(event="both/shared"),
        concurrency=[SHARED],
    )
    async def shared(ctx: inngest.Context) -> Any:
        async def span() -> list[float]:
            began = time.time() * 1000
            await asyncio.sleep(0.25)
            return [began, time.time() * 1000]

        return await ctx.step.run("span", span)

    return [native, invokes, both, shared]


@pytest_asyncio.fixture
async def js(client: Client, tmp_path: Path) -> AsyncIterator[Js]:
    """The app, with the native functions beside it."""
    async with (
        http_world(client) as world,
        running(client, *native_functions()),
        js_app(world, "behaviours.mjs", tmp_path / "app.log") as app,
    ):
        await world.sync(app.url)
        yield app


async def test_a_native_function_invokes_one_of_an_app(js: Js) -> None:
    run = await js.world.run("native/invokes", {"function": "invoked-by-native", "n": 7})
    assert (run["status"], run["output"]) == ("Completed", ["a", 7])


async def test_a_function_of_an_app_invokes_a_native_one(js: Js) -> None:
    assert await js.output("invokes-native", n=7) == {"native": 7}


async def test_an_invocation_goes_there_and_back(js: Js) -> None:
    run = await js.world.run("native/invokes", {"function": "invokes-native", "n": 7})
    assert (run["status"], run["output"]) == ("Completed", {"native": 7})


async def test_a_failure_reaches_the_native_invoker(js: Js) -> None:
    run = await js.world.run("native/invokes", {"function": "never-again", "n": 7})
    assert run["status"] == "Failed"
    assert "no way" in run["output"]["message"]


async def test_an_event_triggers_functions_of_both(js: Js) -> None:
    runs = await js.world.runs(await js.world.send("both/go", {"n": 1}))
    assert sorted(run["output"] for run in runs) == ["js 1", "native 1"]


async def test_a_limit_of_the_account_holds_across_both(js: Js) -> None:
    await check_shared_limit(js)


async def test_a_limit_holds_if_the_worker_has_not_heard_of_the_function(js: Js) -> None:
    [plugin] = [
        each for each in js.world.worker.config()["plugins"] if isinstance(each, HttpAppsPlugin)
    ]
    await plugin._follower.stop()
    plugin._follower.snapshot = None
    await check_shared_limit(js)


async def check_shared_limit(js: Js) -> None:
    events = [await js.world.send("both/shared", {"key": "k"}) for _ in range(6)]
    runs = [run for event in events for run in await js.world.runs(event)]
    assert [run["status"] for run in runs] == ["Completed"] * 12
    spans = [run["output"] for run in runs]
    assert most_at_once(spans) <= 2


def most_at_once(spans: list[list[float]]) -> int:
    """How many of these were under way at the same moment at most."""
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)
