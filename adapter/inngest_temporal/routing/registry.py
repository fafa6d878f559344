"""The registry: which functions there are, and which of them an event triggers.

Workers publish the configuration of their app (`inngest_temporal_workers.publishing`). It is kept
in the memos of entity workflows: one for each app, and one that lists the apps with their versions.
A memo is read by a strongly consistent `describe`, which needs no worker. A `Follower` reads the
list about twice a second, and an app when its version has changed.

Workers of several releases of an app may be up at once, for example during a rolling deploy. Then
the app's memo holds all these releases, and events trigger the functions of all (`AppDocument`).
"""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

import pydantic
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.service import RPCError

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import ExpressionError, FunctionConfigInvalidError, text_of
from inngest_temporal.expressions import Expression, compile_expression
from inngest_temporal.expressions.syntax import Call, Const, Node, const_path
from inngest_temporal.models import BATCH_TIMEOUT, TriggerEvent, milliseconds
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import (
    RPC_TIMEOUT,
    is_not_found,
    place_of,
    problem_of,
)

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between two reads of the list of apps. Every follower that can reach Temporal sees what
is published within this time and that of one read."""
MAX_BACKOFF = 2.0
"""Maximum number of seconds between two attempts while Temporal can't be reached."""


class HttpApp(pydantic.BaseModel):
    """Address of an app that is served over HTTP, and the software that serves it."""

    model_config = pydantic.ConfigDict(frozen=True)

    url: str
    sdk: str = ""
    """Language and version of its SDK, such as `js:v4.24.0`."""
    framework: str = ""


class AppConfig(pydantic.BaseModel):
    """What is published: an app and all its functions."""

    model_config = pydantic.ConfigDict(frozen=True)

    app_id: str
    task_queue: str
    functions: list[FunctionConfig]
    http: HttpApp | None = None
    """None: workers of the app execute its functions."""

    def to_json(self) -> dict[str, Any]:
        """As it is published."""
        functions = [function.to_wire() for function in self.functions]
        app = {"app_id": self.app_id, "task_queue": self.task_queue, "functions": functions}
        return app if self.http is None else {**app, "http": self.http.model_dump()}


@dataclass(frozen=True)
class Release:
    """One set of functions that workers of an app publish. The same code is the same release."""

    key: str
    order: int
    """Greater for a release that was first published later."""
    app: dict[str, Any]
    """`AppConfig` JSON without the functions."""
    functions: dict[str, str] = field(default_factory=dict)
    """Function id -> digest of its configuration."""
    since_ms: int = 0
    """When it was published, in milliseconds since 1970."""


@dataclass(frozen=True)
class AppDocument:
    """The releases of an app that are up, as its memo holds them. Unknown fields, from a later
    version of this package, are ignored."""

    releases: list[Release]
    """The oldest first."""
    functions: dict[str, dict[str, Any]]
    """Digest -> configuration of a function, as `FunctionConfig.to_wire` writes it."""
    paused: list[str] = field(default_factory=list)
    """Ids of the functions that are paused, in whatever release."""

    @classmethod
    def from_json(cls, value: object) -> "AppDocument":
        """Read a memo. Raises pydantic's `ValidationError`."""
        return _DOCUMENT.validate_python(value)

    def release(self, key: str) -> Release | None:
        """The release of a key, if it is up."""
        return next((each for each in self.releases if each.key == key), None)

    def with_release(
        self, app: Mapping[str, Any], key: str, order: int, since_ms: int
    ) -> "AppDocument":
        """This document with one more release, made from `AppConfig` JSON."""
        digests = {each["id"]: names.digest(each)[:16] for each in app["functions"]}
        rest = {name: value for name, value in app.items() if name != "functions"}
        known = self.release(key)
        made = Release(key, order, rest, digests, known.since_ms if known else since_ms)
        releases = [*(each for each in self.releases if each.key != key), made]
        functions = {digests[each["id"]]: dict(each) for each in app["functions"]}
        return AppDocument(
            sorted(releases, key=lambda each: each.order), self.functions | functions, self.paused
        )

    def with_paused(self, function_id: str, paused: bool) -> "AppDocument":
        """This document with a function paused or resumed."""
        others = [each for each in self.paused if each != function_id]
        return dataclasses.replace(self, paused=[*others, function_id] if paused else others)

    def has(self, function_id: str) -> bool:
        """Whether a release has that function."""
        return any(function_id in each.functions for each in self.releases)

    def only(self, keys: Container[str]) -> "AppDocument":
        """This document with only the releases of these keys."""
        releases = [each for each in self.releases if each.key in keys]
        used = {digest for each in releases for digest in each.functions.values()}
        functions = {digest: each for digest, each in self.functions.items() if digest in used}
        return AppDocument(releases, functions, self.paused)

    def merged(self) -> list[dict[str, Any]]:
        """`AppConfig` JSON of each release, the newest first. A function that several releases have
        is only in the newest of them, whose configuration counts."""
        seen: set[str] = set()
        apps = []
        for release in reversed(self.releases):
            added = {id: digest for id, digest in release.functions.items() if id not in seen}
            seen |= added.keys()
            functions = [
                {**self.functions[digest], "paused": True}
                if id in self.paused
                else self.functions[digest]
                for id, digest in added.items()
            ]
            apps.append({**release.app, "functions": functions})
        return apps


_DOCUMENT = pydantic.TypeAdapter(AppDocument)


@dataclass(frozen=True)
class RegisteredFunction:
    """A function that an app has published."""

    app_id: str
    task_queue: str
    config: FunctionConfig
    version: int = 0
    """Version of the app's configuration, which increases with each change; 0 if unknown."""

    @property
    def id(self) -> str:
        """Full id, `app-fn`; also the workflow type of its runs."""
        return self.config.id


@dataclass(frozen=True)
class LookAlikes:
    """Apps and functions that can't be told apart by a prefix of the function's id. That id is the
    app's id, a hyphen, and the function's own id, and both parts may have hyphens."""

    apps: tuple[str, ...] = ()
    """Other apps whose ids begin like the ids of this app's functions (`app-`)."""
    ours: tuple[str, ...] = ()
    """Functions of this app whose ids begin like those of such another app."""
    theirs: tuple[str, ...] = ()
    """Functions of further apps whose ids begin like those of this app."""


@dataclass(frozen=True)
class _Trigger:
    position: int
    """Order of functions in the registry."""
    function: RegisteredFunction
    expression: Expression | None


@dataclass
class _Bucket:
    """The triggers of one event name, or of one prefix."""

    always: list[_Trigger] = field(default_factory=list)
    by_value: dict[tuple[str, ...], dict[str, list[_Trigger]]] = field(default_factory=dict)
    """Path in the event -> the text it must have there -> triggers. Every `on_failure` has the same
    event name and an expression `event.data.function_id == '...'`; so only the triggers for one
    function's failures are evaluated."""

    def add(self, trigger: _Trigger) -> None:
        equality = _equality(trigger.expression.node) if trigger.expression else None
        if equality is None:
            self.always.append(trigger)
        else:
            path, value = equality
            self.by_value.setdefault(path, {}).setdefault(value, []).append(trigger)

    def candidates(self, event: Mapping[str, Any]) -> Iterator[_Trigger]:
        yield from self.always
        for path, triggers in self.by_value.items():
            value: Any = event
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, str):
                yield from triggers.get(value, ())


class Snapshot:
    """All functions at one moment. Immutable; matching an event takes time for the triggers of its
    name only."""

    def __init__(
        self, apps: Iterable[AppConfig] = (), versions: Mapping[str, int] | None = None
    ) -> None:
        self.apps = tuple(sorted(apps, key=lambda app: app.app_id))
        self._functions: dict[str, RegisteredFunction] = {}
        self._exact: dict[str, _Bucket] = {}
        self._prefixes: dict[str, _Bucket] = {}
        for app in self.apps:
            for config in app.functions:
                version = (versions or {}).get(app.app_id, 0)
                self._add(RegisteredFunction(app.app_id, app.task_queue, config, version))

    def __len__(self) -> int:
        return len(self._functions)

    def function(self, function_id: str) -> RegisteredFunction | None:
        """The function of a full id (`app-fn`)."""
        return self._functions.get(function_id)

    @property
    def batch_timeouts(self) -> dict[str, timedelta]:
        """How long a batch waits to be full, by the id of each function that takes batches."""
        return {
            id: timedelta(milliseconds=milliseconds(batch.timeout or BATCH_TIMEOUT))
            for id, function in self._functions.items()
            if (batch := function.config.batch_events) is not None
        }

    @property
    def queues(self) -> tuple[str, ...]:
        """The task queues of apps that chose their own instead of the one that we name."""
        queues = {app.task_queue for app in self.apps}
        return tuple(sorted(q for q in queues if not q.startswith(names.TASK_QUEUE_PREFIX)))

    def look_alikes(self, app_id: str) -> LookAlikes:
        """What must be told apart from the functions of an app, as far as it is known."""
        prefix = f"{app_id}-"
        apps = sorted({app.app_id for app in self.apps if app.app_id.startswith(prefix)})
        theirs = tuple(f"{each}-" for each in apps)
        alike = [each for id, each in self._functions.items() if id.startswith(prefix)]
        return LookAlikes(
            tuple(apps),
            tuple(f.id for f in alike if f.app_id == app_id and f.id.startswith(theirs)),
            tuple(f.id for f in alike if f.app_id != app_id and not f.id.startswith(theirs)),
        )

    def match(self, event: Mapping[str, Any]) -> list[RegisteredFunction]:
        """The functions that an event triggers, each once: those with a trigger whose name or
        prefix matches and whose expression is true (§1.8)."""
        found: dict[int, RegisteredFunction] = {}
        for bucket in self._buckets(event["name"]):
            for trigger in bucket.candidates(event):
                if trigger.position not in found and (
                    trigger.expression is None or trigger.expression.matches(event)
                ):
                    found[trigger.position] = trigger.function
        return [found[position] for position in sorted(found)]

    def listens(self, name: str) -> bool:
        """Whether a function has a trigger for the name, whatever its expression says."""
        return bool(self._buckets(name))

    def _buckets(self, name: str) -> list[_Bucket]:
        buckets = [self._exact.get(name)]
        if self._prefixes:
            buckets += [
                self._prefixes.get(name[: at + 1]) for at, char in enumerate(name) if char in "/."
            ]
        return [bucket for bucket in buckets if bucket is not None]

    def _add(self, function: RegisteredFunction) -> None:
        other = self._functions.setdefault(function.id, function)
        if other is not function:
            logger.warning(
                "Functions of apps %r and %r have the same id %r: only the first is triggered."
                " Rename one.",
                other.app_id,
                function.app_id,
                function.id,
            )
            return
        for trigger in function.config.triggers:
            if not isinstance(trigger, TriggerEvent):
                continue
            expression = None
            if trigger.expression:
                try:
                    expression = compile_expression(trigger.expression)
                except ExpressionError as error:
                    logger.warning(
                        "Function %r is never triggered by %r: %s",
                        function.id,
                        trigger.event,
                        error,
                    )
                    continue
            wildcard = trigger.event.endswith(("/*", ".*"))
            buckets, key = (
                (self._prefixes, trigger.event[:-1]) if wildcard else (self._exact, trigger.event)
            )
            buckets.setdefault(key, _Bucket()).add(
                _Trigger(len(self._functions), function, expression)
            )


def _equality(node: Node) -> tuple[tuple[str, ...], str] | None:
    """Path and text of an `event.... == '...'` without which the whole expression can't be true.

    Only non-empty texts: by the rules for null and numbers, such a text equals nothing but itself.
    """
    match node:
        case Call(function="_&&_", args=args):
            return next(filter(None, map(_equality, args)), None)
        case Call(function="_==_", args=(left, right)):
            for path, value in ((const_path(left), right), (const_path(right), left)):
                if path and path[0] == "event" and path[1] and isinstance(value, Const):
                    text = value.value
                    if isinstance(text, str) and text:
                        return path[1], text
    return None


class Follower:
    """Keeps a `Snapshot` of the registry current in the background, and survives outages of
    Temporal.

    Use it as a context manager, or call `start` and `stop`.
    """

    def __init__(self, client: Client, interval: float = POLL_INTERVAL) -> None:
        self.snapshot: Snapshot | None = None
        """None until the registry was read once; afterwards the last one that could be read."""
        self._client = client
        self._interval = interval
        self._apps: dict[str, tuple[int, list[AppConfig]]] = {}
        self._changed = asyncio.Condition()
        self._lock = asyncio.Lock()
        self._problem = ""
        """What was said of the last failure; empty: there is none."""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to follow."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="inngest registry follower")

    async def stop(self) -> None:
        """Stop following; the last snapshot stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def ready(self, timeout: float) -> Snapshot:
        """Wait for the first snapshot. Raises `TimeoutError` after that many seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self.change(None)
        except TimeoutError:
            raise TimeoutError(
                f"The function registry could not be read from Temporal within {timeout:g} s."
            ) from None

    async def change(self, snapshot: Snapshot | None) -> Snapshot:
        """Wait until there is a snapshot other than this one."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.snapshot is not snapshot)
        assert self.snapshot is not None
        return self.snapshot

    async def refresh(self) -> Snapshot:
        """Read the registry now: whatever was published before this call is in the snapshot.

        Raises `RPCError`, `RuntimeError` or `TimeoutError` if Temporal can't be reached.
        """
        async with self._lock, asyncio.timeout(RPC_TIMEOUT.total_seconds() * 2):
            return await self._read()

    async def knowing(self, function_id: str) -> Snapshot:
        """The snapshot. If it lacks this function, which may have been published a moment ago, the
        registry is read once more. Raises the same as `refresh`."""
        snapshot = self.snapshot
        if snapshot is None or snapshot.function(function_id) is None:
            return await self.refresh()
        return snapshot

    async def _follow(self) -> None:
        delay = self._interval
        while True:
            try:
                await self.refresh()
            except Exception as error:
                self._warn(error)
                delay = min(delay * 2, MAX_BACKOFF)
            else:
                if self._problem:
                    logger.warning("The function registry can be read again.")
                self._problem = ""
                delay = self._interval
            await asyncio.sleep(delay)

    def _warn(self, error: Exception) -> None:
        """Say what is wrong, unless it was said: another text of an unknown error is no news."""
        text = f"The function registry can't be read, trying again: {text_of(error)}"
        client = self._client
        place = place_of(client.service_client.config.target_host, client.namespace)
        problem = problem_of(error, place)
        if not self._problem or (problem is not None and problem != self._problem):
            logger.warning("%s", problem or text)
            logger.debug("%s", text)
            self._problem = problem or text

    async def _read(self) -> Snapshot:
        registry = await self._describe(names.REGISTRY_ID)
        versions: dict[str, int] = {} if registry is None else await registry.memo_value("apps", {})
        changed = [
            app for app, version in versions.items() if self._apps.get(app, (None,))[0] != version
        ]
        gone = self._apps.keys() - versions.keys()
        if changed or gone or self.snapshot is None:
            apps = dict(
                zip(changed, await asyncio.gather(*map(self._read_app, changed)), strict=True)
            )
            kept = {
                app: known
                for app, known in self._apps.items()
                if app in versions and app not in apps
            }
            self._apps = kept | {app: (versions[app], config) for app, config in apps.items()}
            self.snapshot = Snapshot(
                itertools.chain.from_iterable(configs for _, configs in self._apps.values()),
                versions,
            )
            async with self._changed:
                self._changed.notify_all()
        return self.snapshot

    async def _read_app(self, app: str) -> list[AppConfig]:
        """An app's releases, each function in the newest of them; none if the app was removed, or
        was published by a version of this package that we can't read."""
        entity = await self._describe(names.app_id(app))
        value = None if entity is None else await entity.memo_value("app", None)
        try:
            return [] if value is None else [*map(_read, AppDocument.from_json(value).merged())]
        except Exception as error:
            logger.error(
                "The functions of app %r are not triggered: its configuration can't be read: %s",
                app,
                error,
            )
            return []

    async def _describe(self, workflow_id: str) -> WorkflowExecutionDescription | None:
        try:
            return await self._client.get_workflow_handle(workflow_id).describe(
                rpc_timeout=RPC_TIMEOUT
            )
        except RPCError as error:
            if not is_not_found(error):
                raise
            return None


def _read(app: Mapping[str, Any]) -> AppConfig:
    """An app without the functions that we can't read."""
    functions = []
    for function in app["functions"]:
        try:
            functions.append(FunctionConfig.from_wire(function))
        except FunctionConfigInvalidError as error:
            logger.error(
                "A function of app %r is not triggered: its configuration can't be read: %s",
                app["app_id"],
                error,
            )
    return AppConfig.model_validate({**app, "functions": functions})
