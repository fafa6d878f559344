"""The client of an app: its settings, sending events, and creating functions."""

import base64
import datetime
import functools
import importlib.metadata
import json
import logging
import os
import secrets
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import BodyInvalidError, EventKeyUnspecifiedError, SendEventsError, URLInvalidError
from .functions import Function, FunctionHandlerAsync, FunctionHandlerSync
from .logger import Logger
from .middleware import MiddlewareManager, UninitializedMiddleware
from .models import (
    Batch,
    Cancel,
    Checkpointing,
    Concurrency,
    Debounce,
    Event,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
    TriggerCron,
    TriggerEvent,
    milliseconds,
)
from .serialization import EmptySentinel, Serializer
from .sync import drive

if TYPE_CHECKING:
    from .sending import Connections, Sender

T = TypeVar("T")

DEV_ORIGIN = "http://127.0.0.1:8288/"
API_ORIGIN = "https://api.inngest.com/"
EVENT_API_ORIGIN = "https://inn.gs/"
DEV_EVENT_KEY = "NO_EVENT_KEY_SET"

_BRANCH_VARIABLES = (
    "INNGEST_ENV",
    "RAILWAY_GIT_BRANCH",
    "RENDER_GIT_BRANCH",
    "VERCEL_GIT_COMMIT_REF",
)


class Inngest:
    """An app: makes its functions and sends events. One per app is enough; it may be used from any
    thread or loop."""

    def __init__(
        self,
        *,
        api_base_url: str | None = None,
        app_id: str,
        app_version: str | None = None,
        checkpointing: bool | Checkpointing = True,
        env: str | None = None,
        event_api_base_url: str | None = None,
        event_key: str | None = None,
        is_production: bool | None = None,
        logger: Logger | None = None,
        middleware: list[UninitializedMiddleware] | None = None,
        request_timeout: int | datetime.timedelta | None = None,
        serializer: Serializer | None = None,
        signing_key: str | None = None,
    ) -> None:
        """Settings without an argument come from Inngest's environment variables.

        Args:
            api_base_url: Origin of the REST API. Else `INNGEST_API_BASE_URL`, `INNGEST_BASE_URL`,
                or `INNGEST_DEV` if that is a URL. Without a scheme it is http in dev mode, https
                otherwise.
            app_id: Id of the app; part of its functions' ids, so it must not change.
            app_version: Free text, such as a Git hash.
            checkpointing: For functions that have no setting of their own. True: steps that follow
                each other are executed together, and each result is durable before the next step
                begins. False: each step has an execution of its own.
            env: Name of the branch environment. Else `INNGEST_ENV` or the hosting platform's branch
                variable.
            event_api_base_url: Where events are sent: the ingress. Else
                `INNGEST_EVENT_API_BASE_URL`, and so on.
            event_key: Key that the ingress knows. Else `INNGEST_EVENT_KEY`. Not needed in dev mode.
            is_production: False is dev mode: default origin `http://127.0.0.1:8288/`, no keys
                needed. None: dev mode if `INNGEST_DEV` is set to anything but 0 or false.
            logger: What `ctx.logger` writes to.
            middleware: For every function and every send.
            request_timeout: Of one HTTP request; int is milliseconds. Default 30 seconds. A send
                makes up to five.
            serializer: Used with `output_type`.
            signing_key: Else `INNGEST_SIGNING_KEY`; `INNGEST_SIGNING_KEY_FALLBACK` is the one that
                rotates out.

        Raises:
            URLInvalidError: An origin is not a valid URL.
        """
        self.app_id = app_id
        self.logger: Logger = logger or logging.getLogger(__name__)
        dev = _variable("INNGEST_DEV")
        if is_production is None:
            is_production = dev is None or dev.lower() in ("0", "false")
        self.is_production = is_production
        self.middleware: list[UninitializedMiddleware] = middleware or []
        self._app_version = app_version
        self._checkpointing = checkpointing
        self._env = env or next(filter(None, map(_variable, _BRANCH_VARIABLES)), None)
        self._event_key = event_key or _variable("INNGEST_EVENT_KEY")
        self._signing_key = signing_key or _variable("INNGEST_SIGNING_KEY")
        self._signing_key_fallback = _variable("INNGEST_SIGNING_KEY_FALLBACK")
        self._api_origin = self._origin("api_base_url", api_base_url, API_ORIGIN)
        self._event_api_origin = self._origin(
            "event_api_base_url", event_api_base_url, EVENT_API_ORIGIN
        )
        self.serializer = serializer
        self._timeout_seconds = (
            milliseconds(30_000 if request_timeout is None else request_timeout) / 1000
        )

    @functools.cached_property
    def _connections(self) -> "Connections":
        # Importing httpx takes a tenth of a second, and a worker does not need it.
        from .sending import Connections

        return Connections(self._event_api_origin, self._timeout_seconds)

    @property
    def api_origin(self) -> str:
        """Origin of the REST API."""
        return self._api_origin

    @property
    def event_api_origin(self) -> str:
        """Origin to which events are sent."""
        return self._event_api_origin

    @property
    def env(self) -> str | None:
        """Name of the branch environment."""
        return self._env

    @property
    def event_key(self) -> str | None:
        """The key for sending events."""
        return self._event_key

    @property
    def signing_key(self) -> str | None:
        """The key for the REST API."""
        return self._signing_key

    @property
    def signing_key_fallback(self) -> str | None:
        """The previous signing key, still accepted during rotation."""
        return self._signing_key_fallback

    @property
    def app_version(self) -> str | None:
        """Version of the app."""
        return self._app_version

    def add_middleware(self, middleware: UninitializedMiddleware) -> None:
        """Add middleware after the present one."""
        self.middleware = [*self.middleware, middleware]

    def set_logger(self, logger: Logger) -> None:
        """Replace the logger."""
        self.logger = logger

    def create_function(
        self,
        *,
        batch_events: Batch | None = None,
        cancel: list[Cancel] | None = None,
        checkpointing: bool | Checkpointing | None = None,
        concurrency: list[Concurrency] | None = None,
        debounce: Debounce | None = None,
        fn_id: str,
        idempotency: str | None = None,
        middleware: list[UninitializedMiddleware] | None = None,
        name: str | None = None,
        on_failure: FunctionHandlerAsync[Any] | FunctionHandlerSync[Any] | None = None,
        output_type: object = EmptySentinel,
        priority: Priority | None = None,
        rate_limit: RateLimit | None = None,
        retries: int | None = None,
        throttle: Throttle | None = None,
        timeouts: Timeouts | None = None,
        singleton: Singleton | None = None,
        trigger: TriggerCron | TriggerEvent | list[TriggerCron | TriggerEvent],
    ) -> Callable[[FunctionHandlerAsync[T] | FunctionHandlerSync[T]], Function[T]]:
        """Decorate a handler, `async def f(ctx: Context)` or `def f(ctx: ContextSync)`, to make a
        `Function`.

        The function is not registered by that: give it to a worker, which then checks its
        configuration.

        Args:
            batch_events: Start one run for several events.
            cancel: Events that cancel a run; at most five.
            checkpointing: Whether steps that follow each other share an execution, and how often
                their results are made durable; default: the client's.
            concurrency: Limits of how many steps execute at once; at most two.
            debounce: Start a run only after a while without another event.
            fn_id: Id within the app; must not change.
            idempotency: CEL over `event`: within 24 hours one run per value.
            middleware: For this function, after the client's.
            name: For people; default `fn_id`.
            on_failure: Handler called when a run has failed; async if and only if the handler is.
                Its event is `inngest/function.failed`. It is a function of its own, with `-failure`
                behind the id.
            output_type: Type of the result, for the client's serializer.
            priority: Order in the queue.
            rate_limit: Limit of runs in a time; events beyond it start none.
            retries: Attempts after the first, of each step and of the handler between steps: 0 to
                20, default 4.
            throttle: Limit of runs in a time; runs beyond it wait.
            timeouts: Cancel a run that takes too long.
            singleton: One run at a time.
            trigger: What starts a run; at most ten. An empty list: only `step.invoke` does.

        Raises:
            FunctionConfigInvalidError: When decorating, if the handler can't be one; the rest at
                registration.
        """
        config: dict[str, Any] = {
            "batch_events": batch_events,
            "cancel": cancel,
            "concurrency": concurrency,
            "debounce": debounce,
            "idempotency": idempotency,
            "priority": priority,
            "rate_limit": rate_limit,
            "singleton": singleton,
            "throttle": throttle,
            "timeouts": timeouts,
            "triggers": trigger if isinstance(trigger, list) else [trigger],
        }
        if retries is not None:
            config["retries"] = retries

        def decorate(handler: FunctionHandlerAsync[T] | FunctionHandlerSync[T]) -> Function[T]:
            return Function(
                self,
                handler,
                fn_id=fn_id,
                name=name,
                on_failure=on_failure,
                output_type=output_type,
                middleware=middleware or [],
                checkpointing=_checkpointing(
                    self._checkpointing if checkpointing is None else checkpointing
                ),
                config=config,
            )

        return decorate

    async def send(
        self, events: Event | list[Event], *, skip_middleware: bool = False
    ) -> list[str]:
        """Send events in one request; returns their internal ids, in order.

        Attempts: five, on a transport error or a 5xx reply. All of them carry the same seed, so
        none sends twice.

        Raises:
            SendEventsError: Not all events were accepted; it has the ids of those that were.
            EventKeyUnspecifiedError: Production mode without an event key.
            BodyInvalidError: An event's data can't be JSON.
        """
        sender = self._connections.asynchronous()
        return await self._send(events, skip_middleware, sender, is_async=True)

    def send_sync(self, events: Event | list[Event], *, skip_middleware: bool = False) -> list[str]:
        """Like `send`, but blocking. Also raises `AsyncUnsupportedError` if the client has async
        middleware."""
        sender = self._connections.synchronous()
        return drive(self._send(events, skip_middleware, sender, is_async=False))

    async def _send(
        self,
        events: Event | list[Event],
        skip_middleware: bool,
        sender: "Sender",
        *,
        is_async: bool,
    ) -> list[str]:
        """The one implementation: with a blocking `sender` it never suspends."""
        batch = events if isinstance(events, list) else [events]
        middleware = None
        if not skip_middleware:
            middleware = MiddlewareManager.for_client(self, is_async)
            # A copy: what hooks change is sent, but must not change the caller's own objects.
            batch = [_copied(event) for event in batch]
            await middleware.before_send_events(batch)
        if not batch:
            return []
        result = await sender.post(self._event_url(), _body(batch), self._headers())
        if middleware is not None:
            await middleware.after_send_events(result)
        if result.error:
            raise SendEventsError(result.error, result.ids)
        return result.ids

    def _event_url(self) -> str:
        key = self._event_key or (None if self.is_production else DEV_EVENT_KEY)
        if key is None:
            raise EventKeyUnspecifiedError(
                f"App {self.app_id!r} can't send events without an event key: give the client an"
                " event_key, set INNGEST_EVENT_KEY, or use dev mode (INNGEST_DEV=1)."
            )
        if self._event_api_origin == EVENT_API_ORIGIN:
            raise URLInvalidError(
                f"App {self.app_id!r} has no ingress to send events to, and its events are not for"
                " Inngest's cloud: set INNGEST_BASE_URL (or event_api_base_url) to your ingress,"
                " or use dev mode (INNGEST_DEV=1)."
            )
        return f"{self._event_api_origin.rstrip('/')}/e/{urllib.parse.quote(key, safe='')}"

    def _headers(self) -> dict[str, str]:
        version = f"inngest-temporal:v{_version()}"
        headers = {
            "content-type": "application/json",
            "user-agent": version,
            "x-inngest-sdk": version,
            # Ids derive from it, so another attempt at the same request gets the same ids.
            "x-inngest-event-id-seed": (
                f"{_now_ms()},{base64.b64encode(secrets.token_bytes(10)).decode()}"
            ),
        }
        if self._env is not None:
            headers["x-inngest-env"] = self._env
        return headers

    def _origin(self, argument: str, given: str | None, production: str) -> str:
        """An origin, by the order of precedence: argument, own variable, common variable,
        INNGEST_DEV, default."""
        variables = (f"INNGEST_{argument.upper()}", "INNGEST_BASE_URL")
        for source, value in ((argument, given), *((name, _variable(name)) for name in variables)):
            if value:
                return _url(value, source, self.is_production)
        dev = _variable("INNGEST_DEV")
        if dev is not None:
            try:
                return _url(dev, "INNGEST_DEV", self.is_production)
            except URLInvalidError:
                pass  # it is not a URL, but a plain 1 or true
        return production if self.is_production else DEV_ORIGIN


def _copied(event: Event) -> Event:
    return event.model_copy(deep=True) if isinstance(event, Event) else event


def _body(events: list[Event]) -> bytes:
    return json.dumps(
        [_wire(event) for event in events], allow_nan=False, separators=(",", ":")
    ).encode()


def _wire(event: Event) -> dict[str, object]:
    if not isinstance(event, Event):
        raise BodyInvalidError(
            f"Only events can be sent, not {event!r}; use Event(name=..., data=...)."
        )
    fields = event.to_dict()
    if not isinstance(fields, Exception):
        try:
            json.dumps(fields, allow_nan=False)
        except ValueError as error:
            fields = error
    if isinstance(fields, Exception):
        raise BodyInvalidError(
            f"Event {event.name!r} can't be sent, its data is not JSON: {fields}."
        ) from fields
    if not event.id:
        del fields["id"]
    if not event.ts:
        fields["ts"] = _now_ms()
    return fields


def _checkpointing(given: bool | Checkpointing) -> Checkpointing | None:
    if isinstance(given, Checkpointing):
        return given
    return Checkpointing() if given else None


def _url(text: str, source: str, is_production: bool) -> str:
    """`text` with a scheme. Without one it must look like a host: have a dot or a port. Raises
    `URLInvalidError`."""
    has_scheme = "://" in text
    looks_like_host = has_scheme or "." in text or ":" in text
    url = text if has_scheme else f"{'https' if is_production else 'http'}://{text}"
    try:
        parsed = urllib.parse.urlsplit(url)
        host = (parsed.hostname or "").encode("ascii" if url.isascii() else "idna")
        _ = parsed.port
    except ValueError as error:
        raise URLInvalidError(f"{source}: {text!r} is not a valid URL ({error})") from None
    if not looks_like_host or not host or parsed.scheme not in ("http", "https"):
        raise URLInvalidError(
            f"{source}: {text!r} is not a valid URL; use one such as {DEV_ORIGIN}"
        )
    return url


def _variable(name: str) -> str | None:
    """An environment variable; an empty one counts as not set."""
    return (os.environ.get(name) or "").strip() or None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@functools.cache
def _version() -> str:
    try:
        return importlib.metadata.version("inngest-temporal")
    except importlib.metadata.PackageNotFoundError:
        return "0"
