"""A request that is sent again has no second effect."""

import asyncio
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing.publishing import publish
from inngest_temporal.routing.registry import AppConfig
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.plugin import system_worker
from tests.harness import TRIGGER, new_client, until

EVENTS, LONG_EVENTS = 500, 3_000
SEED = {"x-inngest-event-id-seed": "1700000000000,AAAAAAAAAAAAAA=="}


@pytest.mark.timeout(300)
async def test_a_retried_post_of_many_events_repeats_nothing(client: Client, long: bool) -> None:
    """Half of the events have ids of the sender's own, the others get theirs from the seed header.
    No worker executes the runs: they are only counted."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: Any) -> None: ...

    async def counted() -> int:
        return (await client.count_workflows("WorkflowType = 'app-fn'")).count

    number = LONG_EVENTS if long else EVENTS
    config = AppConfig(
        app_id="app", task_queue="nobody", functions=[part.config for part in fn.parts()]
    )
    ingress = create_ingress(client, Settings(dev=True))
    batch = [
        {"name": "test/event", "data": {"n": n}} | ({"id": f"own-{n}"} if n % 2 else {})
        for n in range(number)
    ]
    transport = httpx.ASGITransport(ingress)
    async with system_worker(client):
        await publish(client, config)
        async with (
            ingress.router.lifespan_context(ingress),
            httpx.AsyncClient(transport=transport, timeout=120, base_url="http://ingress") as http,
        ):
            await ingress.state.follower.ready(10)
            first = await accepted(http, batch)
            second = await accepted(http, batch)
            assert first.json() == second.json()
            assert len(set(first.json()["ids"])) == number
            # A new request of the same events: only those with ids of the sender's own are known.
            third = await http.post("/e/key", json=batch[:20])
            assert third.status_code == 200
        await until(lambda: reached(counted, number + 10), 60)
        await until(lambda: none_open(client), 60)
    assert await counted() == number + 10


async def none_open(client: Client) -> bool:
    """Whether all events are routed."""
    query = f"WorkflowType = '{names.INTAKE_TYPE}' AND ExecutionStatus = 'Running'"
    return (await client.count_workflows(query)).count == 0


async def accepted(http: httpx.AsyncClient, batch: list[dict[str, Any]]) -> httpx.Response:
    """Send the events as a sender does: again, if Temporal does not answer in time."""
    async with asyncio.timeout(240):
        while True:
            reply = await http.post("/e/key", json=batch, headers=SEED)
            if reply.status_code != 503:
                assert reply.status_code == 200
                return reply


async def reached(count: Any, target: int) -> bool:
    return bool(await count() >= target)
