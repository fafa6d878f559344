"""Runs on the embedded server, end to end from a routed event."""

import asyncio
import contextlib
import json
import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

import inngest_temporal as inngest
import inngest_temporal_workers.runs.executing
import inngest_temporal_workers.runs.waiting
from inngest_temporal.drivers.failures import error_of, standard_error
from inngest_temporal.drivers.local import hashed
from inngest_temporal.logger import STACK, JsonFormatter
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.run_input import Invoker, RunInput
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names, runs
from inngest_temporal_workers.runs import admission, executions, heartbeats
from inngest_temporal_workers.runs.activities import RunActivities
from inngest_temporal_workers.runs.memory import MemoCache
from tests.harness import TRIGGER, new_client, registered, running, until


def failure_of(error: WorkflowFailureError) -> ApplicationError:
    assert isinstance(error.cause, ApplicationError), error.cause
    return error.cause


async def test_a_function_returns_its_result(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        return {"n": ctx.event.data["n"], "id": ctx.run_id}

    async with running(client, fn) as app:
        event = await app.send("test/event", {"n": 3})
        run = app.run_of(fn, event)
        assert await run.result() == {"n": 3, "id": run.id}


async def test_steps_are_executed_once_in_order(client: Client) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        results = []
        for index in range(5):
            results.append(await ctx.step.run("step", lambda i=index: executed.append(i) or i * 10))
        return results

    async with running(client, fn) as app:
        assert await app.run(fn) == [0, 10, 20, 30, 40]
    assert executed == [0, 1, 2, 3, 4]


async def test_a_sync_function_runs_with_steps_and_parallel_groups(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    def fn(ctx: inngest.ContextSync) -> Any:
        first = ctx.step.run("first", lambda: 1)
        group = ctx.group.parallel(
            (lambda: ctx.step.run("a", lambda: 2), lambda: ctx.step.run("b", lambda: 3))
        )
        ctx.step.sleep("nap", 10)
        return [first, *group]

    async with running(client, fn) as app:
        assert await app.run(fn) == [1, 2, 3]


@pytest.mark.parametrize("mode", list(inngest.ParallelMode))
async def test_parallel_steps_overlap(client: Client, mode: inngest.ParallelMode) -> None:
    barrier = asyncio.Barrier(3)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        async def meet(n: int) -> int:
            async with asyncio.timeout(60):
                await barrier.wait()
            return n

        return await ctx.group.parallel(
            tuple(lambda n=n: ctx.step.run(f"{n}", meet, n) for n in range(3)), mode
        )

    async with running(client, fn) as app:
        assert await app.run(fn) == [0, 1, 2]


async def test_branches_of_gather_continue_independently(client: Client) -> None:
    release = asyncio.Event()

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        async def long() -> str:
            async with asyncio.timeout(60):
                await release.wait()
            return "long"

        async def short() -> str:
            await ctx.step.sleep("nap", 20)
            await ctx.step.run("a", lambda: None)
            await ctx.step.run("b", release.set)
            return "short"

        return await asyncio.gather(ctx.step.run("long", long), short())

    async with running(client, fn) as app:
        assert await app.run(fn) == ["long", "short"]


async def test_a_failing_step_is_retried_with_its_attempt_and_finished_steps_are_not_repeated(
    client: Client,
) -> None:
    attempts: list[int] = []
    before: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        async def flaky() -> str:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise ValueError("not yet")
            return "ok"

        await ctx.step.run("before", lambda: before.append(1))
        return await ctx.step.run("flaky", flaky)

    async with running(client, fn) as app:
        assert await app.run(fn) == "ok"
    assert attempts == [0, 1, 2]
    assert before == [1]


async def test_an_exhausted_step_raises_a_step_error_that_can_be_caught(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        def fail() -> None:
            raise ValueError("always")

        try:
            await ctx.step.run("fail", fail)
        except inngest.StepError as error:
            caught = [error.name, error.message, "in fail" in (error.stack or "")]
            return await ctx.step.run("after", lambda: caught)

    async with running(client, fn) as app:
        assert await app.run(fn) == ["ValueError", "always", True]


async def test_a_failed_run_shows_name_message_and_the_users_stack(client: Client) -> None:
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        attempts.append(ctx.attempt)
        raise LookupError("no such order")

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    error = failure_of(raised.value)
    assert (error.type, error.message) == ("LookupError", "no such order")
    assert error.failure is not None
    assert "in fn" in error.failure.stack_trace
    assert attempts == [0, 1, 2]


@pytest.mark.parametrize("where", ["step", "handler"])
async def test_a_non_retriable_error_fails_at_once(client: Client, where: str) -> None:
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=5)
    async def fn(ctx: inngest.Context) -> Any:
        def fail() -> None:
            attempts.append(1)
            raise inngest.NonRetriableError("never")

        if where == "step":
            await ctx.step.run("fail", fail)
        else:
            fail()

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    assert failure_of(raised.value).type == "NonRetriableError"
    assert attempts == [1]


async def test_sleep_until_the_past_returns_at_once(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> str:
        await ctx.step.sleep_until("past", datetime.now(UTC) - timedelta(days=1))
        await ctx.step.sleep_until("soon", datetime.now(UTC) + timedelta(milliseconds=50))
        return "awake"

    async with running(client, fn) as app:
        assert await app.run(fn) == "awake"


async def test_a_wait_resumes_only_the_run_whose_order_id_matches(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        paid = await ctx.step.wait_for_event(
            "paid",
            event="shop/paid",
            if_exp="event.data.order == async.data.order && async.data.amount > 10",
            timeout=60_000,
        )
        assert paid is not None
        return paid.data

    async with running(client, fn) as app:
        first, second = (
            await app.send("test/event", {"order": "a"}),
            await app.send("test/event", {"order": "b"}),
        )
        await registered(app.run_of(fn, first))
        await registered(app.run_of(fn, second))
        await app.send("shop/paid", {"order": "b", "amount": 5})
        await app.send("shop/paid", {"order": "b", "amount": 50})
        assert await app.run_of(fn, second).result() == {"order": "b", "amount": 50}
        description = await app.run_of(fn, first).describe()
        assert description.status == WorkflowExecutionStatus.RUNNING
        await app.send("shop/paid", {"order": "a", "amount": 11})
        assert await app.run_of(fn, first).result() == {"order": "a", "amount": 11}


async def test_one_event_resumes_every_matching_wait(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        found = await asyncio.gather(
            ctx.step.wait_for_event("any", event="go", timeout=60_000),
            ctx.step.wait_for_event("key", event="go", if_exp="async.data.k == 1", timeout=60_000),
        )
        return [event.data["k"] if event else None for event in found]

    async with running(client, fn) as app:
        runs = [app.run_of(fn, await app.send("test/event")) for _ in range(3)]
        for run in runs:
            await registered(run, 2)
        await app.send("go", {"k": 1})
        assert [await run.result() for run in runs] == [[1, 1]] * 3


async def test_a_wait_that_times_out_returns_none(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.wait_for_event("never", event="never", timeout=1_000)

    async with running(client, fn) as app:
        assert await app.run(fn) is None


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("event.data.", "the expression ends too early; complete it"),
        ("async.data.k == evnt.k", "unknown variable 'evnt'; a path must begin with event. or"),
    ],
)
async def test_a_wait_whose_condition_is_wrong_fails_the_run(
    client: Client, caplog: pytest.LogCaptureFixture, condition: str, message: str
) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.wait_for_event("bad", event="x", if_exp=condition, timeout=1_000)

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    assert failure_of(raised.value).type == "StepInvalidError"
    assert message in str(failure_of(raised.value))
    [line] = [each.message for each in caplog.records if "failed" in each.message]
    assert line.startswith("The handler of app-fn failed in attempt 1 of 5, and is not tried again")
    assert 'step "bad"' in line
    assert message in line


@pytest.mark.parametrize("kind", ["sleep", "signal"])
async def test_an_error_outside_the_handler_is_logged_once(
    client: Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        if kind == "sleep":
            await ctx.step.sleep("long", timedelta(days=400))
        await asyncio.gather(
            *(ctx.step.wait_for_signal(f"{n}", signal="s", timeout=1_000) for n in range(2))
        )

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        with pytest.raises(WorkflowFailureError) as raised:
            await run.result()
    error = failure_of(raised.value)
    [line] = [each for each in caplog.records if run.id in each.message]
    assert line.message == f"Function app-fn failed (run {run.id}): {error.type}: {error.message}"
    assert line.levelname == "ERROR"


async def test_invoke_returns_the_result_or_raises_the_error(client: Client) -> None:
    inngest_client = new_client()

    @inngest_client.create_function(
        fn_id="child", trigger=inngest.TriggerEvent(event="never"), retries=0
    )
    async def child(ctx: inngest.Context) -> Any:
        if ctx.event.data.get("fail"):
            raise ValueError("child failed")
        return {"twice": ctx.event.data["n"] * 2}

    @inngest_client.create_function(fn_id="parent", trigger=TRIGGER)
    async def parent(ctx: inngest.Context) -> Any:
        result = await ctx.step.invoke("good", function=child, data={"n": 4})
        errors = []
        for step_id, function_id, data in (
            ("bad", "child", {"fail": True}),
            ("missing", "nobody", {}),
        ):
            try:
                await ctx.step.invoke_by_id(step_id, function_id=function_id, data=data)
            except inngest.StepError as error:
                errors.append([error.name, error.message])
        return [result, errors]

    async with running(client, child, parent) as app:
        assert await app.run(parent) == [
            {"twice": 8},
            [
                ["ValueError", "child failed"],
                ["Error", "could not find function with ID: app-nobody"],
            ],
        ]


async def test_invoke_times_out(client: Client) -> None:
    inngest_client = new_client()

    @inngest_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="never"))
    async def child(ctx: inngest.Context) -> Any:
        await ctx.step.sleep("long", timedelta(hours=1))

    @inngest_client.create_function(fn_id="parent", trigger=TRIGGER)
    async def parent(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.invoke("child", function=child, timeout=1_000)
        except inngest.StepError as error:
            return [error.name, error.message]

    async with running(client, child, parent) as app:
        assert await app.run(parent) == [
            "InngestInvokeTimeoutError",
            "Timed out waiting for invoked function to complete",
        ]


@pytest.mark.parametrize("kind", ["invoked", "event", "signal"])
async def test_an_answer_to_a_step_of_a_lost_workflow_task_is_kept(
    client: Client, kind: str
) -> None:
    """The lost task had asked, though history does not say so, and the answer comes before the task
    is repeated."""
    inngest_client, step = new_client(), hashed("step")

    @inngest_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="never"))
    async def child(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", timedelta(hours=1))

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        if kind == "invoked":
            return await ctx.step.invoke("step", function=child)
        if kind == "event":
            found = await ctx.step.wait_for_event("step", event="go", timeout=timedelta(hours=1))
            return found and found.data["n"]
        signal = await ctx.step.wait_for_signal("step", signal="s")
        return signal and signal.data

    answers: dict[str, list[Any]] = {
        "invoked": [step, {"data": 5}],
        "event": [{"id": "01", "event": {"name": "go", "data": {"n": 5}}, "waits": [step]}],
        "signal": [step, "s", 5],
    }
    async with running(client, child, fn):
        one = events.stamp({"name": "test/event", "data": {}})
        run = await client.start_workflow(
            fn.id,
            RunInput([one.event], [one.internal_id]).to_json(),
            id="run",
            task_queue=names.task_queue("app"),
            start_signal=kind,
            start_signal_args=answers[kind],
        )
        assert await run.result() == 5
        if kind == "event":
            await until(lambda: is_forgotten(client, names.mailbox_id("go", "", None)))


async def is_forgotten(client: Client, mailbox: str) -> bool:
    """Whether a mailbox was told to forget a wait."""
    async for event in client.get_workflow_handle(mailbox).fetch_history_events():
        if event.workflow_execution_signaled_event_attributes.signal_name == "deregister":
            return True
    return False


async def test_an_invoked_run_that_was_terminated_raises_in_its_invoker(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't answer, so its invoker checks whether it is there, and waits for one that is."""
    monkeypatch.setattr(
        inngest_temporal_workers.runs.waiting, "FIRST_CHECK", timedelta(milliseconds=100)
    )
    monkeypatch.setattr(inngest_temporal_workers.runs.waiting, "LAST_ANSWER", timedelta(seconds=1))
    inngest_client, runs = new_client(), dict[str, str]()

    @inngest_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="never"))
    async def child(ctx: inngest.Context) -> Any:
        runs[str(ctx.event.data["name"])] = ctx.run_id
        return (
            await ctx.step.wait_for_event("wait", event="go", timeout=timedelta(hours=1))
            is not None
        )

    @inngest_client.create_function(fn_id="parent", trigger=TRIGGER)
    async def parent(ctx: inngest.Context) -> Any:
        try:
            return await ctx.step.invoke(
                "child", function=child, data={"name": ctx.event.data["name"]}
            )
        except inngest.StepError as error:
            return [error.name, error.message]

    async with running(client, child, parent) as app:
        terminated = app.run_of(parent, await app.send("test/event", {"name": "terminated"}))
        ended = app.run_of(parent, await app.send("test/event", {"name": "ended"}))
        await until(lambda: len(runs) == 2)
        await client.get_workflow_handle(runs["terminated"]).terminate()
        name, message = await terminated.result()
        assert name == "Error"
        assert message.startswith(f"The invoked run {runs['terminated']} ended without an answer")
        await registered(ended, 3)
        await registered(client.get_workflow_handle(runs["ended"]))
        await app.send("go")
        assert await ended.result() is True


SIGNALS = 10_000
"""How many signals Temporal lets a workflow have."""


@pytest.mark.timeout(1_200)
async def test_an_invoker_that_can_have_no_more_signals_still_gets_its_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, long: bool
) -> None:
    """It checks the run that it invoked, whose end is not held up by the refused signal."""
    monkeypatch.setattr(inngest_temporal_workers.runs.waiting, "FIRST_CHECK", timedelta(seconds=1))
    inngest_client, invoked = new_client(), list[str]()

    @inngest_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="never"))
    async def child(ctx: inngest.Context) -> Any:
        invoked.append(ctx.run_id)
        await ctx.step.wait_for_event("wait", event="go", timeout=timedelta(hours=1))
        if ctx.event.data["n"] == 2:
            raise inngest.NonRetriableError("as it should")
        return ctx.event.data["n"]

    @inngest_client.create_function(fn_id="parent", trigger=TRIGGER)
    async def parent(ctx: inngest.Context) -> Any:
        try:
            return await ctx.step.invoke("child", function=child, data=ctx.event.data)
        except inngest.StepError as error:
            return error.message

    async with running(client, child, parent) as app:
        events = [await app.send("test/event", {"n": n}) for n in (1, 2)]
        invokers = [app.run_of(parent, event) for event in events]
        await until(lambda: len(set(invoked)) == 2)
        children = [client.get_workflow_handle(run) for run in {*invoked}]
        for each in children:
            await registered(each)
        if long:
            async with asyncio.TaskGroup() as filling:
                for invoker in invokers:
                    filling.create_task(fill(invoker))
        else:
            monkeypatch.setattr(WorkflowHandle, "signal", full(WorkflowHandle.signal))
        await app.send("go")
        assert [await invoker.result() for invoker in invokers] == [1, "as it should"]
        ended = [(await each.describe()).status for each in children]
    assert WorkflowExecutionStatus.RUNNING not in ended
    assert sum("Temporal refuses the answer" in record.message for record in caplog.records) == 2


def full(signal: Any) -> Any:
    """A handle's `signal`, as if every invoker had got all the signals that it can have."""

    async def refusing(self: Any, name: str, *args: Any, **options: Any) -> None:
        if name == "invoked":
            message = "exceeded workflow execution limit for signal events"
            raise RPCError(message, RPCStatusCode.INVALID_ARGUMENT, b"")
        await signal(self, name, *args, **options)

    return refusing


async def fill(run: WorkflowHandle[Any, Any]) -> None:
    """Send signals to a run until Temporal refuses them."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < 2 * SIGNALS:
            sent += 1
            await run.signal("signal", args=["none", "none", sent])

    with pytest.raises(RPCError, match="limit for signal events"):
        await asyncio.gather(*(send() for _ in range(20)))
    assert sent > SIGNALS


@pytest.mark.parametrize("lasts", [False, True])
async def test_events_are_sent_again_while_temporal_is_away(
    client: Client, monkeypatch: pytest.MonkeyPatch, lasts: bool
) -> None:
    route, tries = Router.route, 0

    async def away(self: Router, stamped: Any, *rest: Any) -> Any:
        nonlocal tries
        if [each.event["name"] for each in stamped] == ["sent"]:
            tries += 1
            if lasts or tries < 3:
                raise RPCError("tcp connect error", RPCStatusCode.UNAVAILABLE, b"")
        return await route(self, stamped, *rest)

    monkeypatch.setattr(Router, "route", away)
    monkeypatch.setattr(executions, "OUTAGE_PAUSE", 0.01)
    monkeypatch.setattr(executions, "OUTAGE_SECONDS", 0.5 if lasts else 60)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            return len(await ctx.step.send_event("send", inngest.Event(name="sent")))
        except inngest.StepError as error:
            return [error.name, error.message]

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        result = await run.result()
    if lasts:
        assert result == [
            "TimeoutError",
            "Temporal could not take it within 0.5 s: tcp connect error",
        ]
    else:
        assert (result, tries) == (1, 3)


async def test_send_event_starts_other_functions_once(client: Client) -> None:
    inngest_client = new_client()
    started: list[Any] = []

    @inngest_client.create_function(fn_id="listener", trigger=inngest.TriggerEvent(event="sent/*"))
    async def listener(ctx: inngest.Context) -> None:
        started.append(ctx.event.data)

    @inngest_client.create_function(fn_id="sender", trigger=TRIGGER)
    async def sender(ctx: inngest.Context) -> Any:
        return await ctx.step.send_event("send", inngest.Event(name="sent/one", data={"a": 1}))

    async with running(client, listener, sender) as app:
        ids = await app.run(sender)
        assert len(ids) == 1
        await until(lambda: started)
    assert started == [{"a": 1}]


async def test_on_failure_gets_the_failed_event(client: Client) -> None:
    seen: list[Any] = []

    async def failed(ctx: inngest.Context) -> None:
        seen.append(ctx.event)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0, on_failure=failed)
    async def fn(ctx: inngest.Context) -> None:
        raise ValueError("broken")

    async with running(client, fn) as app:
        event = await app.send("test/event", {"k": 1})
        with pytest.raises(WorkflowFailureError):
            await app.run_of(fn, event).result()
        await until(lambda: seen)
    [event_seen] = seen
    assert event_seen.name == "inngest/function.failed"
    assert event_seen.data["function_id"] == "app-fn"
    assert event_seen.data["run_id"] == events.run_id("app-fn", event)
    assert event_seen.data["event"]["data"] == {"k": 1}
    assert event_seen.data["error"]["message"] == "broken"


async def test_lifecycle_events_reach_functions_but_do_not_recur(client: Client) -> None:
    inngest_client = new_client()
    seen: list[str] = []

    @inngest_client.create_function(fn_id="watch", trigger=inngest.TriggerEvent(event="inngest/*"))
    async def watch(ctx: inngest.Context) -> None:
        seen.append(f"{ctx.event.name} {ctx.event.data['function_id']}")

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> str:
        return "x"

    async with running(client, watch, fn) as app:
        await app.run(fn)
        await until(lambda: seen)
        await until(lambda: all_closed(client))
    assert seen == ["inngest/function.finished app-fn"]


async def all_closed(client: Client) -> bool:
    query = "ExecutionStatus = 'Running' AND WorkflowType STARTS_WITH 'app-'"
    return [run async for run in client.list_workflows(query)] == []


async def test_cancelling_a_run_cleans_up_and_emits_cancelled(client: Client) -> None:
    inngest_client = new_client()
    seen: list[Any] = []

    @inngest_client.create_function(
        fn_id="watch", trigger=inngest.TriggerEvent(event="inngest/function.cancelled")
    )
    async def watch(ctx: inngest.Context) -> None:
        seen.append(ctx.event.data["function_id"])

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.wait_for_event("wait", event="x", timeout=60_000)

    async with running(client, watch, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        await run.cancel()
        with contextlib.suppress(WorkflowFailureError):
            await run.result()
        assert (await run.describe()).status == WorkflowExecutionStatus.CANCELED
        await until(lambda: seen)
    assert seen == ["app-fn"]


async def test_a_duplicate_event_id_starts_one_run(client: Client) -> None:
    started: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        started.append(1)

    async with running(client, fn) as app:
        event = await app.send("test/event", id="same")
        await app.run_of(fn, event).result()
        await app.send("test/event", id="same")
        await app.send("test/event", id="other")
        await until(lambda: len(started) == 2)
        await until(lambda: all_closed(client))
    assert started == [1, 1]


async def test_a_handler_that_is_slow_outside_steps_is_executed_once(client: Client) -> None:
    executed: list[str] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> str:
        executed.append("begin")
        await asyncio.sleep(1)
        a = await ctx.step.run("a", lambda: "a")
        executed.append("middle")
        await asyncio.sleep(1)
        executed.append("end")
        return a

    async with running(client, fn) as app:
        assert await app.run(fn) == "a"
    assert executed == ["begin", "begin", "middle", "end"]


async def test_a_blocking_call_in_an_async_handler_is_not_executed_a_second_time(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stops the event loop that sends the heartbeats, for longer than Temporal waits for one."""
    monkeypatch.setattr(
        inngest_temporal_workers.runs.executing, "HEARTBEAT_TIMEOUT", timedelta(seconds=4)
    )
    monkeypatch.setattr(heartbeats, "INTERVAL", 0.5)
    executed: list[str] = []

    async def block() -> str:
        executed.append("step")
        time.sleep(10)  # noqa: ASYNC251
        await asyncio.sleep(0.1)
        return "done"

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=3)
    async def fn(ctx: inngest.Context) -> str:
        return await ctx.step.run("block", block)

    async with running(client, fn) as app:
        assert await app.run(fn) == "done"
    assert executed == ["step"]
    [warning] = [record for record in caplog.records if "blocks its worker" in record.message]
    assert "time.sleep(10)" in warning.message


async def test_a_thousand_and_one_steps_are_too_many(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        await asyncio.gather(*(ctx.step.sleep(f"s{n}", 60_000) for n in range(1_001)))

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    assert failure_of(raised.value).type == "InngestErrFunctionOverflowed"
    assert (
        failure_of(raised.value).message
        == "The function run exceeded the step limit of 1000 steps."
    )


async def test_failures_are_logged_with_the_users_stack_alone(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> None:
        if ctx.event.data["where"] == "handler":
            raise ValueError("no")
        if ctx.event.data["where"] == "quiet":
            raise inngest.NonRetriableError("no", quiet=True)
        with contextlib.suppress(inngest.StepError):
            await ctx.step.run("broken", lambda: {}["k"])

    async with running(client, fn) as app:
        for where in ("handler", "quiet"):
            with pytest.raises(WorkflowFailureError):
                await app.run(fn, {"where": where})
        await app.run(fn, {"where": "step"})
    failures = [record for record in caplog.records if "failed" in record.message]
    assert [record.message.partition(" (run ")[0] for record in failures] == [
        "The handler of app-fn failed in attempt 1 of 2, and is tried again in 0.0 s",
        "The handler of app-fn failed in attempt 2 of 2, and is not tried again",
        'Step "broken" of app-fn failed in attempt 1 of 2, and is tried again in 0.0 s',
        'Step "broken" of app-fn failed in attempt 2 of 2, and is not tried again',
    ]
    fields = [json.loads(JsonFormatter().format(record)) for record in failures]
    assert [(each["functionId"], each.get("stepId"), each["attempt"]) for each in fields] == [
        ("app-fn", None, 0),
        ("app-fn", None, 1),
        ("app-fn", "broken", 0),
        ("app-fn", "broken", 1),
    ]
    assert all(f"(run {each['runId']})" in each["message"] for each in fields)
    stacks = [getattr(record, STACK) for record in failures]
    assert all(f'File "{__file__}"' in stack for stack in stacks)
    assert not any(
        part in stack
        for stack in stacks
        for part in (
            "workers/inngest_temporal_workers/runs/executions.py",
            "adapter/inngest_temporal/drivers/local.py",
        )
    )


@pytest.mark.parametrize("checkpointing", [True, False])
async def test_a_step_that_fails_the_run_is_logged_once(
    client: Client, caplog: pytest.LogCaptureFixture, checkpointing: bool
) -> None:
    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, retries=0, checkpointing=checkpointing
    )
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.run("before", lambda: None)
        await ctx.step.run("broken", lambda: {}["k"])

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError):
            await app.run(fn)
    [failure] = [record for record in caplog.records if "failed" in record.message]
    assert failure.message.startswith('Step "broken" of app-fn failed in attempt 1 of 1')


@pytest.mark.parametrize("where", ["lifecycle", "invoker"])
async def test_a_run_ends_although_temporal_refuses_what_its_end_starts(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    refused = RPCError("too large", RPCStatusCode.INVALID_ARGUMENT, b"")
    route = Router.route

    async def refuse(self: Router, stamped: Any) -> Any:
        if stamped and stamped[0].event["name"] == "inngest/function.finished":
            raise refused
        return await route(self, stamped)

    async def has_listeners(self: Router, name: str) -> bool:
        return True

    async def refuse_signal(self: Any, *args: Any, **options: Any) -> None:
        raise refused

    inngest_client = new_client()

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> str:
        await ctx.step.sleep("nap", 1)
        return "ended"

    async with running(client, fn) as app:
        if where == "lifecycle":
            monkeypatch.setattr(Router, "route", refuse)
            monkeypatch.setattr(Router, "has_listeners", has_listeners)
            assert await asyncio.wait_for(app.run(fn), 60) == "ended"
        else:
            activities = RunActivities(
                client, lambda _: "app", app.router, Waits.of(client), Follower(client)
            )
            monkeypatch.setattr(WorkflowHandle, "signal", refuse_signal)
            with caplog.at_level(logging.ERROR):
                invoker = Invoker("run", "step")
                await ActivityEnvironment().run(activities._tell, invoker, {"data": 1}, 0)
    assert [record for record in caplog.records if "Temporal refuses" in record.message]


async def test_a_sleep_of_more_than_a_year_fails_the_run(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", timedelta(days=367))

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    assert failure_of(raised.value).type == "InngestErrTimeoutTooLong"


async def test_a_step_output_over_the_limit_is_an_error_that_names_it(client: Client) -> None:
    attempts: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.run("big", lambda: attempts.append(1) or "x" * 2_000_000)
        except inngest.StepError as error:
            return error.message

    async with running(client, fn) as app:
        message = await app.run(fn)
    assert "at most 1800000" in message
    assert attempts == [1]


async def test_a_run_whose_state_is_over_the_limit_fails_with_inngests_error(
    client: Client,
) -> None:
    executed: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        for index in range(25):
            await ctx.step.run(f"big-{index}", lambda: executed.append(1) or "x" * 1_750_000)

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn)
    error = failure_of(raised.value)
    assert error.type == "InngestErrStateOverflowed"
    assert error.message == "The function run exceeded the state size limit of 33554432 bytes."
    assert len(executed) == 20


async def test_a_process_that_does_not_know_a_run_asks_for_its_events_and_memos(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens after a restart, or if another process has the workflow. Answers have pages."""
    monkeypatch.setattr(MemoCache, "get", lambda self, run: None)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        sizes = [len(ctx.event.data["text"])]
        for index in range(4):
            sizes.append(
                len(await ctx.step.run(f"big-{index}", lambda i=index: "y" * (600_000 + i)))
            )
        return sizes

    async with running(client, fn) as app:
        assert await app.run(fn, {"text": "x" * 1_500_000}) == [
            1_500_000,
            600_000,
            600_001,
            600_002,
            600_003,
        ]


async def test_bad_input_fails_the_run_with_an_error_that_says_what_is_wrong(
    client: Client,
) -> None:
    inngest_client = new_client()
    cases: dict[str, tuple[str, str]] = {
        "surrogate": ("ValueError", "file-?.txt"),
        "invoke-large": ("Error", "Event is over the max size"),
        "invoke-unserializable": (
            "OutputUnserializableError",
            'Step "step": its data can\'t be JSON',
        ),
        "send-large": ("NonRetriableError", "Event is over the max size"),
        "send-unserializable": (
            "OutputUnserializableError",
            "Step \"step\", event 'a': its data can't be JSON",
        ),
        "send-reserved": (
            "NonRetriableError",
            "event name is reserved for internal use: inngest/x",
        ),
        "wait-unnamed": ("StepInvalidError", "must name one event or more"),
        "many-large": (
            "OutputTooLargeError",
            "What the handler gives to its steps is over the limit",
        ),
    }

    @inngest_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="never"))
    async def child(ctx: inngest.Context) -> None: ...

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> None:
        case, step, large = ctx.event.data["case"], ctx.step, "x" * 1_790_000
        if case == "surrogate":
            raise ValueError("file-\udc80.txt")
        if case == "invoke-large":
            await step.invoke("step", function=child, data={"a": large, "b": "y" * 9_790})
        elif case == "invoke-unserializable":
            await step.invoke("step", function=child, data={"a": object()})
        elif case == "send-large":
            await step.send_event("step", inngest.Event(name="a", data={"a": large, "b": large}))
        elif case == "send-unserializable":
            await step.send_event("step", inngest.Event(name="a", data={"a": [float("nan")]}))
        elif case == "send-reserved":
            await step.send_event("step", inngest.Event(name="inngest/x"))
        elif case == "wait-unnamed":
            await step.wait_for_event("step", event="", timeout=1_000)
        elif case == "many-large":
            await asyncio.gather(
                *(step.invoke(f"{n}", function=child, data={"a": large}) for n in range(2))
            )

    async with running(client, fn, child) as app:
        for case, (name, message) in cases.items():
            with pytest.raises(WorkflowFailureError) as raised:
                await asyncio.wait_for(app.run(fn, {"case": case}), 60)
            error = failure_of(raised.value)
            assert error.type == name, case
            assert message in error.message, case


async def test_steps_that_end_together_let_the_handler_continue_while_others_wait(
    client: Client,
) -> None:
    """Neither of the two knows of the other's result when it looks ahead."""
    both = asyncio.Barrier(2)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        async def join() -> None:
            await asyncio.gather(ctx.step.run("a", both.wait), ctx.step.run("b", both.wait))
            await ctx.step.send_event("joined", inngest.Event(name="joined"))

        found, _ = await asyncio.gather(
            ctx.step.wait_for_event("wait", event="joined", timeout=60_000), join()
        )
        return found is not None

    async with running(client, fn) as app:
        assert await app.run(fn) is True


async def test_a_step_that_lost_a_race_does_not_change_its_winner(client: Client) -> None:
    begun, release = asyncio.Barrier(2), asyncio.Event()

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        async def late() -> None:
            await begun.wait()
            await release.wait()

        first = asyncio.create_task(ctx.step.run("first", begun.wait))
        second = asyncio.create_task(ctx.step.run("second", late))
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        if second.done():
            return "second"
        await ctx.step.run("release", release.set)
        await ctx.step.sleep("nap", 300)
        return "first"

    async with running(client, fn) as app:
        assert await app.run(fn) == "first"


async def test_an_invoked_function_that_must_not_be_retried_raises_a_step_error(
    client: Client,
) -> None:
    inngest_client = new_client()

    @inngest_client.create_function(
        fn_id="child", trigger=inngest.TriggerEvent(event="never"), retries=0
    )
    async def child(ctx: inngest.Context) -> None:
        def fail() -> None:
            raise ValueError("declined")

        if ctx.event.data["where"] == "step":
            await ctx.step.run("fail", fail)
        raise inngest.NonRetriableError("declined")

    @inngest_client.create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> Any:
        names = []
        for where in ("step", "handler"):
            try:
                await ctx.step.invoke(where, function=child, data={"where": where})
            except inngest.StepError as error:
                names.append((error.name, error.message))
        return names

    async with running(client, fn, child) as app:
        assert await app.run(fn) == [["ValueError", "declined"], ["NonRetriableError", "declined"]]


@pytest.mark.parametrize("kind", ["sleep", "wait", "invoke", "signal"])
async def test_a_duration_that_no_timedelta_holds_fails_the_run(client: Client, kind: str) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> None:
        step, nanoseconds = ctx.step, 10**18
        await step.sleep("negative", -nanoseconds)
        if kind == "sleep":
            await step.sleep("step", nanoseconds)
        elif kind == "wait":
            await step.wait_for_event("step", event="x", timeout=nanoseconds)
        elif kind == "invoke":
            await step.invoke_by_id("step", function_id="x", timeout=nanoseconds)
        else:
            await step.wait_for_signal("step", signal="x", timeout=nanoseconds)

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await asyncio.wait_for(app.run(fn), 60)
    assert failure_of(raised.value).type == "InngestErrTimeoutTooLong"


@pytest.mark.parametrize("fallback", [False, True])
async def test_a_step_that_the_handler_itself_stops_is_not_repeated_for_ever(
    client: Client, fallback: bool
) -> None:
    begun: list[int] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        async def slow() -> None:
            begun.append(1)
            await asyncio.Event().wait()

        try:
            async with asyncio.timeout(0.02):
                await ctx.step.run("slow", slow)
        except TimeoutError:
            if not fallback:
                raise
            return await ctx.step.run("fallback", lambda: "fallback")

    async with running(client, fn) as app:
        run = asyncio.wait_for(app.run(fn), 60)
        if fallback:
            assert await run == "fallback"
            assert len(begun) == 1
        else:
            with pytest.raises(WorkflowFailureError) as raised:
                await run
            assert failure_of(raised.value).type == "TimeoutError"
            assert len(begun) == 2


@pytest.mark.parametrize("where", ["step", "handler"])
async def test_an_error_of_megabytes_is_shortened(client: Client, where: str) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> None:
        def fail() -> None:
            raise ValueError("first words " + "x" * 5_000_000 + " last words")

        if where == "step":
            await ctx.step.run("fail", fail)
        fail()

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await asyncio.wait_for(app.run(fn), 60)
    error = failure_of(raised.value)
    assert error.message.startswith("first words xxx")
    assert error.message.endswith("xxx last words")
    assert len(error.message) < 100_000


@pytest.mark.parametrize("case", ["constructor", "async", "unserializable"])
async def test_middleware_that_cannot_work_fails_the_run(client: Client, case: str) -> None:
    """It is not tried again and again inside a workflow task."""

    class Broken(inngest.MiddlewareSync):
        def __init__(self, *_: object) -> None:
            if case == "constructor":
                raise ValueError("no key")

        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            result.output = object()

    middleware: Any = inngest.Middleware if case == "async" else Broken

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=1, middleware=[middleware])
    def fn(ctx: inngest.ContextSync) -> None: ...

    async with running(client, fn) as app:
        with pytest.raises(WorkflowFailureError) as raised:
            await asyncio.wait_for(app.run(fn), 60)
    names = {
        "constructor": "ValueError",
        "async": "AsyncUnsupportedError",
        "unserializable": "OutputUnserializableError",
    }
    assert failure_of(raised.value).type == names[case]


async def test_a_retried_step_sends_no_event_twice_where_steps_need_permits(client: Client) -> None:
    received: list[str] = []
    attempts: list[int] = []

    class Flaky(inngest.MiddlewareSync):
        def after_send_events(self, result: inngest.SendEventsResult) -> None:
            attempts.append(1)
            if len(attempts) < 3:
                raise ConnectionError("after it was sent")

    inngest_client = new_client()

    @inngest_client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="other"))
    async def other(ctx: inngest.Context) -> None:
        received.append(ctx.event.id)

    limits = [inngest.Concurrency(limit=5)]

    @inngest_client.create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=limits, middleware=[Flaky]
    )
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.send_event("send", inngest.Event(name="other"))

    async with running(client, fn, other) as app:
        ids = await app.run(fn)
        await until(lambda: received)
        assert len(attempts) == 3
        # Once the last one has been routed, so have all before it.
        await app.run_of(other, await app.send("other")).result()
    assert received[0] == ids[0]
    assert len(received) == 2


async def test_a_step_that_needs_a_permit_is_executed_again_after_its_worker_stopped(
    client: Client,
) -> None:
    begun: list[int] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=5)], retries=1
    )
    async def fn(ctx: inngest.Context) -> Any:
        async def work() -> int:
            begun.append(ctx.attempt)
            if len(begun) == 1:
                await asyncio.Event().wait()
            return len(begun)

        return await ctx.step.run("work", work)

    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await until(lambda: begun)
    async with running(client, fn):
        assert await asyncio.wait_for(run.result(), 60) == 2
    assert begun == [0, 1]


async def test_parallel_steps_that_wait_for_permits_ask_again_once_for_all(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each asked for itself, the history would fill up, and the lock would be asked for each as
    often as there are others."""
    monkeypatch.setattr(admission, "FIRST_RETRY", 0.1)
    monkeypatch.setattr(admission, "LONGEST_RETRY", 0.1)
    asked: list[tuple[int, int]] = []
    call = admission.Admission._call

    async def recorded(self: admission.Admission, locks: list[Any]) -> dict[str, str]:
        asked.append((max(len(each.acquire) for each in locks), len(locks[0].again)))
        return await call(self, locks)

    monkeypatch.setattr(admission.Admission, "_call", recorded)
    steps, retries = 8, 2

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=1)]
    )
    async def fn(ctx: inngest.Context) -> Any:
        async def hold() -> None:
            await until(lambda: sum(again > 0 for _, again in asked) >= retries)

        holding = ctx.step.run("hold", hold)
        return len(
            await asyncio.gather(
                holding, *(ctx.step.run(f"{n}", lambda: None) for n in range(steps - 1))
            )
        )

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        assert await run.result() == steps
        history = await run.fetch_history()
    assert max(new for new, _ in asked) <= steps
    assert max(again for _, again in asked) == steps - 1
    timers = [event for event in history.events if event.HasField("timer_started_event_attributes")]
    assert len(timers) <= steps + len(asked)


async def test_a_step_in_a_finally_is_not_executed_beside_the_one_before_it(client: Client) -> None:
    executed: list[str] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    def fn(ctx: inngest.ContextSync) -> Any:
        def slow() -> str:
            executed.append("begins")
            time.sleep(0.5)
            executed.append("ends")
            return "done"

        def branch() -> str:
            try:
                return ctx.step.run("slow", slow)
            finally:
                ctx.step.run("cleanup", executed.append, "cleanup")

        return ctx.group.parallel((branch, lambda: ctx.step.run("other", lambda: "other")))

    async with running(client, fn) as app:
        assert await app.run(fn) == ["done", "other"]
    assert executed == ["begins", "ends", "cleanup"]


async def test_an_error_without_a_message_has_none(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        def fail() -> None:
            raise ValueError

        try:
            await ctx.step.run("fail", fail)
        except inngest.StepError as error:
            if ctx.event.data["caught"]:
                return [error.name, error.message]
            raise

    async with running(client, fn) as app:
        assert await app.run(fn, {"caught": True}) == ["ValueError", ""]
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run(fn, {"caught": False})
    assert error_of(failure_of(raised.value)).message == ""


@pytest.mark.parametrize("in_step", [True, False])
async def test_a_run_shows_the_error_that_its_failed_event_has(
    client: Client, in_step: bool
) -> None:
    """An error of a step that has used up its attempts forbids further ones of the handler."""
    reported: list[Any] = []

    async def on_failure(ctx: inngest.Context) -> None:
        reported.append(ctx.event.data["error"])

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0, on_failure=on_failure)
    async def fn(ctx: inngest.Context) -> None:
        def fail() -> None:
            raise ValueError("boom")

        if in_step:
            await ctx.step.run("fail", fail)
        fail()

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        with pytest.raises(WorkflowFailureError):
            await run.result()
        await until(lambda: reported)
    found = await runs.load(client, run.id)
    assert found is not None
    assert found.error is not None
    assert standard_error(found.error) == reported[0]
    assert reported[0]["error"] == ("NonRetriableError" if in_step else "invalid status code: 500")


async def test_an_output_at_the_limit_of_nesting_ends_the_run(client: Client) -> None:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0)
    def fn(ctx: inngest.ContextSync) -> Any:
        nested: list[Any] = []
        for _ in range(int(ctx.event.data["depth"])):  # type: ignore[call-overload]
            nested = [nested]
        return nested

    async with running(client, fn) as app:
        limit = sys.getrecursionlimit()
        for depth in range(limit - 80, limit, 8):
            with contextlib.suppress(WorkflowFailureError):
                await asyncio.wait_for(app.run(fn, {"depth": depth}), 60)
