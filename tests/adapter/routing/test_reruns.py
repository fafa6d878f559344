"""Runs that are run again, from the beginning and from a step."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

import inngest_temporal as inngest
from inngest_temporal.drivers.local import hashed
from inngest_temporal.errors import (
    FunctionNotFoundError,
    RerunRefusedError,
    RunNotFoundError,
)
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Snapshot
from inngest_temporal.routing.reruns import FromStep, rerun
from inngest_temporal.temporal import names
from inngest_temporal.traces.models import Trace
from inngest_temporal.traces.reading import load_trace
from tests.harness import TRIGGER, App, new_client, registered, running, until


@pytest.fixture(scope="session")
def temporal_address(scheduling_address: str) -> str:
    """A server that executes schedules."""
    return scheduling_address


Handler = Callable[[inngest.Context], Awaitable[Any]]


def function(handler: Handler, **options: Any) -> inngest.Function[Any]:
    return new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)(handler)


class Bodies:
    """Counts the bodies that are executed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def of(self, name: str, value: Any = None) -> Callable[[], Any]:
        def body() -> Any:
            self.counts[name] += 1
            return name.upper() if value is None else value

        return body

    def taken(self) -> dict[str, int]:
        """The counts since the last call."""
        taken, self.counts = dict(self.counts), Counter()
        return taken


async def again(app: App, run_id: str, step: str | None = None, **options: Any) -> str:
    snapshot = app.router.snapshot
    assert snapshot is not None
    from_step = None if step is None else FromStep(step, options.pop("input", None))
    return await rerun(app.client, snapshot, run_id, from_step=from_step, **options)


async def result(app: App, run_id: str) -> Any:
    return await app.client.get_workflow_handle(run_id).result()


async def failed(app: App, fn: inngest.Function[Any], **data: Any) -> str:
    """Have a run fail, and return its id."""
    run = app.run_of(fn, await app.send("test/event", data))
    with pytest.raises(WorkflowFailureError):
        await run.result()
    return run.id


async def trace_of(app: App, run_id: str) -> Trace:
    trace = await load_trace(app.client, run_id)
    assert trace is not None
    assert trace.notes == ()
    return trace


async def test_a_rerun_has_the_same_event_and_names_its_original(client: Client) -> None:
    bodies = Bodies()

    async def handler(ctx: inngest.Context) -> Any:
        return [await ctx.step.run("a", bodies.of("a")), ctx.event.data, ctx.run_id]

    fn = function(handler)
    async with running(client, fn) as app:
        event = await app.send("test/event", {"n": 1})
        first = app.run_of(fn, event)
        await first.result()
        second = await again(app, first.id)
        assert second != first.id
        assert await result(app, second) == ["A", {"n": 1}, second]
        third = await again(app, second)
        await result(app, third)
        assert bodies.taken() == {"a": 3}
        described = await client.get_workflow_handle(third).describe()
        assert await described.memo_value(names.ORIGINAL_MEMO) == second
        assert await described.memo_value(names.EVENTS_MEMO) == [event.internal_id]
        # The event's id finds all of them.
        prefix = events.run_prefix(event.internal_id)
        assert {first.id[: len(prefix)], second[: len(prefix)]} == {prefix}
        trace = await trace_of(app, second)
        assert (trace.original_run, trace.from_step) == (first.id, None)
        assert (await trace_of(app, first.id)).original_run is None


async def test_reruns_with_the_same_key_are_one_run(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> None: ...

    fn = function(handler)
    async with running(client, fn) as app:
        first = app.run_of(fn, await app.send("test/event"))
        second = app.run_of(fn, await app.send("test/event"))
        ids = {await again(app, first.id, key="k") for _ in range(3)}
        assert len(ids) == 1
        assert await again(app, first.id, key="other") not in ids
        assert await again(app, second.id, key="k") not in ids
        assert await again(app, first.id) != await again(app, first.id)
        with pytest.raises(RerunRefusedError):
            await again(app, first.id, key="")


async def test_a_rerun_from_a_step_does_not_repeat_the_steps_before_it(client: Client) -> None:
    """This holds across a deploy that changed the step and those after it."""
    bodies = Bodies()

    async def before(ctx: inngest.Context) -> Any:
        first = await ctx.step.run("first", bodies.of("first"))
        await ctx.step.sleep("nap", 10)
        both = await asyncio.gather(
            ctx.step.run("left", bodies.of("left")), ctx.step.run("right", bodies.of("right"))
        )

        def broken() -> None:
            bodies.of("broken")()
            raise inngest.NonRetriableError("not deployed yet")

        await ctx.step.run("charge", broken)
        return [first, both]

    async def after(ctx: inngest.Context) -> Any:
        first = await ctx.step.run("first", bodies.of("first"))
        await ctx.step.sleep("nap", 10)
        both = await asyncio.gather(
            ctx.step.run("left", bodies.of("left")), ctx.step.run("right", bodies.of("right"))
        )
        charged = await ctx.step.run("charge", bodies.of("charge"))
        return [first, *both, charged, await ctx.step.run("new", bodies.of("new"))]

    async with running(client, function(before)) as app:
        run_id = await failed(app, app.functions[0])
    assert bodies.taken() == {"first": 1, "left": 1, "right": 1, "broken": 1}
    async with running(client, function(after)) as app:
        new = await again(app, run_id, "charge")
        assert await result(app, new) == ["FIRST", "LEFT", "RIGHT", "CHARGE", "NEW"]
        assert bodies.taken() == {"charge": 1, "new": 1}
        trace = await trace_of(app, new)
        assert trace.from_step == hashed("charge")
        kept = [step.name for step in trace.steps if step.from_original]
        assert sorted(kept) == ["first", "left", "nap", "right"]
        assert all(not step.attempts for step in trace.steps if step.from_original)
        # A rerun of the rerun has all steps to choose from.
        last = await again(app, new, hashed("new"))
        assert await result(app, last) == ["FIRST", "LEFT", "RIGHT", "CHARGE", "NEW"]
        assert bodies.taken() == {"new": 1}
        everything = await again(app, last)
        await result(app, everything)
        assert bodies.taken() == {"first": 1, "left": 1, "right": 1, "charge": 1, "new": 1}


async def test_a_rerun_from_a_step_that_succeeded_repeats_it_and_those_after_it(
    client: Client,
) -> None:
    bodies = Bodies()

    async def handler(ctx: inngest.Context) -> Any:
        return [await ctx.step.run(name, bodies.of(name)) for name in ("a", "b", "c")]

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        bodies.taken()
        for step, expected in (("a", "abc"), ("b", "bc"), ("c", "c")):
            assert await result(app, await again(app, run.id, step)) == ["A", "B", "C"]
            assert bodies.taken() == dict.fromkeys(expected, 1)


async def test_a_handler_that_is_not_async_is_rerun_from_a_step(client: Client) -> None:
    bodies = Bodies()

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    def fn(ctx: inngest.ContextSync) -> Any:
        return [
            ctx.step.run("a", bodies.of("a")),
            ctx.step.run("b", lambda n: (bodies.of("b")(), n)[1], 1),
            ctx.step.run("c", bodies.of("c")),
        ]

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        bodies.taken()
        new = await again(app, run.id, "b", input=[[2]])
        assert await result(app, new) == ["A", [2], "C"]
        assert bodies.taken() == {"b": 1, "c": 1}


async def test_a_rerun_from_a_step_keeps_errors_and_what_waits_returned(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        def bad() -> None:
            raise ValueError("bad")

        try:
            await ctx.step.run("bad", bad)
        except inngest.StepError as error:
            caught = [type(error).__name__, error.name, error.message]
        event = await ctx.step.wait_for_event("event", event="test/go", timeout=60_000)
        none = await ctx.step.wait_for_event("none", event="test/never", timeout=10)
        child = await ctx.step.invoke("child", function=other, data={"n": 3})
        last = await ctx.step.run("last", lambda: 1)
        return [caught, event and event.data, none, child, last]

    app_client = new_client()
    fn = app_client.create_function(fn_id="fn", trigger=TRIGGER, retries=1)(handler)

    @app_client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="test/other"))
    async def other(ctx: inngest.Context) -> Any:
        return ctx.event.data["n"]

    async with running(client, fn, other) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run, 2)  # after the retry of the step
        await app.send("test/go", {"x": 1})
        first = await run.result()
        assert first == [["StepError", "ValueError", "bad"], {"x": 1}, None, 3, 1]
        new = await again(app, run.id, "last")
        assert await result(app, new) == first
        history = await client.get_workflow_handle(new).fetch_history()
    # There is no timer, so the run waited for nothing.
    assert not any(e.HasField("timer_started_event_attributes") for e in history.events)


async def test_the_input_of_a_step_is_replaced(client: Client) -> None:
    seen: list[Any] = []

    async def handler(ctx: inngest.Context) -> Any:
        async def charge(amount: int, currency: str = "EUR") -> str:
            seen.append((amount, currency))
            if amount < 0 or ctx.attempt == 0:
                raise ValueError(f"can't charge {amount}")
            return f"{amount} {currency}"

        await ctx.step.run("before", lambda: None)
        first = await ctx.step.run("charge", charge, -1)
        return [first, await ctx.step.run("charge", charge, 7)]

    fn = function(handler, retries=1)
    async with running(client, fn) as app:
        run_id = await failed(app, fn)
        seen.clear()
        new = await again(app, run_id, hashed("charge"), input=[5, "USD"])
        assert await result(app, new) == ["5 USD", "7 EUR"]
        # The new input is for both attempts, but not for the next step of the same name.
        assert seen == [(5, "USD"), (5, "USD"), (7, "EUR"), (7, "EUR")]
        trace = await trace_of(app, new)
        inputs = {step.id: step.input for step in trace.steps}
        assert inputs[hashed("charge")] == [5, "USD"]
        assert inputs[hashed("charge", 1)] is None


async def test_an_input_that_does_not_fit_the_step_is_an_error(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        await ctx.step.send_event("send", inngest.Event(name="test/nobody"))
        await ctx.step.sleep("nap", 10)
        await ctx.step.run("run", lambda: None)

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        with pytest.raises(RerunRefusedError, match=r"not a step\.run"):
            await again(app, run.id, "nap", input=[1])
        for step in ("send", "run"):
            new = client.get_workflow_handle(await again(app, run.id, step, input=[1, 2]))
            with pytest.raises(WorkflowFailureError) as caught:
                await new.result()
            assert "input" in str(caught.value.cause) or "argument" in str(caught.value.cause)


async def test_a_rerun_that_is_impossible_is_refused(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        for _ in range(2):
            await ctx.step.run("twice", lambda: None)
        if ctx.event.data.get("big"):
            for n in range(2):
                await ctx.step.run(f"big {n}", lambda: "x" * 1_000_000)
        await ctx.step.run("last", lambda: None)

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        for run_id in ("01HZZZZZZZZZZZZZZZZZZZZZZZ", "inngest:registry", "", "x" * 2_000):
            with pytest.raises(RunNotFoundError):
                await again(app, run_id)
        with pytest.raises(RerunRefusedError, match="no step"):
            await again(app, run.id, "nothing of that name")
        with pytest.raises(RerunRefusedError, match=hashed("twice", 1)):
            await again(app, run.id, "twice")
        with pytest.raises(FunctionNotFoundError, match="app-fn"):
            await rerun(client, Snapshot(), run.id)
        big = app.run_of(fn, await app.send("test/event", {"big": True}))
        await big.result()
        with pytest.raises(RerunRefusedError, match="earlier step"):
            await again(app, big.id, "last")
        await result(app, await again(app, big.id, "big 1"))


async def test_a_rerun_keeps_to_a_concurrency_limit(client: Client) -> None:
    """A rate limit and a singleton that skips do not count."""
    under_way: list[int] = []

    async def handler(ctx: inngest.Context) -> None:
        async def body() -> None:
            under_way.append(1)
            await asyncio.sleep(0.2)
            assert len(under_way) == 1
            under_way.pop()

        await ctx.step.run("body", body)

    fn = function(
        handler,
        retries=0,
        concurrency=[inngest.Concurrency(limit=1)],
        rate_limit=inngest.RateLimit(limit=1, period=3_600_000),
    )
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        ids = await asyncio.gather(*(again(app, run.id) for _ in range(4)))
        await asyncio.gather(*(result(app, id) for id in ids))

    async def waits(ctx: inngest.Context) -> None:
        await ctx.step.wait_for_event("go", event="test/go", timeout=60_000)

    single = new_client().create_function(
        fn_id="single",
        trigger=inngest.TriggerEvent(event="test/single"),
        singleton=inngest.Singleton(mode="skip"),
    )(waits)
    async with running(client, single) as app:
        first = app.run_of(single, await app.send("test/single"))
        await registered(first, 2)
        second = client.get_workflow_handle(await again(app, first.id))
        await registered(second)
        await app.send("test/go")
        await asyncio.gather(first.result(), second.result())
        assert (await trace_of(app, second.id)).status == "Completed"


async def test_a_rerun_of_an_invoked_run_does_not_answer_its_invoker(client: Client) -> None:
    outputs = iter(["first", "second"])

    async def handler(ctx: inngest.Context) -> Any:
        value = await ctx.step.invoke("child", function=child)
        await ctx.step.wait_for_event("go", event="test/go", timeout=60_000)
        return value

    app_client = new_client()
    fn = app_client.create_function(fn_id="fn", trigger=TRIGGER)(handler)

    @app_client.create_function(fn_id="child", trigger=inngest.TriggerEvent(event="test/never"))
    async def child(ctx: inngest.Context) -> Any:
        return next(outputs)

    async with running(client, fn, child) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run, 2)
        [step] = [s for s in (await trace_of(app, run.id)).steps if s.kind == "invoke"]
        assert step.invoked_run is not None
        new = await again(app, step.invoked_run)
        assert await result(app, new) == "second"
        assert (await trace_of(app, new)).invoked_by is None
        await app.send("test/go")
        assert await run.result() == "first"
        history = await run.fetch_history()
    invoked = [
        event
        for event in history.events
        if event.workflow_execution_signaled_event_attributes.signal_name == "invoked"
    ]
    assert len(invoked) == 1


async def test_a_rerun_of_a_batch_has_all_its_events(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        return [event.data["n"] for event in ctx.events]

    fn = function(handler, batch_events=inngest.Batch(max_size=3, timeout=60_000))
    async with running(client, fn) as app:
        sent = [await app.send("test/event", {"n": n}) for n in range(3)]
        run = client.get_workflow_handle(events.batch_run_id(fn.id, sent[0].internal_id))
        await until(lambda: load_trace(client, run.id))
        assert await run.result() == [0, 1, 2]
        new = await again(app, run.id)
        assert await result(app, new) == [0, 1, 2]
        trace = await trace_of(app, new)
        assert trace.is_batch
        assert trace.event_ids == tuple(one.internal_id for one in sent)


async def test_a_rerun_of_a_cron_run_has_the_same_event(client: Client) -> None:
    fn = new_client().create_function(fn_id="cron", trigger=inngest.TriggerCron(cron="0 0 1 1 *"))(
        _cron
    )
    async with running(client, fn) as app:
        schedule = names.schedule_id("app", fn.id, "0 0 1 1 *")

        async def triggered() -> bool:
            try:
                await client.get_schedule_handle(schedule).trigger()
            except RPCError:
                return False
            return True

        await until(triggered)
        found = await until(lambda: _first(client, fn.id))
        first = await client.get_workflow_handle(found).result()
        new = await again(app, found)
        assert await result(app, new) == first
        assert (await trace_of(app, new)).is_cron


async def _cron(ctx: inngest.Context) -> Any:
    return ctx.event.data


async def _first(client: Client, function_id: str) -> str | None:
    async for run in client.list_workflows(f"WorkflowType = '{function_id}'"):
        return run.id
    return None


async def test_a_rerun_of_a_run_that_is_scheduled_for_later_starts_now(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        return ctx.event.ts

    fn = function(handler)
    async with running(client, fn) as app:
        one = events.stamp({"name": "test/event", "data": {}})
        late = events.Stamped({**one.event, "ts": one.event["ts"] + 3_600_000}, one.internal_id)
        await app.router.route([late])
        run = app.run_of(fn, late)
        assert (await trace_of(app, run.id)).status == "Scheduled"
        assert await result(app, await again(app, run.id)) == late.event["ts"]
        await run.cancel()


async def test_a_run_that_is_under_way_and_one_that_was_terminated_can_be_rerun(
    client: Client,
) -> None:
    bodies = Bodies()

    async def handler(ctx: inngest.Context) -> Any:
        value = await ctx.step.run("a", bodies.of("a"))
        await ctx.step.wait_for_event("go", event="test/go", timeout=60_000)
        return value

    fn = function(handler)
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        second = client.get_workflow_handle(await again(app, run.id, "go"))
        await registered(second)
        await run.terminate()
        third = client.get_workflow_handle(await again(app, run.id, "go"))
        await registered(third)
        await app.send("test/go")
        assert await asyncio.gather(second.result(), third.result()) == ["A", "A"]
    assert bodies.taken() == {"a": 1}


async def test_a_rerun_does_not_repeat_a_step_that_ended_after_its_run_was_cancelled(
    client: Client,
) -> None:
    """The run has no memo of that step."""
    bodies, started, gate = Bodies(), asyncio.Event(), threading.Event()

    async def handler(ctx: inngest.Context) -> Any:
        def work() -> str:
            started_soon()
            gate.wait(30)
            return str(bodies.of("work")())

        both = await asyncio.gather(
            ctx.step.run("work", asyncio.to_thread, work),
            ctx.step.wait_for_event("go", event="test/go", timeout=60_000),
        )
        return both[0]

    loop = asyncio.get_running_loop()

    def started_soon() -> None:
        loop.call_soon_threadsafe(started.set)

    fn = function(handler, concurrency=[inngest.Concurrency(limit=2)])
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await started.wait()
        await run.cancel()
        gate.set()
        with pytest.raises(WorkflowFailureError):
            await run.result()
        [work] = [step for step in (await trace_of(app, run.id)).steps if step.name == "work"]
        has_ended = work.status == "Completed"  # otherwise it was interrupted, and nobody can tell
        bodies.taken()
        new = client.get_workflow_handle(await again(app, run.id, "go"))
        await until(lambda: _waits_for_go(app, new.id))
        await app.send("test/go")
        assert await new.result() == "WORK"
    assert bodies.taken() == ({} if has_ended else {"work": 1})


async def _waits_for_go(app: App, run_id: str) -> bool:
    steps = {step.name: step.status for step in (await trace_of(app, run_id)).steps}
    history = await app.client.get_workflow_handle(run_id).fetch_history()
    has_timer = any(e.HasField("timer_started_event_attributes") for e in history.events)
    return steps.get("go") == "Waiting" and has_timer


async def test_what_cancels_a_run_cancels_its_rerun(client: Client) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        await ctx.step.sleep("long", 3_600_000)

    fn = function(handler, cancel=[inngest.Cancel(event="test/stop")])
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        new = client.get_workflow_handle(await again(app, run.id))
        await registered(new)
        await app.send("test/stop")
        for each in (run, new):
            with pytest.raises(WorkflowFailureError):
                await each.result()
        assert (await trace_of(app, new.id)).status == "Cancelled"


async def test_a_rerun_keeps_its_memos_when_a_worker_is_lost(client: Client) -> None:
    """Another worker finds them in the run's input."""
    bodies, gate = Bodies(), asyncio.Event()

    async def handler(ctx: inngest.Context) -> Any:
        a = await ctx.step.run("a", bodies.of("a"))
        await ctx.step.run("b", gate.wait)
        await ctx.step.sleep("nap", 10)
        return [a, await ctx.step.run("c", bodies.of("c"))]

    fn = function(handler)
    async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
        gate.set()
        run = app.run_of(fn, await app.send("test/event"))
        await run.result()
        gate.clear()
        bodies.taken()
        new = await again(app, run.id, "b")

        async def is_at_b() -> bool:
            trace = await trace_of(app, new)
            return any(step.name == "b" and step.attempts for step in trace.steps)

        await until(is_at_b)
    gate.set()
    async with running(client, fn) as app:
        async with asyncio.timeout(timedelta(seconds=90).total_seconds()):
            assert await result(app, new) == ["A", "C"]
    assert bodies.taken() == {"c": 1}
