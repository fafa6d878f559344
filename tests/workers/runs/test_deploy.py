"""A deploy in the middle of a run: it finishes under another version of its function."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError

import inngest_temporal as inngest
from tests.harness import TRIGGER, new_client, registered, running, until
from tests.workers.runs.test_run import failure_of


async def test_a_run_finishes_under_a_version_with_steps_added_removed_and_reordered(
    client: Client,
) -> None:
    executed: list[str] = []

    def do(name: str) -> str:
        executed.append(name)
        return name

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def before(ctx: inngest.Context) -> Any:
        results = [await ctx.step.run(name, do, name) for name in ("removed", "kept", "moved")]
        await ctx.step.wait_for_event("go", event="go", timeout=60_000)
        return [*results, await ctx.step.run("removed too", do, "removed too")]

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def after(ctx: inngest.Context) -> Any:
        results = [await ctx.step.run(name, do, name) for name in ("moved", "added", "kept")]
        found = await ctx.step.wait_for_event("go", event="go", timeout=60_000)
        return [*results, found is not None, await ctx.step.run("last", do, "last")]

    async with running(client, before) as app:
        event = await app.send("test/event")
        run = app.run_of(before, event)
        await registered(run)
    assert executed == ["removed", "kept", "moved"]
    async with running(client, after) as app:
        await app.send("go")
        assert await app.run_of(after, event).result() == ["moved", "added", "kept", True, "last"]
    assert executed == ["removed", "kept", "moved", "added", "last"]


async def test_a_step_that_vanished_while_it_was_to_be_executed_is_forgotten(
    client: Client,
) -> None:
    executed: list[str] = []

    def fail() -> None:
        executed.append("doomed")
        raise ValueError("not yet")

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def before(ctx: inngest.Context) -> None:
        await ctx.step.run("doomed", fail)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def after(ctx: inngest.Context) -> Any:
        return await ctx.step.run("instead", lambda: "done")

    async with running(client, before, retry_interval=timedelta(seconds=3)) as app:
        event = await app.send("test/event")
        await until(lambda: executed)
    async with running(client, after) as app:
        assert await app.run_of(after, event).result() == "done"
    assert executed == ["doomed"]


async def test_a_deploy_that_changes_retries_and_timeouts_replays(client: Client) -> None:
    """What such configuration decides is in history, so the new version replays what the old one
    decided."""

    attempts: list[int] = []

    def version(**options: Any) -> inngest.Function[Any]:
        @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
        async def fn(ctx: inngest.Context) -> Any:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise ValueError("not yet")
            await ctx.step.wait_for_event("go", event="go", timeout=60_000)
            return "went"

        return fn

    before = version(retries=3, timeouts=inngest.Timeouts(finish=timedelta(hours=1)))
    after = version(retries=0)
    async with running(client, before) as app:
        event = await app.send("test/event")
        await registered(app.run_of(before, event), 4)
    async with running(client, after) as app:
        await app.send("go")
        assert await app.run_of(after, event).result() == "went"


async def test_a_function_that_is_no_longer_in_the_app_is_not_triggered(client: Client) -> None:
    inngest_client = new_client()

    @inngest_client.create_function(fn_id="old", trigger=TRIGGER)
    async def old(ctx: inngest.Context) -> str:
        return "old"

    @inngest_client.create_function(fn_id="new", trigger=TRIGGER)
    async def new(ctx: inngest.Context) -> str:
        return "new"

    async with running(client, old) as app:
        assert await app.run(old) == "old"
    async with running(client, new) as app:
        event = await app.send("test/event")
        [routed] = await app.router.route([event])
        assert routed.runs == (app.run_of(new, event).id,)
        assert await app.run_of(new, event).result() == "new"


async def test_a_run_whose_function_is_gone_fails_with_that_message_and_can_be_cancelled(
    client: Client,
) -> None:
    def app_with(*ids: str) -> list[inngest.Function[Any]]:
        inngest_client = new_client()

        async def sleeps(ctx: inngest.Context) -> None:
            await ctx.step.sleep(
                "sleep", timedelta(hours=1) if ctx.event.data["long"] else timedelta(seconds=3)
            )

        decorate = [inngest_client.create_function(fn_id=each, trigger=TRIGGER) for each in ids]
        return [each(sleeps) for each in decorate]

    gone, stays = app_with("gone", "stays")
    async with running(client, gone, stays) as app:
        runs = [
            app.run_of(gone, await app.send("test/event", {"long": long})) for long in (True, False)
        ]
        for run in runs:
            await registered(run)
    async with running(client, *app_with("stays")) as app:
        await runs[0].cancel()
        with pytest.raises(WorkflowFailureError) as cancelled:
            await runs[0].result()
        with pytest.raises(WorkflowFailureError) as failed:
            await runs[1].result()
    assert isinstance(cancelled.value.cause, CancelledError)
    assert failure_of(failed.value).type == "FunctionNotFoundError"
    assert failure_of(failed.value).message.startswith(
        "Function app-gone is not in app app any more"
    )


async def test_a_worker_that_does_not_know_a_published_function_leaves_its_runs_to_others(
    client: Client,
) -> None:
    """As in the middle of a rolling deploy."""
    inngest_client = new_client()
    executed: list[str] = []

    @inngest_client.create_function(fn_id="old", trigger=inngest.TriggerEvent(event="never"))
    async def old(ctx: inngest.Context) -> None: ...

    @inngest_client.create_function(fn_id="new", trigger=TRIGGER, retries=0)
    async def new(ctx: inngest.Context) -> str:
        return await ctx.step.run("step", lambda: executed.append("step") or "done")

    async with running(client, old), contextlib.AsyncExitStack() as stack:
        other = await Client.connect(
            client.service_client.config.target_host, namespace=client.namespace
        )
        app = await stack.enter_async_context(running(other, old, new))
        assert await asyncio.gather(*(app.run(new) for _ in range(10))) == ["done"] * 10
    assert executed == ["step"] * 10
