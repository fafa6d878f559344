"""What is kept for runs that are gone is forgotten; whether the others are still there is looked at
less and less often."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus

import inngest_temporal as inngest
from inngest_temporal.routing import signals
from inngest_temporal.routing.waits import CANCEL, Waits
from inngest_temporal.temporal import names
from inngest_temporal_workers.entities import entity, looks
from inngest_temporal_workers.entities.looks import INTERVALS_MS, Looks
from tests.harness import TRIGGER, App, new_client, registered, running, until

HOUR = timedelta(hours=1)
ONE, TWO = ("run-1", "step"), ("run-2", "step")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entities look soon, and end soon once they are empty."""
    monkeypatch.setattr(looks, "INTERVALS_MS", (500, 500, 500, 500))
    monkeypatch.setattr(entity, "LINGER_MS", 200)


def waiter() -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        condition = "event.data.id == async.data.id"
        found = await ctx.step.wait_for_event("wait", event="go", if_exp=condition, timeout=HOUR)
        return found and found.data["id"]

    return fn


async def has_ended(client: Client, workflow: str) -> bool:
    found = await client.get_workflow_handle(workflow).describe()
    return found.status == WorkflowExecutionStatus.COMPLETED


async def waiting(app: App, fn: inngest.Function[Any], id: int) -> Any:
    run = app.run_of(fn, await app.send("test/event", {"id": id}))
    await registered(run)
    return run


def late_once(monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, list[asyncio.Task[str]]]:
    """Make the first registration of a wait stall, before it tells the mailbox, until the returned
    event is set."""
    goes_on, late = asyncio.Event(), list[asyncio.Task[str]]()
    register = Waits.register

    async def stalled(self: Waits, **wait: Any) -> str:
        if late:
            return await register(self, **wait)

        async def once() -> str:
            await goes_on.wait()
            return await register(self, **wait)

        late.append(asyncio.create_task(once()))
        return await asyncio.shield(late[0])

    monkeypatch.setattr(Waits, "register", stalled)
    return goes_on, late


async def test_a_wait_that_a_stalled_worker_registers_after_its_run_has_ended_is_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch, soon: None
) -> None:
    goes_on, late = late_once(monkeypatch)
    fn, mailbox = waiter(), names.mailbox_id("go", "data.id", 1)
    async with running(client, fn) as app:
        run = await waiting(app, fn, 1)  # by a second registration: the first one took too long
        await app.send("go", {"id": 1})
        assert await run.result() == 1
        await until(lambda: has_ended(client, mailbox))
        goes_on.set()
        assert await late[0] == mailbox
        assert not await has_ended(client, mailbox)
        await until(lambda: has_ended(client, mailbox))


async def test_the_wait_of_a_terminated_run_is_forgotten_and_that_of_another_is_kept(
    client: Client, soon: None
) -> None:
    fn = waiter()
    gone, kept = (names.mailbox_id("go", "data.id", id) for id in (1, 2))
    async with running(client, fn) as app:
        first, second = await waiting(app, fn, 1), await waiting(app, fn, 2)
        await first.terminate()
        await until(lambda: has_ended(client, gone))
        looked = client.get_workflow_handle(kept)
        await until(lambda: has_looked(looked))
        await app.send("go", {"id": 2})
        assert await second.result() == 2


async def has_looked(mailbox: Any, count: int = 2) -> bool:
    """Whether a mailbox has looked at least `count` times."""
    history = await mailbox.fetch_history()
    return count <= sum(
        event.HasField("marker_recorded_event_attributes") for event in history.events
    )


async def test_of_many_runs_those_that_are_gone_are_found(client: Client, soon: None) -> None:
    """They all wait in one mailbox."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event("wait", event="go", timeout=HOUR)
        return found and found.data["n"]

    mailbox = client.get_workflow_handle(names.mailbox_id("go", "", None))
    async with running(client, fn) as app:
        runs = await asyncio.gather(*(waiting(app, fn, id) for id in range(12)))
        for run in runs[:6]:
            await run.terminate()
        await until(lambda: has_looked(mailbox, 3))
        await app.send("go", {"n": 7})
        assert await asyncio.gather(*(run.result() for run in runs[6:])) == [7] * 6
        await until(lambda: has_ended(client, mailbox.id))


async def test_a_cancel_entry_of_a_run_that_was_never_started_is_forgotten(
    client: Client, soon: None
) -> None:
    """An ingress was killed before it started the run, and nobody has repeated the request."""
    async with running(client, waiter()):
        mailbox = await Waits(client).register(
            run="never",
            wait=f"{CANCEL}0",
            event_name="stop",
            condition=None,
            event={},
            own=[],
            expires_ms=round(time.time() * 1000) + 3_600_000,
        )
        await until(lambda: has_ended(client, mailbox))


async def test_the_signal_of_a_terminated_run_is_free_again(client: Client, soon: None) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_signal("wait", signal="s", timeout=HOUR)
        return found and found.data

    async with running(client, fn) as app:
        first = await waiting(app, fn, 1)
        held = client.get_workflow_handle(names.signal_id("s"))
        await until(lambda: has_looked(held))
        await first.terminate()
        await until(lambda: has_ended(client, held.id))
        second = await waiting(app, fn, 2)
        assert await signals.send(client, "s", 3) == second.id
        assert await second.result() == 3


def test_looks_become_less_and_less_frequent_and_near_ones_come_together() -> None:
    found, at_ms = Looks(), list[int]()
    found.add(ONE, 0)
    found.add(TWO, 1_000)
    assert found.take(INTERVALS_MS[0] - 1) == []
    for _ in range(6):
        due_ms = found.due_ms()
        assert due_ms is not None
        at_ms.append(due_ms)
        assert found.take(due_ms) == [ONE, TWO]
    minute, ten, hours, day = INTERVALS_MS
    assert [b - a for a, b in zip([0, *at_ms], at_ms, strict=False)] == [
        minute, ten, hours, day, day, day,
    ]  # fmt: skip


def test_what_was_added_again_is_looked_at_once_and_what_was_taken_back_never() -> None:
    found = Looks()
    found.add(ONE, 0)
    found.add(ONE, 50_000)
    found.add(TWO, 0)
    found.discard(TWO)
    assert found.due_ms() == 50_000 + INTERVALS_MS[0]
    assert found.take(50_000 + INTERVALS_MS[0]) == [ONE]
    found.discard(ONE)
    assert found.due_ms() is None


def test_each_that_is_carried_over_again_and_again_is_looked_at_once_a_day() -> None:
    day_ms, step_ms = INTERVALS_MS[-1], 100_000
    looked: dict[Any, int] = {(f"run-{n}", "step"): 0 for n in range(50)}
    for now_ms in range(day_ms, 2 * day_ms, step_ms):
        found = Looks()
        for key in looked:
            found.carry_over(key, now_ms)
        due_ms = found.due_ms()
        while due_ms is not None and due_ms < now_ms + step_ms:
            for key in found.take(due_ms):
                looked[key] += 1
            due_ms = found.due_ms()
    assert set(looked.values()) <= {1, 2}
