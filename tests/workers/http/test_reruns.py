"""Traces and reruns of functions that apps of the official SDKs serve over HTTP."""

import datetime
import logging
from pathlib import Path
from typing import Any

import fastapi
import inngest as official
import inngest.fast_api
import pytest
from temporalio.client import Client

from inngest_temporal.errors import RerunRefusedError
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.reruns import FromStep, rerun
from inngest_temporal.traces.models import Trace
from inngest_temporal.traces.reading import load_trace
from tests.adapter.traces.test_recorded_histories import memos_of
from tests.hand_app import Answered, Call, complete, hand_app, ops, report, step_run
from tests.harness import until
from tests.http_world import HttpWorld, http_world, served
from tests.javascript import js_app


async def again(client: Client, run: dict[str, Any], step: str, given: Any = None) -> str:
    async with Follower(client) as follower:
        await follower.refresh()
        snapshot = follower.snapshot
    assert snapshot is not None
    return await rerun(client, snapshot, run["run_id"], from_step=FromStep(step, given))


async def ended(client: Client, run_id: str) -> Trace:
    """The trace of a run, once the run has ended. Its memos are those that the run itself has."""

    async def read() -> Trace | None:
        trace = await load_trace(client, run_id)
        assert trace is not None
        return trace if trace.ended_ms is not None else None

    trace: Trace = await until(read)
    assert trace.notes == ()
    answer = await client.get_workflow_handle(run_id).query("memos", 0)
    assert memos_of(trace) == [(step, memo) for step, memo in answer["items"]]
    return trace


@pytest.mark.parametrize("name", ["charging", "charging-classic"])
async def test_a_rerun_of_an_app_in_javascript_may_replace_the_input_of_a_step(
    client: Client, tmp_path: Path, name: str
) -> None:
    """The step is executed by a call of its own."""
    async with (
        http_world(client) as world,
        js_app(world, "behaviours.mjs", tmp_path / "app.log") as js,
    ):
        await world.sync(js.url)
        run = await js.run(name)
        assert run["status"] == "Failed"
        first = await ended(client, run["run_id"])
        assert [(step.name, step.status) for step in first.steps] == [
            ("before", "Completed"),
            ("charge", "Failed"),
        ]
        assert first.served_at is not None
        assert await js.bodies(run) == [("before", 0), ("charge", 0)]

        unchanged = await ended(client, await again(client, run, "charge"))
        assert unchanged.status == "Failed"
        assert await js.bodies({"run_id": unchanged.run_id}) == [("charge", 0)]

        new = await ended(client, await again(client, run, "charge", [5, "USD"]))
        assert new.output == ["before", "5 USD", "after"]
        assert await js.bodies({"run_id": new.run_id}) == [("charge", 0), ("after", 0)]
        [charge] = [step for step in new.steps if step.name == "charge"]
        assert charge.input == [5, "USD"]
        assert (new.original_run, new.from_step) == (first.run_id, charge.id)


def python_app(world: HttpWorld, bodies: list[str], *, broken: bool) -> Any:
    sdk = official.Inngest(
        app_id="py",
        is_production=False,
        api_base_url=world.url,
        event_api_base_url=world.url,
        logger=logging.getLogger("official"),
    )

    @sdk.create_function(fn_id="fn", retries=1, trigger=official.TriggerEvent(event="py/go"))
    async def fn(ctx: official.Context) -> Any:
        async def body(name: str) -> str:
            bodies.append(name)
            if broken and name == "broken":
                raise ValueError("not deployed yet")
            return name.upper()

        first = await ctx.step.run("a", body, "a")
        await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
        both = await ctx.group.parallel(
            (lambda: ctx.step.run("p", body, "p"), lambda: ctx.step.run("q", body, "q"))
        )
        last = await ctx.step.run("broken", body, "broken")
        return [first, *both, last]

    def make(_: str) -> fastapi.FastAPI:
        app = fastapi.FastAPI()
        inngest.fast_api.serve(app, sdk, [fn])
        return app

    return served(make)


async def test_a_rerun_of_an_app_in_python_works_across_a_deploy(client: Client) -> None:
    bodies: list[str] = []
    async with http_world(client) as world:
        async with python_app(world, bodies, broken=True) as url:
            await world.sync(url)
            run = await world.run("py/go")
            assert run["status"] == "Failed"
            assert sorted(bodies) == ["a", "broken", "broken", "p", "q"]
            await ended(client, run["run_id"])
            bodies.clear()
        async with python_app(world, bodies, broken=False) as url:
            await world.sync(url)
            trace = await ended(client, await again(client, run, "broken"))
            assert trace.output == ["A", "P", "Q", "BROKEN"]
            assert bodies == ["broken"]
            with pytest.raises(RerunRefusedError, match="SDK"):
                await again(client, run, "broken", ["other"])


async def test_steps_that_an_app_has_reported_show_while_the_call_is_under_way(
    client: Client,
) -> None:
    found: list[Trace | None] = []

    async def behaviour(call: Call) -> Answered:
        assert await report(world.url, call, step_run("a", 1)) == 200
        found.append(await load_trace(client, call.run))
        return ops(complete("done"))

    async with http_world(client) as world, hand_app(world, behaviour):
        run = await world.run("hand/fn")
        last = await ended(client, run["run_id"])
    [trace] = found
    assert trace is not None
    assert (trace.status, trace.ended_ms) == ("Running", None)
    for steps in (trace.steps, last.steps):
        assert [(step.status, step.output) for step in steps] == [("Completed", 1)]
    assert [len(step.attempts) for step in last.steps] == [1]
