"""A lost workflow task may have asked a lock. The lock's answer then comes with the repeated task,
before that asks. (Found by the chaos test: three executions under a limit of two.)"""

import asyncio
import time
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle

import inngest_temporal as inngest
from inngest_temporal.functions import FunctionPart
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.locks import LockRequest, Locks, needs_of, settings_of
from inngest_temporal_workers.plugin import system_worker
from inngest_temporal_workers.runs.admission import WHOLE
from tests.harness import TRIGGER, App, new_client, running, until


class Inside:
    """Keeps which runs execute a step now, and how many did so at once at most."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.most = 0

    async def stay(self, run: str, seconds: float) -> None:
        self.runs.append(run)
        self.most = max(self.most, len(self.runs))
        await asyncio.sleep(seconds)
        self.runs.remove(run)


async def ask_as(client: Client, fn: inngest.Function[Any], run: str, kind: str, n: int) -> None:
    """Ask a lock for a ticket of a run, as a workflow task does that is then lost."""
    [part] = fn.parts()
    assert isinstance(part, FunctionPart)
    [need] = [need for need in needs_of(part.config, {"data": {}}) if need.kind == kind]
    now_ms = round(time.time() * 1000)
    settings = settings_of(part.config, need, 1)
    request = LockRequest(run, fn.id, [n], score=now_ms, created_ms=now_ms, settings=settings)
    await Locks(client).ask(need, request)


async def answers(run: WorkflowHandle[Any, Any]) -> int:
    history = await run.fetch_history()
    return sum(
        event.workflow_execution_signaled_event_attributes.signal_name == "admission"
        for event in history.events
    )


async def timers_fired(run: WorkflowHandle[Any, Any]) -> int:
    history = await run.fetch_history()
    return sum(event.HasField("timer_fired_event_attributes") for event in history.events)


async def naps(run: WorkflowHandle[Any, Any]) -> bool:
    """Whether the run has begun its sleep of 3 seconds: a wait for a lock is a timer, too."""
    history = await run.fetch_history()
    timers = [event.timer_started_event_attributes for event in history.events]
    return any(timer.start_to_fire_timeout.seconds == 3 for timer in timers)


async def sent(app: App, *numbers: int) -> list[Stamped]:
    return [await app.send("test/event", {"n": n}) for n in numbers]


@pytest.mark.timeout(240)
async def test_a_permit_that_a_lost_task_asked_for_is_not_given_to_another_run_too(
    client: Client,
) -> None:
    inside = Inside()

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=1)]
    )
    async def fn(ctx: inngest.Context) -> None:
        first = ctx.event.data["n"] == 0
        if first:
            await ctx.step.sleep("nap", 3_000)
        await ctx.step.run("stay", inside.stay, ctx.run_id, 3 if first else 1)

    async with running(client, fn) as app:
        [event] = await sent(app, 0)
        run = app.run_of(fn, event)
        await until(lambda: more(answers(run), 0))
        await until(lambda: naps(run))
    async with system_worker(client):  # a worker for the lock, but none for the run
        before = await answers(run)
        await ask_as(client, fn, run.id, "step", 2)
        await until(lambda: more(answers(run), before))
        await until(lambda: more(timers_fired(run), 0))
    async with running(client, fn) as app:
        others = await sent(app, 1, 2)
        await run.result()
        await asyncio.gather(*(app.run_of(fn, each).result() for each in others))
    assert inside.most == 1


async def more(count: Any, than: int) -> bool:
    found: int = await count
    return found > than


@pytest.mark.timeout(240)
async def test_a_place_that_a_lost_task_asked_for_is_kept_until_the_run_asks_for_it(
    client: Client,
) -> None:
    """The place is under a limit for whole runs, behind a throttle."""

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        throttle=inngest.Throttle(limit=1, period=8_000),
        concurrency=[inngest.Concurrency(limit=1, level="fn")],
    )
    async def fn(ctx: inngest.Context) -> str:
        return await ctx.step.run("step", lambda: "done")

    async with running(client, fn) as app:
        *passing, held = await sent(app, 0, 0, 1)  # the throttle has a burst of one more
        await asyncio.gather(*(app.run_of(fn, each).result() for each in passing))
        run = app.run_of(fn, held)
    async with system_worker(client):
        await ask_as(client, fn, run.id, "run", WHOLE)
        await until(lambda: more(answers(run), 1))
    async with running(client, fn) as app:
        assert await run.result() == "done"
        assert await app.run(fn, {"n": 2}) == "done"  # the place is free at the end
    history = await run.fetch_history()
    field = "signal_external_workflow_execution_initiated_event_attributes"
    assert not any(event.HasField(field) for event in history.events)
