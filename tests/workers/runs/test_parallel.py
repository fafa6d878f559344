"""Parallel steps that are known to be quick are executed together."""

import asyncio
import functools
from collections import Counter
from typing import Any

import pytest
from temporalio.client import Client

import inngest_temporal as inngest
from tests.harness import TRIGGER, new_client, running, until
from tests.workers.runs.test_chains import executions


async def test_quick_steps_are_executed_together(client: Client) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> int:
        async def two(number: int) -> int:
            first = await ctx.step.run(f"a-{number}", lambda: number)
            executed.append(number)
            return await ctx.step.run(f"b-{number}", lambda: first + 1)

        return sum(await asyncio.gather(*(two(number) for number in range(50))))

    async with running(client, fn) as app:
        for _ in range(2):
            run = app.run_of(fn, await app.send("test/event"))
            assert await asyncio.wait_for(run.result(), 60) == sum(range(51))
        assert await executions(run) == 1
        assert len((await run.fetch_history()).events) <= 15


async def test_a_parallel_step_that_fails_is_tried_again_alone(client: Client) -> None:
    executed: list[str] = []
    failing = False

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        def body(name: str) -> str:
            executed.append(name)
            if failing and name == "b" and executed.count("b") < 3:
                raise ValueError
            return name

        async def slept() -> str:
            result = await ctx.step.run("a", body, "a")
            await ctx.step.sleep("nap", 1)
            return result + await ctx.step.run("c", body, "c")

        return await asyncio.gather(slept(), ctx.step.run("b", body, "b"))

    async with running(client, fn) as app:
        assert await app.run(fn) == ["ac", "b"]
        executed.clear()
        failing = True
        assert await asyncio.wait_for(app.run(fn), 60) == ["ac", "b"]
    assert sorted(executed) == ["a", "b", "b", "b", "c"]


async def test_an_error_that_is_final_reaches_the_handler_while_another_is_tried_again(
    client: Client,
) -> None:
    failing = False
    told = asyncio.Event()

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        def final() -> str:
            if failing:
                raise inngest.NonRetriableError("final")
            return "final"

        def passing() -> str:
            if failing and not told.is_set():
                raise inngest.RetryAfterError("later", 2_000)
            return "passing"

        async def caught() -> str:
            try:
                return await ctx.step.run("final", final)
            except inngest.NonRetriableError:
                await ctx.step.run("tell", told.set)
                return "final"

        return await asyncio.gather(caught(), ctx.step.run("passing", passing))

    async with running(client, fn) as app:
        assert await app.run(fn) == ["final", "passing"]
        failing = True
        assert await asyncio.wait_for(app.run(fn), 60) == ["final", "passing"]
    assert told.is_set()


async def test_a_step_that_is_slow_this_time_does_not_hold_up_the_other_branches(
    client: Client,
) -> None:
    slow = False
    go_on = asyncio.Event()
    executed: list[str] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> None:
        async def body(name: str) -> None:
            executed.append(name)
            if slow and name == "slow":
                await go_on.wait()

        async def chain() -> None:
            for name in "abc":
                await ctx.step.run(name, body, name)

        await asyncio.gather(chain(), ctx.step.run("slow", body, "slow"))

    async with running(client, fn) as app:
        await app.run(fn)
        executed.clear()
        slow = True
        run = app.run_of(fn, await app.send("test/event"))
        await until(lambda: "c" in executed)
        go_on.set()
        await asyncio.wait_for(run.result(), 60)
        assert await executions(run) == 1
    assert sorted(executed) == ["a", "b", "c", "slow"]


@pytest.mark.parametrize(
    "options",
    [
        {"retries": 0},
        {"retries": 1, "checkpointing": False},
        {"retries": 1, "concurrency": [inngest.Concurrency(limit=5)]},
    ],
    ids=["without retries", "without checkpointing", "with permits"],
)
async def test_steps_that_count_alone_have_an_execution_each(
    client: Client, options: dict[str, Any]
) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> None:
        await asyncio.gather(*(ctx.step.run(f"{n}", lambda: None) for n in range(3)))

    async with running(client, fn) as app:
        for _ in range(2):
            run = app.run_of(fn, await app.send("test/event"))
            await asyncio.wait_for(run.result(), 60)
        assert await executions(run) >= 3


@pytest.mark.parametrize("is_sync", [False, True])
async def test_each_execution_of_parallel_steps_ends_with_the_hooks_of_middleware(
    client: Client, is_sync: bool
) -> None:
    calls: Counter[str] = Counter()

    class Counted(inngest.MiddlewareSync):
        def before_execution(self) -> None:
            calls["before_execution"] += 1

        def after_execution(self) -> None:
            calls["after_execution"] += 1

        def before_response(self) -> None:
            calls["before_response"] += 1

    create = new_client().create_function(fn_id="fn", trigger=TRIGGER, middleware=[Counted])

    def handler(ctx: Any) -> Any:
        names = ("a", "b", "c")
        return ctx.group.parallel(
            tuple(functools.partial(ctx.step.run, name, str.upper, name) for name in names)
        )

    async def async_handler(ctx: inngest.Context) -> Any:
        return await handler(ctx)

    fn = create(handler if is_sync else async_handler)
    async with running(client, fn) as app:
        assert len(await app.run(fn)) == 3
    assert calls["before_execution"] >= 4
    assert len(set(calls.values())) == 1
