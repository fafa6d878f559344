"""Executions that never began, and those that were lost with their worker."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal_workers.runs import executions, memory
from inngest_temporal_workers.runs.memory import MemoCache
from tests.harness import TRIGGER, new_client, running, until


async def test_without_retries_a_step_that_was_lost_is_an_error_and_not_executed_again(
    client: Client,
) -> None:
    begun: list[str] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        async def work() -> None:
            begun.append("work")
            await asyncio.Event().wait()

        await ctx.step.run("first", lambda: begun.append("first"))
        try:
            await ctx.step.run("work", work)
        except inngest.StepError as error:
            return [error.name, error.message]

    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await until(lambda: "work" in begun)
    async with running(client, fn):
        name, message = await asyncio.wait_for(run.result(), 60)
    assert name == "StepLostError"
    assert 'step "work"' in message
    assert begun == ["first", "work"]


async def test_a_lost_step_of_a_chain_counts_its_attempts_and_those_before_it_are_kept(
    client: Client,
) -> None:
    begun: list[tuple[str, int]] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        async def work() -> str:
            begun.append(("work", ctx.attempt))
            if ctx.attempt == 0:
                await asyncio.Event().wait()
            return "done"

        await ctx.step.run("first", lambda: begun.append(("first", ctx.attempt)))
        return await ctx.step.run("work", work)

    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await until(lambda: ("work", 0) in begun)
    async with running(client, fn):
        assert await asyncio.wait_for(run.result(), 60) == "done"
    assert begun == [("first", 0), ("work", 0), ("work", 1)]


async def test_a_worker_that_can_not_ask_the_run_is_given_its_memos_and_nothing_counts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any) -> Any:
        raise TimeoutError("consistent query buffer is full")

    monkeypatch.setattr(memory, "_asked", busy)
    monkeypatch.setattr(MemoCache, "get", lambda *_: None)
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0, checkpointing=False)
    async def fn(ctx: inngest.Context) -> Any:
        results = []
        for number in range(3):

            async def work(number: int = number) -> int:
                attempts.append(ctx.attempt)
                return number

            results.append(await ctx.step.run("step", work))
        return results

    async with running(client, fn) as app:
        assert await asyncio.wait_for(app.run(fn), 60) == [0, 1, 2]
    assert attempts == [0, 0, 0]


async def test_an_execution_that_temporal_has_given_up_is_not_begun(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a process stood still between taking an activity and beginning it."""
    stale = iter([True])

    async def is_stale(_: Any) -> bool:
        return next(stale, False)

    monkeypatch.setattr(executions, "is_stale", is_stale)
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.run("step", lambda: attempts.append(ctx.attempt))

    async with running(client, fn) as app:
        await asyncio.wait_for(app.run(fn), 60)
    assert attempts == [0]
