"""Bulk cancellation: the HTTP side, and runs cancelled in the background."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.api.batch.v1 import BatchOperationCancellation
from temporalio.api.workflowservice.v1 import (
    ListBatchOperationsRequest,
    StartBatchOperationRequest,
)
from temporalio.client import Client
from ulid import ULID

import inngest_temporal as inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.http import cancellations
from inngest_temporal.http.app import create_ingress
from inngest_temporal.models import TriggerEvent
from inngest_temporal.routing import events, publishing
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.registry import AppConfig, Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.plugin import system_worker
from tests.apps import sleepers
from tests.harness import PATIENCE, App, is_cancel_requested, new_client, running, until
from tests.test_faults import Processes


@pytest.fixture(scope="session")
def temporal_address(scheduling_address: str) -> str:
    """A server that executes batch operations."""
    return scheduling_address


MANY = 100
"""Runs of the large test; Temporal cancels some 50 a second."""
SLEEPERS = Path(sleepers.__file__)


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def sleeping(app_id: str = "app") -> inngest.Function[Any]:
    @new_client(app_id).create_function(
        fn_id="fn", trigger=inngest.TriggerEvent(event="test/event")
    )
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", 86_400_000)

    return fn


@asynccontextmanager
async def http(
    client: Client,
    settings: Settings = Settings(dev=True),  # noqa: B008
) -> AsyncIterator[httpx.AsyncClient]:
    async with Follower(client) as follower:
        await follower.ready(10)
        transport = httpx.ASGITransport(create_ingress(client, settings, follower=follower))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://ingress", timeout=30
        ) as api:
            yield api


async def ask(api: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    """Ask for a cancellation of all runs that have started."""
    body = {"app_id": "app", "function_id": "fn", "started_before": rfc3339(time.time()), **fields}
    return await api.post("/v1/cancellations", json=body)


async def cancel(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Begin a cancellation, and return it."""
    reply = await ask(api, **fields)
    assert reply.status_code == 201, reply.text
    created: dict[str, Any] = reply.json()["data"]
    return created


async def begun(api: httpx.AsyncClient, **fields: Any) -> Any:
    """The cancellation, or false if it was refused, as while another one is in progress."""
    reply = await ask(api, **fields)
    return reply.status_code == 201 and reply.json()["data"]


async def completed(api: httpx.AsyncClient, id: str, seconds: float = 60) -> dict[str, Any]:
    """The cancellation, once it has ended."""

    async def ended() -> Any:
        shown = (await api.get(f"/v1/cancellations/{id}")).json()["data"]
        return shown if shown["status"] != "Running" else None

    shown: dict[str, Any] = await until(ended, seconds)
    return shown


async def become(client: Client, runs: list[str], expected: dict[str, int]) -> None:
    """Wait until the runs have these statuses: a cancelled run takes a moment to end."""

    async def are() -> bool:
        return await statuses(client, runs) == expected

    await until(are)


async def statuses(client: Client, runs: list[str]) -> Counter[str]:
    described = await asyncio.gather(*(client.get_workflow_handle(run).describe() for run in runs))
    return Counter(one.status.name for one in described if one.status is not None)


async def sleepers_of(
    app: App, function: inngest.Function[Any], count: int, **data: Any
) -> list[str]:
    """Runs that have begun to sleep."""
    sent = await asyncio.gather(*(app.send("test/event", {"n": n, **data}) for n in range(count)))
    runs = [events.run_id(function.id, one) for one in sent]

    async def asleep(run: str) -> bool:
        async for event in app.client.get_workflow_handle(run).fetch_history_events():
            if event.HasField("timer_started_event_attributes"):
                return True
        return False

    for run in runs:
        await until(lambda run=run: asleep(run))  # type: ignore[misc]
    return runs


# Over HTTP


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"app_id": None}, "app_id is required"),
        ({"function_id": ""}, "function_id is required"),
        ({"started_before": None}, "started_before is required"),
        ({"app_id": 5}, "app_id must be a string"),
        ({"if": ["x"]}, "if must be a string"),
        (
            {"started_before": "yesterday"},
            "started_before must be a time with a time zone, such as 2026-01-31T09:30",
        ),
        (
            {"started_before": "2026-01-31T09:30:00"},
            "started_before must be a time with a time zone",
        ),
        ({"started_before": 1_700_000_000}, "started_before must be a time with a time zone"),
        (
            {"started_before": "0001-01-01T00:00:00+14:00"},
            "started_before must be a time with a time zone",
        ),
        ({"started_after": "soon"}, "started_after must be a time with a time zone"),
        ({"started_after": "2026-02-01T00:00:00Z"}, "started_after must be before started_before"),
        ({"if": "event.data =="}, "if is not a valid expression: "),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    client: Client, changes: dict[str, Any], message: str
) -> None:
    body = {
        "app_id": "app",
        "function_id": "fn",
        "started_before": "2026-02-01T00:00:00Z",
        **changes,
    }
    async with http(client) as api:
        reply = await api.post("/v1/cancellations", json=body)
    assert (reply.status_code, reply.json()["data"]) == (400, None)
    assert reply.json()["error"].startswith(message)


async def test_only_the_past_can_be_cancelled_with_5_seconds_for_clocks_that_differ(
    client: Client,
) -> None:
    async with http(client) as api:
        reply = await ask(api, started_before=rfc3339(time.time() + 6.5))
        assert (reply.status_code, reply.json()["error"]) == (
            400,
            "started_before must be in the past",
        )
        reply = await ask(api, started_before=rfc3339(time.time() + 4))
        assert reply.status_code == 404  # it got as far as the function


async def test_functions_and_cancellations_that_are_not_there_are_not_found(client: Client) -> None:
    async with http(client) as api:
        body = {"app_id": "it's", "function_id": "a\\'b", "started_before": "2026-02-01T00:00:00Z"}
        reply = await api.post("/v1/cancellations", json=body)
        assert reply.status_code == 404
        assert reply.json()["error"].startswith('App "it\'s" has no function')
        assert (await api.post("/v1/cancellations", json=[])).status_code == 400
        assert (await api.post("/v1/cancellations", content=b"{")).status_code == 400
        for method in ("GET", "DELETE"):
            assert (await api.request(method, f"/v1/cancellations/{ULID()}")).status_code == 404
            assert (await api.request(method, "/v1/cancellations/x")).status_code == 400
        assert (await api.get("/v1/cancellations")).json()["data"] == []


async def test_cancellations_need_a_signing_key(client: Client) -> None:
    async with http(client, Settings(signing_keys=("signkey-prod-12ab",))) as api:
        for method, path in (
            ("POST", ""),
            ("GET", ""),
            ("GET", f"/{ULID()}"),
            ("DELETE", f"/{ULID()}"),
        ):
            assert (await api.request(method, f"/v1/cancellations{path}")).status_code == 401
        reply = await api.get(
            "/v1/cancellations", headers={"authorization": "Bearer signkey-prod-12ab"}
        )
        assert reply.status_code == 200


async def test_a_cancellation_is_shown_as_inngest_shows_it(client: Client) -> None:
    fn = sleeping()
    async with running(client, fn), http(client) as api:
        created = await cancel(
            api, function_id="app-fn", started_after="2026-01-01T00:00:00+01:00", **{"if": "true"}
        )
        assert created == {
            "id": created["id"],
            "name": "Cancel runs of app-fn",
            "created_at": created["created_at"],
            "account_id": names.ENVIRONMENT_ID,
            "environment_id": names.ENVIRONMENT_ID,
            "app_id": "app",
            "function_internal_id": "app-fn",
            "function_id": "app-fn",
            "started_after": "2025-12-31T23:00:00.000Z",
            "started_before": created["started_before"],
            "if": "true",
            "kind": "bulk_run",
            "cause": "API",
            "queue_name": None,
            "status": "Running",
            "cancelled": 0,
        }
        assert (await completed(api, created["id"])) == created | {"status": "Completed"}
        other = await until(lambda: begun(api))
        assert "if" not in other
        assert other["started_after"] is None
        await completed(api, other["id"])

        async def listed() -> Any:
            reply = (await api.get("/v1/cancellations")).json()
            assert reply.keys() == {"data", "metadata"}
            return [(one["id"], one["status"]) for one in reply["data"]] == [
                (other["id"], "Completed"),
                (created["id"], "Completed"),
            ]

        await until(listed)


# Runs


async def test_runs_of_that_function_and_time_are_cancelled_and_no_others(client: Client) -> None:
    fn = sleeping()

    @fn.client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="test/other"))
    async def other(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", 86_400_000)

    told: list[str] = []

    @fn.client.create_function(
        fn_id="told", trigger=inngest.TriggerEvent(event="inngest/function.cancelled")
    )
    async def listener(ctx: inngest.Context) -> None:
        told.append(str(ctx.event.data["run_id"]))

    async with running(client, fn, other, listener) as app, http(client) as api:
        early = await sleepers_of(app, fn, 3)
        await asyncio.sleep(0.01)
        after = time.time()
        meant = await sleepers_of(app, fn, 30)
        another = app.run_of(other, await app.send("test/other"))
        await asyncio.sleep(0.01)
        before = time.time()
        await asyncio.sleep(0.01)
        late = await sleepers_of(app, fn, 3)

        created = await cancel(api, started_after=rfc3339(after), started_before=rfc3339(before))

        async def all_told() -> bool:
            return len(told) >= 30

        await until(all_told)
        assert (await completed(api, created["id"]))["cancelled"] == 30
        await become(client, meant, {"CANCELED": 30})
        await become(client, [*early, *late, another.id], {"RUNNING": 7})
        assert sorted(told) == sorted(meant)


async def test_if_decides_by_the_event_of_each_run(client: Client) -> None:
    fn = sleeping()
    async with running(client, fn) as app, http(client) as api:
        runs = await sleepers_of(app, fn, 12, user="ann")
        created = await cancel(
            api, **{"if": "event.data.user == 'ann' && event.data.n >= 4 && event.name != 'x'"}
        )
        assert (await completed(api, created["id"]))["cancelled"] == 8
        await become(client, runs[4:], {"CANCELED": 8})
        await become(client, runs[:4], {"RUNNING": 4})


async def test_a_run_without_an_event_holds_up_no_cancellation(client: Client) -> None:
    fn = sleeping()
    async with running(client, fn) as app, http(client) as api:
        runs = await sleepers_of(app, fn, 2, user="ann")
        by_hand = await client.start_workflow(fn.id, id="by-hand", task_queue="nobody-polls-it")
        created = await cancel(
            api, started_before=rfc3339(time.time() + 4), **{"if": "event.data.user == 'ann'"}
        )
        assert (await completed(api, created["id"]))["cancelled"] == 2
        await become(client, [*runs, by_hand.id], {"CANCELED": 2, "RUNNING": 1})


async def test_runs_that_wait_for_their_time_or_for_a_worker_are_counted_once(
    client: Client,
) -> None:
    """Their cancellation is requested; they end when they would begin."""
    fn = sleeping()
    async with running(client, fn):
        pass
    async with Follower(client) as follower, http(client) as api, system_worker(client):
        await follower.ready(10)
        router = Router(client, follower, Waits.of(client).deliver)
        now = round(time.time() * 1000)
        stamped = [
            events.stamp({"name": "test/event", "data": {}, "ts": now + delay})
            for delay in (0, 0, 0, 3_600_000)
        ]
        await router.route(stamped)
        created = await cancel(api, started_before=rfc3339(time.time() + 1))
        assert (await completed(api, created["id"]))["cancelled"] == 4
        runs = [events.run_id(fn.id, one) for one in stamped]
        await become(client, runs, {"RUNNING": 4})
    async with running(client, fn):

        async def ended() -> bool:
            return await statuses(client, runs[:3]) == {"CANCELED": 3}

        await until(ended)


async def test_a_removed_function_and_a_quoted_name_are_found_by_their_runs(client: Client) -> None:
    fn = sleeping("it's")
    async with running(client, fn) as app, http(client) as api:
        [run] = await sleepers_of(app, fn, 1)
        await publishing.remove(client, "it's")

        async def unknown() -> bool:
            return (await Follower(client).refresh()).function(fn.id) is None

        await until(unknown)
        await asyncio.sleep(1)  # for the ingress to know, too
        created = await until(lambda: begun(api, app_id="it's"))
        assert (await completed(api, created["id"]))["cancelled"] == 1
        await become(client, [run], {"CANCELED": 1})


async def started(client: Client, fn: inngest.Function[Any], count: int) -> list[str]:
    """Runs that wait for a worker, once visibility lists them."""
    async with Follower(client) as follower:
        await follower.ready(10)
        stamped = [events.stamp({"name": "test/event", "data": {"n": n}}) for n in range(count)]
        await Router(client, follower, concurrency=50, rpc_timeout=PATIENCE).route(stamped)

    async def visible() -> bool:
        return (await client.count_workflows(f"WorkflowType = '{fn.id}'")).count == count

    await until(visible)
    return [events.run_id(fn.id, one) for one in stamped]


async def requested(client: Client, runs: list[str]) -> int:
    """How many of these runs were asked to cancel themselves."""
    return sum(await asyncio.gather(*(is_cancel_requested(client, run) for run in runs)))


async def test_a_cancellation_that_is_deleted_stops_and_another_one_can_begin(
    client: Client,
) -> None:
    fn = sleeping()
    async with running(client, fn):
        pass
    runs = await started(client, fn, 300)
    async with http(client) as api:
        created = await cancel(api)
        past = rfc3339(time.time() - 60)

        async def refused() -> Any:
            reply = await ask(api, started_before=past)
            return reply.status_code == 503 and reply.json()["error"]

        assert "one at a time" in await until(refused, 5)
        assert (await api.delete(f"/v1/cancellations/{created['id']}")).status_code == 200
        assert (await completed(api, created["id"]))["status"] == "Cancelled"
        assert (await api.delete(f"/v1/cancellations/{created['id']}")).status_code == 200
        assert await requested(client, runs) < 300
        await until(lambda: begun(api, started_before=past))


async def test_an_if_for_too_many_runs_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn = sleeping()
    async with running(client, fn):
        pass
    await started(client, fn, 3)
    async with http(client) as api:
        monkeypatch.setattr(cancellations, "MAX_MATCHING", 2)
        reply = await ask(api, **{"if": "event.data.n >= 0"})
        assert reply.status_code == 400
        assert reply.json()["error"].startswith("if chooses at most 2 runs: ")
        monkeypatch.setattr(cancellations, "MAX_EXAMINED", 2)
        reply = await ask(api, **{"if": "event.data.n > 0"})
        assert reply.status_code == 400
        assert reply.json()["error"].startswith("if is evaluated for at most 2 runs: ")
        created = await cancel(api)  # without an if there is no limit
        assert (await completed(api, created["id"]))["cancelled"] == 3


async def test_batch_operations_of_others_are_not_shown(client: Client) -> None:
    await client.workflow_service.start_batch_operation(
        StartBatchOperationRequest(
            namespace=client.namespace,
            job_id="theirs",
            reason="by hand",
            visibility_query="WorkflowType = 'theirs'",
            cancellation_operation=BatchOperationCancellation(),
        )
    )

    async def visible() -> bool:
        request = ListBatchOperationsRequest(namespace=client.namespace)
        return bool((await client.workflow_service.list_batch_operations(request)).operation_info)

    await until(visible)
    async with http(client) as api:
        assert (await api.get("/v1/cancellations")).json()["data"] == []


@pytest.mark.timeout(900)
async def test_all_of_many_are_cancelled_and_reported_once_though_the_worker_is_killed_halfway(
    client: Client, temporal_address: str, namespace: str, tmp_path: Path
) -> None:
    fn, told = sleepers.sleep, "audit-told"
    processes = Processes(temporal_address, namespace, tmp_path)
    begun = time.monotonic()

    def lap(what: str) -> None:
        print(f"{what}: {time.monotonic() - begun:.1f} s")

    try:
        worker = processes.start("worker", str(SLEEPERS))
        # A function that is told of cancelled runs. No worker executes its runs: they are counted.
        trigger = TriggerEvent(event=events.CANCELLED)
        config = FunctionConfig(id=told, name="told", triggers=[trigger])
        await publishing.publish(
            client, AppConfig(app_id="audit", task_queue="nobody", functions=[config])
        )
        async with Follower(client) as follower, http(client) as api:

            async def known() -> bool:
                snapshot = await follower.refresh()
                return snapshot.function(fn.id) is not None and snapshot.function(told) is not None

            await until(known)
            stamped = [
                events.stamp({"name": "sleepers/sleep", "data": {"n": n}}) for n in range(MANY)
            ]
            await Router(client, follower, concurrency=50, rpc_timeout=PATIENCE).route(stamped)
            runs = [events.run_id(fn.id, one) for one in stamped]
            lap("started")

            async def cancelled(count: int) -> bool:
                await asyncio.sleep(0.1)
                query = f"WorkflowType = '{fn.id}' AND ExecutionStatus = 'Canceled'"
                return (await client.count_workflows(query)).count >= count

            created = await cancel(api, app_id="sleepers", function_id="sleep")
            await until(lambda: cancelled(MANY // 2), 300)
            processes.kill(worker)
            lap("killed")
            left = MANY - (await statuses(client, runs))["CANCELED"]
            assert 0 < left < MANY
            processes.start("worker", str(SLEEPERS))
            assert (await completed(api, created["id"], 600))["cancelled"] == MANY
            await until(lambda: cancelled(MANY), 300)
            lap(f"all cancelled, {left} of them after the kill")
            await become(client, runs, {"CANCELED": MANY})

            # The event that reports a cancelled run has its id, and starts one run of `told`.
            expected = {events.run_id(told, Stamped({}, run)) for run in runs}

            async def reported() -> bool:
                await asyncio.sleep(0.5)
                return (await client.count_workflows(f"WorkflowType = '{told}'")).count >= MANY

            await until(reported, 60)
            reports = [one.id async for one in client.list_workflows(f"WorkflowType = '{told}'")]
            assert len(reports) == MANY
            assert set(reports) == expected
            lap("all reported")
    finally:
        processes.close()
