import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError
from temporalio.worker import Worker

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import FunctionConfigInvalidError, SettingsInvalidError
from inngest_temporal.expressions import Expression
from inngest_temporal.models import Batch, RateLimit, TriggerCron, TriggerEvent
from inngest_temporal.routing import publishing
from inngest_temporal.routing.registry import AppConfig, Follower, Snapshot
from inngest_temporal.temporal import connection as settings
from inngest_temporal.temporal import names
from inngest_temporal_workers.entities import entity
from inngest_temporal_workers.entities.app import AppWorkflow
from inngest_temporal_workers.entities.registry import RegistryWorkflow
from inngest_temporal_workers.entities.schedule import ScheduleActivities
from tests.harness import until


def function(function_id: str, *triggers: str | tuple[str, str]) -> FunctionConfig:
    """A function triggered by event names, or by (event name, expression)."""
    pairs = [(trigger, None) if isinstance(trigger, str) else trigger for trigger in triggers]
    made = [TriggerEvent(event=event, expression=expression) for event, expression in pairs]
    return FunctionConfig(id=function_id, name=function_id, triggers=[*made])


def app(app_id: str, *functions: FunctionConfig) -> AppConfig:
    return AppConfig(app_id=app_id, task_queue=names.task_queue(app_id), functions=list(functions))


def matching(snapshot: Snapshot, name: str, **data: object) -> list[str]:
    return [
        found.id
        for found in snapshot.match({"name": name, "data": data, "id": "e", "ts": 1, "user": {}})
    ]


def starting(kind: str, workflow_id: str) -> WithStartWorkflowOperation[object, object]:
    return WithStartWorkflowOperation(
        kind,
        id=workflow_id,
        task_queue=names.SYSTEM_TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


@pytest_asyncio.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    activities = ScheduleActivities(client, Follower(client)).all()
    queue = names.SYSTEM_TASK_QUEUE
    async with Worker(
        client, task_queue=queue, workflows=[AppWorkflow, RegistryWorkflow], activities=activities
    ) as worker:
        yield worker


# Matching


def test_names_match_exactly_or_by_a_prefix_that_ends_at_a_separator() -> None:
    snapshot = Snapshot(
        [
            app(
                "a",
                function("a-f", "shop/order.paid"),
                function("a-g", "shop/*"),
                function("a-h", "shop/order.*"),
            ),
            app("b", function("b-star", "*"), function("b-part", "shop/or*")),
        ]
    )
    assert matching(snapshot, "shop/order.paid") == ["a-f", "a-g", "a-h"]
    assert matching(snapshot, "shop/order.paid/late") == ["a-g", "a-h"]
    assert matching(snapshot, "shop/order") == ["a-g"]
    assert matching(snapshot, "shop") == []
    assert matching(snapshot, "shopping/order.paid") == []


def test_a_trigger_with_an_expression_matches_only_if_it_is_true() -> None:
    snapshot = Snapshot(
        [
            app(
                "a",
                function("a-big", ("order", "event.data.amount > 10")),
                function("a-vip", ("order", "'gold' == event.data.tier && event.data.amount > 1")),
                function("a-wrong", ("order", "event.data.amount + 'x' > 1")),
                function("a-text", ("order", "event.data.amount")),
            )
        ]
    )
    assert matching(snapshot, "order", amount=11) == ["a-big"]
    assert matching(snapshot, "order", amount=5, tier="gold") == ["a-vip"]
    assert matching(snapshot, "order", amount=1, tier="gold") == []
    assert matching(snapshot, "order", amount="many", tier=["gold"]) == []
    assert matching(snapshot, "order") == []


def test_a_function_is_matched_once_by_several_triggers() -> None:
    several = function("a-f", ("x/y", "false"), "x/y", "x/*", ("x/y", "true"))
    snapshot = Snapshot([app("a", several, function("a-g", "x/*"))])
    assert matching(snapshot, "x/y") == ["a-f", "a-g"]


def test_an_expression_that_does_not_compile_never_matches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    snapshot = Snapshot([app("a", function("a-f", ("x", "event.data ==")), function("a-g", "x"))])
    assert matching(snapshot, "x") == ["a-g"]
    assert "'a-f' is never triggered by 'x'" in caplog.text


def test_functions_with_the_same_id_in_two_apps_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    snapshot = Snapshot([app("a", function("a-b-c", "x")), app("a-b", function("a-b-c", "x"))])
    assert matching(snapshot, "x") == ["a-b-c"]
    assert "apps 'a' and 'a-b' have the same id 'a-b-c'" in caplog.text


def test_a_failure_is_matched_against_the_triggers_of_its_function_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = "inngest/function.failed"
    functions = [
        function(f"a-{i}-failure", (failed, f"event.data.function_id == 'a-{i}'"))
        for i in range(500)
    ]
    snapshot = Snapshot([app("a", *functions, function("a-any", failed))])
    evaluated: list[str] = []
    matches = Expression.matches

    def counted(self: Expression, event: Mapping[str, Any]) -> bool:
        evaluated.append(self.source)
        return matches(self, event)

    monkeypatch.setattr(Expression, "matches", counted)
    assert matching(snapshot, failed, function_id="a-7") == ["a-7-failure", "a-any"]
    assert evaluated == ["event.data.function_id == 'a-7'"]
    assert matching(snapshot, failed, function_id=7) == ["a-any"]


def test_an_apps_configuration_survives_the_way_through_json() -> None:
    config = FunctionConfig(
        id="a-f",
        name="F",
        triggers=[
            TriggerEvent(event="x", expression="event.data.y"),
            TriggerCron(cron="* * * * *", jitter="5s"),
        ],
        retries=2,
        rate_limit=RateLimit(limit=3, period=timedelta(minutes=5), key="event.data.k"),
        batch_events=Batch(max_size=5, timeout=10_000),
    )
    written = json.loads(json.dumps(app("a", config).to_json()))
    assert written["functions"][0]["rateLimit"] == {
        "limit": 3,
        "period": "5m",
        "key": "event.data.k",
    }
    read = FunctionConfig.from_wire(written["functions"][0])
    assert app("a", read).to_json() == written
    assert read.retries == 2


# Publishing


@pytest.mark.usefixtures("worker")
async def test_what_is_published_is_read_at_once_and_needs_no_worker(client: Client) -> None:
    follower = Follower(client)
    assert len(await follower.refresh()) == 0
    version = await publishing.publish(client, app("shop", function("shop-f", "order")))
    assert matching(await follower.refresh(), "order") == ["shop-f"]
    found = (await follower.refresh()).function("shop-f")
    assert found is not None
    assert found.task_queue == "inngest-shop"

    assert await publishing.publish(client, app("shop", function("shop-f", "order"))) == version
    assert await publishing.publish(client, app("shop", function("shop-g", "order"))) > version
    assert matching(await follower.refresh(), "order") == ["shop-g"]


@pytest.mark.usefixtures("worker")
async def test_an_unchanged_configuration_writes_nothing(client: Client) -> None:
    async def lengths() -> list[int]:
        ids = (names.REGISTRY_ID, names.app_id("shop"))
        return [(await client.get_workflow_handle(id).describe()).history_length for id in ids]

    await publishing.publish(client, app("shop", function("shop-f", "order")))
    before = await lengths()
    await publishing.publish(client, app("shop", function("shop-f", "order")))
    assert await lengths() == before


@pytest.mark.usefixtures("worker")
async def test_a_removed_app_is_not_triggered_and_may_come_back(client: Client) -> None:
    follower = Follower(client)
    config = app("shop", function("shop-f", "order"))
    first = await publishing.publish(client, config)
    await publishing.publish(client, app("other", function("other-f", "order")))
    assert matching(await follower.refresh(), "order") == ["other-f", "shop-f"]
    assert await publishing.remove(client, "shop")
    assert not await publishing.remove(client, "shop")
    assert not await publishing.remove(client, "never-there")
    assert matching(await follower.refresh(), "order") == ["other-f"]
    assert await publishing.publish(client, config) > first
    assert matching(await follower.refresh(), "order") == ["other-f", "shop-f"]


@pytest.mark.usefixtures("worker")
async def test_a_removal_that_was_cut_off_is_completed(client: Client) -> None:
    await publishing.publish(client, app("shop", function("shop-f", "order")))
    await client.get_workflow_handle(names.app_id("shop")).execute_update("remove", args=[0, 1])
    assert await publishing.remove(client, "shop")
    assert not await publishing.remove(client, "shop")


@pytest.mark.usefixtures("worker")
async def test_apps_published_at_once_are_all_there(client: Client) -> None:
    apps = [app(f"a{i}", function(f"a{i}-f", "x")) for i in range(12)]
    await asyncio.gather(*(publishing.publish(client, config) for config in apps))
    assert len(await Follower(client).refresh()) == 12


@pytest.mark.usefixtures("worker")
async def test_entities_continue_as_new_with_their_state(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entity, "MAX_COST", 12)
    handle = client.get_workflow_handle(names.REGISTRY_ID)
    await publishing.publish(client, app("first", function("first-f", "x")))
    begun = (await handle.describe()).run_id
    versions = [
        await publishing.publish(client, app("shop", function(f"shop-{i}", "x"))) for i in range(10)
    ]
    assert versions == sorted(set(versions))
    assert matching(await Follower(client).refresh(), "x") == ["first-f", "shop-9"]

    async def continued() -> bool:
        return (await handle.describe()).run_id != begun

    await until(continued)
    assert matching(await Follower(client).refresh(), "x") == ["first-f", "shop-9"]


@pytest.mark.usefixtures("worker")
async def test_an_app_whose_entity_begins_anew_is_noticed(client: Client) -> None:
    follower = Follower(client)
    await publishing.publish(client, app("shop", function("shop-f", "x")))
    await follower.refresh()
    await client.get_workflow_handle(names.app_id("shop")).terminate()
    await publishing.publish(client, app("shop", function("shop-g", "x")))
    assert matching(await follower.refresh(), "x") == ["shop-g"]


@pytest.mark.usefixtures("worker")
async def test_a_registry_that_was_terminated_lists_again_what_it_listed(client: Client) -> None:
    for id in ("gone", "other", "shop"):
        await publishing.publish(client, app(id, function(f"{id}-f", "x")))
    registry = client.get_workflow_handle(names.REGISTRY_ID)
    await registry.terminate()
    await publishing.publish(client, app("shop", function("shop-g", "x")))
    known = ["gone-f", "other-f", "shop-g"]
    assert matching(await Follower(client).refresh(), "x") == known
    await registry.terminate()
    await publishing.remove(client, "gone")
    assert matching(await Follower(client).refresh(), "x") == known[1:]


@pytest.mark.usefixtures("worker")
async def test_an_unchanged_app_whose_entity_was_terminated_is_there_again(client: Client) -> None:
    for _ in range(2):
        await publishing.publish(client, app("shop", function("shop-f", "x")))
        entity = publishing.app_entity(client, "shop")
        memo, is_there = await entity.read()
        assert is_there
        assert "app" in memo
        await client.get_workflow_handle(entity.id).terminate()


@pytest.mark.usefixtures("worker")
async def test_a_large_configuration_fits_and_a_larger_one_is_refused(client: Client) -> None:
    def sized(count: int) -> AppConfig:
        return app(
            "shop",
            *(function(f"shop-{i}", ("x", f"event.data.a == '{i:01000}'")) for i in range(count)),
        )

    await publishing.publish(client, sized(1300))
    assert len(await Follower(client).refresh()) == 1300
    with pytest.raises(
        FunctionConfigInvalidError, match=r"app 'shop' \(1500 functions\) has 1,\d+,\d+ bytes"
    ):
        await publishing.publish(client, sized(1500))


@pytest.mark.usefixtures("worker")
async def test_updates_are_validated(client: Client) -> None:
    for config in (
        {"app_id": "other", "functions": []},
        {"app_id": "shop", "functions": [{"id": 5}]},
    ):
        with pytest.raises(WorkflowUpdateFailedError):
            await client.execute_update_with_start_workflow(
                "publish",
                args=[{"key": "k", "app": config}, 1],
                start_workflow_operation=starting(names.APP_TYPE, names.app_id("shop")),
            )
    listing = starting(names.REGISTRY_TYPE, names.REGISTRY_ID)
    with pytest.raises(WorkflowUpdateFailedError):
        await client.execute_update_with_start_workflow(
            "put", args=[["", 1], 1], start_workflow_operation=listing
        )


async def test_publishing_without_a_worker_says_which_is_missing(client: Client) -> None:
    with pytest.raises(TimeoutError, match="a worker must poll task queue 'inngest-system'"):
        await publishing.publish(client, app("shop"), timeout=timedelta(seconds=1))


# Following


@pytest.mark.usefixtures("worker")
async def test_a_follower_notices_a_change_by_itself(client: Client) -> None:
    async with Follower(client, interval=0.05) as follower:
        assert len(await follower.ready(10)) == 0
        await publishing.publish(client, app("shop", function("shop-f", "x")))

        async def seen() -> bool:
            return follower.snapshot is not None and len(follower.snapshot) == 1

        await until(seen)


async def test_a_follower_survives_an_outage_and_says_so_once(
    client: Client, proxy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "inngest_temporal.routing.registry")
    await proxy.stop()
    lazy = await Client.connect(
        proxy.address, namespace=client.namespace, lazy=True, retry_config=settings.RETRIES
    )
    async with Follower(lazy, interval=0.01) as follower:
        with pytest.raises(TimeoutError, match=r"could not be read from Temporal within 0\.3 s"):
            await follower.ready(0.3)
        assert follower.snapshot is None
        await proxy.start()
        assert len(await follower.ready(20)) == 0
    assert caplog.messages == [
        f"Temporal can't be reached at {proxy.address}, namespace {client.namespace}. Trying until"
        " it can; TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE say where it is.",
        "The function registry can be read again.",
    ]


async def test_a_namespace_that_does_not_exist_is_not_an_empty_registry(
    temporal_address: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await Client.connect(temporal_address, namespace="missing", lazy=True)
    with pytest.raises(RPCError, match="missing"):
        await Follower(client).refresh()
    async with Follower(client, interval=0.01):
        await until(lambda: caplog.messages)
    assert caplog.messages == [
        f"Temporal at {temporal_address}, namespace missing: there is no such namespace. Create"
        " it, or set TEMPORAL_NAMESPACE. Trying until it is there."
    ]


@pytest.mark.usefixtures("worker")
async def test_a_function_that_cannot_be_read_stops_no_other(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await publishing.publish(client, app("good", function("good-f", "x")))
    publication = {
        "key": "k",
        "app": {
            "app_id": "bad",
            "task_queue": "q",
            "functions": [{"id": "bad-h", "triggers": 5}, function("bad-g", "x").to_wire()],
        },
    }
    start = starting(names.APP_TYPE, names.app_id("bad"))
    version = await client.execute_update_with_start_workflow(
        "publish", args=[publication, 1], start_workflow_operation=start
    )
    await client.get_workflow_handle(names.REGISTRY_ID).execute_update(
        "put", args=[["bad", version], 1]
    )
    assert matching(await Follower(client).refresh(), "x") == ["bad-g", "good-f"]
    assert "A function of app 'bad' is not triggered" in caplog.text


@pytest.mark.usefixtures("worker")
async def test_a_function_that_was_published_a_moment_ago_is_looked_for(client: Client) -> None:
    follower = Follower(client)
    before = await follower.knowing("good-f")
    assert before.function("good-f") is None
    await publishing.publish(client, app("good", function("good-f", "x")))
    after = await follower.knowing("good-f")
    assert after.function("good-f") is not None
    assert await follower.knowing("good-f") is after


# Settings


def test_settings_come_from_inngests_variables() -> None:
    environ = {
        "INNGEST_EVENT_KEY": "one, two,",
        "INNGEST_SIGNING_KEY": "signkey-prod-12ab",
        "INNGEST_SIGNING_KEY_FALLBACK": "signkey-prod-34cd",
        "INNGEST_DEV": "http://localhost:8288",
    }
    assert settings.Settings.from_env(environ) == settings.Settings(
        event_keys=("one", "two"), signing_keys=("signkey-prod-12ab", "signkey-prod-34cd"), dev=True
    )
    assert settings.Settings.from_env({}) == settings.Settings()
    environ = {"INNGEST_TEMPORAL_DASHBOARD": "Read-Only", "INNGEST_TEMPORAL_UI_URL": "http://ui/"}
    assert settings.Settings.from_env(environ) == settings.Settings(
        dashboard=settings.DashboardMode.READ_ONLY, temporal_ui_url="http://ui"
    )
    with pytest.raises(SettingsInvalidError, match="on, read-only or off"):
        settings.Settings.from_env({"INNGEST_TEMPORAL_DASHBOARD": "maybe"})
    assert not settings.Settings.from_env({"INNGEST_DEV": "0"}).dev
    assert not settings.Settings.from_env({"INNGEST_DEV": "False"}).dev
    assert settings.Settings.from_env({"INNGEST_DEV": "1"}).dev


async def test_a_connection_uses_temporals_own_configuration(
    temporal_address: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", namespace)
    client = await settings.connect(lazy=False)
    assert client.namespace == namespace
    assert len(await Follower(client).refresh()) == 0
