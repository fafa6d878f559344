"""Pausing functions: new runs wait through deaths of workers and deploys."""

import asyncio
from typing import Any

import pytest
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal.errors import FunctionNotFoundError
from inngest_temporal.routing import locks, pauses
from inngest_temporal.routing.registry import Follower, RegisteredFunction
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle
from tests.harness import TRIGGER, App, new_client, running, until
from tests.test_faults import Processes, processes
from tests.test_flow_faults import SCRIPT

__all__ = ["processes"]  # a fixture


class Ran:
    """A function that notes what it executed, in order."""

    def __init__(self, **options: Any) -> None:
        self.order: list[int] = []
        self.waiting = asyncio.Event()

        @new_client("shop").create_function(fn_id="pay", trigger=TRIGGER, **options)
        async def pay(ctx: inngest.Context) -> None:
            self.order.append(int(str(ctx.event.data["n"])))
            if ctx.event.data.get("waits"):
                await self.waiting.wait()

        self.function = pay


async def registered(client: Client, id: str = "shop-pay") -> RegisteredFunction:
    function = (await Follower(client).refresh()).function(id)
    assert function is not None
    return function


async def set_paused(client: Client, app: App, paused: bool) -> None:
    """Pause or resume, and wait until the app's router and the worker know."""
    change = pauses.pause if paused else pauses.resume
    await change(client, await registered(client))
    await until(lambda: _knows(app, paused))


def _knows(app: App, paused: bool) -> bool:
    assert app.follower is not None
    found = [
        each and each.function("shop-pay") for each in (app.router.snapshot, app.follower.snapshot)
    ]
    return all(each is not None and bool(each.config.paused) == paused for each in found)


async def queue(client: Client, function: str = "shop-pay") -> dict[str, Any]:
    lock = EntityHandle(client, names.LOCK_TYPES["pause"], names.lock_id("pause", function))
    return await lock.query("queue", dict) or {}


async def waiting(client: Client, count: int, function: str = "shop-pay") -> bool:
    return (await queue(client, function)).get("waiting") == count


async def test_new_runs_wait_until_the_function_is_resumed_and_others_continue(
    client: Client,
) -> None:
    ran = Ran()
    async with running(client, ran.function) as app:
        before = await app.send("test/event", {"n": 0, "waits": True})
        await until(lambda: ran.order == [0])
        await set_paused(client, app, True)
        sent = [await app.send("test/event", {"n": n}) for n in range(1, 6)]
        await until(lambda: waiting(client, 5))
        ran.waiting.set()
        await app.run_of(ran.function, before).result()
        assert ran.order == [0]
        await set_paused(client, app, False)
        await asyncio.gather(*(app.run_of(ran.function, each).result() for each in sent))
        assert sorted(ran.order) == [0, 1, 2, 3, 4, 5]
        await app.run(ran.function, {"n": 6})


async def test_a_run_that_waits_can_be_cancelled(client: Client) -> None:
    ran = Ran()
    async with running(client, ran.function) as app:
        await set_paused(client, app, True)
        runs = [app.run_of(ran.function, await app.send("test/event", {"n": n})) for n in (1, 2)]
        await until(lambda: waiting(client, 2))
        await runs[0].cancel()
        await until(lambda: waiting(client, 1))
        await set_paused(client, app, False)
        await runs[1].result()
        assert ran.order == [2]


async def test_a_deploy_leaves_a_function_paused(client: Client) -> None:
    ran = Ran()
    async with running(client, ran.function) as app:
        await set_paused(client, app, True)
        event = await app.send("test/event", {"n": 1})
        await until(lambda: waiting(client, 1))
    changed = Ran(retries=1)
    async with running(client, changed.function) as app:
        assert _knows(app, True)
        await set_paused(client, app, False)
        await app.run_of(changed.function, event).result()
    assert (ran.order, changed.order) == ([], [1])


async def test_runs_that_a_gate_starts_wait_too(client: Client) -> None:
    """The batch began before the function was paused."""
    ran = Ran(batch_events=inngest.Batch(max_size=2, timeout=600_000))
    async with running(client, ran.function) as app:
        await app.send("test/event", {"n": 1})
        await set_paused(client, app, True)
        await app.send("test/event", {"n": 2})
        await until(lambda: waiting(client, 1))
        assert ran.order == []
        await set_paused(client, app, False)
        await until(lambda: ran.order == [1])


async def test_only_functions_that_exist_can_be_paused(client: Client) -> None:
    ran = Ran()
    async with running(client, ran.function) as app:
        known = await registered(client)
        gone = RegisteredFunction(
            "shop", known.task_queue, known.config.model_copy(update={"id": "shop-gone"})
        )
        for function in (gone, RegisteredFunction("no-app", "q", gone.config)):
            with pytest.raises(FunctionNotFoundError):
                await pauses.pause(client, function)
        await pauses.pause(client, known)
        await pauses.pause(client, known)
        await set_paused(client, app, False)
        await pauses.resume(client, known)
        await app.run(ran.function, {"n": 1})


async def test_many_waiting_runs_are_resumed_a_few_at_a_time(client: Client) -> None:
    number = 2 * locks.RESUMED_AT_ONCE
    ran = Ran()
    async with running(client, ran.function) as app:
        await set_paused(client, app, True)
        sent = await asyncio.gather(*(app.send("test/event", {"n": n}) for n in range(number)))
        await until(lambda: waiting(client, number), 90)
        assert await queue(client) == {"holding": 0, "waiting": number}
        most = 0

        async def look() -> None:
            nonlocal most
            while True:
                most = max(most, (await queue(client)).get("holding", 0))

        looking = asyncio.create_task(look())
        await set_paused(client, app, False)
        await asyncio.gather(*(app.run_of(ran.function, each).result() for each in sent))
        looking.cancel()
        assert sorted(ran.order) == [*range(number)]
        assert most <= locks.RESUMED_AT_ONCE
        await until(lambda: waiting(client, 0))


@pytest.mark.timeout(300)
async def test_runs_wait_through_the_death_of_every_worker(
    client: Client, processes: Processes
) -> None:
    worker = processes.start("worker", SCRIPT)
    async with Follower(client) as follower:
        router = Router(client, follower)

        def function() -> RegisteredFunction | None:
            return follower.snapshot and follower.snapshot.function("flow-limited")

        known = await until(function, 60)
        await pauses.pause(client, known)
        await until(lambda: (now := function()) is not None and now.config.paused)
        app = App(client, [], router)
        for n in range(30):
            await app.send("flow/limited", {"key": f"k{n % 5}", "n": n})
        await until(lambda: waiting(client, 30, "flow-limited"))
        processes.kill(worker)
        await app.send("flow/limited", {"key": "k0", "n": 30})
        worker = processes.start("worker", SCRIPT)
        await until(lambda: waiting(client, 31, "flow-limited"), 90)
        assert processes.lines("begin") == []
        await pauses.resume(client, known)
        await until(lambda: processes.lines("end"), 60)
        processes.kill(worker)
        processes.start("worker", SCRIPT)
        query = "WorkflowType = 'flow-limited' AND ExecutionStatus = 'Completed'"

        async def all_completed() -> bool:
            return (await client.count_workflows(query)).count == 31

        await until(all_completed, 150)
