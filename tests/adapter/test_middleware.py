import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from inngest_temporal.client import Inngest
from inngest_temporal.context import Context
from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.errors import AsyncUnsupportedError
from inngest_temporal.middleware import (
    Middleware,
    MiddlewareManager,
    MiddlewareSync,
    Opcode,
    Output,
    StepMemos,
    TransformOutputResult,
    TransformOutputStepInfo,
)
from inngest_temporal.models import Event, SendEventsResult, TriggerEvent
from inngest_temporal.serialization import EmptySentinel
from inngest_temporal.testing import trigger

HOOKS = (
    "transform_input",
    "before_execution",
    "after_execution",
    "transform_output",
    "before_response",
    "before_send_events",
    "after_send_events",
)


def client(*middleware: Any) -> Inngest:
    return Inngest(app_id="app", is_production=False, middleware=list(middleware))


def recorder(name: str, calls: list[str], base: type = MiddlewareSync) -> Any:
    """A middleware class that writes `hook:name` into `calls`."""

    def hook(hook_name: str) -> Callable[..., Any]:
        def sync(self: object, *args: object) -> None:
            calls.append(f"{hook_name}:{name}")

        async def asynchronous(self: object, *args: object) -> None:
            await asyncio.sleep(0)
            calls.append(f"{hook_name}:{name}")

        return asynchronous if base is Middleware else sync

    return type(name, (base,), {each: hook(each) for each in HOOKS})


def context(logger: Any = None) -> Context:
    return cast(Context, SimpleNamespace(logger=logger or logging.getLogger("app")))


async def run_all(manager: MiddlewareManager) -> None:
    await manager.transform_input(context(), cast(Any, None), StepMemos({}))
    await manager.before_execution()
    await manager.after_execution()
    await manager.transform_output(TransformOutputResult(None, None, None))
    await manager.before_response()
    await manager.before_send_events([])
    await manager.after_send_events(SendEventsResult())


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):
        coroutine.send(None)


async def test_before_hooks_run_first_to_last_and_after_hooks_last_to_first() -> None:
    calls: list[str] = []
    manager = MiddlewareManager.for_function(
        client(recorder("client1", calls), recorder("client2", calls, Middleware)),
        [recorder("function", calls)],
        None,
        is_async=True,
    )
    await run_all(manager)
    forward, backward = ["client1", "client2", "function"], ["function", "client2", "client1"]
    order = dict(
        zip(HOOKS, [forward, forward, backward, backward, forward, forward, backward], strict=True)
    )
    assert calls == [f"{hook}:{name}" for hook, names in order.items() for name in names]


async def test_before_execution_runs_once() -> None:
    calls: list[str] = []
    manager = MiddlewareManager.for_function(client(), [recorder("m", calls)], None, is_async=True)
    await manager.before_execution()
    await manager.before_execution()
    assert calls == ["before_execution:m"]


def test_sync_middleware_never_suspends() -> None:
    calls: list[str] = []
    manager = MiddlewareManager.for_function(client(recorder("m", calls)), [], None, is_async=False)
    finish(run_all(manager))
    assert len(calls) == len(HOOKS)


@pytest.mark.parametrize("where", ["client", "function"])
def test_async_middleware_in_a_sync_function_is_refused_by_name(where: str) -> None:
    encrypt = recorder("Encrypt", [], Middleware)
    app = client(*([encrypt] if where == "client" else []))
    with pytest.raises(
        AsyncUnsupportedError,
        match=r"async middleware in non-async context: Encrypt\. Derive it from",
    ):
        MiddlewareManager.for_function(
            app, [encrypt] if where == "function" else [], None, is_async=False
        )


def test_an_async_hook_in_a_sync_middleware_is_refused_too() -> None:
    class Odd(MiddlewareSync):
        async def before_response(self) -> None:  # type: ignore[override]
            pass

    with pytest.raises(AsyncUnsupportedError, match="Odd"):
        MiddlewareManager.for_function(client(Odd), [], None, is_async=False)


async def test_middleware_is_constructed_anew_with_client_and_request() -> None:
    made: list[MiddlewareSync] = []

    def factory(client: Inngest, raw_request: object) -> MiddlewareSync:
        made.append(MiddlewareSync(client, raw_request))
        return made[-1]

    app = client(factory)
    request = object()
    MiddlewareManager.for_function(app, [factory], request, is_async=True)
    MiddlewareManager.for_client(app, is_async=True)
    assert [(each.client, each.raw_request) for each in made] == [
        (app, request),
        (app, request),
        (app, None),
    ]


async def test_an_error_of_a_hook_ends_the_round_and_is_raised() -> None:
    calls: list[str] = []

    class Broken(MiddlewareSync):
        def before_execution(self) -> None:
            raise ValueError("broken")

    manager = MiddlewareManager.for_function(
        client(Broken), [recorder("later", calls)], None, is_async=True
    )
    with pytest.raises(ValueError, match="broken"):
        await manager.before_execution()
    assert calls == []


async def test_hooks_change_output_events_and_memos_in_place() -> None:
    class Change(MiddlewareSync):
        def transform_input(self, ctx: Any, function: Any, steps: StepMemos) -> None:
            for memo in steps.values():
                memo.data = "plain"

        def transform_output(self, result: TransformOutputResult) -> None:
            assert result.step is not None
            assert result.step.op is Opcode.STEP_RUN
            result.output = "secret"

        def before_send_events(self, events: list[Event]) -> None:
            events.append(Event(name="audit"))

    manager = MiddlewareManager.for_function(client(), [Change], None, is_async=True)
    memos = StepMemos({"a": Output("secret")})
    await manager.transform_input(context(), cast(Any, None), memos)
    assert memos.pop("a") == Output("plain")
    result = TransformOutputResult(
        None, "plain", TransformOutputStepInfo("a", Opcode.STEP_RUN, None)
    )
    await manager.transform_output(result)
    assert result.output == "secret"
    events: list[Event] = []
    await manager.before_send_events(events)
    assert [event.name for event in events] == ["audit"]


async def test_the_context_logger_is_silent_until_execution(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []

    class Look(MiddlewareSync):
        def transform_input(self, ctx: Any, function: Any, steps: StepMemos) -> None:
            seen.append(ctx.logger)

    manager = MiddlewareManager.for_function(client(Look), [], None, is_async=True)
    ctx = context()
    await manager.transform_input(ctx, cast(Any, None), StepMemos({}))
    assert seen == [ctx.logger]
    ctx.logger.warning("replayed")
    await manager.before_execution()
    ctx.logger.warning("new")
    assert caplog.messages == ["new"]


def test_memos_are_taken_out_once() -> None:
    memos = StepMemos({"a": Output(1), "b": Output(None)})
    assert memos.size == 2
    assert memos.pop("b") == Output(None)
    assert memos.pop("b") is EmptySentinel
    assert list(memos.values()) == [Output(1)]


def test_memos_are_read_from_inngests_json() -> None:
    memos = StepMemos.from_raw(
        {
            "run": {"data": [1]},
            "failed": {"error": {"name": "E", "message": "m", "stack": "s"}},
            "event": {"name": "a", "data": {}},
            "sleep": None,
            "empty": {},
        }
    )
    assert memos.pop("run") == Output([1])
    assert memos.pop("failed") == Output(None, ErrorInfo("E", "m", "s"))
    assert memos.pop("event") == Output({"name": "a", "data": {}})
    assert memos.pop("sleep") == Output(None)
    assert memos.pop("empty") == Output({})


def test_an_output_of_none_is_an_output() -> None:
    assert TransformOutputResult(None, None, None).has_output()
    assert not TransformOutputResult(ValueError(), EmptySentinel, None).has_output()


class Sealing(MiddlewareSync):
    """Encrypts what is sent, in place."""

    def before_send_events(self, events: list[Event]) -> None:
        for event in events:
            inner: Any = event.data["inner"]
            inner["text"] = f"sealed {inner['text']}"


def test_what_hooks_change_in_sent_events_stays_out_of_the_callers_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies = []

    def post(url: str, *, content: bytes, headers: dict[str, str]) -> httpx.Response:
        bodies.append(json.loads(content)[0]["data"])
        return httpx.Response(200, json={"ids": ["1"]}, request=httpx.Request("POST", url))

    client = Inngest(app_id="app", is_production=False, middleware=[Sealing])
    monkeypatch.setattr(client._connections.synchronous().http, "post", post)
    event = Event(name="a", data={"inner": {"text": "secret"}})
    for _ in range(2):
        client.send_sync(event)
    assert bodies == [{"inner": {"text": "sealed secret"}}] * 2
    assert event.data == {"inner": {"text": "secret"}}


def test_what_hooks_change_in_a_steps_events_is_changed_once_in_each_attempt() -> None:
    event = Event(name="b", data={"inner": {"text": "secret"}})
    client = Inngest(app_id="app", is_production=False, middleware=[Sealing])

    @client.create_function(fn_id="fn", trigger=TriggerEvent(event="a"))
    async def fn(ctx: Context) -> None:
        await ctx.step.send_event("x", event)
        await ctx.step.send_event("y", event)

    result = trigger(fn, Event(name="a"))
    assert [sent.data for sent in result.sent] == [{"inner": {"text": "sealed secret"}}] * 2
    assert event.data == {"inner": {"text": "secret"}}
