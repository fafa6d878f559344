"""Executions that never began, and those that were lost with their worker."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

import inngest_temporal as inngest
from inngest_temporal.drivers import losses
from inngest_temporal.logger import JsonFormatter
from inngest_temporal_workers.http import executions as http_executions
from inngest_temporal_workers.runs import executing, executions, memory
from inngest_temporal_workers.runs.checkpoints import Checkpoints, is_stale
from inngest_temporal_workers.runs.memory import MemoCache
from tests.hand_app import Answered, Call, complete, hand_app, ops
from tests.harness import TRIGGER, new_client, running, until
from tests.http_world import http_world


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
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[tuple[str, int]] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=3)
    async def fn(ctx: inngest.Context) -> Any:
        async def work() -> str:
            begun.append(("work", ctx.attempt))
            ctx.logger.warning("at work")
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
    entries = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    of_work = [entry for entry in entries if entry.get("stepId") == "work"]
    assert [(entry["message"].split(" (run")[0], entry["attempt"]) for entry in of_work] == [
        ("at work", 0),
        ("app-fn: The worker stopped while it executed this step; another one continues.", 0),
        ("at work", 1),
    ]
    assert {(entry["functionId"], entry["runId"]) for entry in of_work} == {("app-fn", run.id)}


async def test_losses_end_nothing_however_few_retries_there_are(client: Client) -> None:
    """A handler outside its steps and a step are each lost three times with their worker."""
    begun: dict[str, list[int]] = {"handler": [], "step": []}

    async def work(kind: str, attempt: int) -> str:
        begun[kind].append(attempt)
        if len(begun[kind]) <= 3:
            await asyncio.Event().wait()
        return "done"

    @new_client().create_function(fn_id="handler", trigger=TRIGGER, retries=0)
    async def handler(ctx: inngest.Context) -> Any:
        return await work("handler", ctx.attempt)

    @new_client().create_function(fn_id="step", trigger=TRIGGER, retries=1)
    async def step(ctx: inngest.Context) -> Any:
        return await ctx.step.run("work", lambda: work("step", ctx.attempt))

    functions, stopped = (handler, step), {"graceful_shutdown_timeout": timedelta(0)}
    async with running(client, *functions, **stopped) as app:
        event = await app.send("test/event")
        runs = [app.run_of(each, event) for each in functions]
        await until(lambda: all(map(len, begun.values())))
    for losses_before in (1, 2):
        async with running(client, *functions, **stopped):
            await until(lambda n=losses_before: all(len(each) > n for each in begun.values()))
    async with running(client, *functions):
        results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 60)
    assert results == ["done"] * 2
    assert begun["step"] == [0, 1, 2, 3]
    assert len(begun["handler"]) == 4


async def test_a_step_that_is_lost_for_too_long_is_an_error(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LOST_SECONDS", 31)
    begun: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        async def work() -> None:
            begun.append(ctx.attempt)
            await asyncio.Event().wait()

        try:
            await ctx.step.run("work", work)
        except inngest.StepError as error:
            return error.name

    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await until(lambda: begun)
    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)):
        await until(lambda: len(begun) == 2)
    async with running(client, fn):
        assert await asyncio.wait_for(run.result(), 60) == "WorkerLostError"
    assert begun == [0, 1]


async def test_a_worker_that_cannot_ask_the_run_is_given_its_memos_and_no_attempt_counts(
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


async def attempts_of_a_step(client: Client) -> list[int]:
    """Run a function without retries, and return the attempts in which its step was executed."""
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.run("step", lambda: attempts.append(ctx.attempt))

    async with running(client, fn) as app:
        await asyncio.wait_for(app.run(fn), 60)
    return attempts


async def test_an_execution_that_temporal_has_given_up_is_not_begun(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if a process stood still after it took the activity."""
    stale = iter([True])

    async def is_stale(_: Any) -> bool:
        return next(stale, False)

    monkeypatch.setattr(executions, "is_stale", is_stale)
    assert await attempts_of_a_step(client) == [0]


async def test_an_execution_that_nobody_knows_to_be_valid_is_begun_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporal is away when a process that stood still asks it."""
    failures = iter([RPCError("away", RPCStatusCode.UNAVAILABLE, b"")])
    heartbeat = Checkpoints.heartbeat

    async def heartbeat_later(self: Checkpoints, **options: Any) -> bool:
        for failure in failures:
            raise failure
        return await heartbeat(self, **options)

    monkeypatch.setattr("inngest_temporal_workers.runs.checkpoints.STALE_SECONDS", -60.0)
    monkeypatch.setattr(Checkpoints, "heartbeat", heartbeat_later)
    assert await attempts_of_a_step(client) == [0]
    assert next(failures, None) is None


class Stall:
    """Makes a process stand still between taking its first activity and beginning it."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()
        self.was_stale: list[bool] = []
        """Whether each execution was stale, in the order in which that was found out."""
        self._begun = False

    async def is_stale(self, client: Client) -> bool:
        is_first, self._begun = not self._begun, True
        if is_first:
            async with asyncio.timeout(60):
                await self.ends.wait()
        self.was_stale.append(await is_stale(client))
        return self.was_stale[-1]


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> Stall:
    stall = Stall()
    monkeypatch.setattr(executing, "HEARTBEAT_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr("inngest_temporal_workers.runs.checkpoints.STALE_SECONDS", 0.5)
    for module in (executions, http_executions):
        monkeypatch.setattr(module, "is_stale", stall.is_stale)
    return stall


async def test_a_step_that_another_worker_has_executed_meanwhile_is_not_executed_late(
    client: Client, stall: Stall
) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=3)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.run("step", lambda: executed.append(ctx.attempt))

    async with running(client, fn) as app:
        await asyncio.wait_for(app.run(fn), 60)
        stall.ends.set()
        await until(lambda: len(stall.was_stale) == 2)
    assert stall.was_stale == [False, True]
    assert executed == [1]


async def test_an_app_that_another_worker_has_called_meanwhile_is_not_called_late(
    client: Client, stall: Stall
) -> None:
    async def behaviour(_: Call) -> Answered:
        return ops(complete("done"))

    async with http_world(client) as world, hand_app(world, behaviour) as app:
        assert (await world.run("hand/fn"))["output"] == "done"
        stall.ends.set()
        await until(lambda: len(stall.was_stale) == 2)
    assert stall.was_stale == [False, True]
    assert len(app.calls) == 1
