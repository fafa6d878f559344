"""Hooks around executions and sending.

For one execution of a handler, in this order:

    transform_input -> before_execution -> the handler -> after_execution -> transform_output ->
    before_response

`before_execution` comes when the handler reaches code that was not executed before;
`after_execution` unless it raised. Hooks named before or transform_input run in the order the
middleware was given (the client's, then the function's), those named after and transform_output in
reverse.
"""

import enum
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from inngest_temporal.drivers.failures import error_from_json
from inngest_temporal.drivers.protocol import ErrorInfo

from .context import Context, ContextSync
from .errors import AsyncUnsupportedError
from .functions import App, Function
from .logger import FilteredLogger
from .models import Event, SendEventsResult
from .serialization import EmptySentinel
from .sync import maybe_await


class Opcode(enum.Enum):
    """Inngest's names for what a step reports."""

    AI_GATEWAY = "AIGateway"
    INVOKE = "InvokeFunction"
    PLANNED = "StepPlanned"
    SLEEP = "Sleep"
    STEP_ERROR = "StepError"
    STEP_FAILED = "StepFailed"
    STEP_RUN = "StepRun"
    WAIT_FOR_EVENT = "WaitForEvent"
    WAIT_FOR_SIGNAL = "WaitForSignal"


@dataclass
class TransformOutputStepInfo:
    """The step whose result is transformed."""

    id: str
    """The user's step id."""
    op: Opcode
    opts: dict[str, object] | None


@dataclass
class TransformOutputResult:
    """A result on its way out. What a hook assigns to `error` and `output` is kept."""

    error: Exception | None
    output: object
    """`EmptySentinel` if there is none."""
    step: TransformOutputStepInfo | None
    """None for the result of the handler itself."""

    def has_output(self) -> bool:
        """Whether there is an output; it may be None."""
        return self.output is not EmptySentinel


@dataclass
class Output:
    """The recorded result of a finished step. What a hook assigns to `data` is what the handler
    gets."""

    data: object = None
    error: ErrorInfo | None = None


class StepMemos:
    """The recorded results that an execution starts with, by hashed step id."""

    def __init__(self, memos: dict[str, Output]) -> None:
        self._memos = dict(memos)

    @property
    def size(self) -> int:
        """How many results are left."""
        return len(self._memos)

    def values(self) -> Iterator[Output]:
        """All results."""
        return iter(self._memos.values())

    def pop(self, hashed_id: str) -> Output | type[EmptySentinel]:
        """Take out one result; `EmptySentinel` if there is none."""
        return self._memos.pop(hashed_id, EmptySentinel)

    @classmethod
    def from_raw(cls, raw: dict[str, object]) -> "StepMemos":
        """From Inngest's JSON: `{"data": ...}`, `{"error": {name, message, stack}}`, or anything
        else as the data."""
        return cls({hashed_id: _output(value) for hashed_id, value in raw.items()})


def _output(raw: object) -> Output:
    if not isinstance(raw, Mapping) or not raw or raw.keys() - {"data", "error"}:
        return Output(raw)
    error = raw.get("error")
    if isinstance(error, Mapping):
        return Output(raw.get("data"), error_from_json(error))
    return Output(raw.get("data"))


class Middleware:
    """Base of a middleware with async hooks; one is created for each execution and each
    `client.send`."""

    def __init__(self, client: App, raw_request: object) -> None:
        """`raw_request`: what carried the call, if anything did; None for `client.send`."""
        self.client = client
        self.raw_request = raw_request

    async def transform_input(
        self,
        ctx: Context | ContextSync,
        function: Function[Any],
        steps: StepMemos,
    ) -> None:
        """Change the context or the recorded results before the handler gets them."""

    async def before_execution(self) -> None:
        """Called at most once, before code that was not executed before."""

    async def after_execution(self) -> None:
        """The handler returned or reached a step."""

    async def transform_output(self, result: TransformOutputResult) -> None:
        """Change what a step or the handler returned or raised."""

    async def before_response(self) -> None:
        """The execution is over."""

    async def before_send_events(self, events: list[Event]) -> None:
        """Change events before they are sent."""

    async def after_send_events(self, result: SendEventsResult) -> None:
        """Events were sent, or not: see `result.error`."""


class MiddlewareSync:
    """Base of a middleware whose hooks are not async; it serves all functions. Hooks as in
    `Middleware`."""

    def __init__(self, client: App, raw_request: object) -> None:
        """See `Middleware`."""
        self.client = client
        self.raw_request = raw_request

    def transform_input(
        self,
        ctx: Context | ContextSync,
        function: Function[Any],
        steps: StepMemos,
    ) -> None:
        """See `Middleware.transform_input`."""

    def before_execution(self) -> None:
        """See `Middleware.before_execution`."""

    def after_execution(self) -> None:
        """See `Middleware.after_execution`."""

    def transform_output(self, result: TransformOutputResult) -> None:
        """See `Middleware.transform_output`."""

    def before_response(self) -> None:
        """See `Middleware.before_response`."""

    def before_send_events(self, events: list[Event]) -> None:
        """See `Middleware.before_send_events`."""

    def after_send_events(self, result: SendEventsResult) -> None:
        """See `Middleware.after_send_events`."""


UninitializedMiddleware: TypeAlias = Callable[..., Middleware | MiddlewareSync]
"""A middleware's class, or a factory, called with the client and the raw request."""


class LoggerMiddleware(MiddlewareSync):
    """Built in, and first: `ctx.logger` is silent until `before_execution`."""

    _logger: FilteredLogger | None = None

    def transform_input(
        self,
        ctx: Context | ContextSync,
        function: Function[Any],
        steps: StepMemos,
    ) -> None:
        """Wrap the context's logger, unless it is wrapped."""
        self._logger = (
            ctx.logger if isinstance(ctx.logger, FilteredLogger) else FilteredLogger(ctx.logger)
        )
        ctx.logger = self._logger

    def before_execution(self) -> None:
        """Let lines through."""
        if self._logger is not None:
            self._logger.enable()


_HOOKS = (
    "transform_input",
    "before_execution",
    "after_execution",
    "transform_output",
    "before_response",
    "before_send_events",
    "after_send_events",
)


class MiddlewareManager:
    """The middleware of one execution or one `client.send`; runs each hook on all of it, in order.

    An exception of a hook ends the round and is raised. With `MiddlewareSync` alone no method ever
    suspends, so a thread without an event loop can run one with `coroutine.send(None)`.
    """

    def __init__(
        self,
        client: App,
        middleware: Iterable[UninitializedMiddleware],
        raw_request: object,
        is_async: bool,
    ) -> None:
        """Construct the middleware. Raises `AsyncUnsupportedError` if there is async one and
        `is_async` is false."""
        self._middleware = [construct(client, raw_request) for construct in middleware]
        self._executing = False
        if is_async:
            return
        for each in self._middleware:
            if isinstance(each, Middleware) or any(
                inspect.iscoroutinefunction(getattr(each, hook)) for hook in _HOOKS
            ):
                raise AsyncUnsupportedError(
                    f"encountered async middleware in non-async context: {type(each).__name__}."
                    " Derive it from MiddlewareSync, or make the function async (or use send"
                    " instead of send_sync)."
                )

    @classmethod
    def for_client(cls, client: App, is_async: bool) -> "MiddlewareManager":
        """For `client.send` (`is_async`) or `client.send_sync`: the client's middleware."""
        return cls(client, client.middleware, None, is_async)

    @classmethod
    def for_function(
        cls,
        client: App,
        function_middleware: Iterable[UninitializedMiddleware],
        raw_request: object,
        is_async: bool,
    ) -> "MiddlewareManager":
        """For one execution: the built-in logger, the client's middleware, the function's."""
        return cls(
            client,
            [LoggerMiddleware, *client.middleware, *function_middleware],
            raw_request,
            is_async,
        )

    async def transform_input(
        self,
        ctx: Context | ContextSync,
        function: Function[Any],
        memos: StepMemos,
    ) -> None:
        """Before the handler, with its context and the recorded results."""
        for each in self._middleware:
            await maybe_await(each.transform_input(ctx, function, memos))

    async def before_execution(self) -> None:
        """Before code that was not executed before; only the first call does anything."""
        if self._executing:
            return
        self._executing = True
        for each in self._middleware:
            await maybe_await(each.before_execution())

    async def after_execution(self) -> None:
        """After the handler returned or reached a step; not when it raised."""
        for each in reversed(self._middleware):
            await maybe_await(each.after_execution())

    async def transform_output(self, result: TransformOutputResult) -> None:
        """With the one result of the execution; `result` is changed in place."""
        for each in reversed(self._middleware):
            await maybe_await(each.transform_output(result))

    async def before_response(self) -> None:
        """At the end of the execution."""
        for each in self._middleware:
            await maybe_await(each.before_response())

    async def before_send_events(self, events: list[Event]) -> None:
        """Before sending; `events` is changed in place."""
        for each in self._middleware:
            await maybe_await(each.before_send_events(events))

    async def after_send_events(self, result: SendEventsResult) -> None:
        """After sending, also when it failed."""
        for each in reversed(self._middleware):
            await maybe_await(each.after_send_events(result))
