"""How many local activities one workflow task may have, one after the other."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, Worker

import inngest_temporal as inngest
from inngest_temporal_workers.calls import MAX_ROUNDS, Calls
from tests.harness import TRIGGER, kinds, new_client, running

ROUND = 0.2
"""Seconds by which a call must begin later to be in another round."""


@activity.defn
async def call(seconds: float) -> None:
    """Takes that many seconds. If they are negative, it fails as a local activity."""
    if activity.info().is_local and seconds < 0:
        raise ApplicationError("not here")
    await asyncio.sleep(seconds)


@workflow.defn(sandboxed=False)
class Caller:
    """Chains of calls that are under way at the same time, each a list of their seconds."""

    def __init__(self) -> None:
        self._calls = Calls()

    @workflow.run
    async def run(self, chains: list[list[float]]) -> None:
        async def chain(each: list[float]) -> None:
            for seconds in each:
                await self._calls.call("call", [seconds], object)

        await asyncio.gather(*map(chain, chains))


@pytest_asyncio.fixture
async def worker(client: Client) -> AsyncIterator[Client]:
    async with Worker(client, task_queue="calls", workflows=[Caller], activities=[call]):
        yield client


async def called(client: Client, *chains: list[float]) -> str:
    run = await client.start_workflow(Caller.run, [*chains], id="caller", task_queue="calls")
    await run.result()
    history = await run.fetch_history()
    await Replayer(workflows=[Caller]).replay_workflow(history)
    return kinds(history)


async def test_after_the_last_round_a_regular_activity_ends_the_task(worker: Client) -> None:
    assert await called(worker, [0] * 7) == ("l" * MAX_ROUNDS + "r") * 2 + "l"


async def test_calls_that_begin_together_are_one_round(worker: Client) -> None:
    assert await called(worker, *([[0]] * 10)) == "l" * 10


async def test_calls_that_overlap_do_not_make_a_task_longer(worker: Client) -> None:
    """A call is always under way, so none begins after all others have ended."""
    short, long = [ROUND] * 6, [1.5 * ROUND] * 4
    assert "r" in (await called(worker, short, long))[: 2 * MAX_ROUNDS]


async def test_a_call_that_fails_locally_is_repeated_by_a_regular_activity(worker: Client) -> None:
    assert await called(worker, [-1, 0]) == "lrl"


async def test_the_first_execution_of_a_run_is_a_round(client: Client) -> None:
    """A call for the deadline comes before it, and one that tells of the run's end after it."""
    app = new_client()
    started = inngest.Timeouts(start=60_000)

    @app.create_function(fn_id="child", trigger=TRIGGER, timeouts=started)
    async def child(ctx: inngest.Context) -> int:
        return 1

    @app.create_function(fn_id="parent", trigger=inngest.TriggerEvent(event="test/parent"))
    async def parent(ctx: inngest.Context) -> object:
        return await ctx.step.invoke("call", function=child)

    async with running(client, child, parent) as running_app:
        assert await running_app.run(parent, name="test/parent") == 1
        [found] = [each async for each in client.list_workflows("WorkflowType = 'app-child'")]
        history = await client.get_workflow_handle(found.id).fetch_history()
    assert kinds(history) == "llr"
