"""The driver: one execution of a handler, with memos, a target, and a chain. No server."""

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

import inngest_temporal as inngest
from inngest_temporal.drivers import local
from inngest_temporal.drivers.failures import error_info
from inngest_temporal.drivers.local import Execution, ExecutionInput, Ledger, hashed
from inngest_temporal.drivers.protocol import Done, Failed, Memo, Op, Ops, Outcome, Returned
from inngest_temporal.testing import trigger_async

EVENT = {"id": "e1", "name": "test/event", "data": {"n": 1}, "ts": 1_700_000_000_000, "user": {}}


def client(**options: Any) -> inngest.Inngest:
    return inngest.Inngest(app_id="app", is_production=False, **options)


def memo(
    step: str, data: Any = None, count: int = 0, error: dict[str, Any] | None = None
) -> tuple[str, str]:
    return hashed(step, count), json.dumps({"error": error} if error else {"data": data})


class Outside:
    async def send_events(self, seed: str, events: list[dict[str, Any]]) -> list[str]:
        return [f"{seed}#{index}" for index, _ in enumerate(events)]

    async def send_signal(self, seed: str, signal: str, data: Any) -> str | None:
        return f"{seed} {signal} {data}"


class Result:
    def __init__(self, done: list[Done], outcome: Outcome | None) -> None:
        self.done = done
        self.outcome = outcome

    @property
    def executed(self) -> Memo | None:
        """The result of the only step that was executed."""
        if not self.done:
            return None
        [done] = self.done
        return Memo(done.data, done.error)

    @property
    def names(self) -> list[str]:
        assert isinstance(self.outcome, Ops), self.outcome
        return [op.name for op in self.outcome.ops]


async def run(
    handler: Any,
    memos: Iterable[tuple[str, str]] = (),
    target: str | None = None,
    *,
    on: inngest.Inngest | None = None,
    attempt: int = 0,
    pending: Iterable[str] = (),
    outside: Outside | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> Result:
    decorate = (on or client()).create_function(
        fn_id="fn", trigger=inngest.TriggerEvent(event="test/event"), **options
    )
    part = decorate(handler).parts()[0]

    given = ExecutionInput(
        run_id="run",
        events=[EVENT],
        attempt=attempt,
        memos=list(memos),
        target=hashed(target) if target else None,
        pending={hashed(step) for step in pending},
    )
    execution = Execution(part, given, outside=outside or Outside(), ledger=ledger)
    execution.start()
    await asyncio.wait([execution.outcome], timeout=15)
    assert execution.outcome.done(), "the execution did not end"
    execution.close()
    return Result(execution.done, execution.outcome.result())


async def test_a_handler_without_steps_returns() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        return {"n": ctx.event.data["n"], "run": ctx.run_id, "attempt": ctx.attempt}

    result = await run(handler, attempt=2)
    assert result.outcome == Returned({"n": 1, "run": "run", "attempt": 2})


async def test_discovery_stops_at_the_first_step_and_does_not_execute_it() -> None:
    executed = []

    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("a", lambda: executed.append("a"))
        executed.append("after")

    result = await run(handler)
    assert result.names == ["a"]
    assert executed == []


async def test_a_sync_handler_runs_the_same_way() -> None:
    def handler(ctx: inngest.ContextSync) -> Any:
        first = ctx.step.run("a", lambda: 1)
        second = ctx.step.run("b", lambda x: x + 1, first)
        return [first, second]

    assert (await run(handler)).names == ["a"]
    result = await run(handler, target="a")
    assert result.executed == Memo(data=1)
    assert result.names == ["b"]
    result = await run(handler, [memo("a", 1)], target="b")
    assert result.executed == Memo(data=2)
    assert result.outcome == Returned([1, 2])


async def test_the_target_is_executed_and_looked_ahead_from() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        a = await ctx.step.run("a", lambda: {"x": (1, 2)})
        assert a == {"x": [1, 2]}
        return await ctx.step.run("b", lambda: a)

    result = await run(handler, target="a")
    assert result.executed == Memo(data={"x": [1, 2]})
    assert result.names == ["b"]


async def test_repeated_ids_count_in_the_order_of_calls() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        return [await ctx.step.run("a", lambda i=i: i) for i in range(3)]

    result = await run(handler, [memo("a", "first"), memo("a", "second", 1)])
    assert isinstance(result.outcome, Ops)
    assert result.outcome.ops[0].id == hashed("a", 2)


@pytest.mark.parametrize("style", ["gather", "taskgroup", "parallel", "nested"])
async def test_parallel_steps_are_found_together(style: str) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        def step(name: str) -> Any:
            return ctx.step.run(name, lambda: name)

        if style == "gather":
            return await asyncio.gather(step("a"), step("b"), step("c"))
        if style == "taskgroup":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(step(name)) for name in "abc"]
            return [task.result() for task in tasks]
        if style == "parallel":
            return await ctx.group.parallel(tuple(lambda name=name: step(name) for name in "abc"))
        return await asyncio.gather(step("a"), asyncio.gather(step("b"), asyncio.gather(step("c"))))

    assert sorted((await run(handler)).names) == ["a", "b", "c"]
    result = await run(handler, [memo("a", "a"), memo("c", "c")], target="b", pending=["b"])
    assert result.executed == Memo(data="b")
    assert isinstance(result.outcome, Returned)


async def test_sync_parallel_steps_are_found_together() -> None:
    def handler(ctx: inngest.ContextSync) -> Any:
        return ctx.group.parallel(
            (lambda: ctx.step.run("a", lambda: 1), lambda: ctx.step.run("b", lambda: 2))
        )

    assert (await run(handler)).names == ["a", "b"]
    result = await run(handler, target="b")
    assert result.executed == Memo(data=2)
    assert result.names == ["a"]
    assert (await run(handler, [memo("b", 2), memo("a", 1)])).outcome == Returned([1, 2])


async def test_a_race_has_the_same_winner_in_every_pass() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        tasks = {
            asyncio.create_task(ctx.step.run(name, lambda: None), name=name) for name in ("a", "b")
        }
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return sorted(task.get_name() for task in done)

    assert (await run(handler, [memo("b"), memo("a")])).outcome == Returned(["b"])
    assert (await run(handler, [memo("a"), memo("b")])).outcome == Returned(["a"])


async def test_a_memo_of_a_step_that_a_deploy_removed_does_not_stop_the_handler() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        return await ctx.step.run("kept", lambda: None)

    assert (await run(handler, [memo("removed"), memo("kept", 5)])).outcome == Returned(5)


async def test_a_step_error_can_be_caught_and_the_handler_goes_on() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.run("a", lambda: None)
        except inngest.StepError as error:
            return [error.name, error.message, error.stack]

    failed = memo("a", error={"name": "ValueError", "message": "no", "stack": "trace"})
    assert (await run(handler, [failed])).outcome == Returned(["ValueError", "no", "trace"])


async def test_an_uncaught_step_error_is_not_retriable() -> None:
    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("a", lambda: None)

    result = await run(handler, [memo("a", error={"name": "ValueError", "message": "no"})])
    assert isinstance(result.outcome, Failed)
    assert (result.outcome.error.name, result.outcome.error.retriable) == ("ValueError", False)


async def test_a_failing_step_shows_the_users_stack_only() -> None:
    def charge() -> None:
        raise ValueError("declined")

    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("a", charge)

    result = await run(handler, target="a")
    assert result.executed is not None
    error = result.executed.error
    assert error is not None
    assert (error.name, error.message, error.retriable) == ("ValueError", "declined", True)
    assert error.stack is not None
    assert "in charge" in error.stack
    assert "drivers/local.py" not in error.stack
    assert result.outcome is None


@pytest.mark.parametrize("swallow", [True, False])
async def test_a_non_retriable_step_error_is_raised_as_such_in_later_passes(swallow: bool) -> None:
    async def handler(ctx: inngest.Context) -> Any:
        try:
            await ctx.step.run("a", lambda: None)
        except inngest.NonRetriableError as error:
            if not swallow:
                raise
            return str(error)

    error = {
        "name": "Gone",
        "message": "x",
        "stack": "where the step raised it",
        "retriable": False,
    }
    outcome = (await run(handler, [memo("a", error=error)])).outcome
    if swallow:
        assert outcome == Returned("x")
    else:
        assert isinstance(outcome, Failed)
        assert not outcome.error.retriable
        assert outcome.error.stack == "where the step raised it"


async def test_retry_after_is_kept_between_a_second_and_a_day() -> None:
    async def step(ms: int) -> None:
        raise inngest.RetryAfterError("later", ms)

    async def outcome(ms: int) -> int | None:
        async def handler(ctx: inngest.Context) -> None:
            await ctx.step.run("a", step, ms)

        result = await run(handler, target="a")
        assert result.executed is not None
        assert result.executed.error is not None
        return result.executed.error.retry_after_ms

    assert await outcome(1) == 1_000
    assert await outcome(10**12) == 86_400_000
    middle = await outcome(60_000)
    assert middle is not None
    assert 50_000 < middle <= 60_000


async def test_a_step_inside_a_step_is_refused() -> None:
    async def handler(ctx: inngest.Context) -> None:
        async def outer() -> None:
            try:
                await ctx.step.run("inner", lambda: None)
            except Exception:
                pass

        await ctx.step.run("outer", outer)

    result = await run(handler, target="outer")
    assert result.executed is not None
    assert result.executed.error is not None
    assert result.executed.error.message == (
        'Function app-fn, step "outer": its body calls step "inner", and a step can\'t be inside'
        ' another one. Call it in the handler, before or after "outer".'
    )
    assert not result.executed.error.retriable


async def test_user_code_cannot_swallow_the_interrupt() -> None:
    def handler(ctx: inngest.ContextSync) -> str:
        try:
            ctx.step.run("a", lambda: None)
        except Exception:
            return "swallowed"
        return "done"

    assert (await run(handler)).names == ["a"]


async def test_an_unserializable_result_names_the_step() -> None:
    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("a", lambda: {1, 2})

    result = await run(handler, target="a")
    assert result.executed is not None
    assert result.executed.error is not None
    assert '"a" returned unserializable data' in result.executed.error.message
    assert not result.executed.error.retriable


async def test_system_exit_in_a_handler_is_an_error_of_the_run() -> None:
    async def handler(ctx: inngest.Context) -> None:
        raise SystemExit(3)

    def handler_sync(ctx: inngest.ContextSync) -> None:
        raise SystemExit(3)

    for each in (handler, handler_sync):
        outcome = (await run(each)).outcome
        assert isinstance(outcome, Failed)
        assert outcome.error.name == "SystemExit"


async def test_a_handler_may_await_other_things_between_steps() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        await asyncio.sleep(0.05)
        a = await ctx.step.run("a", lambda: 1)
        await asyncio.sleep(0.05)
        return a + await ctx.step.run("b", lambda: 2)

    assert (await run(handler)).names == ["a"]
    result = await run(handler, target="a")
    assert result.executed == Memo(data=1)
    assert result.names == ["b"]


async def test_a_branch_with_other_awaits_reaches_its_target() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        async def slow() -> Any:
            await asyncio.sleep(0.2)
            return await ctx.step.run("b", lambda: 2)

        return await asyncio.gather(ctx.step.run("a", lambda: 1), slow())

    result = await run(handler, target="b", pending=["a", "b"])
    assert result.executed == Memo(data=2)
    assert result.names == ["a"]


async def test_the_other_kinds_of_steps_report_what_they_need() -> None:
    other = client().create_function(fn_id="other", trigger=inngest.TriggerEvent(event="x"))(
        _nothing
    )

    async def handler(ctx: inngest.Context) -> Any:
        return await asyncio.gather(
            ctx.step.sleep("sleep", 1_500),
            ctx.step.wait_for_event("wait", event="paid", if_exp="true", timeout=60_000),
            ctx.step.invoke("invoke", function=other, data={"a": 1}, timeout=2_000),
            ctx.step.invoke_by_id("by id", app_id="far", function_id="fn", v="2"),
        )

    outcome = (await run(handler)).outcome
    assert isinstance(outcome, Ops)
    assert {op.name: (op.kind, op.options) for op in outcome.ops} == {
        "sleep": ("sleep", {"duration_ms": 1_500}),
        "wait": ("wait_for_event", {"events": ["paid"], "if": "true", "timeout_ms": 60_000}),
        "invoke": (
            "invoke",
            {"function_id": "app-other", "payload": {"data": {"a": 1}}, "timeout_ms": 2_000},
        ),
        "by id": ("invoke", {"function_id": "far-fn", "payload": {"data": {}, "v": "2"}}),
    }


async def _nothing(ctx: inngest.Context) -> None: ...


async def test_send_event_sends_with_a_seed_of_run_and_step() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        return await ctx.step.send_event("send", [inngest.Event(name="a"), inngest.Event(name="b")])

    def handler_sync(ctx: inngest.ContextSync) -> Any:
        return ctx.step.send_event("send", [inngest.Event(name="a"), inngest.Event(name="b")])

    for each in (handler, handler_sync):
        result = await run(each, target="send")
        assert result.outcome == Returned([f"run:{hashed('send')}#0", f"run:{hashed('send')}#1"])


async def test_the_logger_repeats_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.driver")

    async def handler(ctx: inngest.Context) -> None:
        ctx.logger.info("start")
        await ctx.step.run("a", lambda: None)
        ctx.logger.info("middle")
        await ctx.step.run("b", lambda: None)
        ctx.logger.info("end")

    on = client(logger=logger)
    with caplog.at_level(logging.INFO, logger="test.driver"):
        await run(handler, on=on)
        await run(handler, target="a", on=on)
        await run(handler, [memo("a")], target="b", on=on)
    assert [record.message for record in caplog.records] == ["start", "middle", "end"]


async def test_middleware_hooks_run_in_order_around_a_pass() -> None:
    calls: list[str] = []

    class Recorder(inngest.Middleware):
        async def transform_input(self, ctx: Any, function: Any, steps: inngest.StepMemos) -> None:
            calls.append(f"transform_input {steps.size}")

        async def before_execution(self) -> None:
            calls.append("before_execution")

        async def after_execution(self) -> None:
            calls.append("after_execution")

        async def transform_output(self, result: inngest.TransformOutputResult) -> None:
            calls.append(f"transform_output {result.step.id if result.step else None}")
            if result.step is not None and result.step.id == "b":
                result.output = "changed"

        async def before_response(self) -> None:
            calls.append("before_response")

    async def handler(ctx: inngest.Context) -> Any:
        calls.append("code")
        a = await ctx.step.run("a", lambda: 1)
        calls.append("new code")
        return [a, await ctx.step.run("b", lambda: 2)]

    result = await run(handler, [memo("a", 1)], target="b", on=client(middleware=[Recorder]))
    assert result.executed == Memo(data="changed")
    assert calls == [
        "transform_input 1",
        "code",
        "new code",
        "before_execution",
        "transform_output b",
        "after_execution",
        "transform_output None",
        "before_response",
    ]


async def test_steps_and_results_go_through_the_serializer() -> None:
    import pydantic

    class Item(pydantic.BaseModel):
        name: str

    async def handler(ctx: inngest.Context) -> Item:
        item = await ctx.step.run("a", lambda: Item(name="x"), output_type=Item)
        assert isinstance(item, Item)
        return item

    on = client(serializer=inngest.PydanticSerializer())
    result = await run(handler, target="a", on=on, output_type=Item)
    assert result.executed == Memo(data={"name": "x"})
    assert result.outcome == Returned({"name": "x"})
    assert (
        await run(handler, [memo("a", {"name": "y"})], on=on, output_type=Item)
    ).outcome == Returned({"name": "y"})


async def test_memos_are_fresh_copies() -> None:
    async def handler(ctx: inngest.Context) -> Any:
        a = await ctx.step.run("a", lambda: {"list": [1]})
        a["list"].append(2)
        return a

    memos = [memo("a", {"list": [1]})]
    for _ in range(2):
        assert (await run(handler, memos)).outcome == Returned({"list": [1, 2]})


@pytest.mark.parametrize("hook", ["before_execution", "transform_output"])
async def test_a_hook_that_raises_around_a_steps_body_fails_the_step(hook: str) -> None:
    def raise_error(self: Any, *_: Any) -> None:
        raise ValueError(hook)

    broken = type("Broken", (inngest.MiddlewareSync,), {hook: raise_error})

    async def handler(ctx: inngest.Context) -> Any:
        return await ctx.step.run("a", lambda: 1)

    result = await run(handler, target="a", middleware=[broken])
    assert result.executed is not None
    assert result.executed.error is not None
    assert result.executed.error.message == hook


async def test_a_failing_step_ends_with_the_same_hooks_as_one_that_does_not() -> None:
    calls: list[str] = []

    class Recorder(inngest.MiddlewareSync):
        def after_execution(self) -> None:
            calls.append("after_execution")

        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            calls.append(f"transform_output {result.error!r}")

        def before_response(self) -> None:
            calls.append("before_response")

    async def handler(ctx: inngest.Context) -> Any:
        def fail() -> None:
            raise ValueError("x")

        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.run("a", fail))

    await run(handler, target="a", middleware=[Recorder])
    assert calls == ["after_execution", "transform_output ValueError('x')", "before_response"]


async def test_middleware_may_turn_other_values_into_json() -> None:
    class Sets(inngest.MiddlewareSync):
        def transform_input(self, ctx: Any, function: Any, steps: inngest.StepMemos) -> None:
            for memo in steps.values():
                memo.data = set(memo.data)  # type: ignore[call-overload]

        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            if isinstance(result.output, set):
                result.output = sorted(result.output)

    async def handler(ctx: inngest.Context) -> Any:
        return await ctx.step.run("a", lambda: {1, 2}) | {3}

    first = await run(handler, target="a", middleware=[Sets])
    assert first.executed == Memo(data=[1, 2])
    assert first.outcome is None
    assert (await run(handler, [memo("a", [1, 2])], middleware=[Sets])).outcome == Returned(
        [1, 2, 3]
    )


async def test_after_send_events_is_told_of_a_failure() -> None:
    results: list[inngest.SendEventsResult] = []

    class Recorder(inngest.MiddlewareSync):
        def after_send_events(self, result: inngest.SendEventsResult) -> None:
            results.append(result)

    class Unreachable(Outside):
        async def send_events(self, seed: str, events: list[dict[str, Any]]) -> list[str]:
            raise ConnectionError("unreachable")

    async def handler(ctx: inngest.Context) -> Any:
        await ctx.step.send_event("a", inngest.Event(name="x"))

    result = await run(handler, target="a", middleware=[Recorder], outside=Unreachable())
    assert result.executed is not None
    assert result.executed.error is not None
    assert result.executed.error.name == "ConnectionError"
    assert results == [inngest.SendEventsResult(error="unreachable")]


async def test_an_async_body_in_a_sync_handler_is_refused_and_named() -> None:
    def handler(ctx: inngest.ContextSync) -> None:
        ctx.step.run("a", asyncio.sleep, 0)

    result = await run(handler, target="a")
    assert result.executed is not None
    assert result.executed.error is not None
    assert result.executed.error.message == (
        'Function app-fn, step "a": its body is async, and the function is not. Make the function'
        " async, or the body not."
    )
    assert not result.executed.error.retriable


async def test_errors_of_the_official_sdk_forbid_or_delay_the_next_attempt_too() -> None:
    """A module whose import was forgotten raises them."""
    import inngest as official

    class Declined(official.NonRetriableError):
        pass

    for raised in (official.NonRetriableError("declined"), Declined("declined")):
        assert not error_info(raised).retriable
    later = error_info(official.RetryAfterError("later", 60_000))
    assert later.retriable
    assert later.retry_after_ms == pytest.approx(60_000, abs=5_000)


async def test_a_group_of_errors_is_retriable_only_if_all_of_them_are() -> None:
    async def handler(ctx: inngest.Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step.run("a", lambda: None))

    outcome = (
        await run(handler, [memo("a", error={"name": "ValueError", "message": "no"})])
    ).outcome
    assert isinstance(outcome, Failed)
    assert not outcome.error.retriable


async def test_steps_that_are_found_side_by_side_all_pass_through_transform_output() -> None:
    class Seal(inngest.Middleware):
        async def transform_output(self, result: inngest.TransformOutputResult) -> None:
            if result.step is not None and result.step.op is inngest.Opcode.INVOKE:
                assert result.step.opts is not None
                options: Any = result.step.opts
                secret = options["payload"]["data"]["secret"]
                result.step.opts = options | {"payload": {"data": {"secret": f"sealed {secret}"}}}

    async def handler(ctx: inngest.Context) -> None:
        await asyncio.gather(
            *(
                ctx.step.invoke_by_id(f"i{n}", function_id="other", data={"secret": n})
                for n in range(3)
            )
        )

    for count, pending in ((3, []), (2, ["i0"])):
        outcome = (await run(handler, pending=pending, middleware=[Seal])).outcome
        assert isinstance(outcome, Ops)
        sealed = [
            op.options["payload"]["data"]["secret"]
            for op in outcome.ops
            if op.id not in {hashed(step) for step in pending}
        ]
        assert sealed == [f"sealed {n}" for n in range(3)][-count:]


class Chains:
    """A ledger that lets every chain continue, and keeps what it is told."""

    def __init__(self) -> None:
        self.recorded: list[str] = []

    async def choose(self, ops: Sequence[Op]) -> Sequence[Op]:
        return ops

    async def begin(self, op: Op) -> None:
        """Nothing is kept."""

    async def record(self, done: Done) -> None:
        self.recorded.append(done.op.name)


async def test_a_handler_that_awaits_for_long_reaches_its_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It awaits for longer than a branch without a step is waited for."""
    monkeypatch.setattr(local, "VANISHED_GRACE", 0.05)

    async def handler(ctx: inngest.Context) -> Any:
        first = await ctx.step.run("first", lambda: 1)
        await asyncio.sleep(0.5)
        return first + await ctx.step.run("second", lambda: 2)

    result = await run(handler, [memo("first", 1)], target="second")
    assert result.executed == Memo(data=2)
    assert result.outcome == Returned(3)
    chained = await run(handler, ledger=Chains())
    assert [done.op.name for done in chained.done] == ["first", "second"]
    assert chained.outcome == Returned(3)


def _bare(ctx: inngest.ContextSync) -> Any:
    try:
        return ctx.step.run("a", lambda: "executed")
    except:  # noqa: E722
        return "swallowed"


def _returning(ctx: inngest.ContextSync) -> Any:
    value = "never executed"
    try:
        value = ctx.step.run("a", lambda: "executed")
    finally:
        return value  # noqa: B012


def _raising(ctx: inngest.ContextSync) -> Any:
    try:
        return ctx.step.run("a", lambda: "executed")
    except BaseException:
        raise ValueError("another error") from None


@pytest.mark.parametrize("handler", [_bare, _returning, _raising])
async def test_a_handler_that_swallows_the_interrupt_does_not_end_without_its_step(
    handler: Any,
) -> None:
    assert (await run(handler)).names == ["a"]
    result = await run(handler, target="a")
    assert result.executed == Memo(data="executed")
    assert result.outcome == Returned("executed")
    assert (await run(handler, [memo("a", "executed")])).outcome == Returned("executed")
    decorate = client().create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="e"))
    tested = await trigger_async(decorate(handler), inngest.Event(name="e"))
    assert (tested.output, tested.steps) == ("executed", ["a"])


@pytest.mark.parametrize(
    "call",
    [
        lambda step, _: step.sleep("a", 1_000),
        lambda step, _: step.wait_for_event("a", event="e", timeout=1_000),
        lambda step, _: step.wait_for_signal("a", signal="s", timeout=1_000),
        lambda step, _: step.invoke_by_id("a", function_id="other"),
        lambda step, _: step.send_event("a", inngest.Event(name="e")),
        lambda step, group: group.parallel((lambda: step.run("a", lambda: 1),)),
    ],
    ids=["sleep", "wait", "signal", "invoke", "send", "parallel"],
)
async def test_no_kind_of_step_is_swallowed(call: Any) -> None:
    def handler(ctx: inngest.ContextSync) -> Any:
        try:
            call(ctx.step, ctx.group)
        except BaseException as error:
            return f"swallowed {type(error).__name__}"
        return ctx.step.run("after", lambda: None)

    assert (await run(handler)).names == ["a"]
    assert (await run(handler, [memo("a")])).names == ["after"]


@pytest.mark.filterwarnings("error")
async def test_steps_without_await_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: inngest.Context) -> str:
        await ctx.step.run("awaited", lambda: 1)
        ctx.step.run("a", lambda: 1)
        ctx.step.sleep("b", 1_000)
        ctx.step.wait_for_event(step_id="c", event="e", timeout=1_000)
        return "done"

    with caplog.at_level(logging.WARNING):
        assert (await run(handler, [memo("awaited", 1)])).outcome == Returned("done")
    [record] = caplog.records
    assert record.message.startswith(
        'Function app-fn returned without waiting for "a", "b", "c": these steps are dropped. Is an'
    )


async def test_steps_that_a_handler_did_not_wait_for_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(ctx: inngest.Context) -> str:
        asyncio.gather(ctx.step.run("a", lambda: 1), ctx.step.run("b", lambda: 2))
        return "done"

    with caplog.at_level(logging.WARNING):
        assert (await run(handler)).outcome == Returned("done")
    [record] = [each for each in caplog.records if each.name != "asyncio"]
    assert record.message == (
        'Function app-fn returned without waiting for "a", "b": these steps are dropped. Is an'
        " await missing? (run run)"
    )


async def test_steps_that_a_handler_cancelled_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(ctx: inngest.Context) -> str:
        loser = asyncio.create_task(ctx.step.run("loser", lambda: 1))
        await asyncio.sleep(0)
        loser.cancel()
        await asyncio.sleep(0)
        return "done"

    with caplog.at_level(logging.WARNING):
        assert (await run(handler)).outcome == Returned("done")
    assert not caplog.records
