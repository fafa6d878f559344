"""Waits in large numbers: none is lost, and none is woken by another's event."""

import asyncio
import os
import random
import time
from dataclasses import replace
from datetime import UTC, timedelta
from functools import partial
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from ulid import ULID

import inngest_temporal as inngest
import inngest_temporal.routing.waits
import inngest_temporal_workers.entities.entity
import inngest_temporal_workers.entities.hub
import inngest_temporal_workers.entities.mailbox
from inngest_temporal.routing.events import stamp
from inngest_temporal.routing.router import start_run
from inngest_temporal.routing.waits import BELIEF_SECONDS, Wait, Waits
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle
from inngest_temporal_workers.entities.entity import MAX_STATE
from inngest_temporal_workers.entities.mailbox import pack_waits, unpack_waits
from tests.harness import TRIGGER, App, new_client, registered, running, until

WAITS, LONG_WAITS = 100, 600


def waiter() -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event(
            "wait",
            event="go",
            if_exp="event.data.id == async.data.id",
            timeout=timedelta(minutes=30),
        )
        return found and [ctx.event.data["id"], found.data["id"], found.data["n"]]

    return fn


@pytest.mark.timeout(300)
async def test_no_wake_up_is_lost_while_many_waits_are_being_registered(
    client: Client, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    """Each wait whose registration completed before its event was sent resumes, and none on
    another's event.

    The event of a run is sent as soon as the run's history shows that its registration is complete
    (the wait's timer has started), while the registrations of others go on.
    """
    # Mailboxes do not end during the test: all of that would be work beside it.
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "LINGER_MS", 600_000)
    fn, count = waiter(), LONG_WAITS if long else WAITS
    async with running(client, fn, max_cached_workflows=count) as app:
        limit = asyncio.Semaphore(50)

        async def one(number: int) -> Any:
            async with limit:
                run = app.run_of(fn, await app.send("test/event", {"id": number}))
                await registered(run)
                await app.send("go", {"id": number, "n": number * 7})
            return await asyncio.wait_for(run.result(), 60)

        results = await asyncio.gather(*(one(number) for number in range(count)))
    assert results == [[number, number, number * 7] for number in range(count)]


async def test_events_that_are_sent_at_once_resume_the_right_waits(
    client: Client, long: bool
) -> None:
    count = 300 if long else 50
    fn = waiter()
    async with running(client, fn) as app:
        numbers = list(range(count))
        runs = await asyncio.gather(*(start(app, fn, number) for number in numbers))
        random.Random(1).shuffle(numbers)
        await app.router.route([stamp({"name": "go", "data": {"id": n, "n": n}}) for n in numbers])
        assert await asyncio.gather(*(run.result() for run in runs)) == [
            [n, n, n] for n in range(count)
        ]


async def start(app: App, fn: inngest.Function[Any], number: int) -> Any:
    run = app.run_of(fn, await app.send("test/event", {"id": number}))
    await registered(run)
    return run


def slow_registrations(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Make registrations take that long. Returns a list that gets the time until which each wait is
    kept, in ms since 1970."""
    kept: list[int] = []
    register = Waits.register

    async def slowly(self: Waits, **wait: Any) -> str:
        await asyncio.sleep(seconds)
        kept.append(wait["expires_ms"])
        return await register(self, **wait)

    monkeypatch.setattr(Waits, "register", slowly)
    return kept


async def test_an_answer_cannot_come_before_the_wait_that_was_found_with_the_question(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic send-then-wait without its race, as docs/DEVIATIONS.md shows it."""
    # After 8 s of a local activity, Temporal hears of the run's other commands.
    slow_registrations(monkeypatch, 10)
    inngest_client = new_client()

    @inngest_client.create_function(fn_id="asks", trigger=TRIGGER)
    async def asks(ctx: inngest.Context) -> Any:
        question = inngest.Event(name="question", data={"id": ctx.run_id})
        answer, _ = await asyncio.gather(
            ctx.step.wait_for_event(
                "answer", event="answer", if_exp=f"async.data.id == '{ctx.run_id}'", timeout=120_000
            ),
            ctx.step.send_event("ask", question),
        )
        return answer is not None

    @inngest_client.create_function(fn_id="answers", trigger=inngest.TriggerEvent(event="question"))
    async def answers(ctx: inngest.Context) -> None:
        await ctx.step.send_event(
            "answer", inngest.Event(name="answer", data={"id": ctx.event.data["id"]})
        )

    async with running(client, asks, answers) as app:
        assert await asyncio.gather(*(app.run(asks) for _ in range(30))) == [True] * 30


async def test_a_wait_that_took_long_to_register_is_kept_until_its_run_gives_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run counts the timeout from the end of the registration, so the mailbox must not count it
    from its beginning."""
    kept = slow_registrations(monkeypatch, 1)
    fn = waiter()
    async with running(client, fn) as app:
        run = await start(app, fn, 0)
        history = await run.fetch_history()
    [timer] = [
        event for event in history.events if event.HasField("timer_started_event_attributes")
    ]
    timeout = timer.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
    assert len(kept) == 1
    assert kept[0] / 1000 >= (timer.event_time.ToDatetime(UTC) + timeout).timestamp()


async def test_a_wait_on_a_path_that_its_hub_has_no_room_for_is_found_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.hub, "MAX_PATHS", 2)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        n = ctx.event.data["n"]
        found = await ctx.step.wait_for_event(
            "wait", event="go", if_exp=f"async.data.k{n} == 1", timeout=60_000
        )
        return found and found.data

    async with running(client, fn) as app:
        runs = [app.run_of(fn, await app.send("test/event", {"n": n})) for n in range(4)]
        for run in runs:
            await registered(run)
        for n in (2, 0, 3, 1):
            await app.send("go", {f"k{n}": 1})
        assert [await run.result() for run in runs] == [{f"k{n}": 1} for n in range(4)]


async def test_a_known_path_needs_no_worker_and_a_new_one_is_an_error_soon(client: Client) -> None:
    """These are paths of `cancel` entries: a sender waits until they are registered."""
    fn = new_client().create_function(
        fn_id="fn", trigger=TRIGGER, cancel=[inngest.Cancel(event="stop")]
    )(sleeping)
    async with running(client, fn) as app:
        await app.send("test/event")
        snapshot = app.router.snapshot
    assert snapshot is not None
    function = snapshot.function(fn.id)
    assert function is not None
    other = replace(
        function,
        config=function.config.model_copy(update={"cancel": [inngest.Cancel(event="new")]}),
    )
    # A client of its own, as in a process that knows nothing yet.
    fresh = Client(client.service_client, namespace=client.namespace)
    one = stamp({"name": "test/event", "data": {}})
    assert await start_run(fresh, function, [one], "known", rpc_timeout=timedelta(seconds=30))
    with pytest.raises(TimeoutError):
        await start_run(fresh, other, [one], "unknown", rpc_timeout=timedelta(seconds=1))


async def test_a_hub_that_was_terminated_returns_with_the_next_registration(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process believes for a minute that a path is in its hub; here it does not."""
    monkeypatch.setattr(inngest_temporal.routing.waits, "KNOWN_SECONDS", 0)
    fn = waiter()
    async with running(client, fn) as app:
        await start(app, fn, 1)
        await client.get_workflow_handle(names.hub_id("go")).terminate()
        runs = [await start(app, fn, number) for number in (1, 2)]
        for number, run in enumerate(runs, 1):
            await app.send("go", {"id": number, "n": 0})
            assert await run.result() == [number, number, 0]


async def test_a_wait_for_the_end_of_a_run_is_found_though_nobody_waited_a_moment_ago(
    client: Client,
) -> None:
    inngest_client = new_client()

    @inngest_client.create_function(fn_id="short", trigger=inngest.TriggerEvent(event="short"))
    async def short(ctx: inngest.Context) -> None: ...

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        condition = (
            "async.data.event.data.n == event.data.n && async.data.function_id == 'app-short'"
        )
        found = await ctx.step.wait_for_event(
            "end", event="inngest/function.finished", if_exp=condition, timeout=60_000
        )
        return found is not None

    async with running(client, short, fn) as app:
        await app.run(short, {"n": 0}, name="short")
        run = app.run_of(fn, await app.send("test/event", {"n": 1}))
        await app.run(short, {"n": 0}, name="short")
        await registered(run)
        await app.run(short, {"n": 1}, name="short")
        assert await run.result() is True


async def test_no_wait_begins_while_a_process_may_still_believe_that_its_path_is_not_there(
    client: Client,
) -> None:
    """Here a sender in another process looks at the hub all the time."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        name = ctx.event.data["name"]
        found = await ctx.step.wait_for_event("wait", event=name, timeout=60_000)
        return found and found.data

    async with running(client, fn) as app:
        sender = Waits(client)

        for name in ("go/1", "go/2", "go/3"):
            looking = asyncio.create_task(until(partial(sender.listens, name)))
            run = app.run_of(fn, await app.send("test/event", {"name": name}))
            await registered(run)
            looking.cancel()
            assert await sender.deliver({"name": name, "data": {"n": 1}}, str(ULID()))
            assert await asyncio.wait_for(run.result(), 60) == {"n": 1}


async def test_a_wait_by_a_path_that_is_known_does_not_wait_for_the_hub(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn = waiter()
    async with running(client, fn) as app:
        sender, answers = Waits(client), asyncio.Event()
        first, second = await start(app, fn, 1), await start(app, fn, 2)
        assert await sender.deliver({"name": "go", "data": {"id": 1, "n": 1}}, str(ULID()))
        await first.result()
        memo = EntityHandle.memo

        async def late(hub: EntityHandle) -> dict[str, Any]:
            if hub.id == names.hub_id("go"):
                await answers.wait()
            return dict(await memo(hub))

        monkeypatch.setattr(EntityHandle, "memo", late)
        await asyncio.sleep(2 * BELIEF_SECONDS)  # so that the sender asks the hub again
        delivering = asyncio.create_task(
            sender.deliver({"name": "go", "data": {"id": 2, "n": 1}}, str(ULID()))
        )
        await asyncio.wait_for(second.result(), 60)
        assert not delivering.done()
        answers.set()
        assert await delivering


async def sleeping(ctx: inngest.Context) -> None:
    await ctx.step.sleep("long", timedelta(hours=1))


async def test_a_second_delivery_of_an_event_resumes_nothing_more(client: Client) -> None:
    """A sender's retry: the same internal id again, while the run waits for the next event of that
    name."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        return [
            (await ctx.step.wait_for_event(f"wait {n}", event="go", timeout=60_000)).data["n"]  # type: ignore[union-attr]
            for n in range(2)
        ]

    async with running(client, fn) as app:
        run = await start(app, fn, 0)
        first = await app.send("go", {"n": 1})
        await registered(run, 2)
        await app.router.route([first])
        await app.send("go", {"n": 2})
        assert await run.result() == [1, 2]


async def test_paths_and_values_with_odd_characters_find_their_mailbox(client: Client) -> None:
    values = ["a b", "ü/€", "", "0", 0, 5, 5.5, True, None, "x" * 500]

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event(
            "wait",
            event="odd name/with: colons",
            if_exp='event.data["the key"] == async.data["other key"]',
            timeout=60_000,
        )
        return found and found.data

    async with running(client, fn) as app:
        for value in values:
            run = app.run_of(fn, await app.send("test/event", {"the key": value}))
            await registered(run)
            other = "no" if value != "no" else "yes"
            await app.send("odd name/with: colons", {"other key": other})
            await app.send("odd name/with: colons", {"other key": value})
            assert await run.result() == {"other key": value}


async def test_hubs_list_the_paths_and_mailboxes_end_when_they_are_empty(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "LINGER_MS", 1_000)
    fn = waiter()
    async with running(client, fn) as app:
        run = await start(app, fn, 3)
        hub = await client.get_workflow_handle(names.hub_id("go")).describe()
        assert await hub.memo_value("paths") == await hub.memo_value("settled") == ["data.id"]
        await app.send("go", {"id": 3, "n": 1})
        await run.result()
        await asyncio.wait_for(
            client.get_workflow_handle(names.mailbox_id("go", "data.id", 3)).result(), 60
        )
        # Nobody is there any more, and that is fine.
        await Waits(client).deliver({"name": "go", "data": {"id": 3}}, "id")


REST = "async.data.n > event.data.id"


def absent(count: int) -> list[Wait]:
    """Waits of runs that don't exist."""
    expires_ms = round(time.time() * 1000) + 3_600_000
    # `ULID()` counts up within a millisecond, and would pack too well.
    ids = [
        str(ULID.from_timestamp(time.time() + n / 1000))[:10] + str(ULID(os.urandom(16)))[10:]
        for n in range(2 * count)
    ]
    return [
        Wait(
            run,
            "2c9a2dbb1b1b2a4c7e2b7b4f1a2d3c4b5e6f7a8b",
            expires_ms + n,
            REST,
            {"data": {"id": 100}},
            [own],
        )
        for n, (run, own) in enumerate(zip(ids[:count], ids[count:], strict=True))
    ]


def test_a_mailbox_carries_over_40000_waits() -> None:
    waits = absent(40_000)
    packed = pack_waits(waits)
    assert len(packed) <= MAX_STATE
    assert unpack_waits(packed) == waits
    assert unpack_waits(pack_waits([])) == []


@pytest.mark.parametrize("limit", [MAX_STATE, 0])
async def test_a_mailbox_of_many_waits_loses_none_when_its_history_is_long(
    client: Client, monkeypatch: pytest.MonkeyPatch, limit: int, long: bool
) -> None:
    """It continues as new, or goes on as it is if the waits are too many for that."""
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_COST", 0)
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_STATE", limit)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event(
            "wait", event="go", if_exp=REST, timeout=timedelta(minutes=30)
        )
        return found and found.data["n"]

    async with running(client, fn) as app:
        mailbox = await client.start_workflow(
            names.MAILBOX_TYPE,
            {"waits": pack_waits(absent(20_000 if long else 5_000)), "seen": []},
            id=names.mailbox_id("go", "", None),
            task_queue=names.SYSTEM_TASK_QUEUE,
        )
        run = await start(app, fn, 5)
        for n in range(3, 8):
            await app.send("go", {"n": n})
        assert await run.result() == 6
        if limit:
            await until(
                lambda: continued(
                    client.get_workflow_handle(mailbox.id, run_id=mailbox.first_execution_run_id)
                )
            )
        latest = await client.get_workflow_handle(mailbox.id).describe()
        assert latest.status == WorkflowExecutionStatus.RUNNING
        later = await start(app, fn, 7)
        await app.send("go", {"n": 8})
        assert await later.result() == 8
        assert limit or latest.run_id == mailbox.first_execution_run_id


async def test_waits_that_take_long_to_check_do_not_stop_their_mailbox(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked in one workflow task, they could take more than the two seconds that it may compute,
    each time it is tried."""
    monkeypatch.setattr(inngest_temporal_workers.entities.mailbox, "MAX_TASK_WORK", 5_000)
    heavy = "async.data.items.exists(i, i == event.data.id)"

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event(
            "wait", event="go", if_exp=heavy, timeout=timedelta(minutes=30)
        )
        return found is not None

    waits = [replace(wait, rest=heavy, event={"data": {"id": -1}}) for wait in absent(50)]
    async with running(client, fn) as app:
        mailbox = await client.start_workflow(
            names.MAILBOX_TYPE,
            {"waits": pack_waits(waits), "seen": []},
            id=names.mailbox_id("go", "", None),
            task_queue=names.SYSTEM_TASK_QUEUE,
        )
        run = await start(app, fn, 99)
        await app.send("go", {"items": list(range(100))})
        assert await run.result()
        history = await mailbox.fetch_history()
    pauses = [
        event
        for event in history.events
        if event.HasField("activity_task_completed_event_attributes")
    ]
    assert len(pauses) >= 4


async def continued(entity: WorkflowHandle[Any, Any]) -> bool:
    return (await entity.describe()).status == WorkflowExecutionStatus.CONTINUED_AS_NEW


async def test_an_event_resumes_all_that_match_in_parts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One activity for all of them would take too long, and begin again."""
    monkeypatch.setattr(inngest_temporal_workers.entities.mailbox, "CHUNK", 5)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.wait_for_event("wait", event="go", timeout=60_000) is not None

    async with running(client, fn) as app:
        runs = await asyncio.gather(*(start(app, fn, n) for n in range(12)))
        await app.send("go")
        assert await asyncio.gather(*(run.result() for run in runs)) == [True] * 12
        history = await client.get_workflow_handle(names.mailbox_id("go", "", None)).fetch_history()
    parts = [
        event
        for event in history.events
        if event.HasField("marker_recorded_event_attributes")
        or event.HasField("activity_task_completed_event_attributes")
    ]
    assert len(parts) == 3
