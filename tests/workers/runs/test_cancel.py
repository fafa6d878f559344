"""What cancels a run: its `cancel` entries and its `timeouts`; and waits for the first of several
events."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError

import inngest_temporal as inngest
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names
from inngest_temporal_workers.entities import entity as entities
from inngest_temporal_workers.plugin import system_worker
from tests.harness import TRIGGER, App, is_cancel_requested, new_client, registered, running, until

RUNS, LONG_RUNS = 50, 200


async def status(run: Any) -> WorkflowExecutionStatus | None:
    found: WorkflowExecutionStatus | None = (await run.describe()).status
    return found


async def ended(run: Any) -> WorkflowExecutionStatus | None:
    try:
        await run.result()
    except WorkflowFailureError:
        pass
    return await status(run)


def sleeper(**options: Any) -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> str:
        await ctx.step.sleep("long", timedelta(hours=1))
        return "woke"

    return fn


async def test_a_cancel_event_sent_right_after_the_trigger_always_cancels(
    client: Client, long: bool
) -> None:
    count = LONG_RUNS if long else RUNS
    fn = sleeper(cancel=[inngest.Cancel(event="stop", if_exp="event.data.id == async.data.id")])
    async with running(client, fn) as app:

        async def one(number: int) -> WorkflowExecutionStatus | None:
            event = await app.send("test/event", {"id": number})
            await app.send("stop", {"id": number})
            return await ended(app.run_of(fn, event))

        limit = asyncio.Semaphore(20)

        async def limited(number: int) -> WorkflowExecutionStatus | None:
            async with limit:
                return await one(number)

        statuses = await asyncio.gather(*(limited(number) for number in range(count)))
    assert statuses == [WorkflowExecutionStatus.CANCELED] * count


async def test_a_cancel_event_cancels_only_the_runs_it_matches(client: Client) -> None:
    fn = sleeper(
        cancel=[
            inngest.Cancel(event="stop", if_exp="event.data.id == async.data.id && async.data.sure")
        ]
    )
    async with running(client, fn) as app:
        first, second = (
            await app.send("test/event", {"id": 1}),
            await app.send("test/event", {"id": 2}),
        )
        await app.send("stop", {"id": 1, "sure": False})
        await app.send("stop", {"id": 2, "sure": True})
        assert await ended(app.run_of(fn, second)) == WorkflowExecutionStatus.CANCELED
        assert await status(app.run_of(fn, first)) == WorkflowExecutionStatus.RUNNING


async def test_a_runs_own_event_does_not_cancel_it_but_the_next_one_does(client: Client) -> None:
    fn = sleeper(
        cancel=[inngest.Cancel(event="test/event", if_exp="event.data.id == async.data.id")]
    )
    async with running(client, fn) as app:
        first = await app.send("test/event", {"id": 1})
        await registered(app.run_of(fn, first))
        assert await status(app.run_of(fn, first)) == WorkflowExecutionStatus.RUNNING
        second = await app.send("test/event", {"id": 1})
        assert await ended(app.run_of(fn, first)) == WorkflowExecutionStatus.CANCELED
        await registered(app.run_of(fn, second))
        assert await status(app.run_of(fn, second)) == WorkflowExecutionStatus.RUNNING


async def test_a_cancel_event_from_before_a_worker_was_there_counts(client: Client) -> None:
    """The run is cancelled before it has executed anything, and cleans up all the same."""
    seen: list[str] = []
    inngest_client = new_client()

    @inngest_client.create_function(
        fn_id="watch", trigger=inngest.TriggerEvent(event="inngest/function.cancelled")
    )
    async def watch(ctx: inngest.Context) -> None:
        seen.append(ctx.event.data["run_id"])

    @inngest_client.create_function(
        fn_id="fn", trigger=TRIGGER, cancel=[inngest.Cancel(event="stop")]
    )
    async def fn(ctx: inngest.Context) -> None:
        seen.append("executed")

    async with running(client, fn, watch) as app:
        router: Router = app.router
    async with system_worker(client):
        stopped = App(client, [fn], router)
        event = await stopped.send("test/event")
        await stopped.send("stop")
        await until(lambda: is_cancel_requested(client, stopped.run_of(fn, event).id))
    async with running(client, fn, watch) as app:
        run = app.run_of(fn, event)
        assert await ended(run) == WorkflowExecutionStatus.CANCELED
        await until(lambda: seen)
    assert seen == [run.id]


async def test_a_finished_run_takes_its_cancel_entries_back(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entities, "LINGER_MS", 1_000)

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        cancel=[
            inngest.Cancel(
                event="stop", if_exp="event.data.id == async.data.id", timeout=timedelta(days=1)
            )
        ],
    )
    async def fn(ctx: inngest.Context) -> str:
        return "done"

    async with running(client, fn) as app:
        assert await app.run(fn, {"id": 7}) == "done"
        entity = client.get_workflow_handle(names.mailbox_id("stop", "data.id", 7))
        # The mailbox ends by itself when it is empty.
        assert await asyncio.wait_for(entity.result(), 60) is None


async def test_a_cancel_entry_whose_timeout_has_passed_does_not_count(client: Client) -> None:
    fn = sleeper(cancel=[inngest.Cancel(event="stop", timeout=timedelta(seconds=1))])
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await asyncio.sleep(1.1)  # the entry's own time has to pass
        await app.send("stop")
        other = app.run_of(fn, await app.send("test/event"))
        await app.send("stop")
        assert await ended(other) == WorkflowExecutionStatus.CANCELED
        assert await status(run) == WorkflowExecutionStatus.RUNNING


async def test_a_cancel_entry_may_end_at_a_moment(client: Client) -> None:
    now = datetime.now(UTC)
    fn = sleeper(
        cancel=[
            inngest.Cancel(event="past", until=now - timedelta(days=1)),
            inngest.Cancel(event="future", until=now + timedelta(days=1)),
        ]
    )
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await app.send("past")
        await app.send("future")
        assert await ended(run) == WorkflowExecutionStatus.CANCELED
        mailbox = client.get_workflow_handle(names.mailbox_id("past", "", None))
        with pytest.raises(RPCError, match="not found"):
            await mailbox.describe()


async def test_a_run_that_takes_longer_than_its_finish_timeout_is_cancelled(client: Client) -> None:
    fn = sleeper(timeouts=inngest.Timeouts(finish=timedelta(seconds=1)))
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await ended(run) == WorkflowExecutionStatus.CANCELED


async def test_a_run_that_starts_too_late_is_cancelled_and_executes_nothing(client: Client) -> None:
    executed: list[int] = []

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        timeouts=inngest.Timeouts(start=timedelta(seconds=1), finish=timedelta(hours=1)),
    )
    async def fn(ctx: inngest.Context) -> str:
        executed.append(1)
        return "in time"

    async with running(client, fn) as app:
        assert await app.run(fn) == "in time"
        router = app.router
    stopped = App(client, [fn], router)
    event = await stopped.send("test/event")
    await asyncio.sleep(1.1)  # no worker for longer than timeouts.start
    async with running(client, fn) as app:
        assert await ended(app.run_of(fn, event)) == WorkflowExecutionStatus.CANCELED
    assert executed == [1]


@pytest.mark.parametrize("which", ["a", "b"])
async def test_a_wait_for_several_events_returns_the_first_one(client: Client, which: str) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event(
            "either", event=["a", "b"], if_exp="event.data.id == async.data.id", timeout=60_000
        )
        again = await ctx.step.wait_for_event("again", event=["a", "b"], timeout=1_000)
        return [found and found.name, again]

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event", {"id": 1}))
        await registered(run)
        await app.send(which, {"id": 2})
        await app.send(which, {"id": 1})
        assert await run.result() == [which, None]
