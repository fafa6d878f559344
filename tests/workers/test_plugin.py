"""`InngestPlugin` in a Temporal worker that a team already has."""

import importlib.metadata
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import Worker, WorkerDeploymentConfig

import inngest_temporal as inngest
from inngest_temporal.errors import Error, FunctionConfigInvalidError
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal_workers import publishing
from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.worker import create_worker
from tests.harness import TRIGGER, App, new_client


@activity.defn
async def own_activity(n: int) -> int:
    return n + 1


@workflow.defn
class OwnWorkflow:
    @workflow.run
    async def run(self, n: int) -> int:
        result: int = await workflow.execute_activity(
            own_activity, n, start_to_close_timeout=timedelta(seconds=10)
        )
        return result


def function(fn_id: str = "fn", app_id: str = "app", **options: Any) -> inngest.Function[Any]:
    @new_client(app_id).create_function(fn_id=fn_id, trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.run("step", lambda: fn_id)

    return fn


async def test_a_worker_of_ours_has_the_build_id_of_our_release_unless_it_is_versioned(
    client: Client,
) -> None:
    """To find one itself, Temporal would read and hash all code of the process."""
    ours = f"inngest-temporal-{importlib.metadata.version('inngest-temporal')}"
    assert create_worker(client, [function()]).config()["build_id"] == ours
    version = WorkerDeploymentVersion("shop", "1")
    deployment = WorkerDeploymentConfig(version, use_worker_versioning=False)
    worker = create_worker(client, [function()], task_queue="q", deployment_config=deployment)
    assert worker.config().get("build_id") is None


async def test_a_teams_worker_runs_its_own_workflows_and_our_functions_on_its_own_queue(
    client: Client,
) -> None:
    fn = function()
    plugin = InngestPlugin([fn])
    worker = Worker(
        client,
        task_queue="teams-own",
        workflows=[OwnWorkflow],
        activities=[own_activity],
        plugins=[plugin],
    )
    async with worker, Follower(client) as follower:
        await plugin.published.wait()
        await follower.refresh()
        app = App(client, [fn], Router(client, follower, Waits.of(client).deliver))
        assert await app.run(fn) == "fn"
        assert (
            await client.execute_workflow(OwnWorkflow.run, 1, id="own", task_queue="teams-own") == 2
        )


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([], "No functions: give at least one made with client.create_function."),
        ([print], "is not an Inngest function: decorate it with client.create_function."),
        ([function(), function()], 'Two functions have the id "app-fn": give each its own fn_id.'),
        (
            [function(), function("b", "other")],
            "Functions of several apps (app, other) can't share a worker",
        ),
        ([function(retries=-1)], "retries"),
        ([function("ü" * 500)], 'The function id "app-üü'),
    ],
)
def test_functions_that_cannot_be_served_are_refused(functions: list[Any], message: str) -> None:
    with pytest.raises(FunctionConfigInvalidError) as raised:
        InngestPlugin(functions)
    assert message in str(raised.value)


async def test_a_second_worker_with_the_same_client_says_what_it_needs(client: Client) -> None:
    plugin = InngestPlugin([function(app_id="a")])
    async with Worker(client, task_queue="a", plugins=[plugin]):
        await plugin.published.wait()
        second = Worker(client, task_queue="b", plugins=[InngestPlugin([function(app_id="b")])])
        with pytest.raises(
            RuntimeError,
            match=r"Give each worker that has an InngestPlugin its own Client\.connect",
        ):
            await second.run()


@pytest.mark.parametrize("value", ["many", "-1", "0", "1.5"])
def test_an_invalid_number_of_threads_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("INNGEST_THREAD_POOL_MAX_WORKERS", value)
    with pytest.raises(
        Error, match=f"INNGEST_THREAD_POOL_MAX_WORKERS is '{value}'. Set it to a number of threads"
    ):
        Worker(client, task_queue="a", plugins=[InngestPlugin([function()])])


async def test_a_worker_whose_configuration_cannot_be_published_stops_and_says_why(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **options: Any) -> int:
        raise FunctionConfigInvalidError("the configuration is too large")

    monkeypatch.setattr(publishing, "publish", refuse)
    worker = Worker(client, task_queue="queue", plugins=[InngestPlugin([function()])])
    with pytest.raises(FunctionConfigInvalidError, match="too large"):
        await worker.run()
