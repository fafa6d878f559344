import asyncio
import base64
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import httpx
import inngest
import pytest
import pytest_asyncio
import uvicorn
from temporalio import workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from ulid import ULID

from inngest_temporal.config import FunctionConfig
from inngest_temporal.http import bodies
from inngest_temporal.http.app import create_ingress
from inngest_temporal.http.auth import signing_tokens
from inngest_temporal.http.bodies import MAX_BODY_BYTES
from inngest_temporal.models import Batch, TriggerEvent
from inngest_temporal.routing import events, publishing
from inngest_temporal.routing.registry import AppConfig, Follower, Snapshot
from inngest_temporal.routing.router import Router, start_run
from inngest_temporal.routing.run_input import RunInput
from inngest_temporal.temporal import connection as settings
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.plugin import system_worker
from tests.harness import is_cancel_requested, until

DEV = Settings(dev=True)
SIGNING_KEY = "signkey-prod-0123456789abcdef"


@workflow.defn(name="shop-ok", sandboxed=False)
class Ok:
    @workflow.run
    async def run(self, given: RunInput) -> Any:
        return {"got": given.events[0]["data"], "odd": "\ud800", "nan": float("nan")}


@workflow.defn(name="shop-fails", sandboxed=False)
class Fails:
    @workflow.run
    async def run(self, given: RunInput) -> None:
        raise ApplicationError("out of stock", type="StockError")


@workflow.defn(name="shop-waits", sandboxed=False)
class Waiting:
    @workflow.run
    async def run(self, given: RunInput) -> None:
        await workflow.wait_condition(lambda: False)


TRIGGERS = {"ok": "shop/ok", "fails": "shop/fail", "waits": "shop/wait", "all": "many/*"}
APP = AppConfig(
    app_id="shop",
    task_queue=names.task_queue("shop"),
    functions=[
        FunctionConfig(id=f"shop-{name}", name=name, triggers=[TriggerEvent(event=event)])
        for name, event in TRIGGERS.items()
    ],
)


def http(app: fastapi.FastAPI, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ingress", **options)


def ingress_for(
    client: Client, settings: Settings = DEV, snapshot: Snapshot | None = None
) -> fastapi.FastAPI:
    """An ingress whose registry is known: no test here waits for one."""
    follower = Follower(client)
    follower.snapshot = snapshot or Snapshot([APP])
    return create_ingress(client, settings, follower=follower)


@pytest_asyncio.fixture
async def api(client: Client) -> AsyncIterator[httpx.AsyncClient]:
    """An ingress in dev mode without keys."""
    async with http(ingress_for(client)) as api:
        yield api


@pytest_asyncio.fixture
async def worker(client: Client) -> AsyncIterator[None]:
    async with Worker(client, task_queue=APP.task_queue, workflows=[Ok, Fails, Waiting]):
        yield


@pytest.fixture(scope="module")
def offline() -> fastapi.FastAPI:
    """An ingress that must not get as far as Temporal."""
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(Client.connect("127.0.0.1:1", lazy=True))
    loop.close()
    return ingress_for(client)


async def post(app: fastapi.FastAPI, body: bytes, **headers: str) -> httpx.Response:
    async with http(app) as api:
        return await api.post("/e/key", content=body, headers=headers)


# Sending events


async def test_an_event_is_accepted_and_starts_its_run(
    api: httpx.AsyncClient, client: Client
) -> None:
    reply = await api.post("/e/key", json={"name": "shop/ok", "data": {"x": 1}})
    assert reply.status_code == 200
    assert reply.json().keys() == {"ids", "status"}
    assert reply.json()["status"] == 200
    (event_id,) = reply.json()["ids"]
    stamped = events.Stamped({"id": event_id}, event_id)
    run = await client.get_workflow_handle(events.run_id("shop-ok", stamped)).describe()
    assert run.workflow_type == "shop-ok"


async def test_several_events_are_answered_in_order(api: httpx.AsyncClient) -> None:
    seed = f"1700000000000,{base64.b64encode(bytes(10)).decode()}"
    batch = [{"name": "shop/ok"}, {"name": "nobody", "id": "mine"}, {"name": "many/x"}]
    reply = await api.post("/e/key", json=batch, headers={"x-inngest-event-id-seed": seed})
    ids = reply.json()["ids"]
    assert [ULID.from_str(ids[n]).bytes[-4:] for n in (0, 2)] == [n.to_bytes(4) for n in (1, 3)]
    assert ids[1] == events.stamp(batch[1]).internal_id
    again = await api.post("/e/key", json=batch, headers={"x-inngest-event-id-seed": seed})
    assert again.json()["ids"] == ids


async def test_an_empty_array_is_accepted(offline: fastapi.FastAPI) -> None:
    reply = await post(offline, b"[]")
    assert (reply.status_code, reply.json()) == (200, {"ids": [], "status": 200})


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_the_content_type_does_not_matter(api: httpx.AsyncClient, content_type: str) -> None:
    reply = await api.post(
        "/e/key", content=b' \n{"name":"x"}', headers={"content-type": content_type}
    )
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Request body is not valid JSON: Expecting value at character 0"),
        (b'{"name":', "Request body is not valid JSON"),
        (b'{"name":"x"}\n{"name":"x"}', "Request body is not valid JSON: Extra data"),
        (b"name=x&data=1", "Request body is not valid JSON"),
        (b'"x"', "Request body must contain an event object or an array of event objects"),
        (b"null", "Request body must contain an event object or an array of event objects"),
        (b"5", "Request body must contain an event object or an array of event objects"),
        (b'{"name":"x","data":{"a":NaN}}', "NaN is not a JSON value"),
        (b'{"name":"\xff"}', "Request body is not valid UTF-8"),
        (b"[" * 200_000, "nested too deeply: Max 100 levels"),
        (
            b'{"name":"x","data":' + b'{"a":' * 100 + b"1" + b"}" * 101,
            "nested too deeply: Max 100 levels",
        ),
        (b"{}", "event name is empty"),
        (b"[5]", "event must be an object, not a number"),
        (b'{"name":"x","data":[]}', "event data must be an object, not an array"),
        (b'{"name":"x","ts":"now"}', "event ts must be an integer"),
        (
            b'{"name":"inngest/function.failed"}',
            "event name is reserved for internal use: inngest/function.failed",
        ),
        (b"[" + b",".join([b"{}"] * 5001) + b"]", "Cannot have more than 5000 events in a batch"),
        (
            b'{"name":"x","data":{"a":"' + b"x" * events.MAX_EVENT_BYTES + b'"}}',
            "Event is over the max size: Max 1800000 bytes / Size 18",
        ),
    ],
)
async def test_bad_bodies_are_refused_with_the_reason(
    offline: fastapi.FastAPI, body: bytes, message: str
) -> None:
    reply = await post(offline, body)
    assert reply.status_code == 400
    assert reply.json()["status"] == 400
    assert reply.json()["ids"] == [""]
    assert message in reply.json()["error"]
    assert "Traceback" not in reply.text


async def test_events_before_a_bad_one_are_accepted(api: httpx.AsyncClient, client: Client) -> None:
    reply = await api.post(
        "/e/key", json=[{"name": "shop/ok"}, {"name": "x"}, {"name": 1}, {"name": "y"}]
    )
    assert reply.status_code == 400
    assert len(reply.json()["ids"]) == 2
    assert reply.json()["error"] == "event name must be a string, not a number"
    first = reply.json()["ids"][0]
    await client.get_workflow_handle(
        events.run_id("shop-ok", events.Stamped({"id": first}, first))
    ).describe()


async def test_a_body_over_the_limit_is_not_read_to_its_end(offline: fastapi.FastAPI) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield b"x" * (1 << 20)

    async with http(offline) as api:
        reply = await api.post("/e/key", content=endless())
        assert reply.status_code == 400
        assert (
            reply.json()["error"]
            == f"Request body is over the max size: Max {MAX_BODY_BYTES} bytes"
        )
        assert sent <= MAX_BODY_BYTES + (1 << 20)
        reply = await api.post("/e/key", content=b"{}", headers={"content-length": "9" * 30})
        assert reply.status_code == 400


async def test_bodies_that_are_being_received_are_limited_together(
    offline: fastapi.FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_HELD_BYTES", 1000)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"name":"' + b"x" * 900
        arrived.set()
        await go_on.wait()

    async with http(offline) as api:
        slow = asyncio.create_task(api.post("/e/key", content=slowly()))
        await arrived.wait()
        for path in ("/e/key", "/invoke/shop-ok"):
            reply = await api.post(path, json={"name": "x" * 200})
            assert (reply.status_code, reply.json()["error"]) == (
                503,
                "Too many requests at once; try again",
            )
        go_on.set()
        assert (await slow).status_code == 400
        assert (await api.post("/e/key", content=b'{"x":"' + b"x" * 900)).status_code == 400


async def test_a_sender_that_goes_away_is_no_error(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(ingress_for(client)) as url:
        port = int(url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /e/key HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        async with httpx.AsyncClient(base_url=url, verify=False) as api:
            assert (await api.post("/e/key", json={"name": "x"})).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_an_event_with_half_a_character_is_accepted(api: httpx.AsyncClient) -> None:
    reply = await api.post(
        "/e/key", content=rb'{"name":"shop/ok","id":"\ud800","data":{"a":"\udfff"}}'
    )
    assert reply.status_code == 200


async def test_the_largest_request_of_events_is_accepted(client: Client) -> None:
    async with http(ingress_for(client, snapshot=Snapshot()), timeout=60) as api:
        reply = await api.post("/e/key", json=[{"name": "nobody"}] * events.MAX_EVENTS)
    assert reply.status_code == 200
    assert len(set(reply.json()["ids"])) == events.MAX_EVENTS


async def test_events_that_nothing_listens_to_are_named_in_a_header(
    api: httpx.AsyncClient,
) -> None:
    batch = [{"name": name} for name in ("shop/ok", "näbody", "x", "x")]
    reply = await api.post("/e/key", json=batch)
    assert reply.headers["x-inngest-unmatched"] == "n%C3%A4body, x"
    reply = await api.post("/e/key", json={"name": "shop/ok"})
    assert "x-inngest-unmatched" not in reply.headers


# Keys


async def test_only_known_event_keys_are_accepted(client: Client) -> None:
    async with http(ingress_for(client, Settings(event_keys=("one", "two")))) as api:
        for key, status, error in [
            ("one", 200, None),
            ("two", 200, None),
            ("three", 401, "Event key not found"),
            ("on", 401, "Event key not found"),
            ("%FF", 401, "Event key not found"),
            ("one/x", 401, "Event key not found"),
            ("", 401, "Event key is required"),
        ]:
            reply = await api.post(f"/e/{key}", json={"name": "x"})
            assert (reply.status_code, reply.json().get("error")) == (status, error)


async def test_without_keys_only_dev_mode_is_open(client: Client) -> None:
    async with http(ingress_for(client, Settings())) as api:
        reply = await api.post("/e/key", json={"name": "x"})
        assert reply.status_code == 503
        assert reply.json() == {
            "status": 503,
            "message": "",
            "error": "Event keys are required to process events securely",
        }
        assert (await api.post("/invoke/shop-ok", json={})).status_code == 401
        reply = await api.get(f"/v1/runs/{ULID()}")
        assert reply.status_code == 503
        assert "signing key is required" in reply.json()["error"]


async def test_keys_count_in_dev_mode_too(client: Client) -> None:
    async with http(ingress_for(client, Settings(event_keys=("one",), dev=True))) as api:
        assert (await api.post("/e/two", json={"name": "x"})).status_code == 401


async def test_the_signing_key_is_accepted_in_its_forms(client: Client) -> None:
    bare = SIGNING_KEY.removeprefix("signkey-prod-")
    hashed = hashlib.sha256(bytes.fromhex(bare)).hexdigest()
    async with http(ingress_for(client, Settings(signing_keys=(SIGNING_KEY, "fallback")))) as api:
        for token in (SIGNING_KEY, bare, hashed, f"signkey-prod-{hashed}", "fallback"):
            reply = await api.get(
                f"/v1/runs/{ULID()}", headers={"authorization": f"Bearer {token}"}
            )
            assert reply.status_code == 404
        for header in (
            {},
            {"authorization": f"Bearer x{bare}"},
            {"authorization": bare},
            {"authorization": "Bearer "},
        ):
            for method in ("GET", "DELETE"):
                reply = await api.request(method, f"/v1/runs/{ULID()}", headers=header)
                assert (reply.status_code, reply.text) == (401, "Authentication failed")


def test_signing_tokens_of_a_key_that_is_not_hex() -> None:
    assert signing_tokens("signkey-test-xyz") == ["signkey-test-xyz", "xyz"]
    assert signing_tokens("odd") == ["odd", "odd"]


@pytest.mark.parametrize("key", ["signkey-prod-", "signkey-"])
async def test_a_signing_key_that_is_only_its_prefix_opens_nothing(
    client: Client, key: str
) -> None:
    """As with `INNGEST_SIGNING_KEY=signkey-prod-$SECRET` if SECRET is not set."""
    async with http(ingress_for(client, Settings(event_keys=("one",), signing_keys=(key,)))) as api:
        for headers in ({}, {"authorization": "Bearer "}, {"authorization": f"Bearer {key}"}):
            assert (await api.post("/invoke/shop-ok", json={}, headers=headers)).status_code == 401
            assert (await api.get(f"/v1/runs/{ULID()}", headers=headers)).status_code == 503


# Invoking


async def test_an_invocation_starts_the_function(api: httpx.AsyncClient, client: Client) -> None:
    reply = await api.post(
        "/invoke/shop-ok", json={"data": {"x": 1, "_inngest": {"correlation_id": "a.b"}}}
    )
    assert reply.status_code == 200
    assert reply.json() == {"id": reply.json()["id"], "status": 200}
    event_id = reply.json()["id"]
    run = client.get_workflow_handle(
        events.run_id("shop-ok", events.Stamped({"id": event_id}, event_id))
    )
    assert (await run.describe()).workflow_type == "shop-ok"


async def test_an_invocation_of_an_unknown_function_is_accepted(api: httpx.AsyncClient) -> None:
    assert (await api.post("/invoke/shop%2Fnone", json={})).status_code == 200


async def test_a_bad_invocation_is_refused(api: httpx.AsyncClient) -> None:
    assert (await api.post("/invoke/shop-ok", content=b"[]")).json() == {
        "error": "Request body must contain an event object",
        "status": 400,
    }
    assert (await api.post("/invoke/shop-ok", content=b"{")).status_code == 400
    assert (await api.post("/invoke/", json={})).status_code == 400


async def test_invoking_needs_an_event_key_or_the_signing_key(client: Client) -> None:
    keys = Settings(event_keys=("one",), signing_keys=(SIGNING_KEY,))
    async with http(ingress_for(client, keys)) as api:
        for token, status in [("one", 200), (SIGNING_KEY, 200), ("two", 401), ("", 401)]:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            assert (
                await api.post("/invoke/shop-ok", json={}, headers=headers)
            ).status_code == status


# Runs


async def started(api: httpx.AsyncClient, name: str, **data: object) -> dict[str, Any]:
    """Send an event, and return its only run once it is listed."""
    (event_id,) = (await api.post("/e/key", json={"name": name, "data": data})).json()["ids"]

    async def listed() -> Any:
        reply = await api.get(f"/v1/events/{event_id}/runs")
        assert reply.status_code == 200
        return reply.json()["data"]

    (run,) = await until(listed)
    assert run["event_id"] == event_id
    return dict(run)


async def ended(api: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async def found() -> Any:
        run = (await api.get(f"/v1/runs/{run_id}")).json()["data"]
        return run if run["ended_at"] else None

    return dict(await until(found))


@pytest.mark.usefixtures("worker")
async def test_a_batch_is_found_by_each_of_its_events_and_by_no_other(client: Client) -> None:
    config = FunctionConfig(id="shop-ok", name="ok", triggers=[], batch_events=Batch(max_size=3))
    snapshot = Snapshot(
        [AppConfig(app_id="shop", task_queue=names.task_queue("shop"), functions=[config])]
    )
    function = snapshot.function("shop-ok")
    assert function is not None
    sent = [events.stamp({"name": "shop/many"}) for _ in range(3)]
    run = events.batch_run_id(function.id, sent[0].internal_id)
    await start_run(client, function, sent, run, batched=True)
    async with http(ingress_for(client, snapshot=snapshot)) as api:

        async def runs_of(event_id: str) -> list[str]:
            reply = await api.get(f"/v1/events/{event_id}/runs")
            return [run["run_id"] for run in reply.json()["data"]]

        await until(lambda: runs_of(sent[0].internal_id))
        assert [await runs_of(one.internal_id) for one in sent] == [[run]] * 3
        # An id that no event has: the ids of one moment follow each other.
        near = sent[0].internal_id[:-1] + ("0" if sent[0].internal_id[-1] != "0" else "Z")
        assert await runs_of(near) == []


@pytest.mark.usefixtures("worker")
async def test_a_completed_run_shows_its_output(api: httpx.AsyncClient) -> None:
    run = await started(api, "shop/ok", amount=5)
    run = await ended(api, run["run_id"])
    assert run.pop("run_started_at") <= run.pop("ended_at")
    assert run == {
        "run_id": run["run_id"],
        "function_id": "shop-ok",
        "function_version": 1,
        "environment_id": "00000000-0000-4000-b000-000000000000",
        "event_id": run["event_id"],
        "status": "Completed",
        "output": {"got": {"amount": 5}, "odd": "\ud800", "nan": None},
    }


@pytest.mark.usefixtures("worker")
async def test_a_failed_run_shows_its_error(api: httpx.AsyncClient) -> None:
    run = await ended(api, (await started(api, "shop/fail"))["run_id"])
    assert run["status"] == "Failed"
    assert run["output"]["name"] == "StockError"
    assert run["output"]["message"] == "out of stock"
    assert run["output"]["error"] == "invalid status code: 500"
    assert "test_ingress.py" in run["output"]["stack"]


@pytest.mark.usefixtures("worker")
async def test_a_run_is_cancelled_once_and_for_all(api: httpx.AsyncClient) -> None:
    run = await started(api, "shop/wait")
    assert (run["status"], run["ended_at"]) == ("Running", None)
    assert "output" not in run
    reply = await api.delete(f"/v1/runs/{run['run_id']}")
    assert (reply.status_code, reply.content) == (200, b"")
    assert (await ended(api, run["run_id"]))["status"] == "Cancelled"
    assert (await api.delete(f"/v1/runs/{run['run_id']}")).status_code == 200
    assert (await ended(api, run["run_id"]))["status"] == "Cancelled"


async def test_a_terminated_run_is_a_failed_one(api: httpx.AsyncClient, client: Client) -> None:
    run = await started(api, "shop/ok")
    await client.get_workflow_handle(run["run_id"]).terminate("by hand")
    run = await ended(api, run["run_id"])
    assert run["status"] == "Failed"
    assert run["output"]["name"] == "TerminatedError"


async def test_replies_are_in_the_envelope(api: httpx.AsyncClient) -> None:
    reply = await api.get(f"/v1/events/{ULID()}/runs")
    assert reply.json()["data"] == []
    assert reply.json()["metadata"].keys() == {"fetched_at", "cached_until"}
    assert reply.headers["cache-control"] == "private, max-age=15"


async def test_an_unknown_run_is_not_found(api: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        reply = await api.request(method, f"/v1/runs/{ULID()}")
        assert reply.status_code == 404
        assert reply.json() == {"error": "Unable to load function run", "data": None, "status": 404}


async def test_only_our_runs_can_be_seen_and_cancelled(
    api: httpx.AsyncClient, client: Client
) -> None:
    foreign = await client.start_workflow("theirs", id=str(ULID()), task_queue="theirs")
    for method in ("GET", "DELETE"):
        assert (await api.request(method, f"/v1/runs/{foreign.id}")).status_code == 404
    assert not await is_cancel_requested(client, foreign.id)


@pytest.mark.parametrize(
    "path", ["/v1/runs/inngest:registry", "/v1/runs/x", "/v1/events/x' OR 1=1/runs"]
)
async def test_an_id_must_be_a_ulid(api: httpx.AsyncClient, path: str) -> None:
    reply = await api.get(path)
    assert reply.status_code == 400
    assert reply.json()["error"] == "Invalid ID: it must be a ULID"


# HTTP


async def test_health_and_headers(offline: fastapi.FastAPI, client: Client) -> None:
    async with http(offline, headers={"origin": "https://example.com"}) as api:
        reply = await api.get("/health")
        assert reply.json() == {"status": 200, "message": "OK"}
        assert reply.headers["x-inngest-server-kind"] == "dev"
        assert reply.headers["access-control-allow-origin"] == "*"
        assert reply.headers["access-control-expose-headers"] == "Link, Mcp-Session-Id"
        preflight = await api.options("/e/key", headers={"access-control-request-method": "POST"})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-max-age"] == "3600"
        assert preflight.headers["x-inngest-server-kind"] == "dev"
    async with http(ingress_for(client, Settings())) as api:
        assert (await api.get("/health")).headers["x-inngest-server-kind"] == "cloud"


async def test_an_unknown_path_is_404_and_a_wrong_method_405(offline: fastapi.FastAPI) -> None:
    async with http(offline) as api:
        reply = await api.get("/nothing")
        assert (reply.status_code, reply.json()) == (404, {"error": "Not Found", "status": 404})
        reply = await api.get("/e/key")
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
        assert (await api.get("/redoc")).status_code == 404


async def test_a_bug_of_ours_shows_no_traceback(
    offline: fastapi.FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Router, stamped: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(Router, "route", broken)
    reply = await post(offline, b'{"name":"x"}')
    assert (reply.status_code, reply.json()) == (
        500,
        {"error": "Internal server error", "status": 500},
    )
    assert reply.headers["x-inngest-server-kind"] == "dev"


# The process


@contextlib.asynccontextmanager
async def serving(app: fastapi.FastAPI) -> AsyncIterator[str]:
    """A server on a free port; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    )
    task = asyncio.create_task(server.serve())

    async def port() -> Any:
        assert not task.done()
        return server.started and server.servers[0].sockets[0].getsockname()[1]

    try:
        yield f"http://127.0.0.1:{await until(port)}"
    finally:
        server.should_exit = True
        await task


async def test_it_starts_without_temporal_and_recovers_from_outages(
    client: Client, proxy: Any
) -> None:
    await proxy.stop()
    lazy = await Client.connect(
        proxy.address, namespace=client.namespace, lazy=True, retry_config=settings.RETRIES
    )
    async with (
        serving(create_ingress(lazy, DEV)) as url,
        httpx.AsyncClient(base_url=url, timeout=10, verify=False) as api,
    ):

        async def refusal() -> httpx.Response | None:
            reply = await api.post("/e/key", json={"name": "x"})
            return reply if reply.status_code == 503 else None

        async def refused(health: int) -> httpx.Response:
            # For a moment the ingress believes that nobody waits for the event.
            reply: httpx.Response = await until(refusal, 10)
            assert reply.json().keys() == {"ids", "status", "error"}
            assert "try again" in reply.json()["error"]
            assert (await api.get(f"/v1/runs/{ULID()}")).status_code == 503
            assert (await api.get("/health")).status_code == health
            return reply

        assert (await api.get("/ready")).status_code == 503

        async def accepted() -> bool:
            return (await api.post("/e/key", json={"name": "x"})).status_code == 200

        await refused(503)
        await proxy.start()
        await until(accepted)
        assert (await api.get("/ready")).status_code == 200
        await proxy.stop()

        async def noticed() -> bool:
            return not await accepted()

        await until(noticed)  # for a moment it believes what it read before
        await refused(200)
        assert (await api.get("/ready")).status_code == 503
        await proxy.start()
        await until(accepted)


async def test_without_its_namespace_an_ingress_is_not_ready_and_accepts_nothing(
    temporal_address: str,
) -> None:
    """It read the registry before the namespace was deleted."""
    client = await Client.connect(temporal_address, namespace="deleted")
    async with http(ingress_for(client)) as api:
        ready = await api.get("/ready")
        assert (ready.status_code, ready.json()["message"]) == (
            503,
            "Temporal has no such namespace.",
        )
        # The second one could only resume runs.
        for name in ("shop/ok", "shop/other"):
            assert (await api.post("/e/key", json={"name": name})).status_code == 503


async def test_the_ingress_follows_what_workers_publish(client: Client) -> None:
    async with (
        system_worker(client),
        Worker(client, task_queue=APP.task_queue, workflows=[Ok, Fails, Waiting]),
        serving(create_ingress(client, DEV)) as url,
        httpx.AsyncClient(base_url=url, timeout=10, verify=False) as api,
    ):
        await publishing.publish(client, APP)

        async def first_run() -> Any:
            (event_id,) = (await api.post("/e/key", json={"name": "shop/ok"})).json()["ids"]
            run_id = events.run_id("shop-ok", events.Stamped({"id": event_id}, event_id))
            return (await api.get(f"/v1/runs/{run_id}")).json()["data"]

        run = await until(first_run)
        assert (await ended(api, run["run_id"]))["output"]["got"] == {}
        await publishing.remove(client, "shop")

        async def no_run() -> bool:
            return not await first_run()

        await until(no_run)


async def test_the_official_client_sends_events(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    app = ingress_for(client, Settings(event_keys=("secret",)))
    async with serving(app) as url:
        sender = inngest.Inngest(
            app_id="sender", event_api_base_url=url, event_key="secret", is_production=True
        )
        sent = [inngest.Event(name="shop/ok", data={"n": n}, id=f"order-{n}") for n in range(3)]
        ids = await sender.send(sent)
        assert len(set(ids)) == 3
        for event in sent:
            stamped = events.stamp({"name": event.name, "id": event.id})
            await client.get_workflow_handle(events.run_id("shop-ok", stamped)).describe()
        with pytest.raises(Exception, match="reserved for internal use"):
            await sender.send(inngest.Event(name="inngest/x"))
        stranger = inngest.Inngest(
            app_id="sender", event_api_base_url=url, event_key="wrong", is_production=True
        )
        with pytest.raises(Exception, match="Event key not found"):
            await stranger.send(inngest.Event(name="shop/ok"))


async def test_a_reply_is_plain_json(api: httpx.AsyncClient) -> None:
    reply = await api.post("/e/key", json={"name": "x"})
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["status"] == 200
