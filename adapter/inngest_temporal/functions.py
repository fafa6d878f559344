"""Functions: a handler, what triggers it, and its configuration."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import pydantic

from .config import FunctionConfig, check
from .context import Context, ContextSync
from .errors import (
    FunctionConfigInvalidError,
    OutputUnserializableError,
)
from .logger import Logger
from .models import Checkpointing, Event, TriggerEvent, describe
from .serialization import Serializer
from .steps import Invocable

T = TypeVar("T")

FunctionHandlerAsync: TypeAlias = Callable[[Context], Awaitable[T]]
FunctionHandlerSync: TypeAlias = Callable[[ContextSync], T]
MiddlewareFactory: TypeAlias = Callable[..., Any]
"""An `UninitializedMiddleware`. Its type is in the module of middleware, which imports this one."""


class App(Protocol):
    """The interface of a client to functions and middleware; `Inngest` implements it."""

    app_id: str
    logger: Logger

    @property
    def app_version(self) -> str | None:
        """The app's version, for people; None if it was not given."""
        ...

    @property
    def middleware(self) -> Sequence[MiddlewareFactory]:
        """Middleware for every function and every send."""
        ...

    @property
    def serializer(self) -> Serializer | None:
        """The serializer for values with an `output_type`."""
        ...

    async def send(
        self, events: Event | list[Event], *, skip_middleware: bool = False
    ) -> list[str]:
        """See `Inngest.send`."""
        ...

    def send_sync(self, events: Event | list[Event], *, skip_middleware: bool = False) -> list[str]:
        """See `Inngest.send_sync`."""
        ...


@dataclass(frozen=True)
class FunctionConfigs:
    """Both configurations of a `Function`."""

    main: FunctionConfig
    on_failure: FunctionConfig | None


@dataclass(frozen=True)
class FunctionPart:
    """One thing that a worker runs for a `Function`: its handler, or its `on_failure`."""

    id: str
    handler: Callable[[Any], Any]
    is_async: bool
    retries: int
    config: FunctionConfig
    output_type: object
    client: App
    middleware: Sequence[MiddlewareFactory]
    """The function's own middleware; that of the client comes before it."""
    checkpointing: Checkpointing | None
    """None: each step has an execution of its own."""
    function: "Function[Any]"


class Function(Invocable[T]):
    """A handler with its configuration. `Inngest.create_function` makes it, a worker runs it."""

    def __init__(
        self,
        client: App,
        handler: FunctionHandlerAsync[T] | FunctionHandlerSync[T],
        *,
        fn_id: str,
        name: str | None,
        on_failure: FunctionHandlerAsync[Any] | FunctionHandlerSync[Any] | None,
        output_type: object,
        middleware: Sequence[MiddlewareFactory],
        checkpointing: Checkpointing | None,
        config: Mapping[str, Any],
    ) -> None:
        """`config` has the other fields of `FunctionConfig`, as the user passed them.

        Raises `FunctionConfigInvalidError` if a handler is not a function, or `on_failure` not of
        the handler's kind.
        """
        if not isinstance(fn_id, str) or not fn_id:
            raise FunctionConfigInvalidError(
                f"fn_id must be a non-empty string that never changes, not {fn_id!r}"
            )
        self.client = client
        self.output_type = output_type
        self.middleware = middleware
        self.checkpointing = checkpointing
        self._local_id = fn_id
        self._name = name or fn_id
        self._handler = handler
        self._on_failure = on_failure
        self._config = config
        self._is_async = _is_async(handler, fn_id, "handler")
        self._is_failure_async = (
            None if on_failure is None else _is_async(on_failure, fn_id, "on_failure")
        )
        if self._is_failure_async is not None and self._is_failure_async is not self._is_async:
            this, that = (
                ("an async", "a non-async") if self._is_async else ("a non-async", "an async")
            )
            raise FunctionConfigInvalidError(
                f"{this} function cannot have {that} on_failure handler (function {fn_id}); make"
                " both async or neither"
            )

    @property
    def id(self) -> str:
        """The full id: app id, a hyphen, and the local id. Also the name of the workflow type."""
        return f"{self.client.app_id}-{self._local_id}"

    @property
    def local_id(self) -> str:
        """The id within the app."""
        return self._local_id

    @property
    def name(self) -> str:
        """The name for people; by default the local id."""
        return self._name

    @property
    def on_failure_fn_id(self) -> str | None:
        """Full id of the function for `on_failure`."""
        return None if self._on_failure is None else f"{self.id}-failure"

    @property
    def is_handler_async(self) -> bool:
        """Whether the handler is async."""
        return self._is_async

    @property
    def is_on_failure_handler_async(self) -> bool | None:
        """Whether `on_failure` is async; None without one."""
        return self._is_failure_async

    def get_id(self) -> str:
        """The full id."""
        return self.id

    def get_config(self, app_url: str) -> FunctionConfigs:
        """The configurations to register. `app_url` is for functions that are called over HTTP; not
        used yet.

        Raises `FunctionConfigInvalidError`, which lists every problem.
        """
        try:
            main = FunctionConfig.model_validate(
                {"id": self.id, "name": self._name, **self._config}, context={}
            )
        except pydantic.ValidationError as error:
            raise FunctionConfigInvalidError(f"Function {self.id!r}, {describe(error)}") from None
        check(main, self.client.app_id)
        if self.on_failure_fn_id is None:
            return FunctionConfigs(main, None)
        quoted = self.id.replace("\\", "\\\\").replace("'", "\\'")
        trigger = TriggerEvent(
            event="inngest/function.failed", expression=f"event.data.function_id == '{quoted}'"
        )
        failure = FunctionConfig(
            id=self.on_failure_fn_id, name=f"{self._name} (failure)", triggers=[trigger], retries=0
        )
        return FunctionConfigs(main, failure)

    def parts(self) -> list[FunctionPart]:
        """The parts that a worker must run: the handler and, if there is one, `on_failure`.

        Raises `FunctionConfigInvalidError`, which lists every problem.
        """
        configs = self.get_config("")

        def part(
            handler: Callable[[Any], Any], config: FunctionConfig, output_type: object
        ) -> FunctionPart:
            return FunctionPart(
                config.id,
                handler if self._is_async else _not_awaitable(handler, config.id),
                self._is_async,
                config.retries,
                config,
                output_type,
                self.client,
                self.middleware,
                self.checkpointing,
                self,
            )

        parts = [part(self._handler, configs.main, self.output_type)]
        if configs.on_failure is not None and self._on_failure is not None:
            # Type `object`: as in the official SDK, on_failure has no output_type of its own.
            parts.append(part(self._on_failure, configs.on_failure, object))
        return parts


def _is_async(handler: object, fn_id: str, role: str) -> bool:
    """Whether a handler is async. Raises `FunctionConfigInvalidError` if it can't be a handler."""
    where = f"{role} of function {fn_id!r}"
    if isinstance(handler, Function):
        raise FunctionConfigInvalidError(
            f"{where}: {handler.id!r} is a Function already; decorate its handler once"
        )
    if not callable(handler) or inspect.isclass(handler):
        raise FunctionConfigInvalidError(
            f"{where}: {handler!r} is not a function; pass a function of one argument"
        )
    # An object's own code is in its `__call__`.
    code = (
        handler
        if inspect.isroutine(handler) or isinstance(handler, functools.partial)
        else handler.__call__
    )
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise FunctionConfigInvalidError(
            f"{where}: it yields, so calling it runs nothing; return instead"
        )
    _check_arguments(handler, where)
    return inspect.iscoroutinefunction(code)


def _check_arguments(handler: Callable[..., Any], where: str) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # implemented in C
        return
    try:
        signature.bind(None)
    except TypeError:
        raise FunctionConfigInvalidError(
            f"{where}: a handler is called with one argument, the context, and this one is"
            f" {getattr(handler, '__name__', 'called')}{signature}; write (ctx: inngest.Context),"
            " and ctx.step for the steps"
        ) from None


def _not_awaitable(handler: Callable[[Any], Any], function_id: str) -> Callable[[Any], Any]:
    """A handler that is not async, with a check that it does not return an awaitable."""

    @functools.wraps(handler)
    def call(ctx: Any) -> Any:
        result = handler(ctx)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise OutputUnserializableError(
                f"Function {function_id}: its handler is not async, yet returned a"
                f" {type(result).__name__}, which nobody awaits. If a decorator hides that the"
                " handler is async, make the decorator's own function async, and await the handler"
                " in it."
            )
        return result

    return call
