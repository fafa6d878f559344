"""An app of the official SDK for Python runs unmodified."""

import asyncio
import contextlib
import datetime
import json
import logging
from typing import Any

import fastapi
import inngest as official
import inngest.fast_api
from inngest.experimental.ai import openai
from temporalio.client import Client

from inngest_temporal.traces.reading import load_trace
from tests import tiny_http
from tests.http_world import HttpWorld, http_world, served


def python_app(world: HttpWorld, *make: Any) -> Any:
    client = official.Inngest(
        app_id="py",
        is_production=False,
        api_base_url=world.url,
        event_api_base_url=world.url,
        logger=logging.getLogger("official"),
    )

    def app(_: str) -> fastapi.FastAPI:
        served_by = fastapi.FastAPI()
        inngest.fast_api.serve(served_by, client, [each(client) for each in make])
        return served_by

    return served(app)


async def test_steps_are_executed_once_beside_sleeps_and_parallel_ones(client: Client) -> None:
    bodies: list[str] = []

    def make(sdk: official.Inngest) -> Any:
        async def body(name: str) -> str:
            bodies.append(name)
            return name.upper()

        @sdk.create_function(fn_id="fn", trigger=official.TriggerEvent(event="py/go"))
        async def fn(ctx: official.Context) -> Any:
            first = await ctx.step.run("a", body, "a")
            await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
            both = await ctx.group.parallel(
                (lambda: ctx.step.run("p", body, "p"), lambda: ctx.step.run("q", body, "q"))
            )
            return [first, *both, ctx.event.data]

        return fn

    async with http_world(client) as world, python_app(world, make) as url:
        await world.sync(url)
        run = await world.run("py/go", {"n": 1})
    assert run["output"] == ["A", "P", "Q", {"n": 1}]
    assert sorted(bodies) == ["a", "p", "q"]


async def test_sequential_steps_are_one_activity(client: Client) -> None:
    def make(sdk: official.Inngest) -> Any:
        @sdk.create_function(fn_id="fn", trigger=official.TriggerEvent(event="py/go"))
        async def fn(ctx: official.Context) -> Any:
            async def value(number: int) -> int:
                return number

            return [await ctx.step.run("step", value, number) for number in range(10)]

        return fn

    async with http_world(client) as world, python_app(world, make) as url:
        await world.sync(url)
        run = await world.run("py/go")
        history = await client.get_workflow_handle(run["run_id"]).fetch_history()
    assert run["output"] == list(range(10))
    scheduled = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert scheduled == ["inngest.execute"]


async def test_attempts_are_counted_as_in_inngest(client: Client) -> None:
    seen: list[tuple[str, int]] = []

    def make(sdk: official.Inngest) -> Any:
        @sdk.create_function(fn_id="fn", retries=2, trigger=official.TriggerEvent(event="py/go"))
        async def fn(ctx: official.Context) -> Any:
            async def good() -> None:
                seen.append(("good", ctx.attempt))

            async def bad() -> None:
                seen.append(("bad", ctx.attempt))
                raise ValueError("boom")

            await ctx.step.run("good", good)
            try:
                await ctx.step.run("bad", bad)
            except official.StepError as error:
                return [error.name, error.message]

        return fn

    async with http_world(client) as world, python_app(world, make) as url:
        await world.sync(url)
        run = await world.run("py/go")
    assert run["output"] == ["ValueError", "boom"]
    assert seen == [("good", 0), ("bad", 0), ("bad", 1), ("bad", 2)]


async def test_a_trace_has_each_attempt_of_a_step_at_the_step(client: Client) -> None:
    def make(sdk: official.Inngest) -> Any:
        @sdk.create_function(fn_id="fn", retries=1, trigger=official.TriggerEvent(event="py/go"))
        async def fn(ctx: official.Context) -> Any:
            async def good() -> None:
                pass

            async def flaky() -> None:
                if ctx.attempt == 0:
                    raise ValueError("not yet")

            async def bad() -> None:
                raise ValueError("nope")

            await ctx.group.parallel(
                (lambda: ctx.step.run("flaky", flaky), lambda: ctx.step.run("beside", good))
            )
            await ctx.step.run("good", good)
            with contextlib.suppress(official.StepError):
                await ctx.step.run("bad", bad)

        return fn

    async with http_world(client) as world, python_app(world, make) as url:
        await world.sync(url)
        run = await world.run("py/go")
    trace = await load_trace(client, run["run_id"])
    assert trace is not None
    assert {
        step.name: [(each.number, each.error and each.error.message) for each in step.attempts]
        for step in trace.steps
    } == {
        "flaky": [(0, "not yet"), (1, None)],
        "beside": [(0, None)],
        "good": [(0, None)],
        "bad": [(0, "nope"), (1, "nope")],
    }
    assert trace.attempts == ()


async def test_a_function_waits_invokes_another_and_sends_an_event(client: Client) -> None:
    def make_other(sdk: official.Inngest) -> Any:
        @sdk.create_function(fn_id="other", trigger=official.TriggerEvent(event="py/other"))
        async def other(ctx: official.Context) -> Any:
            return {"got": ctx.event.data}

        return other

    def make(sdk: official.Inngest) -> Any:
        @sdk.create_function(fn_id="fn", trigger=official.TriggerEvent(event="py/go"))
        async def fn(ctx: official.Context) -> Any:
            invoked = await ctx.step.invoke_by_id(
                "call", app_id="py", function_id="other", data={"x": 1}
            )
            waited = await ctx.step.wait_for_event(
                "wait",
                event="py/answer",
                if_exp="event.data.key == async.data.key",
                timeout=datetime.timedelta(minutes=1),
            )
            missed = await ctx.step.wait_for_event(
                "miss", event="py/never", timeout=datetime.timedelta(seconds=1)
            )
            ids = await ctx.step.send_event("send", official.Event(name="py/other", data={"y": 2}))
            assert waited is not None
            return [invoked, waited.data, missed, len(ids)]

        return fn

    async with http_world(client) as world, python_app(world, make_other, make) as url:
        await world.sync(url)
        event = await world.send("py/go", {"key": "k"})
        answering = asyncio.create_task(_answer(world))
        [run] = await world.runs(event)
        answering.cancel()
    assert run["status"] == "Completed", run
    assert run["output"][0]["got"]["x"] == 1
    assert run["output"][1:] == [{"key": "k"}, None, 1]


async def _answer(world: HttpWorld) -> None:
    while True:  # until the run waits for it
        await world.send("py/answer", {"key": "other"})
        await world.send("py/answer", {"key": "k"})
        await asyncio.sleep(0.2)


async def test_a_function_that_fails_runs_its_on_failure(client: Client) -> None:
    failures: asyncio.Queue[Any] = asyncio.Queue()

    def make(sdk: official.Inngest) -> Any:
        async def on_failure(ctx: official.Context) -> None:
            await failures.put(ctx.event.data)

        @sdk.create_function(
            fn_id="fn",
            retries=1,
            on_failure=on_failure,
            trigger=official.TriggerEvent(event="py/go"),
        )
        async def fn(ctx: official.Context) -> Any:
            raise official.NonRetriableError("no way")

        return fn

    async with http_world(client) as world, python_app(world, make) as url:
        await world.sync(url)
        run = await world.run("py/go", {"n": 1})
        failure = await asyncio.wait_for(failures.get(), 30)
    assert run["status"] == "Failed"
    assert run["output"]["message"] == "no way"
    assert failure["function_id"] == "py-fn"
    assert failure["run_id"] == run["run_id"]
    assert failure["event"]["data"] == {"n": 1}
    assert failure["error"]["name"] == "NonRetriableError"


async def test_models_are_asked_alone_and_beside_other_steps(client: Client) -> None:
    def make(sdk: official.Inngest) -> Any:
        @sdk.create_function(fn_id="fn", retries=0, trigger=official.TriggerEvent(event="py/go"))
        async def fn(ctx: official.Context) -> Any:
            url = ctx.event.data["url"]
            adapter = openai.Adapter(auth_key="sk-very-secret", model="m", base_url=url)

            async def infer(name: str) -> Any:
                body = {"messages": [{"role": "user", "content": name}]}
                return await ctx.step.ai.infer(name, adapter=adapter, body=body)

            async def value() -> str:
                return "beside"

            alone = await infer("alone")
            both = await ctx.group.parallel(
                (lambda: infer("one"), lambda: ctx.step.run("beside", value))
            )
            return [alone, *both]

        return fn

    def answer(asked: tiny_http.Asked) -> bytes:
        assert asked.headers["authorization"] == "Bearer sk-very-secret"
        return tiny_http.reply(200, json.dumps(json.loads(asked.body)["messages"][0]))

    async with (
        tiny_http.serving(answer) as provider,
        http_world(client) as world,
        python_app(world, make) as url,
    ):
        await world.sync(url)
        run = await world.run("py/go", {"url": f"{provider.url}/v1"})
    assert run["status"] == "Completed", run
    assert [each["content"] for each in run["output"][:2]] == ["alone", "one"]
    assert run["output"][2] == "beside"
