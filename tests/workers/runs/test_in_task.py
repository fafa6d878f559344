"""What a run executes inside a workflow task: as it begins, and as it goes on after a wait."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

import inngest_temporal as inngest
from inngest_temporal.routing import signals
from inngest_temporal.routing.router import Router
from inngest_temporal_workers import calls
from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.runs import executions, in_task
from inngest_temporal_workers.runs.executions import ExecutionActivities
from tests.harness import TRIGGER, App, kinds, new_client, registered, running, until

OFTEN = inngest.Checkpointing(buffered_steps=25)


async def activities(run: WorkflowHandle[Any, Any]) -> int:
    """How many regular activities a run has."""
    history = await run.fetch_history()
    return sum(
        event.HasField("activity_task_scheduled_event_attributes") for event in history.events
    )


async def twice(app: App, fn: inngest.Function[Any]) -> list[WorkflowHandle[Any, Any]]:
    runs = []
    for _ in range(2):
        runs.append(app.run_of(fn, await app.send("test/event")))
        await runs[-1].result()
    return runs


async def test_a_step_that_is_known_to_be_quick_needs_no_activity(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> int:
        return await ctx.step.run("step", lambda: 1)

    async with running(client, fn) as app:
        first, second = await twice(app, fn)
        assert await activities(first) == 1
        assert await activities(second) == 0
        assert len((await second.fetch_history()).events) <= 6


async def test_a_workflow_task_that_another_worker_may_have_executes_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if the process stood still after it took the task."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> int:
        return await ctx.step.run("step", lambda: 1)

    async with running(client, fn) as app:
        await twice(app, fn)
        monkeypatch.setattr(executions, "LATE_MS", -60_000)
        late = app.run_of(fn, await app.send("test/event"))
        assert await late.result() == 1
        assert await activities(late) == 1


async def test_a_handler_that_is_not_async_executes_its_first_step_in_the_task_too(
    client: Client,
) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    def fn(ctx: inngest.ContextSync) -> int:
        return ctx.step.run("a", lambda: 1) + ctx.step.run("b", lambda: 1)

    async with running(client, fn) as app:
        _, second = await twice(app, fn)
        assert await second.result() == 2
        assert await activities(second) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retries": 3}, 1),
        ({"retries": 0}, 1),
        ({"retries": 3, "checkpointing": OFTEN}, 0),
        ({"retries": 3, "checkpointing": False}, 3),
    ],
    ids=["strict", "without retries", "buffered", "without checkpointing"],
)
async def test_a_workflow_task_executes_as_many_steps_as_a_loss_may_repeat(
    client: Client, options: dict[str, Any], expected: int
) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> None:
        for index in range(3):
            await ctx.step.run(f"step-{index}", lambda: executed.append(1))

    async with running(client, fn) as app:
        _, second = await twice(app, fn)
        assert await activities(second) == expected
    assert len(executed) == 6


@pytest.mark.parametrize("found", [True, False], ids=["the same process", "another process"])
async def test_a_step_that_is_slow_this_time_continues_in_an_activity_of_the_same_process(
    client: Client, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    begun: list[int] = []
    go_on = asyncio.Event()

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=3)
    async def fn(ctx: inngest.Context) -> int:
        async def work() -> int:
            begun.append(ctx.attempt)
            if len(begun) == 2:
                await go_on.wait()
            return len(begun)

        return await ctx.step.run("step", work)

    async with running(client, fn) as app:
        await app.run(fn)
        if not found:
            monkeypatch.setattr(ExecutionActivities, "_offer", lambda *_: None)
        run = app.run_of(fn, await app.send("test/event"))
        await until(lambda: len(begun) == 2)
        if found:
            await until(lambda: activities(run))
            go_on.set()
        assert await asyncio.wait_for(run.result(), 60) == len(begun)
    assert begun == ([0, 0] if found else [0, 0, 1])


async def test_a_step_that_fails_in_a_workflow_task_is_tried_again(client: Client) -> None:
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=2)
    async def fn(ctx: inngest.Context) -> int:
        def work() -> int:
            attempts.append(ctx.attempt)
            if len(attempts) in (2, 3):
                raise ValueError
            return ctx.attempt

        return await ctx.step.run("step", work)

    async with running(client, fn) as app:
        assert await app.run(fn) == 0
        assert await app.run(fn) == 2
    assert attempts == [0, 0, 1, 2]


async def test_listeners_for_the_ends_of_runs_hear_of_one_that_ends_in_a_workflow_task(
    client: Client,
) -> None:
    ended: list[Any] = []
    sender = new_client()

    @sender.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> str:
        return "ended"

    @sender.create_function(
        fn_id="waits", trigger=inngest.TriggerEvent(event="test/wait"), retries=0
    )
    async def waits(ctx: inngest.Context) -> Any:
        event = await ctx.step.wait_for_event(
            "end",
            event="inngest/function.finished",
            if_exp="async.data.function_id == 'app-fn'",
            timeout=60_000,
        )
        assert event is not None
        return event.data["result"]

    async with running(client, fn, waits) as app:
        await app.run(fn)  # nobody has listened yet
        run = app.run_of(waits, await app.send("test/wait"))
        await registered(run)
        assert await app.run(fn) == "ended"
        assert await asyncio.wait_for(run.result(), 60) == "ended"

    @sender.create_function(
        fn_id="hears", trigger=inngest.TriggerEvent(event="inngest/function.finished")
    )
    async def hears(ctx: inngest.Context) -> None:
        ended.append(ctx.event.data["result"])

    async with running(client, fn, hears) as app:
        await app.run(fn)
        await until(lambda: "ended" in ended)


@pytest.mark.parametrize("where", ["the answer", "the workflow task"])
async def test_a_step_is_not_executed_again_because_its_process_or_temporal_is_busy(
    client: Client, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.run("step", lambda: executed.append(1))

    async def has_listeners(_: Router, name: str) -> bool:
        if where == "the workflow task":
            await asyncio.sleep(0.9)
        raise RPCError("busy", RPCStatusCode.UNAVAILABLE, b"")

    async with running(client, fn) as app:
        await app.run(fn)
        monkeypatch.setattr(Router, "has_listeners", has_listeners)
        if where == "the workflow task":
            monkeypatch.setattr(calls, "LOCAL_TIMEOUT", timedelta(seconds=0.6))
        await app.run(fn)
    assert len(executed) == 2


def after(kind: str, steps: int = 1, **options: Any) -> tuple[inngest.Function[Any], ...]:
    """A function that waits for something, then executes quick steps; and one that it invokes."""
    sender = new_client()

    @sender.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="never"))
    async def child(ctx: inngest.Context) -> str:
        return "child"

    @sender.create_function(fn_id="fn", trigger=TRIGGER, retries=1, **options)
    async def fn(ctx: inngest.Context) -> int:
        if kind == "sleep":
            await ctx.step.sleep("wait", 10)
        elif kind == "timeout":
            assert await ctx.step.wait_for_event("wait", event="never", timeout=10) is None
        elif kind == "event":
            assert await ctx.step.wait_for_event("wait", event="go", timeout=60_000)
        elif kind == "signal":
            assert await ctx.step.wait_for_signal("wait", signal="s", timeout=60_000)
        else:
            assert await ctx.step.invoke("wait", function=child) == "child"
        for index in range(steps):
            await ctx.step.run(f"step-{index}", lambda: None)
        return steps

    return fn, child


async def resumed(
    client: Client, app: App, fn: inngest.Function[Any], kind: str
) -> WorkflowHandle[Any, Any]:
    """Start a run, give it what it waits for, and return it once it has ended."""
    run = app.run_of(fn, await app.send("test/event"))
    if kind in ("event", "signal"):
        await registered(run)
        if kind == "event":
            await app.send("go")
        else:
            assert await signals.send(client, "s", None) == run.id
    await run.result()
    return run


KINDS = ["sleep", "timeout", "event", "signal", "invoke"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_quick_step_after_a_wait_needs_no_activity(client: Client, kind: str) -> None:
    fn, child = after(kind)
    async with running(client, fn, child) as app:
        first, second = [await resumed(client, app, fn, kind) for _ in range(2)]
    assert await activities(first) == 1  # the step was not yet known to be quick
    assert await activities(second) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"checkpointing": OFTEN}, 0),
        ({}, 1),
        ({"checkpointing": False}, 3),
        ({"concurrency": [inngest.Concurrency(limit=1)]}, 2),
    ],
    ids=["buffered", "strict", "without checkpointing", "under a lock"],
)
async def test_after_a_wait_as_many_steps_are_executed_as_a_loss_may_repeat(
    client: Client, options: dict[str, Any], expected: int
) -> None:
    fn, child = after("sleep", 3, **options)
    async with running(client, fn, child) as app:
        _, second = [await resumed(client, app, fn, "sleep") for _ in range(2)]
    assert await activities(second) == expected


async def test_a_workflow_task_that_may_have_been_tried_before_reaches_no_user_code(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler may have killed the worker, and nobody counts such attempts."""
    fn, child = after("sleep")
    async with running(client, fn, child) as app:
        await resumed(client, app, fn, "sleep")
        monkeypatch.setattr(executions, "LATE_MS", -60_000)
        late = await resumed(client, app, fn, "sleep")
    history = await late.fetch_history()
    assert kinds(history) == "llr"
    await Replayer(workflows=[], plugins=[InngestPlugin([fn, child])]).replay_workflow(history)


async def test_a_run_that_continued_after_a_wait_replays_though_the_clock_is_later(
    client: Client,
) -> None:
    """A worker that replays a heartbeated task sees the time of the next one."""
    fn, child = after("sleep")
    async with running(client, fn, child) as app:
        _, second = [await resumed(client, app, fn, "sleep") for _ in range(2)]
    history = await second.fetch_history()
    assert kinds(history) == "ll"
    for event in history.events:
        if event.HasField("workflow_task_started_event_attributes"):
            event.event_time.seconds += 9
    await Replayer(workflows=[], plugins=[InngestPlugin([fn, child])]).replay_workflow(history)


@pytest.mark.parametrize("where", ["at once", "after a wait"])
async def test_a_handler_that_took_long_is_executed_in_an_activity_from_then_on(
    client: Client, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        if where == "after a wait":
            await ctx.step.sleep("sleep", 10)
        executed.append(1)
        await asyncio.sleep(1)

    monkeypatch.setattr(in_task, "LONG_SECONDS", 3600.0)
    async with running(client, fn) as app:
        for _ in range(2):
            run = app.run_of(fn, await app.send("test/event"))
            await run.result()
            assert kinds(await run.fetch_history()) == ("llr" if where == "after a wait" else "lr")
            assert executed.pop()
            assert not executed
