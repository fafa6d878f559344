"""Chains: steps that follow each other in one execution."""

import asyncio
from typing import Any, Literal

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

import inngest_temporal as inngest
from inngest_temporal_workers.runs import checkpoints
from inngest_temporal_workers.runs.checkpoints import Checkpoints
from tests.harness import TRIGGER, new_client, running


async def executions(run: WorkflowHandle[Any, Any]) -> int:
    """How many regular activities executed user code."""
    history = await run.fetch_history()
    return sum(
        event.activity_task_scheduled_event_attributes.activity_type.name == "inngest.execute"
        for event in history.events
    )


async def counted(ctx: inngest.Context, count: int) -> int:
    total = 0
    for index in range(count):
        total += await ctx.step.run(f"step-{index}", lambda: 1)
    return total


async def test_twenty_steps_are_one_execution(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> int:
        return await counted(ctx, 20)

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await run.result() == 20
        assert await executions(run) == 1
        assert len((await run.fetch_history()).events) <= 15


async def test_steps_of_a_handler_that_is_not_async_share_an_execution(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    def fn(ctx: inngest.ContextSync) -> int:
        return sum(ctx.step.run(f"step-{index}", lambda: 1) for index in range(20))

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await run.result() == 20
        assert await executions(run) == 1


@pytest.mark.parametrize("where", ["client", "function"])
async def test_without_checkpointing_each_step_has_an_execution(client: Client, where: str) -> None:
    on = new_client(checkpointing=where != "client")
    options: dict[str, Any] = {"checkpointing": False} if where == "function" else {}

    @on.create_function(fn_id="fn", trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> int:
        return await counted(ctx, 4)

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await run.result() == 4
        assert await executions(run) >= 4


async def test_a_step_that_fails_in_a_chain_keeps_those_before_it_and_has_its_own_attempts(
    client: Client,
) -> None:
    executed: list[tuple[str, int]] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=2)
    async def fn(ctx: inngest.Context) -> str:
        def body(name: str, failures: int) -> None:
            executed.append((name, ctx.attempt))
            if ctx.attempt < failures:
                raise ValueError(name)

        await ctx.step.run("a", body, "a", 0)
        await ctx.step.run("b", body, "b", 2)
        try:
            await ctx.step.run("c", body, "c", 3)
        except inngest.StepError as error:
            message = error.message
            return await ctx.step.run("d", lambda: message)
        return "not raised"

    async with running(client, fn) as app:
        assert await app.run(fn) == "c"
    assert executed == [("a", 0), *(("b", n) for n in range(3)), *(("c", n) for n in range(3))]


async def test_steps_before_and_after_sleeps_waits_and_parallel_steps_are_executed_once(
    client: Client,
) -> None:
    executed: list[str] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        def step(name: str) -> Any:
            return ctx.step.run(name, lambda: executed.append(name))

        await step("a")
        await step("b")
        await ctx.step.sleep("nap", 10)
        await step("c")
        await asyncio.gather(step("d"), step("e"))
        await ctx.step.wait_for_event("wait", event="never", timeout=10)
        await step("f")

    async with running(client, fn) as app:
        await app.run(fn)
    assert executed[:3] == ["a", "b", "c"]
    assert sorted(executed) == list("abcdef")


@pytest.mark.parametrize("limit", ["MAX_CHAIN_STEPS", "MAX_CHAIN_BYTES"])
async def test_a_chain_at_its_limit_continues_in_another_execution(
    client: Client, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(checkpoints, limit, 3 if limit == "MAX_CHAIN_STEPS" else 500)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> int:
        return await counted(ctx, 9)

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await run.result() == 9
        assert 3 <= await executions(run) <= 6


async def test_a_thousand_and_one_steps_in_chains_are_too_many(client: Client) -> None:
    executed: list[int] = []
    often = inngest.Checkpointing(buffered_steps=100)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, checkpointing=often)
    async def fn(ctx: inngest.Context) -> None:
        for index in range(1_001):
            await ctx.step.run(f"{index}", lambda: executed.append(1))

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.type == "InngestErrFunctionOverflowed"
    assert len(executed) == 1_000


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("is_async", [True, False])
async def test_no_step_fails_because_temporal_is_away_before_it_begins(
    client: Client, monkeypatch: pytest.MonkeyPatch, retries: Literal[0, 3], is_async: bool
) -> None:
    begun: list[tuple[str, int]] = []
    refused: list[bool] = []
    heartbeat = Checkpoints.heartbeat

    async def away(self: Checkpoints, retry: bool = True) -> bool:
        if [step for step, _ in begun][-1:] == ["b"] and len(refused) < 3:
            refused.append(retry)
            raise RPCError("tcp connect error", RPCStatusCode.UNAVAILABLE, b"")
        return await heartbeat(self, retry)

    monkeypatch.setattr(Checkpoints, "heartbeat", away)
    if is_async:

        @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=retries)
        async def fn(ctx: inngest.Context) -> Any:
            for step in "abcd":
                await ctx.step.run(step, lambda step=step: begun.append((step, ctx.attempt)))
            return "done"

        function = fn
    else:

        @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=retries)
        def fn_sync(ctx: inngest.ContextSync) -> Any:
            for step in "abcd":
                ctx.step.run(step, lambda step=step: begun.append((step, ctx.attempt)))
            return "done"

        function = fn_sync
    async with running(client, function) as app:
        run = app.run_of(function, await app.send("test/event"))
        assert await asyncio.wait_for(run.result(), 60) == "done"
    assert len(refused) == 3
    assert begun == [(step, 0) for step in "abcd"]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(("count", "size"), [(30, 100_000), (3, 1_100_000)])
@pytest.mark.parametrize("buffered", [1, 25])
async def test_results_that_are_large_together_are_kept_and_not_executed_again(
    client: Client, buffered: int, count: int, size: int, parallel: bool
) -> None:
    """Temporal takes 2 MB of heartbeat details, or of an activity's result."""
    executed: list[str] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, checkpointing=inngest.Checkpointing(buffered_steps=buffered)
    )
    async def fn(ctx: inngest.Context) -> int:
        def body(name: str) -> str:
            executed.append(name)
            return "x" * (size if ctx.event.data["large"] else 1)

        names = [f"s{number}" for number in range(count)]
        if parallel:
            results = await asyncio.gather(*(ctx.step.run(name, body, name) for name in names))
        else:
            results = [await ctx.step.run(name, body, name) for name in names]
        return sum(map(len, results))

    async with running(client, fn) as app:
        for _ in range(2):  # from now on the steps are known to be quick
            await app.run(fn, {"large": False})
        executed.clear()
        total = await asyncio.wait_for(app.run(fn, {"large": True}), 60)
    assert total == size * count
    assert len(executed) == count
