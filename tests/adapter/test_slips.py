"""The usual slips: each gives an error that names function, step and remedy, and is not retried."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import inngest as official
import pytest

import inngest_temporal as inngest
from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.serialization import to_json
from inngest_temporal.testing import Result, Status, trigger

EVENT = inngest.Event(name="test/event")
CLIENT = inngest.Inngest(app_id="app", is_production=False)


def function(**options: Any) -> Any:
    chosen: dict[str, Any] = {"fn_id": "fn", "trigger": inngest.TriggerEvent(event="test/event")}
    return CLIENT.create_function(**(chosen | options))


async def charge() -> None:
    """A step's body."""


def _async(slip: Callable[[Any], Any]) -> tuple[Any, list[int]]:
    calls: list[int] = []

    @function()
    async def fn(ctx: inngest.Context) -> None:
        calls.append(ctx.attempt)
        await slip(ctx)

    return fn, calls


def _sync(slip: Callable[[Any], Any]) -> tuple[Any, list[int]]:
    calls: list[int] = []

    @function()
    def fn(ctx: inngest.ContextSync) -> None:
        calls.append(ctx.attempt)
        slip(ctx)

    return fn, calls


def message_of(result: Result) -> str:
    assert result.status is Status.FAILED
    assert result.error is not None
    assert not result.error.retriable
    return result.error.message


STEPS: list[tuple[Callable[[Any], Any], str]] = [
    (
        lambda ctx: ctx.step.run("x", charge()),
        "run takes a function and its arguments, not the coroutine that charge(...) returned. Write"
        ' run("x", charge, ...), without calling it.',
    ),
    (
        lambda ctx: ctx.step.run("x", 5),
        "run takes a function and its arguments, not 5 (int).",
    ),
    (
        lambda ctx: ctx.step.send_event("x", {"name": "a"}),
        "send_event takes an Event or a list of them, not {'name': 'a'} (dict). Write"
        ' Event(name="...", data={...}).',
    ),
    (
        lambda ctx: ctx.step.send_event("x", [EVENT, "a"]),
        "send_event takes an Event or a list of them, not 'a' (str). Write"
        ' Event(name="...", data={...}).',
    ),
    (
        lambda ctx: ctx.step.sleep_until("x", "2026-11-26"),
        "sleep_until takes a datetime.datetime, not '2026-11-26' (str). Convert it, as with"
        " datetime.datetime.fromisoformat(...); for a duration use sleep.",
    ),
    (
        lambda ctx: ctx.step.sleep("x", "1h"),
        "sleep takes milliseconds (int) or a datetime.timedelta, not '1h' (str).",
    ),
    (
        lambda ctx: ctx.step.wait_for_event("x", event="a", timeout="1h"),
        "timeout takes milliseconds (int) or a datetime.timedelta, not '1h' (str).",
    ),
    (
        lambda ctx: ctx.step.wait_for_event("x", event=[5], timeout=1),
        "wait_for_event must name one event or more, of 1 to 512 bytes each.",
    ),
    (
        lambda ctx: ctx.step.wait_for_event("x", event="a", if_exp="async.data.a = 1", timeout=1),
        "if_exp is not a valid expression: ",
    ),
    (
        lambda ctx: ctx.step.wait_for_event("x", event="a", if_exp="a.k == evnt.k", timeout=1),
        "if_exp is not a valid expression: unknown variable 'a'; a path must begin with event. or"
        " async., and a text needs quotes (at column 1 of expression",
    ),
    (
        lambda ctx: ctx.step.wait_for_signal("x", signal=5),
        "the name of a signal is text of 1 to ",
    ),
    (
        lambda ctx: ctx.step.invoke("x", function="other"),
        "invoke takes a function made by create_function, not 'other' (str). Pass that function, or"
        ' use invoke_by_id(function_id="...").',
    ),
    (
        lambda ctx: ctx.step.invoke_by_id("x", function_id="other", timeout=1.5),
        "timeout takes milliseconds (int) or a datetime.timedelta, not 1.5 (float).",
    ),
]


@pytest.mark.parametrize("make", [_async, _sync])
@pytest.mark.parametrize(("slip", "problem"), STEPS)
def test_a_step_that_is_called_wrongly_says_how_to_call_it(
    make: Any, slip: Callable[[Any], Any], problem: str
) -> None:
    fn, calls = make(slip)
    assert message_of(trigger(fn, EVENT)).startswith(f'Function app-fn, step "x": {problem}')
    assert calls == [0]


def test_the_stack_of_a_slip_shows_the_users_line() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.sleep("x", "1h")  # type: ignore[arg-type]

    result = trigger(fn, EVENT)
    assert result.error is not None
    assert result.error.stack is not None
    assert 'ctx.step.sleep("x", "1h")' in result.error.stack
    assert "steps.py" not in result.error.stack


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: inngest.Throttle(limit=1, period="1m"),  # type: ignore[arg-type]
            "Throttle, period: should be milliseconds (int) or a datetime.timedelta, not '1m'"
            " (str); write 60_000 for that",
        ),
        (
            lambda: inngest.Debounce(period=True),
            "Debounce, period: should be milliseconds (int) or a datetime.timedelta, not True"
            " (bool)",
        ),
        (
            lambda: function(concurrency=5)(charge_handler).parts(),
            "Function 'app-fn', concurrency: should be a list such as [Concurrency(limit=5)], not 5"
            " (int)",
        ),
        (
            lambda: function(cancel=inngest.Cancel(event="a"))(charge_handler).parts(),
            "Function 'app-fn', cancel: should be a list such as [Cancel(event=\"...\")], not"
            " Cancel(event='a', if_exp=None, timeout=None)",
        ),
        (
            lambda: function(concurrency=[5])(charge_handler).parts(),
            "Function 'app-fn', concurrency.0: should be a Concurrency, not 5 (int)",
        ),
        (
            lambda: function(trigger=official.TriggerEvent(event="a"))(charge_handler).parts(),
            "Function 'app-fn', triggers.0: should be a TriggerEvent or a TriggerCron, not"
            " TriggerEvent(event='a', expression=None) of the official SDK: change the import to"
            " `inngest_temporal`",
        ),
        (
            lambda: function(trigger="test/event")(charge_handler).parts(),
            "Function 'app-fn', triggers.0: should be a TriggerEvent or a TriggerCron, not"
            " 'test/event' (str)",
        ),
    ],
)
def test_a_wrong_configuration_says_what_to_write(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(FunctionConfigInvalidError) as raised:
        build()
    assert raised.value.message == message


async def charge_handler(ctx: inngest.Context) -> None:
    """A handler."""


async def _two(ctx: Any, step: Any) -> None: ...


def _none() -> None: ...


def _keyword(*, ctx: Any) -> None: ...


def _optional(ctx: Any, step: Any = None) -> None: ...


class _Callable:
    def __call__(self, ctx: Any, step: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "signature"),
    [
        (_two, "_two(ctx: Any, step: Any) -> None"),
        (_none, "_none() -> None"),
        (_keyword, "_keyword(*, ctx: Any) -> None"),
        (_Callable(), "called(ctx: Any, step: Any) -> None"),
        (functools.partial(_two, 1, 2), "called() -> None"),
    ],
)
def test_a_handler_takes_one_argument(handler: Any, signature: str) -> None:
    with pytest.raises(FunctionConfigInvalidError) as raised:
        function()(handler)
    assert raised.value.message == (
        "handler of function 'fn': a handler is called with one argument, the context, and this one"
        f" is {signature}; write (ctx: inngest.Context), and ctx.step for the steps"
    )


@pytest.mark.parametrize("handler", [charge_handler, _optional, functools.partial(_two, step=1)])
def test_what_can_be_called_with_one_argument_is_a_handler(handler: Any) -> None:
    assert function()(handler).id == "app-fn"


def plain(handler: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return handler(*args, **kwargs)

    return wrapper


def test_a_decorator_that_hides_an_async_handler_is_named() -> None:
    calls = []

    @function()
    @plain
    async def fn(ctx: inngest.Context) -> None:
        calls.append("executed")

    assert message_of(trigger(fn, EVENT)) == (
        "Function app-fn: its handler is not async, yet returned a coroutine, which nobody awaits."
        " If a decorator hides that the handler is async, make the decorator's own function async,"
        " and await the handler in it."
    )
    assert calls == []


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"results": [value]}])
def test_a_step_without_await_in_a_result_is_named(wrap: Callable[[Any], Any]) -> None:
    @function()
    async def fn(ctx: inngest.Context) -> Any:
        return wrap(ctx.step.run("x", charge))

    assert message_of(trigger(fn, EVENT)) == (
        '"app-fn" returned unserializable data: a coroutine, Step.run("x"), which nobody awaited.'
        " Put await before it."
    )


def test_anything_else_without_await_in_a_steps_result_is_named() -> None:
    @function()
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.run("x", lambda: [charge()])

    result = trigger(fn, EVENT)
    assert message_of(result) == (
        '"x" returned unserializable data: a coroutine, charge(...), which nobody awaited. Put'
        " await before it."
    )


async def test_a_future_without_await_in_a_result_is_named() -> None:
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(inngest.Error, match=r"a Future, which nobody awaited"):
        to_json({"a": (1, future)}, "fn")


def test_a_dict_for_send_is_named() -> None:
    with pytest.raises(inngest.Error, match=r"Only events can be sent, not .*; use Event\(name="):
        CLIENT.send_sync({"name": "a"})  # type: ignore[arg-type]
