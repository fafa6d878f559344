"""Each execution of a handler starts from what was sent, whatever the one before did to it."""

import asyncio
import copy
from typing import Any

from temporalio.client import Client

import inngest_temporal as inngest
from tests.harness import TRIGGER, new_client, registered, running


async def test_a_worklist_that_is_changed_in_place_is_whole_in_each_execution(
    client: Client,
) -> None:
    seen: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, checkpointing=False)
    async def fn(ctx: inngest.Context) -> Any:
        items: Any = ctx.event.data["work"]
        seen.append(len(items["list"]))
        taken = [items["list"].pop() for _ in range(2)]
        ctx.events[0].data["more"] = "changed"
        for item in taken:
            await ctx.step.run("step", lambda item=item: item)
        return [taken, ctx.event.data["work"]["list"]]

    async with running(client, fn) as app:
        result = await asyncio.wait_for(app.run(fn, {"work": {"list": [1, 2, 3, 4, 5]}}), 60)
    assert result == [[5, 4], [1, 2, 3]]
    assert len(seen) > 1
    assert set(seen) == {5}


async def test_a_wait_compares_with_what_was_sent(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        sent: Any = ctx.event.data
        sent["order"]["keys"]["id"] = "changed"
        condition = "event.data.order.keys.id == async.data.id"
        found = await ctx.step.wait_for_event("wait", event="go", if_exp=condition, timeout=60_000)
        return found and found.data["id"]

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event", {"order": {"keys": {"id": "sent"}}}))
        await registered(run)
        for id in ("changed", "sent"):
            await app.send("go", {"id": id})
        assert await asyncio.wait_for(run.result(), 60) == "sent"


async def test_what_a_handler_puts_into_its_input_reaches_nobody(client: Client) -> None:
    failures: asyncio.Queue[Any] = asyncio.Queue()
    invoked: asyncio.Queue[Any] = asyncio.Queue()
    sdk = new_client()

    async def on_failure(ctx: inngest.Context) -> None:
        await failures.put(ctx.event.data)

    @sdk.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="test/other"))
    async def other(ctx: inngest.Context) -> None:
        given: Any = ctx.event.data
        await invoked.put(copy.deepcopy(given))
        given["deep"]["er"]["secret"] = "password"

    @sdk.create_function(fn_id="fn", trigger=TRIGGER, retries=0, on_failure=on_failure)
    async def fn(ctx: inngest.Context) -> None:
        given: Any = ctx.event.data
        given["deep"]["er"]["secret"] = "password"
        payload = {"deep": {"er": {"n": 1}}}
        await ctx.step.invoke("call", function=other, data=payload)
        raise inngest.NonRetriableError("no way")

    async with running(client, fn, other) as app:
        await app.send("test/event", {"deep": {"er": {"n": 1}}})
        failure = await asyncio.wait_for(failures.get(), 60)
    assert failure["event"]["data"] == {"deep": {"er": {"n": 1}}}
    assert invoked.get_nowait()["deep"] == {"er": {"n": 1}}
