"""A deploy in the middle of a run: it finishes under another version of its function."""

import asyncio
import collections
import contextlib
import functools
import logging
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode

import inngest_temporal as inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.publishing import app_entity, publish, remove
from inngest_temporal.routing.registry import AppConfig, Follower, HttpApp
from inngest_temporal.temporal import names
from inngest_temporal_workers import publishing
from inngest_temporal_workers.entities import app as app_workflow
from inngest_temporal_workers.entities import entity
from inngest_temporal_workers.plugin import system_worker
from tests.harness import TRIGGER, App, another, new_client, registered, running, until
from tests.workers.runs.test_run import failure_of


async def test_a_run_finishes_under_a_version_with_steps_added_removed_and_reordered(
    client: Client,
) -> None:
    executed: list[str] = []

    def do(name: str) -> str:
        executed.append(name)
        return name

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def before(ctx: inngest.Context) -> Any:
        results = [await ctx.step.run(name, do, name) for name in ("removed", "kept", "moved")]
        await ctx.step.wait_for_event("go", event="go", timeout=60_000)
        return [*results, await ctx.step.run("removed too", do, "removed too")]

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def after(ctx: inngest.Context) -> Any:
        results = [await ctx.step.run(name, do, name) for name in ("moved", "added", "kept")]
        found = await ctx.step.wait_for_event("go", event="go", timeout=60_000)
        return [*results, found is not None, await ctx.step.run("last", do, "last")]

    async with running(client, before) as app:
        event = await app.send("test/event")
        run = app.run_of(before, event)
        await registered(run)
    assert executed == ["removed", "kept", "moved"]
    async with running(client, after) as app:
        await app.send("go")
        assert await app.run_of(after, event).result() == ["moved", "added", "kept", True, "last"]
    assert executed == ["removed", "kept", "moved", "added", "last"]


async def test_a_step_that_vanishes_before_its_retry_is_forgotten(
    client: Client,
) -> None:
    executed: list[str] = []

    def fail() -> None:
        executed.append("doomed")
        raise ValueError("not yet")

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def before(ctx: inngest.Context) -> None:
        await ctx.step.run("doomed", fail)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def after(ctx: inngest.Context) -> Any:
        return await ctx.step.run("instead", lambda: "done")

    async with running(client, before, retry_interval=timedelta(seconds=3)) as app:
        event = await app.send("test/event")
        await until(lambda: executed)
    async with running(client, after) as app:
        assert await app.run_of(after, event).result() == "done"
    assert executed == ["doomed"]


async def test_a_deploy_that_changes_retries_and_timeouts_replays(client: Client) -> None:
    """What such configuration decides is in history, so the new version replays what the old one
    decided."""

    attempts: list[int] = []

    def version(**options: Any) -> inngest.Function[Any]:
        @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
        async def fn(ctx: inngest.Context) -> Any:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise ValueError("not yet")
            await ctx.step.wait_for_event("go", event="go", timeout=60_000)
            return "went"

        return fn

    before = version(retries=3, timeouts=inngest.Timeouts(finish=timedelta(hours=1)))
    after = version(retries=0)
    async with running(client, before) as app:
        event = await app.send("test/event")
        await registered(app.run_of(before, event), 4)
    async with running(client, after) as app:
        await app.send("go")
        assert await app.run_of(after, event).result() == "went"


async def test_a_function_that_is_no_longer_in_the_app_is_not_triggered(client: Client) -> None:
    inngest_client = new_client()

    @inngest_client.create_function(fn_id="old", trigger=TRIGGER)
    async def old(ctx: inngest.Context) -> str:
        return "old"

    @inngest_client.create_function(fn_id="new", trigger=TRIGGER)
    async def new(ctx: inngest.Context) -> str:
        return "new"

    async with running(client, old) as app:
        assert await app.run(old) == "old"
    async with running(client, new) as app:
        event = await app.send("test/event")
        [routed] = await app.router.route([event])
        assert routed.runs == (app.run_of(new, event).id,)
        assert await app.run_of(new, event).result() == "new"


async def test_a_run_whose_function_is_gone_fails_and_says_so_or_can_be_cancelled(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inngest_temporal_workers.runs.executing.MISSING_SECONDS", 2)

    def app_with(*ids: str) -> list[inngest.Function[Any]]:
        inngest_client = new_client()

        async def sleeps(ctx: inngest.Context) -> None:
            await ctx.step.sleep(
                "sleep", timedelta(hours=1) if ctx.event.data["long"] else timedelta(seconds=3)
            )

        decorate = [inngest_client.create_function(fn_id=each, trigger=TRIGGER) for each in ids]
        return [each(sleeps) for each in decorate]

    gone, stays = app_with("gone", "stays")
    async with running(client, gone, stays) as app:
        runs = [
            app.run_of(gone, await app.send("test/event", {"long": long})) for long in (True, False)
        ]
        for run in runs:
            await registered(run)
    async with running(client, *app_with("stays")) as app:
        await runs[0].cancel()
        with pytest.raises(WorkflowFailureError) as cancelled:
            await runs[0].result()
        with pytest.raises(WorkflowFailureError) as failed:
            await runs[1].result()
    assert isinstance(cancelled.value.cause, CancelledError)
    assert failure_of(failed.value).type == "FunctionNotFoundError"
    assert failure_of(failed.value).message.startswith(
        "Function app-gone is not in its app any more"
    )


async def test_a_worker_that_does_not_know_a_published_function_leaves_its_runs_to_others(
    client: Client,
) -> None:
    """This is so in the middle of a rolling deploy."""
    inngest_client = new_client()
    executed: list[str] = []

    @inngest_client.create_function(fn_id="old", trigger=inngest.TriggerEvent(event="never"))
    async def old(ctx: inngest.Context) -> None: ...

    @inngest_client.create_function(fn_id="new", trigger=TRIGGER, retries=0)
    async def new(ctx: inngest.Context) -> str:
        await ctx.step.run("first", lambda: executed.append("step"))
        await ctx.step.sleep("nap", 100)
        return await ctx.step.run("step", lambda: executed.append("step") or "done")

    async with running(client, old), contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(await another(client), old, new))
        events = [await app.send("test/event") for _ in range(20)]
        runs = [app.run_of(new, event) for event in events]
        assert await asyncio.gather(*(run.result() for run in runs)) == ["done"] * 20
        histories = [await run.fetch_history() for run in runs]
    assert executed == ["step"] * 40
    # Temporal repeats a workflow task that failed twice only after some 10 seconds.
    for kind in ("failed", "timed_out"):
        field = f"workflow_task_{kind}_event_attributes"
        assert not any(each.HasField(field) for run in histories for each in run.events)
    # The worker that lacks the function does not take executions again and again.
    assert max(executions(run) for run in histories) < 30


def executions(run: WorkflowHistory) -> int:
    """How many executions the run has asked for."""
    return sum(each.HasField("activity_task_scheduled_event_attributes") for each in run.events)


# Several releases of an app


def release(*ids: str, **options: Any) -> list[inngest.Function[Any]]:
    """Functions that are triggered by an event of their own name, and by `all`."""
    inngest_client = new_client(**options)

    def make(fn_id: str) -> inngest.Function[Any]:
        async def handler(ctx: inngest.Context) -> str:
            return await ctx.step.run("step", lambda: fn_id)

        triggers = [inngest.TriggerEvent(event=name) for name in (fn_id, "all")]
        return inngest_client.create_function(fn_id=fn_id, trigger=[*triggers])(handler)

    return [make(fn_id) for fn_id in ids]


async def triggered(client: Client) -> set[str]:
    """The local ids of the functions that `all` triggers now."""
    snapshot = await Follower(client).refresh()
    event = {"id": "e", "name": "all", "data": {}, "ts": 1, "user": {}}
    return {found.id.removeprefix("app-") for found in snapshot.match(event)}


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "inngest_temporal_workers.publishing"
    ]


async def test_an_old_replica_that_restarts_takes_no_function_off_the_air(client: Client) -> None:
    old, new = release("kept"), release("kept", "added")
    async with running(client, *old):
        pass
    async with running(client, *new) as app:
        async with running(await another(client), *old):
            assert await triggered(client) == {"kept", "added"}
        await until_triggered(client, "kept", "added")
        assert await app.run(new[1], name="added") == "added"
        [found] = (await Follower(client).refresh()).apps
        assert len(found.functions) == 2


async def test_a_worker_that_stops_takes_no_task_of_its_app_with_it(client: Client) -> None:
    """Temporal would wait for such a task for ten seconds, and meanwhile the next worker could
    publish nothing."""
    for n in range(4):
        async with running(client, *release(f"{n}")):
            pass
    history = await client.get_workflow_handle(names.app_id("app")).fetch_history()
    lost = [
        event
        for event in history.events
        if event.HasField("workflow_task_timed_out_event_attributes")
    ]
    assert lost == []


async def until_triggered(client: Client, *ids: str) -> None:
    async def exact() -> bool:
        return await triggered(client) == {*ids}

    await until(exact)


async def test_a_rolling_deploy_loses_no_event_and_says_once_what_it_changes(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inngest_temporal_workers.publishing")
    old, new = release("kept", "removed"), release("kept", "added")
    sent: list[Stamped] = []

    async def send(app: App, stop: asyncio.Event) -> None:
        while not stop.is_set():
            sent.append(await app.send("kept"))
            await asyncio.sleep(0.2)

    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as olds, contextlib.AsyncExitStack() as news:
        app = await olds.enter_async_context(running(await another(client), *old))
        await olds.enter_async_context(running(await another(client), *old))
        sending = asyncio.create_task(send(app, stop))
        assert await triggered(client) == {"kept", "removed"}
        first = await news.enter_async_context(running(await another(client), *new))
        assert await triggered(client) == {"kept", "removed", "added"}
        assert await first.run(new[1], name="added") == "added"
        assert await app.run(old[1], name="removed") == "removed"
        await news.enter_async_context(running(await another(client), *new))
        before_the_last = len(sent)
        await until(lambda: len(sent) > before_the_last + 3)
        await olds.aclose()
        await until_triggered(client, "kept", "added")
        stop.set()
        await sending
        results = [await app.run_of(new[0], event).result() for event in sent]
        assert results == ["kept"] * len(sent)
        async with running(await another(client), *old):  # an old replica that restarts
            assert await triggered(client) == {"kept", "removed", "added"}
        await until_triggered(client, "kept", "added")
    changes = "added app-added; removed app-removed"
    lines = collections.Counter(line for line in logged(caplog) if changes in line)
    assert {line.partition(". ")[0]: count for line, count in lines.items()} == {
        "App 'app' also has workers of a newer release": 3,
        "App 'app' also has workers of an older release": 2,
    }


async def test_a_new_release_that_comes_after_the_old_one_says_what_it_changes(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inngest_temporal_workers.publishing")
    async with running(client, *release("kept", "removed")):
        pass
    async with running(client, *release("kept", "added")):
        assert await triggered(client) == {"kept", "added"}
    assert logged(caplog) == ["App 'app' has a new release: added app-added; removed app-removed."]


async def test_two_services_with_one_app_id_keep_their_functions_and_are_warned(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inngest_temporal_workers.publishing")
    ours, theirs = release("ours"), release("theirs")
    async with (
        running(client, *ours) as app,
        running(await another(client), *theirs, task_queue="elsewhere") as other,
    ):
        assert await triggered(client) == {"ours", "theirs"}
        assert await app.run(ours[0], name="ours") == "ours"
        assert await other.run(theirs[0], name="theirs") == "theirs"
        await until(lambda: len(logged(caplog)) == 2)
    for found in ("app-ours", "app-theirs"):
        assert any(
            f"Another service uses app id 'app', with functions that this one does not have:"
            f" {found}." in line
            for line in logged(caplog)
        )


async def test_releases_that_stay_up_together_are_taken_for_two_services(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(publishing, "DEPLOY_SECONDS", 1)
    async with (
        running(client, *release("shared", "ours")),
        running(await another(client), *release("shared", "theirs")),
    ):
        lasting = "these are two services with one app id"
        await until(lambda: sum(lasting in line for line in logged(caplog)) >= 2)
        assert await triggered(client) == {"shared", "ours", "theirs"}
    assert sum(lasting in line for line in logged(caplog)) == 2


async def not_left(_: publishing.Publisher) -> None:
    """In place of `Publisher.leave`: a worker that is killed does not leave its release."""


async def test_a_release_whose_workers_were_killed_is_dropped(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_workflow, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(publishing, "RENEW_SECONDS", 0.2)
    async with running(client, *release("kept", "added")):
        with monkeypatch.context() as patch:
            patch.setattr(publishing.Publisher, "leave", not_left)
            async with running(await another(client), *release("kept", "removed")):
                assert await triggered(client) == {"kept", "removed", "added"}
        await until_triggered(client, "kept", "added")


async def lose(client: Client, *workflows: str) -> None:
    """Make Temporal forget workflows. If they were only terminated, their memos would stay."""
    for workflow in workflows:
        found = await client.get_workflow_handle(workflow).describe()
        execution = WorkflowExecution(workflow_id=workflow, run_id=found.run_id)
        request = DeleteWorkflowExecutionRequest(
            namespace=client.namespace, workflow_execution=execution
        )
        await client.workflow_service.delete_workflow_execution(request)
        await until(functools.partial(is_forgotten, client, execution))


async def is_forgotten(client: Client, execution: WorkflowExecution) -> bool:
    handle = client.get_workflow_handle(execution.workflow_id, run_id=execution.run_id)
    try:
        await handle.describe()
    except RPCError as error:
        return error.status == RPCStatusCode.NOT_FOUND
    return False


async def is_there(client: Client) -> bool:
    """Whether the app's entity runs and has functions."""
    memo, runs = await app_entity(client, "app").read()
    return runs and memo.get("app") is not None


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that gets an item each time a worker looks at the registry, which here is often."""
    look, made = publishing.Publisher._look, list[None]()

    async def counted(self: publishing.Publisher) -> None:
        await look(self)
        made.append(None)

    monkeypatch.setattr(publishing, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(publishing.Publisher, "_look", counted)
    return made


async def test_a_worker_publishes_again_what_the_registry_has_lost(
    client: Client, looks: list[None]
) -> None:
    async with running(client, *release("one")):
        await client.get_workflow_handle(names.app_id("app")).terminate()
        await until(lambda: is_there(client))
        await lose(client, names.app_id("app"), names.REGISTRY_ID)
        await until_triggered(client, "one")
        assert await remove(client, "app")
        rounds = len(looks)
        await until(lambda: len(looks) > rounds + 2)
        assert await triggered(client) == set()
        assert not await is_there(client)
        async with running(await another(client), *release("two")):
            await until_triggered(client, "one", "two")


@pytest.mark.parametrize("held", ["_join", "publish"])
async def test_an_app_that_is_removed_while_a_worker_renews_it_stays_removed(
    client: Client, monkeypatch: pytest.MonkeyPatch, looks: list[None], held: str
) -> None:
    """The worker has noticed that the app is lost, and has not yet told the app's entity, or has
    just begun it anew."""
    place: Any = publishing if held == "publish" else publishing.Publisher
    act, holds, go = getattr(place, held), asyncio.Event(), asyncio.Event()

    async def hold(*args: Any, **options: Any) -> Any:
        holds.set()
        await go.wait()
        return await act(*args, **options)

    async with running(client, *release("one")):
        monkeypatch.setattr(place, held, hold)
        await lose(client, names.app_id("app"), names.REGISTRY_ID)
        await holds.wait()
        await remove(client, "app")
        rounds = len(looks)
        go.set()
        await until(lambda: len(looks) > rounds + 2)
        assert await triggered(client) == set()
        assert not await is_there(client)


async def test_the_removal_of_an_app_that_nobody_knew_is_forgotten_in_time(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_workflow, "REMOVED_MS", 100)
    monkeypatch.setattr(entity, "LINGER_MS", 100)
    async with system_worker(client):
        assert not await remove(client, "app")
        memo, _ = await app_entity(client, "app").read()
        assert set(memo) == {"version"}

        async def has_ended() -> bool:
            return not (await app_entity(client, "app").read())[1]

        await until(has_ended)


def http_app(*ids: str, path: str = "") -> AppConfig:
    url = f"http://app.test{path}"
    functions = [
        FunctionConfig(
            id=f"app-{id}",
            name=id,
            triggers=[inngest.TriggerEvent(event="all")],
            url=f"{url}?fnId=app-{id}",
        )
        for id in ids
    ]
    return AppConfig(
        app_id="app",
        task_queue=names.HTTP_TASK_QUEUE,
        functions=functions,
        http=HttpApp(url=url, sdk="js:v4.24.0"),
    )


async def test_what_an_http_app_registers_replaces_what_it_had_registered(client: Client) -> None:
    async with system_worker(client):
        first = await publish(client, http_app("kept", "removed"))
        second = await publish(client, http_app("kept", "added"))
        assert second > first
        assert await triggered(client) == {"kept", "added"}
        assert await publish(client, http_app("kept", "added")) == second
        await publish(client, http_app("kept", "removed"))  # a deploy is rolled back
        assert await triggered(client) == {"kept", "removed"}
        await publish(client, http_app("kept", path="/moved"))
        snapshot = await Follower(client).refresh()
        assert [app.http for app in snapshot.apps] == [
            HttpApp(url="http://app.test/moved", sdk="js:v4.24.0")
        ]
        function = snapshot.function("app-kept")
        assert function is not None
        assert function.config.url == "http://app.test/moved?fnId=app-kept"
        assert function.task_queue == names.HTTP_TASK_QUEUE


async def test_an_http_app_does_not_take_the_place_of_workers(client: Client) -> None:
    async with running(client, *release("one")):
        with pytest.raises(FunctionConfigInvalidError, match="has workers that execute"):
            await publish(client, http_app("two"))
        assert await triggered(client) == {"one"}
    async with system_worker(client):  # the worker has left
        await publish(client, http_app("two"))
        assert await triggered(client) == {"two"}


async def test_workers_that_were_killed_are_removed_by_hand(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing.Publisher, "leave", not_left)
    async with running(client, *release("one")):
        pass
    async with system_worker(client):
        with pytest.raises(FunctionConfigInvalidError, match="inngest-temporal remove app"):
            await publish(client, http_app("two"))
        await remove(client, "app")
        await publish(client, http_app("two"))
        assert await triggered(client) == {"two"}


async def test_workers_take_the_place_of_an_http_app_and_say_so(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with system_worker(client):
        await publish(client, http_app("two"))
    async with running(client, *release("one")):
        assert await triggered(client) == {"one"}
    [line] = [each for each in logged(caplog) if "HTTP" in each]
    assert "'app' was served over HTTP at http://app.test" in line


async def test_the_newer_configuration_of_a_function_counts(client: Client) -> None:
    def version(limit: int) -> inngest.Function[Any]:
        @new_client().create_function(
            fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=limit)]
        )
        async def fn(ctx: inngest.Context) -> None: ...

        return fn

    async def limit() -> int:
        found = (await Follower(client).refresh()).function("app-fn")
        assert found is not None
        assert found.config.concurrency
        return found.config.concurrency[0].limit

    async with running(client, version(1)):
        async with running(await another(client), version(2)):
            assert await limit() == 2
            async with running(await another(client), version(1)):
                assert await limit() == 2
            assert await limit() == 2

        async def back() -> bool:
            return await limit() == 1

        await until(back)
