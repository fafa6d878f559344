"""Apps of the official SDK for JavaScript run unmodified: `tests/apps/js/behaviours.mjs`, in one
process for all tests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from inngest_temporal.temporal.connection import Settings
from inngest_temporal.traces.models import TraceStep
from inngest_temporal.traces.reading import load_trace
from tests.conftest import new_namespace
from tests.harness import until
from tests.http_world import HttpWorld, http_world
from tests.javascript import Js, js_app

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="session")
def temporal_address(scheduling_address: str) -> str:
    """A server that executes schedules."""
    return scheduling_address


SECRET = "sk-very-secret"
KEY = "signkey-prod-0123456789abcdef"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(temporal_address: str) -> AsyncIterator[HttpWorld]:
    namespace = await new_namespace(temporal_address)
    client = await Client.connect(temporal_address, namespace=namespace)
    async with http_world(client) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def js(world: HttpWorld, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Js]:
    log = tmp_path_factory.mktemp("js") / "app.log"
    async with js_app(world, "behaviours.mjs", log) as app:
        await world.sync(app.url)
        await world.sync(f"{app.http.base_url}/streaming")
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def js3(world: HttpWorld, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Js]:
    log = tmp_path_factory.mktemp("js3") / "app.log"
    async with js_app(world, "version3.mjs", log) as app:
        await world.sync(app.url)
        yield app


# Steps one after another.


async def test_a_function_without_steps_is_one_call(js: Js) -> None:
    run = await js.run("nothing")
    assert (run["status"], run["output"]) == ("Completed", None)
    assert len(await js.calls(run)) == 1


async def test_twenty_steps_are_one_call_and_one_activity(js: Js) -> None:
    run = await js.run("numbers", steps=20)
    assert run["output"] == list(range(20))
    assert await js.bodies(run) == [("step", 0)] * 20
    assert len(await js.calls(run)) == 1
    assert (await js.activities(run))["inngest.execute"] == 1


async def test_without_checkpoints_there_is_a_call_for_each_step(js: Js) -> None:
    run = await js.run("classic", steps=5)
    assert run["output"] == list(range(5))
    assert await js.bodies(run) == [("step", 0)] * 5
    assert len(await js.calls(run)) == 6
    assert (await js.activities(run))["inngest.execute"] == 1


async def test_steps_that_the_app_buffers_are_one_call(js: Js) -> None:
    run = await js.run("buffered", steps=7)
    assert run["output"] == list(range(7))
    assert await js.bodies(run) == [("step", 0)] * 7
    assert len(await js.calls(run)) == 1


async def test_an_app_that_ends_its_call_after_a_while_is_called_again(js: Js) -> None:
    run = await js.run("short", steps=7)
    assert run["output"] == list(range(7))
    assert await js.bodies(run) == [("step", 0)] * 7
    assert 2 <= len(await js.calls(run)) <= 8


async def test_300_steps_of_2_kb_are_handed_to_the_run_in_parts(js: Js) -> None:
    run = await js.run("texts", steps=300, size=2000)
    assert run["output"] == 600_000
    assert await js.bodies(run) == [("step", 0)] * 300
    history = await js.history(run)
    signals = Counter(
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    )
    assert 1 <= signals["checkpoint"] <= 10
    assert len(await js.calls(run)) <= 10


async def test_a_large_result_is_accepted(js: Js) -> None:
    run = await js.run("too-large", size=1_700_000)
    assert run["output"] == "accepted"
    assert await js.bodies(run) == [("before", 0), ("large", 0)]


async def test_a_result_that_is_too_large_is_an_error_of_the_step(js: Js) -> None:
    run = await js.run("too-large", size=1_900_000)
    before, name, message, after = run["output"]
    assert (before, name, after) == ("before", "OutputTooLargeError", "after")
    assert "1800000" in message.replace(",", "").replace("_", ""), message
    assert await js.bodies(run) == [("before", 0), ("large", 0), ("after", 0)]


async def test_a_state_that_is_too_large_for_a_request_is_fetched(js: Js) -> None:
    run = await js.run("texts-then-sleep", steps=5, size=1_000_000, note="x" * 100_000)
    assert run["output"] == [5_000_000, 100_000]
    assert Counter(name for name, _ in await js.bodies(run)) == {"step": 5, "sum": 1}
    calls = await js.calls(run)
    assert [call["useApi"] for call in (calls[0], calls[-1])] == [False, True]


# Parallel steps.


async def test_parallel_steps_have_a_call_each(js: Js) -> None:
    """The app is called to find the steps, for each of them, and once both have ended; then it
    continues by itself."""
    run = await js.run("parallel")
    assert run["output"] == ["p", "q", "r", "s"]
    assert Counter(await js.bodies(run)) == Counter({(each, 0): 1 for each in "pqrs"})
    calls = await js.calls(run)
    assert [call["planOnly"] for call in calls] == [False, True, True, False]
    assert [call["step"] == "step" for call in calls] == [True, False, False, True]
    assert [call["version"] for call in calls] == [-1, 2, 2, 2]


async def test_parallel_steps_with_a_call_after_each(js: Js) -> None:
    """Version 1 of the protocol: the app is called after each of them, and executes no step by
    itself any more."""
    run = await js.run("parallel-1")
    assert run["output"] == ["p", "q", "r", "s"]
    assert Counter(await js.bodies(run)) == Counter({(each, 0): 1 for each in "pqrs"})
    calls = await js.calls(run)
    assert Counter(call["step"] == "step" for call in calls) == {True: 5, False: 4}
    assert [call["planOnly"] for call in calls] == [False] + [True] * 8
    assert [call["version"] for call in calls] == [-1] + [1] * 8


async def test_branches_wait_for_each_other(js: Js) -> None:
    run = await js.run("branches")
    assert run["output"] == [["a1", "a2"], ["b1", "b2"]]
    names = [name for name, _ in await js.bodies(run)]
    assert sorted(names[:2]) == ["a1", "b1"]
    assert sorted(names[2:]) == ["a2", "b2"]
    assert len(await js.calls(run)) == 7


async def test_branches_that_race_do_not_wait_for_each_other(js: Js) -> None:
    run = await js.run("race-branches")
    assert run["output"] == [["a1", "a2"], ["b1", "b2"]]
    names = [name for name, _ in await js.bodies(run)]
    assert sorted(names) == ["a1", "a2", "b1", "b1 over", "b2"]
    assert names.index("a2") < names.index("b1 over")
    steps = [call["step"] for call in await js.calls(run)]
    assert (len(steps), steps.count("step")) == (9, 5)


async def test_a_race_of_promises_waits_for_both_steps(js: Js) -> None:
    """This is so without `group.parallel`. The first step wins."""
    run = await js.run("promise-race")
    assert run["output"] == ["p", "after"]
    assert sorted(name for name, _ in await js.bodies(run)) == ["after", "p", "slow"]


async def test_a_race_goes_on_while_the_slower_step_is_under_way(js: Js) -> None:
    """The SDK wants that step to have ended before it says what the function returned."""
    run = await js.run("race")
    assert run["output"] == ["quick", "after", "at last"]
    names = [name for name, _ in await js.bodies(run)]
    assert sorted(names[:2]) == ["quick", "slow"]
    assert names[2:] == ["after", "at last", "slow over"]


async def test_a_race_of_a_step_and_waits_goes_on_with_the_first_of_them(js: Js) -> None:
    run = await js.run("race-with-waits")
    assert run["output"] == ["sleep", "after", "at last"]
    names = [name for name, _ in await js.bodies(run)]
    assert names == ["slow", "after", "at last", "slow over"]


async def test_one_of_parallel_steps_may_fail(js: Js) -> None:
    assert await js.output("one-fails") == ["p", "boom"]


async def test_one_of_parallel_steps_may_be_tried_again(js: Js) -> None:
    run = await js.run("retries-beside")
    assert run["output"] == ["flaky", "p", "after"]
    assert Counter(await js.bodies(run)) == Counter(
        {("flaky", 0): 1, ("flaky", 1): 1, ("flaky", 2): 1, ("p", 0): 1, ("after", 0): 1}
    )


async def test_fifty_parallel_steps_have_a_call_each(js: Js) -> None:
    run = await js.run("many-at-once", steps=50)
    assert run["output"] == sum(range(50))
    assert len(await js.bodies(run)) == 50
    assert len(await js.calls(run)) == 52


async def test_an_experiment_keeps_its_choice(js: Js) -> None:
    assert await js.output("experiment") == ["new", "new"]


async def test_steps_and_waits_may_be_parallel(js: Js) -> None:
    assert await js.output("mixed") == ["p", None]


# Waits.


async def test_a_sleep_takes_its_time(js: Js) -> None:
    took_ms, is_after = await js.output("sleeps")
    assert took_ms >= 2000
    assert is_after


async def test_a_function_waits_for_events(js: Js) -> None:
    event = await js.world.send("js/waits", {"key": "k"})
    runs, found = asyncio.create_task(js.world.runs(event)), 0
    while not runs.done():  # until the run has waited for both
        found += 1
        for key in ("other", "k"):
            await js.world.send("js/answer", {"key": key, "n": found})
        await asyncio.sleep(0.1)
    [run] = await runs
    assert run["status"] == "Completed", run
    output = run["output"]
    assert output["found"]["key"] == "k"
    assert (output["name"], output["later"], output["missed"]) == ("js/answer", True, None)


async def test_a_function_waits_for_a_signal(js: Js) -> None:
    event = await js.world.send("js/waits-for-signal", {"key": "key"})
    waiting = asyncio.create_task(js.world.runs(event))
    sent: list[Any] = []
    while not waiting.done():  # until the run waits for it
        sent.append(await js.output("signals", key="key", data={"n": len(sent)}))
    [run] = await waiting
    assert run["status"] == "Completed", run
    [delivered] = [each for each in sent if each and each.get("runId")][:1]
    assert delivered["runId"] == run["run_id"]
    assert run["output"] == [{"signal": "key", "data": {"n": sent.index(delivered)}}, None]


async def test_a_function_sends_events(js: Js) -> None:
    ids = await js.output("sends")
    outputs = [[run["output"] for run in await js.world.runs(id)] for id in ids]
    assert outputs == [[1], [2]]


# Invocations.


async def test_a_function_invokes_others(js: Js) -> None:
    output = await js.output("invokes")
    assert output["result"] == {"got": 42, "name": "inngest/function.invoked"}
    assert "not today" in output["failure"]
    assert output["late"]


# Errors.


async def test_attempts_are_counted_as_in_inngest(js: Js) -> None:
    run = await js.run("attempts")
    assert run["output"] == ["Error", "boom", "after"]
    assert await js.bodies(run) == [
        *[("good", 0), ("bad", 0), ("bad", 1), ("bad", 2)],
        *[("caught", 0), ("after", 0)],
    ]


async def traced(js: Js, run: dict[str, Any]) -> dict[str, TraceStep]:
    """The steps of a run in its trace, by name. No attempt in it is the handler's own."""
    trace = await load_trace(js.world.client, run["run_id"])
    assert trace is not None
    assert (trace.attempts, trace.notes) == ((), ())
    return {step.name: step for step in trace.steps}


def attempts(step: TraceStep) -> list[tuple[int, str | None]]:
    """The number of each attempt, and the message of its error."""
    return [(each.number, each.error and each.error.message) for each in step.attempts]


@pytest.mark.parametrize("name", ["attempts", "attempts-classic", "attempts-after-parallel"])
async def test_a_trace_has_each_attempt_of_a_step_at_the_step(js: Js, name: str) -> None:
    run = await js.run(name)
    assert run["output"] == ["Error", "boom", "after"]
    steps = await traced(js, run)
    assert attempts(steps["bad"]) == [(0, "boom"), (1, "boom"), (2, "boom")]
    assert attempts(steps["good"]) == attempts(steps["after"]) == [(0, None)]
    bad = steps["bad"].attempts
    assert [each.retry_at_ms is None for each in bad] == [False, False, True]
    starts = [each.started_ms or 0 for each in bad]
    assert [steps["bad"].started_ms, *starts] == sorted([starts[0], *starts])


async def test_a_trace_has_each_attempt_of_a_parallel_step(js: Js) -> None:
    steps = await traced(js, await js.run("retries-beside"))
    assert attempts(steps["flaky"]) == [(0, "boom"), (1, "boom"), (2, None)]
    assert attempts(steps["p"]) == attempts(steps["after"]) == [(0, None)]


async def test_a_step_that_succeeds_begins_a_new_count(js: Js) -> None:
    run = await js.run("recovers")
    assert run["output"] == ["good", 2, 4]
    assert await js.bodies(run) == [("second time", 0), ("second time", 1)]


async def test_a_handler_that_fails_is_tried_again(js: Js) -> None:
    run = await js.run("handler-fails")
    assert run["status"] == "Failed"
    assert (run["output"]["name"], run["output"]["message"]) == ("TypeError", "no")
    bodies = await js.bodies(run)
    assert bodies == [("handler", 0), ("step", 0), ("handler", 1), ("handler", 2)]


async def test_a_handler_that_forbids_retries_is_not_tried_again(js: Js) -> None:
    run = await js.run("never-again")
    assert run["status"] == "Failed"
    assert run["output"]["name"] == "NonRetriableError"
    assert await js.bodies(run) == [("handler", 0)]


async def test_a_step_that_forbids_retries_is_not_tried_again(js: Js) -> None:
    run = await js.run("step-never-again")
    assert run["status"] == "Failed"
    assert run["output"]["message"] == "no way"
    assert await js.bodies(run) == [("fails", 0)]


async def test_a_step_is_tried_again_when_it_says_so(js: Js) -> None:
    run = await js.run("later")
    assert run["output"] == 1
    assert await js.bodies(run) == [("times", 0), ("times", 1)]
    timers = [
        event.timer_started_event_attributes.start_to_fire_timeout.ToMilliseconds()
        for event in (await js.history(run)).events
        if event.HasField("timer_started_event_attributes")
    ]
    assert max(timers) >= 900


async def test_on_failure_gets_what_inngest_sends(js: Js) -> None:
    run = await js.run("with-on-failure", n=1)
    assert run["status"] == "Failed"

    async def told() -> Any:
        return (await js.http.get("/failures")).json()

    [failure] = await until(told)
    assert (failure["name"], failure["error"]) == ("inngest/function.failed", "boom")
    data = failure["data"]
    assert (data["function_id"], data["run_id"]) == ("js-with-on-failure", run["run_id"])
    assert (data["error"]["name"], data["error"]["message"]) == ("Error", "boom")
    assert (data["event"]["name"], data["event"]["data"]) == ("js/with-on-failure", {"n": 1})


# Odd values.


async def test_half_of_a_character_is_replaced(js: Js) -> None:
    assert await js.output("half") == ["half \ufffd", "half \ufffd", {"\ufffd": 1}]
    run = await js.run("half", fails=True)
    assert (run["status"], run["output"]["message"]) == ("Failed", "at last \ufffd")


async def test_odd_values_arrive_as_json_has_them(js: Js) -> None:
    date = "1970-01-01T00:00:00.000Z"
    value = {"nan": None, "big": 2**70, "tiny": 5e-324, "zero": 0, "date": date}
    assert await js.output("odd") == [value, None, None]


async def test_deep_values_arrive_and_deeper_ones_fail_the_run(js: Js) -> None:
    deep = await js.output("deep", levels=100)
    for _ in range(100):
        [deep] = deep
    assert deep == 1
    assert (await js.run("deep", levels=3000))["status"] == "Failed"


# Requests that are left to the server.


async def test_a_fetch_is_left_to_the_server(js: Js) -> None:
    run = await js.run("fetches")
    assert run["status"] == "Completed", run
    status, echoed, *refused = run["output"]
    assert status == 200
    assert echoed == {"method": "POST", "query": {"q": "1"}, "mine": "1", "body": "hello"}
    assert refused == [418, 418, "no", "no"]


async def test_a_model_is_asked_and_its_key_stays_out_of_the_history(js: Js) -> None:
    run = await js.run("infers")
    assert run["status"] == "Completed", run
    assert run["output"] == ["answer 1", "answer 2", "beside", "AIGatewayError"]
    history = await js.history(run)
    assert "answer 1" in readable(history)
    assert SECRET not in readable(history)


def readable(history: Any) -> str:
    """All of a history, payloads included."""
    return str(history.to_json_dict()) + "".join(
        event.SerializeToString().decode("latin-1") for event in history.events
    )


async def test_a_model_that_fails_is_asked_again(js: Js) -> None:
    run = await js.run("infers-at-last")
    assert run["output"] == [1, 1]
    steps = await traced(js, run)
    for name in ("infer", "alone"):
        assert attempts(steps[name]) == [(0, "The provider answered 503: {}"), (1, None)]
        assert steps[name].kind == "ai"


async def test_a_call_of_a_model_may_be_wrapped(js: Js) -> None:
    assert await js.output("wraps") == 2


# Triggers.


async def test_a_schedule_starts_a_run(js: Js) -> None:
    client = js.world.client

    async def scheduled() -> Any:
        listed = await client.list_schedules()
        return [each.id async for each in listed if "js-scheduled" in each.id]

    [schedule] = await until(scheduled)
    await client.get_schedule_handle(schedule).trigger()

    async def started() -> Any:
        return [each async for each in client.list_workflows("WorkflowType='js-scheduled'")]

    [run] = await until(started)
    handle = client.get_workflow_handle(run.id)
    assert await handle.result() == ["inngest/scheduled.timer", "0 0 1 1 *"]


async def test_triggers_may_have_a_wildcard_and_a_condition(js: Js) -> None:
    run = await js.world.run("js/wild.card")
    assert run["output"] == "js/wild.card"
    ignored = await js.world.send("js/filtered", {"n": 1})
    assert await js.output("filtered", n=2) == "ran"
    answer = await httpx.AsyncClient(verify=False).get(f"{js.world.url}/v1/events/{ignored}/runs")
    assert answer.json()["data"] == []


async def test_a_batch_is_one_run(js: Js) -> None:
    ids = [await js.world.send("js/batch", {"n": n}) for n in range(3)]
    [run] = await js.world.runs(ids[2])
    assert run["output"] == [0, 1, 2]


async def test_a_run_is_cancelled_by_an_event(js: Js) -> None:
    event = await js.world.send("js/cancelled", {"key": "k"})
    cancelled = asyncio.create_task(js.world.runs(event))
    while not cancelled.done():
        await js.world.send("js/cancel", {"key": "other"})
        await js.world.send("js/cancel", {"key": "k"})
        await asyncio.sleep(0.2)
    [run] = await cancelled
    assert run["status"] == "Cancelled"


async def test_a_run_over_its_finish_timeout_is_cancelled(js: Js) -> None:
    run = await js.run("late")
    assert run["status"] == "Cancelled"
    assert await js.bodies(run) == [("slow", 0)]


async def test_a_singleton_skips_the_second_run(js: Js) -> None:
    first, second = [await js.world.send("js/one-at-a-time", {"key": "k"}) for _ in range(2)]
    runs = [*await js.world.runs(first), *await js.world.runs(second)]
    assert [run["status"] for run in runs] == ["Completed", "Skipped"]


async def test_deferred_functions_are_accepted_without_effect(js: Js) -> None:
    assert await js.output("defers") == "a"


# Another way to serve, and the other major version.


async def test_streamed_replies_are_read(js: Js) -> None:
    assert await js.output("streaming") == ["a", "boom"]


@pytest.mark.parametrize("name", ["many", "checkpoints"])
async def test_steps_of_version_3_are_one_activity(js3: Js, name: str) -> None:
    run = await js3.world.run(f"js3/{name}")
    assert run["output"] == list(range(10))
    assert len(await js3.calls(run)) == (11 if name == "many" else 1)
    assert (await js3.activities(run))["inngest.execute"] == 1


async def test_version_3_has_waits_and_parallel_steps(js3: Js) -> None:
    run = await js3.world.run("js3/steps", {"n": 1})
    assert run["status"] == "Completed", run
    assert run["output"] == ["a", "p", "q", None, "boom", {"n": 1}]


async def test_a_run_of_version_3_fails_with_its_last_attempt(js3: Js) -> None:
    run = await js3.world.run("js3/fails")
    assert (run["status"], run["output"]["message"]) == ("Failed", "attempt 1")


async def test_everything_works_with_signing_keys(temporal_address: str, tmp_path: Path) -> None:
    """This is as in production: calls, checkpoints and what is fetched are signed or authorized."""
    namespace = await new_namespace(temporal_address)
    client = await Client.connect(temporal_address, namespace=namespace)
    settings = Settings(event_keys=("events",), signing_keys=(KEY,))
    async with http_world(client, settings=settings) as world:
        environ = {
            "INNGEST_BASE_URL": world.url,
            "INNGEST_EVENT_KEY": "events",
            "INNGEST_SIGNING_KEY": KEY,
        }
        async with js_app(world, "behaviours.mjs", tmp_path / "log", **environ) as js:
            await world.sync(js.url)
            run = await js.run("numbers", steps=3)
            assert run["output"] == [0, 1, 2]
            assert len(await js.calls(run)) == 1
            assert await js.output("parallel") == ["p", "q", "r", "s"]
            large = {"steps": 5, "size": 1_000_000, "note": ""}
            assert await js.output("texts-then-sleep", **large) == [5_000_000, 0]
            assert len(await js.output("sends")) == 2
