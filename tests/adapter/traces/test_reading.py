"""Traces of runs on a real server, ended and under way."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.converter import PayloadCodec

import inngest_temporal as inngest
from inngest_temporal.routing import signals
from inngest_temporal.traces.codec import decode
from inngest_temporal.traces.models import Trace, TraceStep
from inngest_temporal.traces.reading import load_trace
from tests.adapter.traces.test_recorded_histories import memos_of
from tests.hand_app import Answered, Call, complete, hand_app, ops, step_run
from tests.harness import TRIGGER, App, new_client, registered, running, until
from tests.http_world import http_world

Handler = Callable[[inngest.Context], Awaitable[Any]]


def function(handler: Handler, **options: Any) -> inngest.Function[Any]:
    return new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)(handler)


async def loaded(client: Client, run: WorkflowHandle[Any, Any]) -> Trace:
    trace = await load_trace(client, run.id)
    assert trace is not None
    assert trace.run_id == run.id
    assert trace.complete
    return trace


async def ended(app: App, run: WorkflowHandle[Any, Any]) -> Trace:
    """The trace of a run, once the run has ended. Its memos are those that the run itself has."""
    try:
        await run.result()
    except WorkflowFailureError:
        pass
    trace = await loaded(app.client, run)
    assert trace.notes == ()
    answer = await run.query("memos", 0)
    assert memos_of(trace) == [(step, memo) for step, memo in answer["items"]]
    assert trace.ended_ms is not None
    assert all(step.ended_ms is not None for step in trace.steps)
    return trace


async def traced(
    client: Client, handler: Handler, data: dict[str, Any] | None = None, **options: Any
) -> Trace:
    """The trace of a function's only run."""
    fn = function(handler, **options)
    async with running(client, fn) as app:
        return await ended(app, app.run_of(fn, await app.send("test/event", data)))


def named(trace: Trace) -> dict[str, TraceStep]:
    return {step.name: step for step in trace.steps}


def statuses(trace: Trace) -> dict[str, str]:
    return {step.name: step.status for step in trace.steps}


async def test_a_chain_shows_each_step_in_order(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        for n in range(3):
            await ctx.step.run(f"step {n}", lambda n=n: n)
        await ctx.step.sleep("nap", 10)
        return await ctx.step.run("last", lambda: {"a": [1]})

    fn = function(handler)
    async with running(client, fn) as app:
        for _ in range(2):  # the second one's first step is in the first workflow task
            trace = await ended(app, app.run_of(fn, await app.send("test/event", {"n": 1})))
            assert trace.status == "Completed"
            assert trace.output == {"a": [1]}
            assert trace.function_id == fn.id
            assert trace.events[0]["data"] == {"n": 1}
            assert [step.name for step in trace.steps] == [
                "step 0",
                "step 1",
                "step 2",
                "nap",
                "last",
            ]
            assert set(statuses(trace).values()) == {"Completed"}
            assert [step.output for step in trace.steps] == [0, 1, 2, None, {"a": [1]}]
            starts = [step.started_ms for step in trace.steps]
            assert starts == sorted(starts)
            assert [len(step.attempts) for step in trace.steps] == [1, 1, 1, 0, 1]
            nap = named(trace)["nap"]
            assert nap.kind == "sleep"
            assert nap.input == {"duration_ms": 10}
            assert nap.deadline_ms is not None
            assert nap.started_ms < nap.deadline_ms
    first = trace.steps[0].attempts[0]
    assert first.started_ms is not None
    assert trace.started_ms is not None
    assert trace.queued_ms <= trace.started_ms <= first.started_ms + 1


class Sealing(PayloadCodec):
    """Hides what payloads hold, and refuses what it has not made."""

    def __init__(self) -> None:
        self.broken = False

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"sealed"}, data=each.SerializeToString()[::-1])
            for each in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        if self.broken or any(each.metadata["encoding"] != b"sealed" for each in payloads):
            raise RuntimeError("no key")
        return [Payload.FromString(each.data[::-1]) for each in payloads]


async def test_what_a_clients_codec_has_encoded_is_read(client: Client) -> None:
    codec = Sealing()
    converter = dataclasses.replace(client.data_converter, payload_codec=codec)
    sealed = Client(**{**client.config(), "data_converter": converter})  # type: ignore[misc]
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def handler(ctx: inngest.Context) -> Any:
        await ctx.step.sleep("nap", 10)
        await ctx.step.run("first", lambda: {"card": 4242})

        async def slow() -> None:
            reached.set()
            await go_on.wait()

        await ctx.step.run("slow", slow)
        return "paid"

    fn = function(handler)
    async with running(sealed, fn) as app:
        run = app.run_of(fn, await app.send("test/event", {"secret": 1}))
        await reached.wait()

        async def under_way() -> bool:
            steps = named(await loaded(sealed, run))
            return "slow" in steps and steps["first"].output == {"card": 4242}

        await until(under_way)  # from a heartbeat
        go_on.set()
        trace = await ended(app, run)
    assert trace.events[0]["data"] == {"secret": 1}
    assert trace.output == "paid"
    assert statuses(trace) == dict.fromkeys(("nap", "first", "slow"), "Completed")

    codec.broken = True
    trace = await loaded(sealed, run)
    assert trace.status == "Completed"
    assert trace.output is None
    assert "a payload has encoding sealed, not json/plain." in trace.notes[0]
    assert "4242" not in repr(await loaded(client, run))


async def test_a_codec_that_answers_too_late_leaves_what_it_has_not_decoded(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Sealing):
        async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
            await asyncio.Event().wait()
            return []

    monkeypatch.setattr("inngest_temporal.traces.codec.DECODE_SECONDS", 0.05)
    [first, second] = await Sealing().encode([Payload(data=b"1"), Payload(data=b"2")])
    history = HistoryEvent()
    history.workflow_execution_completed_event_attributes.result.payloads.extend([first, second])
    before = history.SerializeToString()
    await decode(Slow(), [history])
    assert history.SerializeToString() == before


async def test_parallel_steps_are_all_shown(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        found = await asyncio.gather(
            *(ctx.step.run(f"p{n}", asyncio.sleep, 0.001, n) for n in range(5)),
            ctx.step.sleep("nap", 50),
        )
        return [found, await ctx.step.run("after", lambda: None)]

    fn = function(handler)
    async with running(client, fn) as app:
        for _ in range(3):  # later ones execute them together
            trace = await ended(app, app.run_of(fn, await app.send("test/event")))
            assert set(statuses(trace).values()) == {"Completed"}
            assert len(trace.steps) == 7
            assert named(trace)["p3"].output == 3


async def test_retries_show_each_attempt_with_its_error(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        def flaky() -> int:
            if ctx.attempt < 2:
                raise ValueError(f"attempt {ctx.attempt}")
            return ctx.attempt

        await ctx.step.run("fine", lambda: None)
        value = await ctx.step.run("flaky", flaky)
        if ctx.attempt == 0:
            raise LookupError("the handler itself")
        return value

    trace = await traced(client, handler, retries=3)
    flaky = named(trace)["flaky"]
    assert flaky.status == "Completed"
    assert flaky.error is None
    assert [attempt.number for attempt in flaky.attempts] == [0, 1, 2]
    errors = [attempt.error and attempt.error.message for attempt in flaky.attempts]
    assert errors == ["attempt 0", "attempt 1", None]
    assert flaky.attempts[0].retry_at_ms is not None
    assert flaky.attempts[0].error is not None
    assert "raise ValueError" in (flaky.attempts[0].error.stack or "")
    assert [attempt.number for attempt in trace.attempts] == [0, 1]
    assert trace.attempts[0].error is not None
    assert trace.attempts[0].error.message == "the handler itself"
    assert trace.attempts[1].error is None
    assert trace.retries == 3


async def test_a_step_over_http_that_is_tried_again_is_under_way(client: Client) -> None:
    error = {"name": "Error", "message": "nope"}
    going_on = asyncio.Event()
    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            if call.ctx["attempt"] == 0:
                return ops({**step_run("flaky"), "op": "StepError", "error": error})
            await going_on.wait()
            return ops(step_run("flaky", 1), complete())

        async with hand_app(world, behaviour) as app:
            event = await world.send("hand/fn")
            await until(lambda: len(app.calls) == 2)
            trace = await loaded(client, client.get_workflow_handle(app.calls[0].run))
            [step] = trace.steps
            assert (step.name, step.status, trace.attempts) == ("flaky", "Running", ())
            assert step.error is not None
            assert step.error.message == "nope"
            assert [(each.number, each.ended_ms is None) for each in step.attempts] == [
                (0, False),
                (1, True),
            ]
            going_on.set()
            [run] = await world.runs(event)
        trace = await loaded(client, client.get_workflow_handle(run["run_id"]))
    [step] = trace.steps
    assert (step.status, step.error, trace.attempts) == ("Completed", None, ())
    assert [(each.number, each.error is None) for each in step.attempts] == [(0, False), (1, True)]


async def test_a_failed_run_shows_its_error_and_those_of_its_steps(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        def bad() -> None:
            raise ValueError("bad")

        try:
            await ctx.step.run("bad", bad)
        except inngest.StepError:
            await ctx.step.run("amends", lambda: None)
        raise inngest.NonRetriableError("no way")

    trace = await traced(client, handler, retries=1)
    assert trace.status == "Failed"
    assert trace.error is not None
    assert (trace.error.name, trace.error.message) == ("NonRetriableError", "no way")
    assert not trace.error.retriable
    assert statuses(trace) == {"bad": "Failed", "amends": "Completed"}
    bad = named(trace)["bad"]
    assert bad.error is not None
    assert bad.error.message == "bad"
    assert [attempt.number for attempt in bad.attempts] == [0, 1]


async def test_waits_show_what_ended_them(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        found = await ctx.step.wait_for_event(
            "found", event=["test/a", "test/b"], timeout=60_000, if_exp="async.data.x == 1"
        )
        one = await ctx.step.wait_for_event("one", event="test/c", timeout=60_000)
        never = await ctx.step.wait_for_event("never", event="test/never", timeout=10)
        signal = await ctx.step.wait_for_signal("signal", signal="s", timeout=60_000)
        silence = await ctx.step.wait_for_signal("silence", signal="s2", timeout=10)
        return [found is not None, one is not None, never, signal and signal.data, silence]

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        trace = await loaded(client, run)
        assert trace.status == "Running"
        assert statuses(trace) == {"found": "Waiting"}
        assert trace.steps[0].input == {
            "events": ["test/a", "test/b"],
            "if": "async.data.x == 1",
            "timeout_ms": 60_000,
        }
        assert trace.steps[0].ended_ms is None
        await app.send("test/b", {"x": 1})
        await registered(run, 2)
        await app.send("test/c")
        await registered(run, 4)
        await signals.send(client, "s", 5)
        trace = await ended(app, run)
    assert trace.output == [True, True, None, 5, None]
    assert statuses(trace) == {
        "found": "Completed",
        "one": "Completed",
        "never": "TimedOut",
        "signal": "Completed",
        "silence": "TimedOut",
    }
    found = named(trace)["found"].event
    assert found is not None
    assert (found["name"], found["data"]) == ("test/b", {"x": 1})


async def test_invocations_show_the_invoked_run(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        value = await ctx.step.invoke("child", function=child, data={"n": 2})
        errors = []
        for name, options in (("bad", {}), ("nobody", {}), ("slow", {"timeout": 10})):
            try:
                await ctx.step.invoke_by_id(name, function_id=name, data={}, **options)
            except inngest.StepError as error:
                errors.append(error.message)
        return [value, errors]

    app_client = new_client()
    never = inngest.TriggerEvent(event="test/never")

    @app_client.create_function(fn_id="child", trigger=never)
    async def child(ctx: inngest.Context) -> Any:
        return ctx.event.data["n"]

    @app_client.create_function(fn_id="bad", trigger=never, retries=0)
    async def bad(ctx: inngest.Context) -> Any:
        raise inngest.NonRetriableError("bad child")

    @app_client.create_function(fn_id="slow", trigger=never)
    async def slow(ctx: inngest.Context) -> Any:
        await ctx.step.sleep("long", 60_000)

    fn = function(handler)
    async with running(client, fn, child, bad, slow) as app:
        trace = await ended(app, app.run_of(fn, await app.send("test/event")))
        assert statuses(trace) == {
            "child": "Completed",
            "bad": "Failed",
            "nobody": "Failed",
            "slow": "TimedOut",
        }
        step = named(trace)["child"]
        assert step.output == 2
        assert step.input["function_id"] == "app-child"
        assert step.input["payload"] == {"data": {"n": 2}}
        assert step.invoked_run is not None
        invoked = await load_trace(client, step.invoked_run)
        assert invoked is not None
        assert invoked.invoked_by == trace.run_id
        assert invoked.function_id == "app-child"
        assert named(trace)["nobody"].invoked_run is None
        slow_run = named(trace)["slow"].invoked_run
        assert slow_run is not None
        await client.get_workflow_handle(slow_run).cancel()


async def test_admission_shows_the_locks_that_a_run_waits_for(client: Client) -> None:
    gate = asyncio.Event()

    async def handler(ctx: inngest.Context) -> Any:
        await ctx.step.run("held", gate.wait)

    fn = function(
        handler,
        concurrency=[inngest.Concurrency(limit=1, key="event.data.k")],
        throttle=inngest.Throttle(limit=10, period=60_000, burst=10),
    )
    async with running(client, fn) as app:
        first = app.run_of(fn, await app.send("test/event", {"k": "a"}))

        async def holds() -> bool:
            return (await loaded(client, first)).admission[1].admitted_ms is not None

        await until(holds)
        second = app.run_of(fn, await app.send("test/event", {"k": "a"}))

        async def waits() -> Trace | None:
            trace = await loaded(client, second)
            locks = {lock.kind: lock for lock in trace.admission}
            return trace if locks["step"].asked_ms is not None else None

        waiting: Trace = await until(waits)
        assert waiting.status == "Scheduled"
        assert waiting.started_ms is None
        throttle, step = waiting.admission
        assert (throttle.kind, step.kind) == ("throttle", "step")
        assert throttle.admitted_ms is not None
        assert step.admitted_ms is None
        assert (step.key, json.loads(step.value)) == ("event.data.k", "a")
        gate.set()
        await ended(app, first)
        trace = await ended(app, second)
    assert trace.admission[1].admitted_ms is not None
    assert trace.admission[1].waited_ms > 0
    assert trace.started_ms is not None
    assert trace.started_ms >= trace.admission[1].admitted_ms - 1


async def test_a_skipped_run_has_no_steps(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.wait_for_event("go", event="test/go", timeout=60_000)

    fn = function(handler, singleton=inngest.Singleton(mode="skip"))
    async with running(client, fn) as app:
        first = app.run_of(fn, await app.send("test/event"))
        await registered(first, 2)
        trace = await ended(app, app.run_of(fn, await app.send("test/event")))
        assert trace.status == "Skipped"
        assert trace.steps == ()
        assert trace.started_ms is None
        assert trace.admission[0].admitted_ms is None
        await app.send("test/go")
        await ended(app, first)


async def test_a_cancelled_run_shows_its_sleep_as_cancelled(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("before", lambda: 1)
        await ctx.step.sleep("long", 3_600_000)

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        trace = await loaded(client, run)
        assert statuses(trace) == {"before": "Completed", "long": "Sleeping"}
        await run.cancel()
        trace = await ended(app, run)
    assert trace.status == "Cancelled"
    assert statuses(trace) == {"before": "Completed", "long": "Cancelled"}
    assert trace.steps[1].ended_ms == trace.ended_ms


async def test_a_terminated_run_has_failed_with_the_reason(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", 3_600_000)

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        await run.terminate(reason="not wanted")
        trace = await loaded(client, run)
    assert trace.status == "Failed"
    assert trace.error is not None
    assert "not wanted" in trace.error.message
    assert statuses(trace) == {"long": "Cancelled"}


async def test_a_running_chain_shows_its_finished_steps(client: Client) -> None:
    gate = asyncio.Event()

    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("a", lambda: "A")
        await ctx.step.run("b", lambda: "B")
        await ctx.step.run("c", gate.wait)

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))

        async def is_at_the_last() -> Trace | None:
            trace = await loaded(client, run)
            return trace if statuses(trace).get("c") == "Running" else None

        trace: Trace = await until(is_at_the_last)
        assert trace.status == "Running"
        assert statuses(trace) == {"a": "Completed", "b": "Completed", "c": "Running"}
        assert named(trace)["b"].output == "B"
        [attempt] = named(trace)["c"].attempts
        assert attempt.started_ms is not None
        assert attempt.ended_ms is None
        gate.set()
        assert statuses(await ended(app, run)) == dict.fromkeys("abc", "Completed")


async def test_a_run_that_no_worker_has_taken_is_scheduled(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> None: ...

    fn = function(handler)
    async with running(client, fn) as app:
        router = app.router
    app = App(client, [fn], router)
    run = app.run_of(fn, await app.send("test/event", {"n": 1}))
    trace = await loaded(client, run)
    assert trace.status == "Scheduled"
    assert trace.events[0]["data"] == {"n": 1}
    assert trace.steps == ()
    async with running(client, fn) as app:
        assert (await ended(app, run)).status == "Completed"


async def test_a_lost_execution_is_an_attempt(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "inngest_temporal_workers.runs.executing.HEARTBEAT_TIMEOUT", timedelta(seconds=2)
    )
    started, gate = asyncio.Event(), asyncio.Event()

    async def handler(ctx: inngest.Context) -> Any:
        async def body() -> str:
            started.set()
            await gate.wait()
            return "done"

        await ctx.step.run("a", lambda: "A")
        return await ctx.step.run("b", body)

    fn = function(handler)
    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await started.wait()
    gate.set()
    async with running(client, fn) as app:
        trace = await ended(app, run)
    assert trace.output == "done"
    assert statuses(trace) == {"a": "Completed", "b": "Completed"}
    assert [attempt.number for attempt in named(trace)["b"].attempts] == [0, 1]


@pytest.mark.parametrize("run_id", ["01HZZZZZZZZZZZZZZZZZZZZZZZ", "nobody", "inngest:registry"])
async def test_a_workflow_that_is_not_a_run_has_no_trace(client: Client, run_id: str) -> None:
    async def handler(ctx: inngest.Context) -> None: ...

    async with running(client, function(handler)):
        assert await load_trace(client, run_id) is None


async def test_what_ends_during_a_look_ahead_comes_after_it(client: Client) -> None:
    """The order of memos is the run's: what ends during an execution that only looks ahead comes
    after that execution."""

    async def handler(ctx: inngest.Context) -> Any:
        async def branch(name: str) -> Any:
            first = await ctx.step.run(f"{name} 1", lambda: name)
            await ctx.step.sleep(f"{name} nap", 1)
            return [first, await ctx.step.run(f"{name} 2", asyncio.sleep, 0.01, name)]

        return await asyncio.gather(*map(branch, "abcd"))

    fn = function(handler)
    async with running(client, fn) as app:
        for _ in range(4):
            trace = await ended(app, app.run_of(fn, await app.send("test/event")))
            assert len(trace.steps) == 12
            assert set(statuses(trace).values()) == {"Completed"}


async def test_one_event_may_resume_several_waits(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        waits = [
            ctx.step.wait_for_event(f"wait {n}", event=event, timeout=60_000)
            for n in range(3)
            for event in (["test/a", "test/b"] if n == 1 else "test/a",)
        ]
        return len(await asyncio.gather(*waits))

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run, 3)
        await app.send("test/a")
        trace = await ended(app, run)
    assert trace.output == 3
    assert all(step.event is not None for step in trace.steps)


async def test_a_lost_step_of_a_run_that_needs_permits_is_an_attempt(client: Client) -> None:
    """A step that is under way in a chain when its worker stops has had an attempt."""
    started, gate = asyncio.Event(), asyncio.Event()

    async def handler(ctx: inngest.Context) -> Any:
        async def work() -> int:
            started.set()
            await gate.wait()
            return 2

        return await ctx.step.run("work", work)

    fn = function(handler, retries=1, concurrency=[inngest.Concurrency(limit=1)])
    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await started.wait()
    gate.set()
    async with running(client, fn) as app:
        trace = await ended(app, run)
    assert trace.output == 2
    [work] = trace.steps
    assert [attempt.number for attempt in work.attempts] == [0, 1]
    lost = work.attempts[0].error
    assert lost is not None
    assert lost.name == "WorkerLostError"


async def test_an_invoked_run_that_was_terminated_fails_the_invocation(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_CHECK", "LAST_ANSWER"):
        monkeypatch.setattr(
            f"inngest_temporal_workers.runs.waiting.{name}", timedelta(milliseconds=300)
        )

    async def handler(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.invoke("child", function=child)
        except inngest.StepError as error:
            return error.message

    app_client = new_client()
    fn = app_client.create_function(fn_id="fn", trigger=TRIGGER)(handler)

    @app_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="test/never"))
    async def child(ctx: inngest.Context) -> None:
        await ctx.step.sleep("long", 3_600_000)

    async with running(client, fn, child) as app:
        run = app.run_of(fn, await app.send("test/event"))

        async def invoked() -> str | None:
            steps = (await loaded(client, run)).steps
            return steps[0].invoked_run if steps else None

        child_run = client.get_workflow_handle(await until(invoked))
        await registered(child_run)
        await child_run.terminate()
        trace = await ended(app, run)
    assert trace.steps[0].status == "Failed"
    assert trace.steps[0].error is not None
    assert trace.output == trace.steps[0].error.message


async def test_a_step_that_ends_after_its_run_was_cancelled_is_shown(client: Client) -> None:
    """It was executed, and the trace says so; but the run has no memo of it."""
    started, gate = asyncio.Event(), asyncio.Event()

    async def handler(ctx: inngest.Context) -> None:
        async def work() -> int:
            started.set()
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
            return 1

        await ctx.step.run("before", lambda: None)
        await ctx.step.sleep("nap", 1)
        await asyncio.gather(ctx.step.run("work", work), ctx.step.sleep("long", 3_600_000))

    fn = function(handler, concurrency=[inngest.Concurrency(limit=1)])
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await started.wait()
        await run.cancel()
        gate.set()
        trace = await ended(app, run)
    assert trace.status == "Cancelled"
    assert trace.started_ms is not None
    shown = statuses(trace)
    assert (shown["before"], shown["nap"], shown["long"]) == ("Completed", "Completed", "Cancelled")
    assert shown["work"] in ("Completed", "Cancelled")
    assert named(trace)["work"].attempts
    assert named(trace)["work"].position is None
