"""Signals: a run waits for one by its name, and anybody may send it."""

import asyncio
from typing import Any

import httpx
import pytest
from temporalio.client import Client, WorkflowFailureError

import inngest_temporal as inngest
from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing import signals
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.entities import entity
from tests.harness import TRIGGER, App, new_client, registered, running, until
from tests.workers.runs.test_run import failure_of


def waiter(**options: Any) -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        own = {"timeout": ctx.event.data["timeout"]} if "timeout" in ctx.event.data else {}
        found = await ctx.step.wait_for_signal(
            "wait", signal=str(ctx.event.data["signal"]), **options | own
        )
        return found and [found.signal, found.data]

    return fn


async def started(app: App, fn: inngest.Function[Any], signal: str, **data: Any) -> Any:
    run = app.run_of(fn, await app.send("test/event", {"signal": signal, **data}))
    await registered(run)
    return run


async def test_a_signal_resumes_the_run_that_waits_for_it_and_names_it(client: Client) -> None:
    fn = waiter(timeout=60_000)
    async with running(client, fn) as app:
        one, two = await started(app, fn, "one"), await started(app, fn, "two")
        assert await signals.send(client, "two", {"x": [1]}) == two.id
        assert await two.result() == ["two", {"x": [1]}]
        assert await signals.send(client, "two", None) is None
        assert await signals.send(client, "never waited for", None) is None
        assert await signals.send(client, "one", None) == one.id
        assert await one.result() == ["one", None]


async def test_a_second_waiter_fails_by_default(client: Client) -> None:
    fn = waiter(timeout=60_000)
    async with running(client, fn) as app:
        first = await started(app, fn, "s")
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn, {"signal": "s"})
        assert (
            failure_of(raised.value).message
            == "Signal conflict; signal wait already exists for another run"
        )
        assert await signals.send(client, "s", 1) == first.id


async def test_a_second_waiter_may_replace_the_first_which_times_out(client: Client) -> None:
    fn = waiter(timeout=60_000, on_conflict="replace")
    async with running(client, fn) as app:
        first, second = await started(app, fn, "s", timeout=3_000), await started(app, fn, "s")
        assert await signals.send(client, "s", 1) == second.id
        assert await second.result() == ["s", 1]
        assert await first.result() is None


async def test_a_wait_that_times_out_frees_the_name(client: Client) -> None:
    fn = waiter(timeout=60_000)
    async with running(client, fn) as app:
        assert await (await started(app, fn, "s", timeout=1_000)).result() is None
        second = await started(app, fn, "s")
        assert await signals.send(client, "s", 2) == second.id


async def test_a_cancelled_run_frees_the_name_and_the_entity_ends_by_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entity, "LINGER_MS", 1_000)
    fn = waiter()
    async with running(client, fn) as app:
        first = await started(app, fn, "s")
        await first.cancel()
        with pytest.raises(WorkflowFailureError):
            await first.result()
        assert await signals.send(client, "s", 1) is None
        await asyncio.wait_for(client.get_workflow_handle(names.signal_id("s")).result(), 60)
        assert await signals.send(client, "s", 1) is None


async def test_a_signal_to_a_run_that_is_gone_reaches_nobody(client: Client) -> None:
    fn = waiter()
    async with running(client, fn) as app:
        first = await started(app, fn, "s")
        await first.terminate()
        assert await signals.send(client, "s", 1) is None
        second = await started(app, fn, "s")
        assert await signals.send(client, "s", 2) == second.id


async def test_a_terminated_run_does_not_keep_the_name(client: Client) -> None:
    fn = waiter()
    async with running(client, fn) as app:
        first = await started(app, fn, "s")
        await first.terminate()
        second = await started(app, fn, "s")
        assert await signals.send(client, "s", 1) == second.id


async def test_refused_claims_do_not_use_up_the_updates_of_an_execution(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entity, "MAX_COST", 40)
    fn = waiter()
    async with running(client, fn) as app:
        first = await started(app, fn, "s")
        handle = client.get_workflow_handle(names.signal_id("s"))
        begun = (await handle.describe()).run_id
        for n in range(10):
            assert not await signals.claim(
                client, "s", signals.Claim(first.id, f"another-{n}", 2**42)
            )

        async def continued() -> bool:
            return (await handle.describe()).run_id != begun

        await until(continued)
        assert await signals.send(client, "s", 1) == first.id
        assert await first.result() == ["s", 1]


async def test_a_signal_that_temporal_cannot_carry_is_refused_and_harms_nobody(
    client: Client,
) -> None:
    @new_client().create_function(fn_id="sender", trigger=inngest.TriggerEvent(event="send"))
    async def sender(ctx: inngest.Context) -> Any:
        return await ctx.step.send_signal("send", signal="s", data="x" * 3_000_000)

    fn = waiter()
    async with running(client, fn, sender) as app:
        run = await started(app, fn, "s")
        with pytest.raises(
            BodyInvalidError, match="Signal is over the max size: Max 1800000 bytes / Size 2000002"
        ):
            await signals.send(client, "s", "x" * 2_000_000)
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(sender, name="send")
        assert "Signal is over the max size" in failure_of(raised.value).message
        assert await signals.send(client, "s", "x" * 1_700_000) == run.id
        assert len((await run.result())[1]) == 1_700_000


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_step_sends_a_signal_once(client: Client, is_async: bool) -> None:
    inngest_client = new_client()
    sends = inngest.TriggerEvent(event="send")

    @inngest_client.create_function(fn_id="sender", trigger=sends)
    async def sender(ctx: inngest.Context) -> Any:
        return [await ctx.step.send_signal("send", signal="s", data=n) for n in range(2)]

    @inngest_client.create_function(fn_id="sender-sync", trigger=sends)
    def sender_sync(ctx: inngest.ContextSync) -> Any:
        return [ctx.step.send_signal("send", signal="s", data=n) for n in range(2)]

    fn = waiter()
    chosen = sender if is_async else sender_sync
    async with running(client, fn, chosen) as app:
        run = await started(app, fn, "s")
        assert await app.run(chosen, name="send") == [run.id, None]
        assert await run.result() == ["s", 0]


async def test_the_api_sends_signals_and_says_when_nobody_waits(client: Client) -> None:
    fn = waiter()
    async with running(client, fn) as app:
        run = await started(app, fn, "s")
        ingress = create_ingress(client, Settings(dev=True))
        transport = httpx.ASGITransport(ingress)
        async with (
            ingress.router.lifespan_context(ingress),
            httpx.AsyncClient(transport=transport) as http,
        ):
            await ingress.state.follower.ready(10)
            url = "http://ingress/v1/signals"
            for bad in ({}, {"signal": 3}, {"signal": ""}, {"signal": "x" * 1_000}, ["s"]):
                reply = await http.post(url, json=bad)
                assert (
                    reply.status_code,
                    "signal has 1 to 900 bytes" in reply.json()["error"],
                ) == (400, True)
            reply = await http.post(url, json={"signal": "s", "data": "x" * 3_000_000})
            assert (reply.status_code, "over the max size" in reply.json()["error"]) == (400, True)
            reply = await http.post(url, json={"signal": "s", "data": "hello"})
            assert (reply.status_code, reply.json()) == (200, {"data": {"run_id": run.id}})
            assert await run.result() == ["s", "hello"]
            reply = await http.post(url, json={"signal": "s"})
            assert (reply.status_code, reply.json()["error"]) == (404, "No signal found")
