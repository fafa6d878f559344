"""The official SDK of Python, unmodified: its FastAPI app is driven by our requests and replies.

`Executor` plays the run: it calls the app until the function ends, as Inngest does. Each behaviour
is a handler with what its run comes to, and the calls that it took.
"""

import datetime
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import fastapi
import httpx
import inngest
import inngest.fast_api
import pytest
from inngest.experimental import ai
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import ErrorInfo, ExecutionRequest, Op
from inngest_temporal.sdk.replies import Answer, Reply, read_reply
from inngest_temporal.sdk.requests import MAX_INLINE_BYTES, execution_call
from tests.tiny_http import Asked, Server, reply, serving

Handler = Callable[[inngest.Context], Awaitable[Any]]
KEY, OTHER_KEY = "signkey-test-0123456789abcdef", "signkey-test-fedcba9876543210"
EVENT = {"id": "01E", "name": "t/e", "data": {"n": 1}, "ts": 1_795_700_000_000, "user": {}}
RUN_ID = "01JZZZZZZZZZZZZZZZZZZZZZZZ"
NOW_MS = 1_795_700_000_000


@dataclass
class Executor:
    """The run of one function."""

    app: ASGIApp
    function: str = "py-f"
    retries: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    """Step -> its memo, for steps that wait."""
    events: Sequence[dict[str, Any]] = (EVENT,)
    keys: Sequence[str] = ()
    now: int | None = None
    plan_only: bool = False
    calls: list[str] = field(default_factory=list)
    """What each call came to: `target.attempt: answer`."""
    memos: dict[str, str] = field(default_factory=dict)
    needed: list[Op] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    version: int = -1

    async def call(
        self, target: str | None = None, attempt: int = 0, memos: dict[str, str] | None = None
    ) -> Answer:
        made = execution_call(
            url=f"http://app/api/inngest?fnId={self.function}",
            function_id=self.function,
            run_id=RUN_ID,
            events=self.events,
            memos=list((self.memos if memos is None else memos).items()),
            request=ExecutionRequest(
                target=target,
                attempt=attempt,
                retries=self.retries,
                version=self.version,
                plan_only=self.plan_only,
            ),
            dispatch="d1",
            keys=self.keys,
            now=round(time.time()) if self.now is None else self.now,
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app)) as client:
            got = await client.post(made.url, headers=made.headers, content=made.body)
        answer = read_reply(Reply(got.status_code, got.headers, got.content), NOW_MS)
        self.version = answer.version or self.version
        self.calls.append(f"{self.names.get(target or '', '-')}.{attempt}: {told(answer)}")
        return answer

    async def run(self) -> Any:
        """Run the function to its end, without pauses between attempts. Returns its result, or its
        `ErrorInfo`."""
        attempt = 0
        while len(self.calls) < 40:
            answer = await self.call(None, attempt)
            if answer.returned is not None:
                return answer.returned.value
            if answer.failed is not None:
                if not answer.failed.retriable or attempt >= self.retries:
                    return answer.failed
                attempt += 1
                continue
            attempt = self.store(answer, attempt)
            fresh = [op for op in answer.ops or [] if op.id not in self.memos]
            self.plan_only = self.plan_only or len(fresh) > 1
            known = dict(self.memos)
            for op in fresh:
                await self.execute(op, known)
        raise AssertionError(self.calls)

    def store(self, answer: Answer, attempt: int) -> int:
        """Keep what was done, and return the attempt of the next call."""
        for done in answer.done:
            self.names[done.op.id] = done.op.name
            self.memos[done.op.id] = json.dumps(
                {"data": done.data} if done.error is None else error_memo(done.error)
            )
        if answer.retry is None:
            return 0
        if attempt < self.retries:
            return attempt + 1
        assert answer.retry.error is not None
        self.memos[answer.retry.op.id] = json.dumps(error_memo(answer.retry.error))
        return 0

    async def execute(self, op: Op, known: dict[str, str]) -> None:
        """Execute one of the steps that were found together. `known` has the memos of that time: a
        call for one step does not tell the function of another's failure."""
        self.names[op.id] = op.name
        if op.kind == protocol.RUN and "gateway" not in op.options:
            attempt = 0
            while op.id not in self.memos:
                answer = await self.call(op.id, attempt, known)
                assert answer.failed is None, answer
                attempt = self.store(answer, attempt)
        else:
            self.needed.append(op)
            self.memos[op.id] = json.dumps(self.answers.get(op.name))


def told(answer: Answer) -> str:
    """An answer in a few words."""
    if answer.failed is not None:
        return "failed" if answer.failed.retriable else "failed for ever"
    words = [f"{'failed' if done.error else 'ran'} {done.op.name}" for done in answer.done]
    if answer.retry is not None:
        words.append(f"again {answer.retry.op.name}")
    if answer.ops is not None:
        words.append(f"needs {' '.join(op.name for op in answer.ops)}".strip())
    if answer.returned is not None:
        words.append("returned")
    return ", ".join(words)


def error_memo(error: ErrorInfo) -> dict[str, Any]:
    return {"error": {"name": error.name, "message": error.message, "stack": error.stack}}


@dataclass(frozen=True)
class Behaviour:
    """A handler, and what its run comes to."""

    handler: Handler
    result: Any
    calls: list[str]
    retries: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    needs: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Kind and options of what the run waited for."""
    plan_only: bool = False


BEHAVIOURS: list[Behaviour] = []


def comes_to(result: Any, calls: list[str], **given: Any) -> Callable[[Handler], Handler]:
    """Add a behaviour: what the run of the decorated handler comes to."""

    def add(handler: Handler) -> Handler:
        BEHAVIOURS.append(Behaviour(handler, result, calls, **given))
        return handler

    return add


def failed(name: str, message: str, **fields: Any) -> ErrorInfo:
    return ErrorInfo(name, message, **fields)


async def one() -> int:
    return 1


async def two() -> int:
    return 2


async def boom() -> None:
    raise ValueError("boom")


async def never() -> None:
    raise inngest.NonRetriableError("never")


# What a function returns.


@comes_to(None, ["-.0: returned"])
async def returns_nothing(ctx: inngest.Context) -> None:
    pass


@comes_to({"a": [1, 2.5, "é", None, True]}, ["-.0: returned"])
async def returns_json(ctx: inngest.Context) -> Any:
    return {"a": [1, 2.5, "é", None, True]}


@comes_to([{"op": "StepRun", "id": "x"}], ["-.0: returned"])
async def returns_what_looks_like_operations(ctx: inngest.Context) -> Any:
    return [{"op": "StepRun", "id": "x"}]


@comes_to([RUN_ID, 0, "t/e", {"n": 1}, "01E", 1_795_700_000_000, 1], ["-.0: returned"])
async def sees_its_run(ctx: inngest.Context) -> Any:
    event = ctx.event
    seen = [ctx.run_id, ctx.attempt, event.name, event.data, event.id, event.ts]
    return [*seen, len(ctx.events)]


@comes_to(["d1", "d1"], ["-.0: returned"])
async def sees_the_dispatch(ctx: inngest.Context) -> Any:
    return [ctx.request_id, ctx.job_id]


@comes_to(failed("OutputUnserializableError", "?"), ["-.0: failed"])
async def returns_no_json(ctx: inngest.Context) -> Any:
    return object()


# Steps.


@comes_to([1, 2], ["-.0: ran a", "-.0: ran b", "-.0: returned"])
async def executes_steps(ctx: inngest.Context) -> Any:
    return [await ctx.step.run("a", one), await ctx.step.run("b", two)]


@comes_to([1, 2, 1], ["-.0: ran a", "-.0: ran a", "-.0: ran a", "-.0: returned"])
async def repeats_an_id(ctx: inngest.Context) -> Any:
    return [await ctx.step.run("a", step) for step in (one, two, one)]


@comes_to([None, None], ["-.0: ran a", "-.0: returned"])
async def has_a_step_without_a_result(ctx: inngest.Context) -> Any:
    async def nothing() -> None:
        pass

    return [await ctx.step.run("a", nothing), None]


@comes_to({"data": 1}, ["-.0: ran a", "-.0: returned"])
async def has_a_step_whose_result_looks_like_a_memo(ctx: inngest.Context) -> Any:
    async def nested() -> Any:
        return {"data": 1}

    return await ctx.step.run("a", nested)


@comes_to({"error": {"name": "E", "message": "m"}}, ["-.0: ran a", "-.0: returned"])
async def has_a_step_whose_result_looks_like_an_error(ctx: inngest.Context) -> Any:
    async def nested() -> Any:
        return {"error": {"name": "E", "message": "m"}}

    return await ctx.step.run("a", nested)


@comes_to(3, ["-.0: ran a", "-.0: returned"])
async def gives_arguments_to_a_step(ctx: inngest.Context) -> Any:
    async def add(left: int, right: int) -> int:
        return left + right

    return await ctx.step.run("a", add, 1, 2)


@comes_to(1, ["-.0: needs a", "a.0: ran a", "-.0: returned"], plan_only=True)
async def plans_a_step_that_it_must_not_execute(ctx: inngest.Context) -> Any:
    return await ctx.step.run("a", one)


@comes_to(["01S"], ["-.0: ran s", "-.0: returned"])
async def sends_an_event(ctx: inngest.Context) -> Any:
    return await ctx.step.send_event("s", inngest.Event(name="x/y", data={"z": 1}))


# Steps that wait.


@comes_to(
    "slept",
    ["-.0: needs s", "-.0: returned"],
    needs=[(protocol.SLEEP, {"until_ms": "about an hour from now"})],
)
async def sleeps(ctx: inngest.Context) -> Any:
    await ctx.step.sleep("s", datetime.timedelta(hours=1))
    return "slept"


@comes_to(
    None,
    ["-.0: needs s", "-.0: returned"],
    needs=[(protocol.SLEEP, {"until_ms": 1_893_553_445_678})],
)
async def sleeps_until(ctx: inngest.Context) -> Any:
    until = datetime.datetime(2030, 1, 2, 3, 4, 5, 678_000, datetime.UTC)
    await ctx.step.sleep_until("s", until)


@comes_to(
    ["x/y", {"k": 1}, "01W"],
    ["-.0: needs w", "-.0: returned"],
    answers={"w": {"name": "x/y", "data": {"k": 1}, "id": "01W", "ts": 5, "user": {}}},
    needs=[
        (
            protocol.WAIT_FOR_EVENT,
            {"events": ["x/y"], "if": "async.data.k == 1", "timeout_ms": 90_000},
        )
    ],
)
async def waits_for_an_event(ctx: inngest.Context) -> Any:
    event = await ctx.step.wait_for_event(
        "w", event="x/y", if_exp="async.data.k == 1", timeout=datetime.timedelta(seconds=90)
    )
    return event and [event.name, event.data, event.id]


@comes_to(
    None,
    ["-.0: needs w", "-.0: returned"],
    needs=[(protocol.WAIT_FOR_EVENT, {"events": ["x/y"], "if": None, "timeout_ms": 604_800_000})],
)
async def waits_in_vain(ctx: inngest.Context) -> Any:
    week = datetime.timedelta(weeks=1)
    return await ctx.step.wait_for_event("w", event="x/y", timeout=week)


@comes_to(
    [7],
    ["-.0: needs i", "-.0: returned"],
    answers={"i": {"data": [7]}},
    needs=[
        (
            protocol.INVOKE,
            {"function_id": "other-g", "payload": {"data": {"q": 1}}, "timeout_ms": 60_000},
        )
    ],
)
async def invokes_by_id(ctx: inngest.Context) -> Any:
    minute = datetime.timedelta(minutes=1)
    return await ctx.step.invoke_by_id(
        "i", app_id="other", function_id="g", data={"q": 1}, timeout=minute
    )


@comes_to(
    None,
    ["-.0: needs i", "-.0: returned"],
    answers={"i": {"data": None}},
    needs=[(protocol.INVOKE, {"function_id": "py-g", "payload": {"data": {}, "v": "2"}})],
)
async def invokes_with_nothing(ctx: inngest.Context) -> Any:
    return await ctx.step.invoke_by_id("i", function_id="g", v="2")


@comes_to(
    failed("Inner", "no", retriable=False),
    ["-.0: needs i", "-.0: failed for ever"],
    retries=3,
    answers={"i": {"error": {"name": "Inner", "message": "no"}}},
)
async def invokes_what_fails(ctx: inngest.Context) -> Any:
    return await ctx.step.invoke_by_id("i", function_id="g")


@comes_to(
    "caught no",
    ["-.0: needs i", "-.0: returned"],
    answers={"i": {"error": {"name": "Inner", "message": "no", "stack": "s"}}},
)
async def catches_what_an_invoked_function_raised(ctx: inngest.Context) -> Any:
    try:
        await ctx.step.invoke_by_id("i", function_id="g")
    except inngest.StepError as error:
        return f"caught {error.message}"


@comes_to(
    {"choices": ["hi"]},
    ["-.0: needs ai", "-.0: returned"],
    answers={"ai": {"data": {"choices": ["hi"]}}},
    needs=[(protocol.RUN, {"gateway": "ai"})],
)
async def asks_a_model(ctx: inngest.Context) -> Any:
    model = ai.openai.Adapter(auth_key="sk-secret", model="gpt-4o-mini")
    return await ctx.step.ai.infer("ai", adapter=model, body={"messages": [{"content": "hi"}]})


# Errors of steps.


@comes_to(
    failed("ValueError", "boom", retriable=False),
    ["-.0: again a", "-.1: again a", "-.2: failed a", "-.0: failed for ever"],
    retries=2,
)
async def has_a_step_that_fails(ctx: inngest.Context) -> Any:
    await ctx.step.run("a", boom)


@comes_to(
    "caught boom",
    ["-.0: again a", "-.1: failed a", "-.0: ran b", "-.0: returned"],
    retries=1,
)
async def goes_on_after_a_step_that_failed(ctx: inngest.Context) -> Any:
    try:
        await ctx.step.run("a", boom)
    except inngest.StepError as error:
        await ctx.step.run("b", one)
        return f"caught {error.message}"


@comes_to(1, ["-.0: again a", "-.1: ran a", "-.0: returned"], retries=3)
async def succeeds_with_the_second_attempt(ctx: inngest.Context) -> Any:
    async def first_fails() -> int:
        if ctx.attempt == 0:
            raise ValueError("first")
        return ctx.attempt

    return await ctx.step.run("a", first_fails)


@comes_to(
    [1, 1],
    ["-.0: again a", "-.1: ran a", "-.0: again b", "-.1: ran b", "-.0: returned"],
    retries=1,
)
async def counts_the_attempts_of_each_step(ctx: inngest.Context) -> Any:
    async def first_fails() -> int:
        if ctx.attempt == 0:
            raise ValueError("first")
        return ctx.attempt

    return [await ctx.step.run("a", first_fails), await ctx.step.run("b", first_fails)]


@comes_to(
    failed("NonRetriableError", "never", retriable=False), ["-.0: failed for ever"], retries=3
)
async def has_a_step_that_must_not_be_retried(ctx: inngest.Context) -> Any:
    await ctx.step.run("a", never)


@comes_to(
    failed("RetryAfterError", "later", retry_after_ms=86_400_000),
    ["-.0: failed", "-.1: failed"],
    retries=1,
)
async def has_a_step_that_is_retried_later(ctx: inngest.Context) -> Any:
    async def later() -> None:
        raise inngest.RetryAfterError("later", datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))

    await ctx.step.run("a", later)


@comes_to(failed("OutputUnserializableError", "?"), ["-.0: failed"])
async def has_a_step_whose_result_is_no_json(ctx: inngest.Context) -> Any:
    async def odd() -> Any:
        return object()

    await ctx.step.run("a", odd)


# Errors of functions.


@comes_to(failed("ValueError", "boom"), ["-.0: failed", "-.1: failed", "-.2: failed"], retries=2)
async def raises(ctx: inngest.Context) -> Any:
    await boom()


@comes_to(1, ["-.0: failed", "-.1: returned"], retries=2)
async def raises_once(ctx: inngest.Context) -> Any:
    if ctx.attempt == 0:
        await boom()
    return ctx.attempt


@comes_to(
    failed("NonRetriableError", "never", retriable=False), ["-.0: failed for ever"], retries=2
)
async def raises_what_must_not_be_retried(ctx: inngest.Context) -> Any:
    await never()


@comes_to(
    failed("RetryAfterError", "later", retry_after_ms=1_000),
    ["-.0: failed", "-.1: failed"],
    retries=1,
)
async def raises_what_is_retried_now(ctx: inngest.Context) -> Any:
    raise inngest.RetryAfterError("later", datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))


@comes_to(1, ["-.0: ran a", "-.0: failed", "-.1: returned"], retries=1)
async def keeps_its_steps_when_it_raises(ctx: inngest.Context) -> Any:
    result = await ctx.step.run("a", one)
    if ctx.attempt == 0:
        await boom()
    return result


@comes_to(failed("ExceptionGroup", "?"), ["-.0: failed"])
async def raises_a_group(ctx: inngest.Context) -> Any:
    raise ExceptionGroup("several", [ValueError("a"), ValueError("b")])


# Parallel steps.

PAIR = ["-.0: needs a b", "a.0: ran a", "b.0: ran b", "-.0: returned"]


@comes_to([1, 2], PAIR)
async def executes_steps_in_parallel(ctx: inngest.Context) -> Any:
    return await ctx.group.parallel(
        (lambda: ctx.step.run("a", one), lambda: ctx.step.run("b", two))
    )


@comes_to([1, 2], PAIR)
async def races_steps(ctx: inngest.Context) -> Any:
    return await ctx.group.parallel(
        (lambda: ctx.step.run("a", one), lambda: ctx.step.run("b", two)),
        parallel_mode=inngest.ParallelMode.RACE,
    )


@comes_to(
    [1, None],
    ["-.0: needs a s", "a.0: ran a", "-.0: returned"],
    needs=[(protocol.SLEEP, {"until_ms": "about an hour from now"})],
)
async def sleeps_in_parallel(ctx: inngest.Context) -> Any:
    hour = datetime.timedelta(hours=1)
    return await ctx.group.parallel(
        (lambda: ctx.step.run("a", one), lambda: ctx.step.sleep("s", hour))
    )


@comes_to(
    3,
    ["-.0: needs a b", "a.0: ran a", "b.0: ran b", "-.0: needs c", "c.0: ran c", "-.0: returned"],
)
async def goes_on_after_parallel_steps(ctx: inngest.Context) -> Any:
    left, right = await ctx.group.parallel(
        (lambda: ctx.step.run("a", one), lambda: ctx.step.run("b", two))
    )

    async def add() -> int:
        return left + right

    return await ctx.step.run("c", add)


@comes_to(
    failed("ValueError", "boom", retriable=False),
    ["-.0: needs a b", "a.0: again a", "a.1: failed a", "b.0: ran b", "-.0: failed for ever"],
    retries=1,
)
async def has_a_parallel_step_that_fails(ctx: inngest.Context) -> Any:
    await ctx.group.parallel((lambda: ctx.step.run("a", boom), lambda: ctx.step.run("b", two)))


@comes_to(
    [[1, 2], 1],
    ["-.0: needs a b c", "a.0: ran a", "b.0: ran b", "c.0: ran c", "-.0: returned"],
)
async def nests_parallel_steps(ctx: inngest.Context) -> Any:
    async def inner() -> Any:
        return await ctx.group.parallel(
            (lambda: ctx.step.run("a", one), lambda: ctx.step.run("b", two))
        )

    return await ctx.group.parallel((inner, lambda: ctx.step.run("c", one)))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """What the SDK takes for Inngest's server."""

    def answer(asked: Asked) -> bytes:
        if asked.target.startswith("/e/"):
            return reply(200, '{"ids": ["01S"], "status": 200}')
        return reply(404, "{}")

    async with serving(answer) as server:
        yield server


def app_of(
    server: Server,
    *handlers: Handler,
    signing_key: str | None = None,
    streaming: bool = False,
    **options: Any,
) -> fastapi.FastAPI:
    """An app with these functions, called `f`, `f1`, ..."""
    client = inngest.Inngest(
        app_id="py",
        is_production=signing_key is not None,
        signing_key=signing_key,
        event_key="event-key",
        api_base_url=server.url,
        event_api_base_url=server.url,
    )
    functions = [
        client.create_function(
            fn_id=f"f{number or ''}", trigger=inngest.TriggerEvent(event="t/e"), **options
        )(handler)
        for number, handler in enumerate(handlers)
    ]
    app = fastapi.FastAPI()
    mode = inngest.Streaming.FORCE if streaming else inngest.Streaming.DISABLE
    inngest.fast_api.serve(app, client, functions, streaming=mode)
    return app


def alike(result: Any) -> Any:
    """The result; if it is an error, without its stack and without a message of the SDK's own."""
    if not isinstance(result, ErrorInfo):
        return result
    assert result.message
    is_own = result.name in ("OutputUnserializableError", "ExceptionGroup")
    return replace(result, stack=None, message="?" if is_own else result.message)


def check_needs(needed: list[Op], expected: list[tuple[str, dict[str, Any]]]) -> None:
    assert [op.kind for op in needed] == [kind for kind, _ in expected]
    for op, (_, options) in zip(needed, expected, strict=True):
        if options.get("until_ms") == "about an hour from now":
            assert abs(op.options["until_ms"] - (time.time() + 3600) * 1000) < 60_000
        else:
            assert op.options == options


def name_of(behaviour: Behaviour) -> str:
    return getattr(behaviour.handler, "__name__", "?")


@pytest.mark.parametrize("streaming", [False, True], ids=["", "streaming"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=name_of)
async def test_a_function_that(behaviour: Behaviour, streaming: bool, server: Server) -> None:
    executor = Executor(
        app_of(server, behaviour.handler, streaming=streaming),
        retries=behaviour.retries,
        answers=behaviour.answers,
        plan_only=behaviour.plan_only,
    )
    result = await executor.run()
    assert executor.calls == behaviour.calls
    assert alike(result) == behaviour.result
    if behaviour.needs:
        check_needs(executor.needed, behaviour.needs)
    assert executor.version == 2


# Requests that are odd, or signed.


async def returns_one(ctx: inngest.Context) -> int:
    return 1


async def has_a_step(ctx: inngest.Context) -> Any:
    return await ctx.step.run("a", one)


async def measures_a_step(ctx: inngest.Context) -> Any:
    return len(str(await ctx.step.run("a", one)))


async def returns_its_event(ctx: inngest.Context) -> Any:
    return ctx.event.data


async def test_an_unknown_function_fails_and_may_be_retried(server: Server) -> None:
    answer = await Executor(app_of(server, returns_one), "py-gone").call()
    assert answer.failed is not None
    assert (answer.failed.name, answer.failed.retriable) == ("FunctionNotFoundError", True)


async def test_an_unknown_step_fails_and_may_be_retried(server: Server) -> None:
    answer = await Executor(app_of(server, has_a_step)).call("00" * 20)
    assert answer.failed is not None
    assert (answer.failed.name, answer.failed.retriable) == ("StepUnexpectedError", True)


async def test_a_batch_arrives_with_all_its_events(server: Server) -> None:
    async def returns_all(ctx: inngest.Context) -> Any:
        return [event.data for event in ctx.events]

    events = [EVENT | {"id": str(number), "data": {"n": number}} for number in range(3)]
    executor = Executor(app_of(server, returns_all), events=events)
    assert await executor.run() == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_on_failure_gets_the_failed_event_over_http(server: Server) -> None:
    async def told_of_it(ctx: inngest.Context) -> Any:
        return ctx.event.data["error"]["message"]

    app = app_of(server, returns_one, on_failure=told_of_it)
    data = {"function_id": "py-f", "run_id": RUN_ID, "error": {"name": "E", "message": "m"}}
    event = EVENT | {"name": "inngest/function.failed", "data": data | {"event": EVENT}}
    assert await Executor(app, "py-f-failure", events=[event]).run() == "m"


async def test_a_handler_that_is_not_async_is_called_for_each_step(server: Server) -> None:
    client = inngest.Inngest(app_id="py", is_production=False)

    @client.create_function(fn_id="f", trigger=inngest.TriggerEvent(event="t/e"))
    def blocks(ctx: inngest.ContextSync) -> Any:
        return [ctx.step.run("a", lambda: 1), ctx.step.run("b", lambda: 2)]

    app = fastapi.FastAPI()
    inngest.fast_api.serve(app, client, [blocks])
    executor = Executor(app)
    assert await executor.run() == [1, 2]
    assert executor.calls == ["-.0: ran a", "-.0: ran b", "-.0: returned"]


@pytest.mark.parametrize("keys", [[KEY], [KEY, OTHER_KEY]])
async def test_a_signed_call_is_accepted(keys: list[str], server: Server) -> None:
    executor = Executor(app_of(server, has_a_step, signing_key=KEY), keys=keys)
    assert await executor.run() == 1


ODD = {
    "integers": [2**53 - 1, 2**53, 2**53 + 1, -(2**60), 12345678901234567890, 10**30],
    "floats": [1.0, 1.5, 1e21, 1e-7, 0.1 + 0.2],
    "texts": ["é", "😀", "\u2028", '"\\/', "\x00\x7f"],
    "😀": {"\ue000": None, "b": True, "a": {}},
}


async def test_odd_values_in_a_signed_call_arrive_as_doubles_can_hold_them(server: Server) -> None:
    executor = Executor(
        app_of(server, returns_its_event, signing_key=KEY),
        keys=[KEY],
        events=[EVENT | {"data": ODD}],
    )
    seen = await executor.run()
    assert isinstance(seen, dict)
    assert seen["texts"] == ODD["texts"]
    assert seen["floats"] == ODD["floats"]
    assert seen["😀"] == ODD["😀"]
    assert [float(each) for each in seen["integers"]] == [float(n) for n in ODD["integers"]]


async def test_odd_values_in_a_memo_of_a_signed_call_arrive(server: Server) -> None:
    executor = Executor(app_of(server, has_a_step, signing_key=KEY), keys=[KEY])
    executor.memos[hashlib.sha1(b"a").hexdigest()] = json.dumps({"data": ODD["floats"]})
    assert await executor.run() == ODD["floats"]


@pytest.mark.parametrize("keys", [[], [OTHER_KEY], [OTHER_KEY, KEY]])
async def test_a_call_that_is_signed_wrongly_is_refused(keys: list[str], server: Server) -> None:
    answer = await Executor(app_of(server, returns_one, signing_key=KEY), keys=keys).call()
    assert answer.failed is not None
    assert answer.failed.retriable
    assert "401" in answer.failed.message


async def test_an_old_signature_is_accepted(server: Server) -> None:
    """This SDK does not look at the time; that of JavaScript allows for five minutes."""
    app = app_of(server, returns_one, signing_key=KEY)
    assert await Executor(app, keys=[KEY], now=1_000_000_000).run() == 1


async def test_state_that_is_gone_is_a_failure_that_may_be_retried(server: Server) -> None:
    executor = Executor(app_of(server, has_a_step))
    executor.memos = {"0" * 40: json.dumps("x" * MAX_INLINE_BYTES)}
    answer = await executor.call()
    assert answer.failed is not None
    assert answer.failed.retriable
    assert "404" in answer.failed.message


async def test_the_fallback_key_is_accepted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", OTHER_KEY)
    app = app_of(server, returns_one, signing_key=KEY)
    assert await Executor(app, keys=[OTHER_KEY]).run() == 1
    assert await Executor(app, keys=[KEY]).run() == 1


@pytest.mark.parametrize("signing_key", [None, KEY])
async def test_large_state_is_fetched_by_the_sdk(signing_key: str | None) -> None:
    large = {"data": "x" * MAX_INLINE_BYTES}
    memos = {hashlib.sha1(b"a").hexdigest(): large}

    def answer(asked: Asked) -> bytes:
        parts = {"batch": [EVENT], "actions": memos}
        return reply(200, json.dumps(parts[asked.target.rpartition("/")[2]]))

    async with serving(answer) as server:
        app = app_of(server, measures_a_step, signing_key=signing_key)
        executor = Executor(app, keys=[] if signing_key is None else [signing_key])
        executor.memos = {step: json.dumps(memo) for step, memo in memos.items()}
        assert await executor.run() == MAX_INLINE_BYTES
        fetched = sorted(asked.target for asked in server.asked)
        assert fetched == [f"/v0/runs/{RUN_ID}/actions", f"/v0/runs/{RUN_ID}/batch"]


# A proxy between an app and us.


class Between:
    """A proxy that may change the app's answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        status: int | None = None,
        body: bytes | None = None,
        without: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.app, self.status, self.body, self.without = app, status, body, without
        self.headers = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def passed_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [
                    (name, value)
                    for name, value in message["headers"]
                    if name not in (b"content-length", self.without.encode())
                ]
                message["headers"] = kept + self.headers
                message["status"] = self.status or message["status"]
            elif self.body is not None:
                message["body"] = self.body
            await send(message)

        await self.app(scope, receive, passed_on)


@pytest.mark.parametrize("handler", [returns_one, has_a_step])
async def test_a_reply_without_the_header_of_sdks_is_invalid(
    handler: Handler, server: Server
) -> None:
    app = Between(app_of(server, handler), without="x-inngest-sdk")
    answer = await Executor(app).call()
    assert answer.failed is not None
    assert (answer.failed.name, answer.failed.retriable) == ("InvalidReply", True)


@pytest.mark.parametrize("status", [404, 429, 502, 503, 504])
async def test_a_page_of_a_proxy_is_a_failure_that_may_be_retried(
    status: int, server: Server
) -> None:
    app = Between(app_of(server, returns_one), status=status, body=b"oh", without="x-inngest-sdk")
    answer = await Executor(app).call()
    assert answer.failed is not None
    assert (answer.failed.name, answer.failed.stack) == ("Server returned a fatal error", "oh")
    assert answer.failed.retriable


@pytest.mark.parametrize("body", [b"", b"null", b"<html>", b"[null]", b'[{"op":"StepJump"}]'])
async def test_broken_operations_are_an_invalid_reply(body: bytes, server: Server) -> None:
    answer = await Executor(Between(app_of(server, has_a_step), body=body)).call()
    assert answer.failed is not None
    assert (answer.failed.name, answer.failed.retriable) == ("InvalidReply", True)


async def test_an_empty_list_of_operations_needs_nothing(server: Server) -> None:
    answer = await Executor(Between(app_of(server, has_a_step), body=b"[]")).call()
    assert (answer.ops, answer.done, answer.failed) == ([], [], None)


async def test_headers_that_a_proxy_added_count(server: Server) -> None:
    async def raises(ctx: inngest.Context) -> None:
        raise ValueError("boom")

    answer = await Executor(Between(app_of(server, raises), headers={"retry-after": "30"})).call()
    assert answer.failed is not None
    assert answer.failed.retry_after_ms == 30_000
    never_again = {"x-inngest-no-retry": "true"}
    for handler in (raises, returns_one):
        answer = await Executor(Between(app_of(server, handler), headers=never_again)).call()
        assert answer.failed is not None
        assert not answer.failed.retriable
    answer = await Executor(Between(app_of(server, raises_in_a_step), headers=never_again)).call()
    assert told(answer) == "failed a"


async def raises_in_a_step(ctx: inngest.Context) -> None:
    await ctx.step.run("a", boom)


async def test_a_compressed_reply_is_read(server: Server) -> None:
    async def returns_much(ctx: inngest.Context) -> str:
        return "x" * 100_000

    app = GZipMiddleware(app_of(server, returns_much))
    assert await Executor(app).run() == "x" * 100_000
