"""`/fn/register` and what goes with it: every answer that an SDK may get."""

import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest
import pytest_asyncio
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal.http import registrations
from inngest_temporal.http.app import create_ingress
from inngest_temporal.http.bodies import MAX_BODY_BYTES
from inngest_temporal.routing.registry import Follower, Snapshot
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings, connect
from inngest_temporal_workers.plugin import system_worker
from tests.adapter.sdk.test_registration import body, function
from tests.harness import TRIGGER, new_client, running


@pytest.fixture(scope="session")
def temporal_address(scheduling_address: str) -> str:
    """A server that executes schedules."""
    return scheduling_address


DEV = Settings(dev=True)
KEY, FALLBACK = "signkey-prod-0123456789abcdef", "signkey-prod-fedcba9876543210"
CLOUD = Settings(signing_keys=(KEY, FALLBACK))
RECORDED = Path(__file__).parents[1] / "sdk" / "registrations"


def ingress(client: Client, settings: Settings = DEV) -> httpx.AsyncClient:
    follower = Follower(client)
    follower.snapshot = Snapshot()
    app: fastapi.FastAPI = create_ingress(client, settings, follower=follower)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ingress")


@pytest_asyncio.fixture
async def worker(client: Client) -> AsyncIterator[None]:
    async with system_worker(client):
        yield


@pytest_asyncio.fixture
async def api(client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with ingress(client) as api:
        yield api


@pytest_asyncio.fixture
async def offline() -> AsyncIterator[httpx.AsyncClient]:
    """An ingress that can't reach Temporal."""
    async with ingress(await connect(target_host="127.0.0.1:1")) as api:
        yield api


async def register(api: httpx.AsyncClient, body: Any, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await api.post("/fn/register", json=body, headers=sent)
    answer = reply.json()
    # What JavaScript's SDK reads: the status in the body, and never an error that is null.
    if reply.status_code == 200:
        assert "error" not in answer
        assert answer.get("status", 200) == 200
    else:
        assert answer["status"] == reply.status_code
        assert isinstance(answer["error"], str)
    return reply


async def functions(client: Client) -> set[str]:
    snapshot = await Follower(client).refresh()
    return {each.id for app in snapshot.apps for each in app.functions}


# Accepted


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", ["js-register", "js3-register", "py-register"])
async def test_what_sdks_send_is_registered(
    api: httpx.AsyncClient, client: Client, name: str
) -> None:
    recorded = json.loads((RECORDED / f"{name}.json").read_text())
    reply = await api.post("/fn/register", json=recorded["body"], headers=recorded["headers"])
    assert reply.status_code == 200
    answer = reply.json()
    assert answer == {"ok": True, "modified": True, "sync_id": answer["sync_id"], "app_id": "app"}
    assert await functions(client) == {each["id"] for each in recorded["body"]["functions"]}
    [app] = (await Follower(client).refresh()).apps
    assert app.http is not None
    assert app.http.url == "http://127.0.0.1:3000/api/inngest"
    assert app.task_queue == names.HTTP_TASK_QUEUE
    again = await api.post("/fn/register", json=recorded["body"], headers=recorded["headers"])
    assert again.json() == answer | {"modified": False}


@pytest.mark.usefixtures("worker")
async def test_functions_that_are_left_out_are_gone_and_the_url_may_change(
    api: httpx.AsyncClient, client: Client
) -> None:
    await register(api, body(function("shop-a"), function("shop-b")))
    first = await register(api, body(function("shop-b"), function("shop-c")))
    assert first.json()["modified"]
    assert await functions(client) == {"shop-b", "shop-c"}
    moved = "https://shop.example/api/inngest"
    served = function("shop-b", url=f"{moved}?fnId=shop-b&stepId=step")
    given = body(served, url=f"{moved}?deployId=d1")
    reply = await api.post("/fn/register?deployId=d1", json=given)
    assert reply.json()["modified"]
    [app] = (await Follower(client).refresh()).apps
    assert app.http is not None
    assert app.http.url == moved
    assert app.functions[0].url == f"{moved}?fnId=shop-b"
    none = await register(api, {**body(), "functions": []})
    assert none.json()["ok"]
    assert await functions(client) == set()


@pytest.mark.usefixtures("worker")
async def test_crons_are_scheduled_and_repaired(
    api: httpx.AsyncClient, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def schedules() -> list[str]:
        return [each.id async for each in await client.list_schedules()]

    cron = {"cron": "0 3 * * *"}
    given = body({"triggers": [cron]})
    await register(api, given)
    schedule = names.schedule_id("shop", "shop-f", "0 3 * * *")
    await client.get_schedule_handle(schedule).describe()
    await client.get_schedule_handle(schedule).delete()
    assert not (await register(api, given)).json()["modified"]
    assert schedule not in await schedules()  # schedules were checked a moment ago
    monkeypatch.setattr(registrations, "MEND_SECONDS", 0)
    assert not (await register(api, given)).json()["modified"]
    await client.get_schedule_handle(schedule).describe()


# Refused


@pytest.mark.usefixtures("worker")
async def test_a_bad_configuration_is_refused_and_the_former_one_stays(
    api: httpx.AsyncClient, client: Client
) -> None:
    await register(api, body(function("shop-a")))
    reply = await register(api, body(function("shop-b"), {"triggers": [{"event": "*"}]}))
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("At least one function is invalid")
    assert "'shop-f', trigger[0].event" in reply.json()["error"]
    assert await functions(client) == {"shop-a"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "must be a JSON object"),
        (b'{"url": "http://x"}', "appName"),
        (b'{"appName": "x"}', "URL is missing"),
        (b" " * (MAX_BODY_BYTES + 1), "over the max size"),
    ],
)
async def test_a_body_that_is_not_a_registration_is_refused(
    offline: httpx.AsyncClient, content: bytes, error: str
) -> None:
    reply = await offline.post("/fn/register", content=content)
    assert reply.status_code == reply.json()["status"] == 400
    assert error in reply.json()["error"]


@pytest.mark.parametrize(("settings", "kind"), [(DEV, "dev"), (CLOUD, "cloud")])
async def test_an_app_of_the_other_mode_is_refused(settings: Settings, kind: str) -> None:
    async with ingress(await connect(target_host="127.0.0.1:1"), settings) as api:
        other = "cloud" if kind == "dev" else "dev"
        reply = await register(api, body(), x_inngest_expected_server_kind=other)
        assert reply.status_code == 400
        assert reply.json()["error"].startswith(f"Expected server kind {other}, got {kind}")


async def test_versions_with_a_known_weakness_are_refused(offline: httpx.AsyncClient) -> None:
    reply = await register(offline, body(sdk="js:v3.40.0"))
    assert reply.status_code == 400
    assert reply.json()["code"] == "sdk_version_denied"
    assert "js:v3.40.0" in reply.json()["error"]


async def test_an_outage_of_temporal_is_not_the_apps_fault(offline: httpx.AsyncClient) -> None:
    reply = await register(offline, body())
    assert reply.status_code == 503
    assert "Temporal can't be reached" in reply.json()["error"]
    reply = await offline.delete("/fn/remove", params={"url": "http://app.test"})
    assert reply.status_code == 503


async def test_a_missing_worker_is_named_in_time(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registrations.REGISTER_SECONDS < 10
    monkeypatch.setattr(registrations, "REGISTER_SECONDS", 0.5)
    begun = time.monotonic()
    reply = await register(api, body())
    assert reply.status_code == 503
    assert "inngest-temporal worker --http" in reply.json()["error"]
    assert time.monotonic() - begun < 10


async def test_an_app_that_has_workers_is_not_replaced(
    api: httpx.AsyncClient, client: Client
) -> None:
    @new_client("shop").create_function(fn_id="native", trigger=TRIGGER)
    async def native(ctx: inngest.Context) -> None: ...

    async with running(client, native):
        reply = await register(api, body())
        assert reply.status_code == 400
        assert "'shop' has workers that execute its functions" in reply.json()["error"]
        assert await functions(client) == {"shop-native"}


# Keys


def hashed(key: str) -> str:
    return hashlib.sha256(bytes.fromhex(key.rpartition("-")[2])).hexdigest()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("key", [KEY, FALLBACK])
async def test_production_takes_both_keys_in_the_forms_of_all_sdks(
    client: Client, key: str
) -> None:
    async with ingress(client, CLOUD) as api:
        for token in (hashed(key), f"signkey-prod-{hashed(key)}"):
            reply = await register(api, body(), authorization=f"Bearer {token}")
            assert reply.status_code == 200


@pytest.mark.parametrize("token", ["", "undefined", "signkey-prod-", hashed(KEY)[:-1]])
async def test_production_refuses_other_keys(token: str) -> None:
    async with ingress(await connect(target_host="127.0.0.1:1"), CLOUD) as api:
        reply = await register(api, body(), authorization=f"Bearer {token}")
        assert reply.status_code == 401
        assert reply.json()["error"] == "Authentication failed"
        assert (await api.delete("/fn/remove?url=http://x")).status_code == 401


async def test_production_without_a_key_registers_nothing() -> None:
    async with ingress(await connect(target_host="127.0.0.1:1"), Settings()) as api:
        reply = await register(api, body())
        assert reply.status_code == 503
        assert "INNGEST_SIGNING_KEY" in reply.json()["error"]


@pytest.mark.usefixtures("worker")
async def test_a_development_server_without_a_key_takes_any(api: httpx.AsyncClient) -> None:
    reply = await register(api, body(), authorization="Bearer undefined")
    assert reply.status_code == 200


# Removal, and `/dev`


@pytest.mark.usefixtures("worker")
async def test_an_app_is_removed_by_its_url(api: httpx.AsyncClient, client: Client) -> None:
    await register(api, body())
    url = "http://app.test/api/inngest"
    assert (await api.delete("/fn/remove", params={"url": "http://other"})).status_code == 404
    assert (await api.delete("/fn/remove")).status_code == 400
    reply = await api.delete("/fn/remove", params={"url": f"{url}?probe=trust"})
    assert reply.json() == {"ok": True, "app_id": "shop"}
    assert await functions(client) == set()
    assert (await api.delete("/fn/remove", params={"url": url})).status_code == 404
    assert (await register(api, body())).json()["modified"]


@pytest.mark.usefixtures("worker")
async def test_a_development_server_shows_that_it_is_one(api: httpx.AsyncClient) -> None:
    assert (await api.get("/dev")).json()["functions"] == []
    await register(api, body())
    shown = (await api.get("/dev")).json()
    assert shown["isMissingSigningKey"]
    [function] = shown["functions"]
    assert function["slug"] == "shop-f"
    assert function["url"] == "http://app.test/api/inngest?fnId=shop-f"
    [handler] = shown["handlers"]
    assert handler["sdk"]["appName"] == "shop"
    assert handler["sdk"]["sdk"] == "go:v0.16.0"


async def test_production_does_not_say_what_it_is(client: Client) -> None:
    async with ingress(client, CLOUD) as api:
        assert (await api.get("/dev")).status_code == 404
