"""The run API `/v2`, with real functions on a real server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from temporalio.client import Client
from ulid import ULID

import inngest_temporal as inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.http.app import create_ingress
from inngest_temporal.http.auth import signing_tokens
from inngest_temporal.routing.registry import AppConfig, Follower, Snapshot
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from tests.adapter.http.test_ingress import DEV, SIGNING_KEY, http, ingress_for
from tests.harness import TRIGGER, is_cancel_requested, new_client, running, until

shop = new_client("shop")


@shop.create_function(fn_id="pay", trigger=TRIGGER)
async def pay(ctx: inngest.Context) -> dict[str, Any]:
    amount = ctx.event.data.get("amount", 0)
    if amount == "none":
        raise inngest.NonRetriableError("no money")
    paid = await ctx.step.run("charge", lambda: {"charged": amount, "odd": "\ud800"})
    if amount == "waits":
        await ctx.step.wait_for_event("go", event="shop/go", timeout=600_000)
    return paid


@shop.create_function(
    fn_id="one/at a time",
    trigger=inngest.TriggerEvent(event="shop/one"),
    concurrency=[inngest.Concurrency(limit=1, key="event.data.customer")],
    throttle=inngest.Throttle(limit=1, period=600_000, burst=2),
)
async def one(ctx: inngest.Context) -> None:
    await ctx.step.run("held", held.wait)


@shop.create_function(
    fn_id="late",
    trigger=inngest.TriggerEvent(event="shop/late"),
    debounce=inngest.Debounce(period=600_000),
)
async def late(ctx: inngest.Context) -> None: ...


@shop.create_function(
    fn_id="rated",
    trigger=inngest.TriggerEvent(event="shop/rated"),
    rate_limit=inngest.RateLimit(limit=1, period=600_000),
)
async def rated(ctx: inngest.Context) -> None: ...


held = asyncio.Event()


@dataclass(frozen=True)
class Api:
    http: httpx.AsyncClient

    async def call(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        reply = await self.http.request(method, f"/v2{path}", **options)
        assert reply.status_code == status, reply.text
        return reply.json()

    async def get(self, path: str, **query: Any) -> Any:
        return (await self.call("GET", path, params=query))["data"]

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return (await self.call("POST", path, status, json=body))["data"]

    async def refused(self, method: str, path: str, status: int, **options: Any) -> str:
        """Make a request that is refused; returns the error's code."""
        [problem] = (await self.call(method, path, status, **options))["errors"]
        assert problem["message"]
        return str(problem["code"])

    async def invoke(self, body: dict[str, Any], status: int = 200, function: str = "pay") -> Any:
        return await self.post(f"/apps/shop/functions/{function}/invoke", body, status)

    async def listed(self, count: int, **query: Any) -> list[Any]:
        """The runs, once `count` of them are listed."""

        async def found() -> Any:
            runs = await self.get("/runs", **query)
            return [runs] if len(runs) == count else None

        [runs] = await until(found)
        return list(runs)


@contextlib.asynccontextmanager
async def serving(client: Client) -> AsyncIterator[Api]:
    """A worker of the functions, and an ingress."""
    held.clear()
    async with running(client, pay, one, late, rated), Follower(client) as follower:
        await until(lambda: follower.snapshot and follower.snapshot.function(pay.id))
        async with http(create_ingress(client, DEV, follower=follower)) as session:
            yield Api(session)
        held.set()


async def test_runs_are_invoked_listed_and_shown(client: Client) -> None:
    async with serving(client) as api:
        done = await api.invoke({"data": {"amount": 5}, "waitSeconds": 30})
        assert done["status"] == "Completed"
        assert done["output"] == {"charged": 5, "odd": "\ud800"}
        failed = await api.invoke({"data": {"amount": "none"}, "waitSeconds": 30})
        assert (failed["status"], failed["error"]["message"]) == ("Failed", "no money")
        open = await api.invoke({"data": {"amount": "waits"}})
        ids = {done["runId"], failed["runId"], open["runId"]}
        runs = await api.listed(3)
        assert {run["id"] for run in runs} == ids
        assert {run["appId"] for run in runs} == {"shop"}
        assert [run["output"] for run in runs] == [None] * 3
        [failure] = await api.listed(1, status="Failed", includeOutput=True, app="shop")
        assert failure["error"]["name"] == "NonRetriableError"
        assert await api.get(f"/runs/{failed['runId'].lower()}") == failure
        first = await api.call("GET", "/runs", params={"limit": 2})
        assert first["page"]["hasMore"]
        cursor = first["page"]["cursor"]
        rest = await api.call("GET", "/runs", params={"limit": 2, "cursor": cursor})
        assert {run["id"] for run in first["data"] + rest["data"]} == ids
        path = "/apps/shop/functions/pay/runs"
        assert {run["id"] for run in await api.get(path)} == ids
        [of_event] = await api.get(f"/events/{failure['eventId']}/runs")
        assert of_event == failure
        trace = await api.get(f"/runs/{done['runId']}/trace")
        assert [step["name"] for step in trace["steps"]] == ["charge"]
        assert trace["steps"][0]["output"] == {"charged": 5, "odd": "\ud800"}


def app(app_id: str, *functions: str) -> AppConfig:
    """An app whose functions are only invoked."""
    configs = [FunctionConfig(id=f"{app_id}-{each}", name=each, triggers=[]) for each in functions]
    return AppConfig(app_id=app_id, task_queue=f"inngest-{app_id}", functions=configs)


async def test_the_runs_of_an_app_are_not_those_of_an_app_whose_id_begins_alike(
    client: Client,
) -> None:
    """A function's id begins with its app's id and a hyphen."""
    apps = [app("shop", "pay", "eu-tax"), app("shop-eu", "pay"), app("shop-eu-west", "pay")]
    expected = {
        "shop": {"shop-pay", "shop-eu-tax", "shop-removed"},
        "shop-eu": {"shop-eu-pay", "shop-eu-removed"},
        "shop-eu-west": {"shop-eu-west-pay"},
    }
    for kind in set().union(*expected.values()):
        id = str(ULID())
        memo = {names.EVENTS_MEMO: [id]}
        await client.start_workflow(kind, id=id, task_queue="inngest-http", memo=memo)
    async with http(ingress_for(client, snapshot=Snapshot(apps))) as session:
        api = Api(session)
        await api.listed(6)
        for app_id, functions in expected.items():
            found = await api.get("/runs", app=app_id)
            assert {run["functionId"] for run in found} == functions


async def test_an_idempotency_key_starts_one_run(client: Client) -> None:
    async with serving(client) as api:
        body = {"data": {"amount": 1}, "idempotencyKey": "order-1"}
        first = await api.invoke(body)
        again = await api.invoke({**body, "waitSeconds": 30}, 409)
        assert again["runId"] == first["runId"]
        assert again["status"] == "Completed"
        # As `curl -d` sends it, which says that it is a form.
        form = {"content-type": "application/x-www-form-urlencoded"}
        path = "/apps/shop/functions/pay/invoke"
        as_form = await api.call("POST", path, 409, content=json.dumps(body), headers=form)
        assert as_form["data"]["runId"] == first["runId"]
        other = await api.invoke({**body, "idempotencyKey": "order-2"})
        assert other["runId"] != first["runId"]


async def test_an_invocation_that_starts_nothing_says_why(client: Client) -> None:
    async with serving(client) as api:
        place = "/apps/shop/functions/{}/invoke"
        await api.invoke({"data": {}}, function="rated")
        for function, status, code in (
            ("rated", 422, "rate_limited"),
            ("late", 422, "function_debounced"),
            ("nothing", 404, "function_not_found"),
        ):
            path = place.format(function)
            assert await api.refused("POST", path, status, json={"data": {}}) == code
        for body in ({}, {"data": 5}, {"data": {}, "other": 1}, {"data": {}, "waitSeconds": 61}):
            path = place.format("pay")
            assert await api.refused("POST", path, 400, json=body) == "invalid_request"
        assert await api.refused("POST", path, 400, content=b"{") == "invalid_request"
        recent = await api.get("/events", invocations=True)
        kinds = [event["outcomes"][0]["kind"] for event in recent]
        assert kinds == ["debounced", "rate_limited", "started"]
        assert await api.get("/events") == []


async def test_a_run_is_cancelled_once(client: Client) -> None:
    async with serving(client) as api:
        run = (await api.invoke({"data": {"amount": "waits"}}))["runId"]
        await api.post(f"/runs/{run}/cancel")

        async def ended() -> bool:
            return bool((await api.get(f"/runs/{run}"))["status"] == "Cancelled")

        await until(ended)
        path = f"/runs/{run}/cancel"
        assert await api.refused("POST", path, 409) == "run_already_cancelled"
        done = await api.invoke({"data": {}, "waitSeconds": 30})
        path = f"/runs/{done['runId']}/cancel"
        assert await api.refused("POST", path, 409) == "run_already_ended"


async def test_runs_are_run_again(client: Client) -> None:
    async with serving(client) as api:
        failed = await api.invoke({"data": {"amount": "none"}, "waitSeconds": 30})
        path = f"/runs/{failed['runId']}/rerun"
        new = (await api.post(path, {"idempotencyKey": "k"}))["runId"]
        assert (await api.post(path, {"idempotencyKey": "k"}))["runId"] == new
        assert (await api.get(f"/runs/{new}"))["originalRunId"] == failed["runId"]
        done = await api.invoke({"data": {"amount": 2}, "waitSeconds": 30})
        path = f"/runs/{done['runId']}/rerun"
        from_step = {"fromStep": {"id": "charge"}}
        again = (await api.post(path, from_step))["runId"]
        assert again not in (done["runId"], new)
        wrong = {"fromStep": {"id": "nothing"}}
        assert await api.refused("POST", path, 400, json=wrong) == "invalid_request"
        missing = f"/runs/{ULID()}/rerun"
        assert await api.refused("POST", missing, 404) == "run_not_found"
        await api.listed(4)
        place = "/apps/shop/functions/pay/replays"
        replay = (await api.post(place, {"rate": 100}, 201))["id"]

        async def completed() -> Any:
            found = await api.get(f"/replays/{replay}")
            return found if found["progress"]["status"] != "Running" else None

        found = await until(completed)
        assert found["progress"]["request"]["functionId"] == "shop-pay"
        assert found["progress"]["started"] == found["progress"]["found"] >= 1
        assert await api.refused("GET", "/replays/none", 404) == "replay_not_found"


async def test_a_function_shows_its_configuration_and_what_its_locks_do(client: Client) -> None:
    async with serving(client) as api:
        function = "one%2Fat%20a%20time"
        runs = [
            (await api.invoke({"data": {"customer": "c"}}, function=function))["runId"]
            for _ in range(4)
        ]

        async def settled() -> Any:
            shown = await api.get(f"/apps/shop/functions/{function}")
            flow = {entity["kind"]: entity for entity in shown["flow"]}
            counts = {kind: (flow[kind]["holding"], flow[kind]["waiting"]) for kind in flow}
            return shown if counts == {"step": (1, 2), "throttle": (0, 1)} else None

        shown = await until(settled)
        flow = {entity["kind"]: entity for entity in shown["flow"]}
        assert shown["configuration"]["throttle"]["limit"] == 1
        assert shown["active"] == {"Running": 4}
        assert shown["flowComplete"]
        step, throttle = flow["step"], flow["throttle"]
        assert (step["key"], step["value"], step["limit"]) == ("event.data.customer", '"c"', 1)
        assert {*step["holders"], *step["waiters"], *throttle["waiters"]} == {*runs}
        assert throttle["nextMs"] > 0
        assert await api.refused("GET", "/apps/shop/functions/no", 404) == "function_not_found"
        assert await api.refused("GET", "/apps/no", 404) == "app_not_found"
        assert await api.refused("GET", "/apps/no/functions", 404) == "app_not_found"
        [app] = await api.get("/apps")
        assert await api.get("/apps/shop") == app
        listed = await api.get("/apps/shop/functions")
        assert [each["id"] for each in listed] == app["functions"]
        held.set()


async def test_a_paused_function_starts_when_it_is_resumed(client: Client) -> None:
    async with serving(client) as api:
        place = "/apps/shop/functions/shop-pay"
        assert (await api.post(f"{place}/pause"))["paused"]
        run = (await api.invoke({"data": {}}))["runId"]

        async def waits() -> bool:
            flow = (await api.get(place))["flow"]
            return [(each["kind"], each["waiters"]) for each in flow] == [("pause", [run])]

        await until(waits)
        assert not (await api.post(f"{place}/resume"))["paused"]

        async def completed() -> bool:
            return bool((await api.get(f"/runs/{run}"))["status"] == "Completed")

        await until(completed)
        missing = "/apps/shop/functions/no/pause"
        assert await api.refused("POST", missing, 404) == "function_not_found"


async def test_a_workflow_that_is_not_a_run_of_ours_is_not_found(client: Client) -> None:
    foreign = await client.start_workflow("theirs", id=str(ULID()), task_queue="theirs")
    async with http(ingress_for(client)) as session:
        api = Api(session)
        for id in (foreign.id, str(ULID())):
            assert await api.refused("GET", f"/runs/{id}", 404) == "run_not_found"
            assert await api.refused("GET", f"/runs/{id}/trace", 404) == "run_not_found"
            assert await api.refused("POST", f"/runs/{id}/cancel", 404) == "run_not_found"
            assert await api.refused("GET", f"/events/{id}", 404) == "event_not_found"
        for path in (
            "/runs/inngest:registry",
            "/runs?cursor=x",
            "/runs?status=Lost",
            "/runs?limit=0",
        ):
            assert await api.refused("GET", path, 400) == "invalid_request"
        assert await api.get("/runs") == []
    assert not await is_cancel_requested(client, foreign.id)


async def test_a_temporal_that_is_down_is_answered_with_503() -> None:
    client = await Client.connect("127.0.0.1:1", lazy=True)
    async with http(ingress_for(client)) as session:
        api = Api(session)
        for method, path in (
            ("GET", "/runs"),
            ("GET", f"/runs/{ULID()}"),
            ("GET", f"/runs/{ULID()}/trace"),
            ("POST", f"/runs/{ULID()}/rerun"),
            ("GET", "/apps/shop/functions/ok"),
            ("GET", "/replays"),
        ):
            assert await api.refused(method, path, 503) == "unavailable"


async def test_the_signing_key_is_needed_before_anything_is_read(client: Client) -> None:
    settings = Settings(event_keys=("k",), signing_keys=(SIGNING_KEY,))
    async with http(ingress_for(client, settings)) as session:
        api = Api(session)
        for path in ("/runs", "/runs/x", "/apps"):
            assert await api.refused("GET", path, 401) == "authentication_failed"
        path = "/apps/shop/functions/ok/invoke"
        assert await api.refused("POST", path, 401, content=b"{") == "authentication_failed"
        for token in signing_tokens(SIGNING_KEY):
            reply = await session.get("/v2/apps", headers={"authorization": f"Bearer {token}"})
            assert reply.status_code == 200
    async with http(ingress_for(client, Settings(event_keys=("k",)))) as session:
        assert await Api(session).refused("GET", "/apps", 503) == "unavailable"
