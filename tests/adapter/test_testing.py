"""`inngest_temporal.testing`: functions run in-process, without a server."""

import asyncio
import datetime
from typing import Any

import pytest

import inngest_temporal as inngest
from inngest_temporal.errors import StepUnexpectedError, UnstubbedStepError
from inngest_temporal.testing import Result, Status, Timeout, trigger, trigger_async

client = inngest.Inngest(app_id="app", is_production=False)
EVENT = inngest.Event(name="test/event", data={"n": 3})
HOUR = datetime.timedelta(hours=1)


def function(**options: Any) -> Any:
    return client.create_function(
        fn_id="fn", trigger=inngest.TriggerEvent(event="test/event"), **options
    )


def test_a_function_runs_to_its_end_and_its_steps_are_listed() -> None:
    executed: list[str] = []

    @function()
    async def fn(ctx: inngest.Context) -> Any:
        one = await ctx.step.run("one", lambda: executed.append("one") or 1)
        await ctx.step.sleep("nap", HOUR)
        two = await ctx.step.run("two", lambda: executed.append("two") or 2)
        return {"sum": one + two + ctx.event.data["n"]}

    assert trigger(fn, EVENT) == Result(
        Status.COMPLETED, output={"sum": 6}, steps=["one", "nap", "two"]
    )
    assert executed == ["one", "two"]


def test_a_sync_function_runs_to_its_end() -> None:
    @function()
    def fn(ctx: inngest.ContextSync) -> Any:
        ctx.step.sleep_until("nap", datetime.datetime.now() + HOUR)
        return ctx.group.parallel(
            (lambda: ctx.step.run("a", lambda: 1), lambda: ctx.step.run("b", lambda: 2))
        )

    result = trigger(fn, EVENT)
    assert result.output == [1, 2]
    assert result.steps == ["nap", "a", "b"]


async def test_a_function_can_be_run_inside_an_event_loop() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        return await asyncio.gather(ctx.step.run("a", lambda: 1), ctx.step.run("b", lambda: 2))

    assert (await trigger_async(fn, EVENT)).output == [1, 2]
    assert trigger(fn, EVENT, client).output == [1, 2]


def test_a_stub_replaces_a_step() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.run("charge", lambda: pytest.fail("a stub replaces this"))

    assert trigger(fn, EVENT, step_stubs={"charge": {"paid": True}}).output == {"paid": True}


def test_an_exception_as_a_stub_is_raised_at_the_step() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        try:
            return await ctx.step.run("charge", lambda: 1)
        except inngest.StepError as error:
            return [error.name, error.message]

    assert trigger(fn, EVENT, step_stubs={"charge": ValueError("declined")}).output == [
        "ValueError",
        "declined",
    ]


def test_a_wait_gets_the_event_of_its_stub_or_times_out() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        paid = await ctx.step.wait_for_event("paid", event="paid", timeout=HOUR)
        return None if paid is None else paid.data["amount"]

    assert (
        trigger(
            fn, EVENT, step_stubs={"paid": inngest.Event(name="paid", data={"amount": 5})}
        ).output
        == 5
    )
    assert trigger(fn, EVENT, step_stubs={"paid": Timeout}).output is None


def test_an_invocation_gets_its_stub_or_times_out() -> None:
    @function()
    async def other(ctx: inngest.Context) -> int:
        return 1

    @function()
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.invoke("call", function=other)

    assert trigger(fn, EVENT, step_stubs={"call": 42}).output == 42
    timed_out = trigger(fn, EVENT, step_stubs={"call": Timeout})
    assert timed_out.status is Status.FAILED
    assert timed_out.error is not None
    assert "Timed out" in timed_out.error.message


def test_a_wait_without_a_stub_is_named() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.wait_for_event("paid", event="paid", timeout=HOUR)

    with pytest.raises(
        UnstubbedStepError,
        match=r'Step "paid" \(wait_for_event\) of function app-fn needs an entry',
    ):
        trigger(fn, EVENT)


def test_sent_events_are_recorded() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        return await ctx.step.send_event(
            "tell", [inngest.Event(name="a", data={"x": 1}), inngest.Event(name="b")]
        )

    result = trigger(fn, EVENT)
    assert [event.name for event in result.sent] == ["a", "b"]
    assert result.sent[0].data == {"x": 1}
    assert len(result.output) == 2


def test_a_failing_step_is_tried_as_often_as_the_function_says_without_waiting() -> None:
    attempts: list[int] = []

    @function(retries=2)
    async def fn(ctx: inngest.Context) -> Any:
        def flaky() -> str:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise inngest.RetryAfterError("busy", HOUR)
            return "ok"

        return await ctx.step.run("flaky", flaky)

    assert trigger(fn, EVENT).output == "ok"
    assert attempts == [0, 1, 2]


def test_a_step_that_always_fails_fails_the_run() -> None:
    @function(retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.run("broken", lambda: 1 / 0)

    result = trigger(fn, EVENT)
    assert result.status is Status.FAILED
    assert result.error is not None
    assert result.error.message == "division by zero"


def test_a_non_retriable_error_ends_a_step_at_once() -> None:
    attempts: list[int] = []

    @function()
    def fn(ctx: inngest.ContextSync) -> Any:
        def refuse() -> None:
            attempts.append(ctx.attempt)
            raise inngest.NonRetriableError("no")

        ctx.step.run("refuse", refuse)

    result = trigger(fn, EVENT)
    assert result.status is Status.FAILED
    assert result.error is not None
    assert result.error.message == "no"
    assert attempts == [0]


def test_a_failing_handler_is_tried_again_with_its_memos() -> None:
    executed: list[str] = []

    @function(retries=1)
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.run("once", lambda: executed.append("once"))
        if ctx.attempt == 0:
            raise RuntimeError("not yet")
        return "ok"

    assert trigger(fn, EVENT).output == "ok"
    assert executed == ["once"]


def test_an_error_beside_other_steps_can_be_caught() -> None:
    @function(retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        try:
            await asyncio.gather(
                ctx.step.run("broken", lambda: 1 / 0), ctx.step.run("fine", lambda: 1)
            )
        except inngest.StepError as error:
            return error.message

    assert trigger(fn, EVENT).output == "division by zero"


def test_a_step_that_is_asked_for_only_once_is_an_error_instead_of_a_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inngest_temporal.drivers.local.VANISHED_GRACE", 0.1)
    calls: list[int] = []

    @function(retries=0)
    async def fn(ctx: inngest.Context) -> Any:
        calls.append(1)
        return await ctx.step.run(f"step-{len(calls)}", lambda: 1)

    with pytest.raises(StepUnexpectedError, match='Function app-fn asks for "step-1"'):
        trigger(fn, EVENT)


@pytest.mark.parametrize(
    ("case", "name", "message"),
    [
        (
            "sleep",
            "InngestErrTimeoutTooLong",
            'Step "step" waits longer than the limit of 366 days.',
        ),
        ("condition", "StepInvalidError", "if_exp is not a valid expression"),
        ("steps", "InngestErrFunctionOverflowed", "exceeded the step limit of 1000 steps"),
        ("event", "NonRetriableError", "reserved for internal use"),
    ],
)
def test_what_fails_a_run_fails_a_test(case: str, name: str, message: str) -> None:
    @function()
    async def fn(ctx: inngest.Context) -> None:
        if case == "sleep":
            await ctx.step.sleep("step", datetime.timedelta(days=400))
        elif case == "condition":
            await ctx.step.wait_for_event(
                "step", event="x", if_exp="async.data.a = 1", timeout=1_000
            )
        elif case == "steps":
            await asyncio.gather(*(ctx.step.sleep(f"step-{n}", 1) for n in range(1_001)))
        else:
            await ctx.step.send_event("send", inngest.Event(name="inngest/x"))

    result = trigger(fn, EVENT, step_stubs={"step": None})
    assert result.status is Status.FAILED
    assert result.error is not None
    assert result.error.name == name
    assert message in result.error.message


def test_a_stub_of_a_wait_that_is_no_event_is_named() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.wait_for_event("payment", event="x", timeout=1_000)

    with pytest.raises(UnstubbedStepError, match='step "payment" in step_stubs must be an Event'):
        trigger(fn, EVENT, step_stubs={"payment": {"data": 1}})


def test_an_invocation_that_fails_raises_a_step_error_whatever_its_error_was() -> None:
    @function(retries=0)
    async def fn(ctx: inngest.Context) -> str:
        try:
            await ctx.step.invoke_by_id("invoke", function_id="other")
        except inngest.StepError as error:
            return f"{error.name}: {error.message}"
        return ""

    stub = inngest.NonRetriableError("no")
    assert trigger(fn, EVENT, step_stubs={"invoke": stub}).output == "NonRetriableError: no"


def test_a_batch_of_events() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        return [event.data["n"] for event in ctx.events]

    events = [inngest.Event(name="test/event", data={"n": n}) for n in range(3)]
    assert trigger(fn, events).output == [0, 1, 2]
    with pytest.raises(ValueError, match="Function app-fn needs an event"):
        trigger(fn, [])
