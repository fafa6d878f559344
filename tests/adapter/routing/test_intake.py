"""Requests with many events are taken over by one durable write, and routed by workers."""

from collections import Counter
from typing import Any

import httpx
import pytest
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

import inngest_temporal as inngest
from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing import intake
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from tests.harness import new_client, running, until

SEED = {"x-inngest-event-id-seed": "1700000000000,AAECAwQFBgcICQ=="}


def counting(seen: list[int]) -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="many/event"))
    async def fn(ctx: inngest.Context) -> None:
        seen.append(int(str(ctx.event.data["n"])))

    return fn


def many(count: int) -> list[dict[str, Any]]:
    return [{"name": "many/event", "data": {"n": number}} for number in range(count)]


async def posted(client: Client, body: Any, **headers: str) -> httpx.Response:
    async with Follower(client) as follower:
        await follower.refresh()
        app = create_ingress(client, Settings(dev=True), follower=follower)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ingress") as http:
            return await http.post("/e/key", json=body, headers=headers, timeout=30)


async def listed(client: Client) -> list[WorkflowExecution]:
    """All intakes that visibility knows of."""
    query = f"WorkflowType = '{names.INTAKE_TYPE}'"
    return [each async for each in client.list_workflows(query)]


async def test_many_events_start_one_run_each_though_the_request_is_repeated(
    client: Client,
) -> None:
    seen: list[int] = []
    async with running(client, counting(seen)):
        replies = [await posted(client, many(130), **SEED) for _ in range(2)]
        await until(lambda: len(seen) >= 130)
        [intake] = await until(lambda: listed(client))
        await client.get_workflow_handle(intake.id).result()
    assert [reply.status_code for reply in replies] == [200, 200]
    assert replies[0].json() == replies[1].json()
    assert sorted(seen) == list(range(130))


async def test_only_events_that_could_not_be_routed_are_routed_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    tried: Counter[int] = Counter()
    route = Router.route

    async def route_later(self: Router, stamped: Any) -> Any:
        number = int(stamped[0].event["data"]["n"])
        tried[number] += 1
        if number % 10 == 3 and tried[number] < 3:
            raise RPCError("busy", RPCStatusCode.RESOURCE_EXHAUSTED, b"")
        return await route(self, stamped)

    monkeypatch.setattr(Router, "route", route_later)
    async with running(client, counting(seen)):
        assert (await posted(client, many(30))).status_code == 200
        await until(lambda: len(seen) == 30)
    assert tried == {number: 3 if number % 10 == 3 else 1 for number in range(30)}


async def test_events_that_no_worker_has_routed_yet_wait_for_one(client: Client) -> None:
    seen: list[int] = []
    async with running(client, counting(seen)):
        pass
    assert (await posted(client, many(30))).status_code == 200
    async with running(client, counting(seen)):
        await until(lambda: len(seen) == 30)
    assert sorted(seen) == list(range(30))


async def test_names_that_nobody_listens_to_are_in_a_header(client: Client) -> None:
    async with running(client, counting([])):
        reply = await posted(client, [*many(20), {"name": "no/body"}])
    assert reply.headers["x-inngest-unmatched"] == "no/body"


def test_parts_are_bounded() -> None:
    small = [Stamped({"name": "a"}, str(number)) for number in range(1_201)]
    large = [Stamped({"name": "a", "data": {"x": "y" * 600_000}}, str(n)) for n in range(3)]
    parts = list(intake._parts([*small, *large]))
    assert [one for part in parts for one in part] == [*small, *large]
    assert [len(part) for part in parts] == [500, 500, 202, 1, 1]


@pytest.mark.parametrize("first", [["a", "b"], ["b", "a"], ["a"]])
def test_another_set_of_events_is_another_workflow(first: list[str]) -> None:
    ids = {names.intake_id(first), names.intake_id(["a", "c"])}
    assert len(ids) == 2
