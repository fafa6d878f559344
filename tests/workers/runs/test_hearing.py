"""The last call of a run, which tells of its end, is left out if nobody listens."""

import asyncio
import time
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment
from temporalio.worker import Replayer

import inngest_temporal as inngest
from inngest_temporal.drivers.protocol import Progress, Returned
from inngest_temporal.routing import events, waits
from inngest_temporal.routing.waits import Waits
from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.runs import workflow
from inngest_temporal_workers.runs.hearing import with_listeners
from tests.harness import TRIGGER, kinds, new_client, registered, running


def ending() -> inngest.Function[Any]:
    """A function whose runs end in a regular activity."""

    @new_client().create_function(fn_id="worker", trigger=TRIGGER, checkpointing=False)
    async def worker(ctx: inngest.Context) -> str:
        return await ctx.step.run("step", lambda: "ended")

    return worker


@pytest.mark.parametrize(
    ("believed", "calls"), [(60.0, "lr"), (-60.0, "lrl")], ids=["fresh", "too old"]
)
async def test_a_run_ends_without_a_call_if_nobody_listened_a_moment_ago(
    client: Client, monkeypatch: pytest.MonkeyPatch, believed: float, calls: str
) -> None:
    monkeypatch.setattr(workflow, "UNHEARD_SECONDS", believed)
    fn = ending()
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await run.result() == "ended"
        history = await run.fetch_history()
    assert kinds(history) == calls
    await Replayer(workflows=[], plugins=[InngestPlugin([fn])]).replay_workflow(history)


async def test_a_run_that_ended_with_the_call_replays_though_the_clock_is_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A belief that is too old stays too old. And where the run ended at once, there was no call
    that could have prolonged its workflow task."""
    fn = ending()
    monkeypatch.setattr(workflow, "UNHEARD_SECONDS", 0.0)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        history = await run.fetch_history()
    for event in history.events:
        if event.HasField("workflow_task_started_event_attributes"):
            event.event_time.seconds += 9
    assert kinds(history) == "lrl"
    await Replayer(workflows=[], plugins=[InngestPlugin([fn])]).replay_workflow(history)


async def test_a_wait_for_the_end_of_a_run_hears_of_one_that_ends_in_an_activity(
    client: Client,
) -> None:
    fn = ending()

    @new_client().create_function(
        fn_id="waits", trigger=inngest.TriggerEvent(event="test/wait"), retries=0
    )
    async def waiter(ctx: inngest.Context) -> Any:
        event = await ctx.step.wait_for_event("end", event=events.FINISHED, timeout=60_000)
        return event and event.data["result"]

    async with running(client, fn, waiter) as app:
        await app.run(fn)  # nobody listens yet, and for a moment this is believed
        run = app.run_of(waiter, await app.send("test/wait"))
        await registered(run)
        await app.run(fn)
        assert await run.result() == "ended"


async def test_an_answer_is_not_lost_when_its_worker_stops_while_it_looks_for_listeners() -> None:
    environment, looking = ActivityEnvironment(), asyncio.Event()

    async def has_listeners(_: str) -> bool:
        looking.set()
        await asyncio.sleep(60)
        return False

    progress = Progress(0, returned=Returned("value"))
    begun = time.monotonic()
    answer = asyncio.create_task(environment.run(with_listeners, progress, has_listeners, begun))
    await looking.wait()
    environment.cancel()
    assert await asyncio.wait_for(answer, 30) == progress


async def test_the_first_wait_for_the_ends_of_runs_begins_when_no_process_believes_otherwise(
    client: Client,
) -> None:
    fn = ending()
    async with running(client, fn):
        begun = time.monotonic()
        await Waits(client).register(
            run="run",
            wait="wait",
            event_name=events.FINISHED,
            condition=None,
            event={},
            own=[],
            expires_ms=2**50,
        )
    believed = waits.BELIEF_SECONDS + waits.UNHEARD_SECONDS
    assert time.monotonic() - begun > believed
