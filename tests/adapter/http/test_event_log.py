import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio
from temporalio.client import Client
from ulid import ULID

from inngest_temporal.temporal.connection import Settings
from tests.adapter.http.test_ingress import DEV, http, ingress_for
from tests.harness import until


@pytest_asyncio.fixture
async def api(client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with http(ingress_for(client)) as api:
        yield api


async def send(api: httpx.AsyncClient, *sent: dict[str, Any]) -> list[str]:
    reply = await api.post("/e/key", json=list(sent))
    assert reply.status_code == 200
    ids: list[str] = reply.json()["ids"]
    return ids


async def listed(api: httpx.AsyncClient, **query: Any) -> list[str]:
    reply = await api.get("/v1/events", params=query)
    assert reply.status_code == 200, reply.text
    return [event["internal_id"] for event in reply.json()["data"]]


async def test_recent_events_tell_what_became_of_them(api: httpx.AsyncClient) -> None:
    [nobody, ok] = await send(api, {"name": "typo", "id": "mine"}, {"name": "shop/ok", "data": {}})
    await api.post("/invoke/shop-ok", json={"data": {}})
    reply = (await api.get("/v1/events")).json()
    first, second = reply["data"]
    assert "this ingress replica" in reply["metadata"]["scope"]
    run = first["outcomes"][0]["run_id"]
    assert first["outcomes"] == [
        {
            "kind": "started",
            "function_id": "shop-ok",
            "run_id": run,
            "text": f"starts shop-ok (run {run})",
        }
    ]
    assert (first["internal_id"], first["id"], first["name"]) == (ok, ok, "shop/ok")
    assert (second["internal_id"], second["id"]) == (nobody, "mine")
    assert [one["kind"] for one in second["outcomes"]] == ["unmatched"]
    shown = (await api.get(f"/v1/events/{nobody}")).json()["data"]
    assert shown == second


async def test_recent_events_are_selected_and_paged(api: httpx.AsyncClient) -> None:
    ids = [(await send(api, {"name": f"e{n % 2}"}))[0] for n in range(6)]
    assert await listed(api) == ids[::-1]
    assert await listed(api, limit=2) == [ids[5], ids[4]]
    assert await listed(api, limit=2, cursor=ids[4]) == [ids[3], ids[2]]
    assert await listed(api, name="e1") == [ids[5], ids[3], ids[1]]
    assert await listed(api, cursor=str(ULID())) == []
    assert await listed(api, received_after="2020-01-01T00:00:00Z", limit=1) == [ids[5]]
    assert await listed(api, received_before="2020-01-01T00:00:00Z") == []
    for query in ({"limit": 0}, {"limit": "x"}, {"cursor": "x"}, {"received_after": "yesterday"}):
        assert (await api.get("/v1/events", params=query)).status_code == 400


async def test_an_event_that_no_replica_remembers_is_found_through_its_run(
    api: httpx.AsyncClient, client: Client
) -> None:
    [id] = await send(api, {"name": "shop/ok", "data": {"n": 1}})
    async with http(ingress_for(client)) as other:

        async def found() -> Any:
            reply = await other.get(f"/v1/events/{id}")
            return reply.json()["data"] if reply.status_code == 200 else None

        event = await until(found)
        assert (event["name"], event["data"], event["internal_id"]) == ("shop/ok", {"n": 1}, id)
        reply = await other.get(f"/v1/events/{ULID()}")
        assert (reply.status_code, reply.json()["error"]) == (404, "Event not found")


async def test_an_event_that_temporal_could_not_take_is_remembered_with_the_reason() -> None:
    client = await Client.connect("127.0.0.1:1", lazy=True)
    async with http(ingress_for(client)) as api:
        async with asyncio.timeout(60):
            assert (await api.post("/e/key", json={"name": "shop/ok"})).status_code == 503
        [event] = (await api.get("/v1/events")).json()["data"]
        assert event["outcomes"][0]["kind"] == "failed"
        assert "Temporal can't be reached" in event["outcomes"][0]["text"]


async def test_recent_events_need_the_signing_key(client: Client) -> None:
    settings = Settings(event_keys=("k",), signing_keys=("signkey-prod-00",), dev=DEV.dev)
    async with http(ingress_for(client, settings)) as api:
        assert (await api.get("/v1/events")).status_code == 401
