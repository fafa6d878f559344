"""The registry's entity workflows, and how a worker publishes its app.

An app's entity keeps the app's configuration and a version; the registry's keeps the version of
every app. Both answer in their memos, so that reading needs no worker
(`inngest_temporal.routing.registry.Follower`). They never end: they continue as new. Versions are
times, so they rise even if an operator terminates an entity and it begins anew.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.routing.locks import Change, changes
from inngest_temporal.routing.registry import AppConfig
from inngest_temporal.temporal import names

from .lock import announce
from .schedule import Schedules, cron_triggers

MAX_APP_BYTES = 1_500_000
"""Of an app's configuration: a memo is limited to 2 MiB, and so is a payload."""
MAX_UPDATES = 1_000
"""Updates before an entity continues as new: Temporal allows 2,000 in one execution."""
PUBLISH_TIMEOUT = timedelta(seconds=30)
SHARED_SECONDS = 10
"""Replicas that start within such a time share one update: Temporal allows 10 in flight, and one
too many makes it forget them all."""


@dataclass
class AppState:
    """Argument of an app's entity; carried over when it continues as new."""

    app: dict[str, Any] | None = None
    version: int = 0
    schedules: dict[str, str] = field(default_factory=dict)
    """Those that the entity made for cron triggers: `Schedules.remembered`."""


@dataclass
class RegistryState:
    """Argument of the registry's entity; carried over when it continues as new."""

    apps: dict[str, int] = field(default_factory=dict)


@workflow.defn(name=names.APP_TYPE, sandboxed=False)
class App:
    """One app's configuration. Memo: `{"app": AppConfig JSON or null once removed, "version":
    n}`."""

    @workflow.init
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._schedules = Schedules(state.schedules)
        self._turn = asyncio.Lock()
        self._announcing: set[asyncio.Task[None]] = set()
        self._updates = 0

    @workflow.run
    async def run(self, state: AppState) -> None:
        await workflow.wait_condition(lambda: _is_full(self._updates) and not self._announcing)
        workflow.continue_as_new(self._state, memo=self._memo())

    @workflow.update
    async def publish(self, app: dict[str, Any]) -> int:
        """Replace the configuration; its version, which is the old one if nothing changed.

        Returns when the app's schedules are exactly those of its cron triggers. If Temporal refuses
        one, the update fails and all is as before.
        """
        return await self._replace(app)

    @publish.validator
    def _check(self, app: dict[str, Any]) -> None:
        _check_app_id(app.get("app_id"))
        if names.app_id(app["app_id"]) != workflow.info().workflow_id:
            raise ValueError(f"The configuration of app {app['app_id']!r} does not belong here.")

    @workflow.update
    async def remove(self) -> int:
        """Forget the configuration; the version of its absence."""
        return await self._replace(None)

    async def _replace(self, app: dict[str, Any] | None) -> int:
        self._updates += 1
        async with self._turn:
            if not self._state.version:
                await self._schedules.adopt(
                    workflow.info().workflow_id.removeprefix(names.app_id(""))
                )
            try:
                await self._schedules.sync(cron_triggers(app))
            except ApplicationError:  # a local activity's own, not wrapped in an ActivityError
                await self._schedules.sync(cron_triggers(self._state.app))
                raise
            if app != self._state.app or not self._state.version:
                version = max(self._state.version + 1, workflow.time_ns() // 1_000_000)
                self._announce(_changes(self._state.app, app, version))
                self._state = AppState(app, version, self._schedules.remembered)
                workflow.upsert_memo(self._memo())
            return self._state.version

    def _announce(self, made: list[Change]) -> None:
        if made:
            task = asyncio.create_task(announce(made))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

    def _memo(self) -> dict[str, Any]:
        return {"app": self._state.app, "version": self._state.version}


@workflow.defn(name=names.REGISTRY_TYPE, sandboxed=False)
class Registry:
    """All apps. Memo: `{"apps": {app_id: version}}`."""

    @workflow.init
    def __init__(self, state: RegistryState) -> None:
        self._apps = state.apps
        self._updates = 0

    @workflow.run
    async def run(self, state: RegistryState) -> None:
        await workflow.wait_condition(lambda: _is_full(self._updates))
        workflow.continue_as_new(RegistryState(self._apps), memo=self._memo())

    @workflow.update
    def put(self, app_id: str, version: int) -> None:
        """An app has this version now; an older one than is known changes nothing."""
        self._updates += 1
        if version > self._apps.get(app_id, 0):
            self._apps[app_id] = version
            workflow.upsert_memo(self._memo())

    @put.validator
    def _check_put(self, app_id: str, version: int) -> None:
        _check_app_id(app_id)
        if version < 1:
            raise ValueError(f"App {app_id!r} can't have version {version}.")

    @workflow.update
    def drop(self, app_id: str, version: int) -> None:
        """An app is gone since this version; one that was published again meanwhile is not."""
        self._updates += 1
        if self._apps.get(app_id, version + 1) <= version:
            del self._apps[app_id]
            workflow.upsert_memo(self._memo())

    @drop.validator
    def _check_drop(self, app_id: str, version: int) -> None:
        _check_app_id(app_id)

    def _memo(self) -> dict[str, Any]:
        return {"apps": self._apps}


WORKFLOWS: list[type] = [App, Registry]


async def publish(client: Client, app: AppConfig, timeout: timedelta = PUBLISH_TIMEOUT) -> int:
    """Make an app's functions known; returns the configuration's version once every reader can see
    it and its cron triggers are scheduled.

    An unchanged configuration keeps its version and, without cron triggers, writes nothing. A
    worker on `names.SYSTEM_TASK_QUEUE` must run.

    Raises:
        FunctionConfigInvalidError: The configuration is too large, or Temporal refuses a cron
            trigger.
        TimeoutError: No worker answered in time.
    """
    config = app.to_json()
    size = len(json.dumps(config, separators=(",", ":")))
    if size > MAX_APP_BYTES:
        raise FunctionConfigInvalidError(
            f"The configuration of app {app.app_id!r} ({len(app.functions)} functions) has {size:,}"
            f" bytes; the limit is {MAX_APP_BYTES:,}. Divide the functions among several apps."
        )
    known = await _memo(client, names.app_id(app.app_id))
    # Schedules may have been deleted behind our back: with cron triggers each worker that starts
    # has them looked at.
    unchanged = known.get("app") == config and not cron_triggers(config)
    version: int | None = known["version"] if unchanged else None
    if version is None:
        start = _with_start(names.APP_TYPE, AppState(), names.app_id(app.app_id))
        version = int(
            await _update(client, start, "publish", [config], timeout, known.get("version", 0))
        )
    listed = (await _memo(client, names.REGISTRY_ID)).get("apps", {}).get(app.app_id, 0)
    if listed < version:
        start = _with_start(names.REGISTRY_TYPE, RegistryState(), names.REGISTRY_ID)
        await _update(client, start, "put", [app.app_id, version], timeout)
    return version


async def remove(client: Client, app_id: str, timeout: timedelta = PUBLISH_TIMEOUT) -> bool:
    """Make an app unknown: none of its functions is triggered any more. False if it is not there.

    Raises `TimeoutError` if no worker answered in time.
    """
    known = await _memo(client, names.app_id(app_id))
    if not known:
        return False
    listed = app_id in (await _memo(client, names.REGISTRY_ID)).get("apps", {})
    start = _with_start(names.APP_TYPE, AppState(), names.app_id(app_id))
    version = await _update(client, start, "remove", [], timeout, known["version"])
    start = _with_start(names.REGISTRY_TYPE, RegistryState(), names.REGISTRY_ID)
    await _update(client, start, "drop", [app_id, version], timeout)
    return listed or known.get("app") is not None


def _changes(
    before: dict[str, Any] | None, after: dict[str, Any] | None, version: int
) -> list[Change]:
    """The limits of functions that are in both configurations of an app and have other terms in the
    later one."""
    known = {function["id"]: function for function in (before or {}).get("functions", ())}
    made: list[Change] = []
    for function in (after or {}).get("functions", ()):
        old = known.get(function["id"])
        if old is None or all(
            old.get(field) == function.get(field) for field in ("concurrency", "throttle")
        ):
            continue
        try:
            made += changes(
                FunctionConfig.from_wire(old), FunctionConfig.from_wire(function), version
            )
        except FunctionConfigInvalidError:
            continue  # unreadable to this version: locks learn of it with the next request
    return made


def _is_full(updates: int) -> bool:
    return (updates >= MAX_UPDATES or workflow.info().is_continue_as_new_suggested()) and (
        workflow.all_handlers_finished()
    )


def _check_app_id(app_id: object) -> None:
    if not isinstance(app_id, str) or not app_id:
        raise ValueError(f"{app_id!r} is no app id.")


def _with_start(
    workflow_type: str, state: object, workflow_id: str
) -> WithStartWorkflowOperation[Any, Any]:
    return WithStartWorkflowOperation(
        workflow_type,
        state,
        id=workflow_id,
        task_queue=names.SYSTEM_TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def _update(
    client: Client,
    start: WithStartWorkflowOperation[Any, Any],
    update: str,
    args: list[Any],
    timeout: timedelta,
    known: int = 0,
) -> Any:
    """Update an entity. Those who ask for the same at the same time, and know of the same version,
    share one update."""
    shared = names.digest(update, args, known, int(time.time() // SHARED_SECONDS))
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            return await client.execute_update_with_start_workflow(
                update, args=args, id=shared, start_workflow_operation=start
            )
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise TimeoutError(
            f"The registry did not answer within {timeout.total_seconds():g} s: a worker must poll"
            f" task queue {names.SYSTEM_TASK_QUEUE!r} of namespace {client.namespace!r}."
        ) from None
    except WorkflowUpdateFailedError as error:
        raise FunctionConfigInvalidError(f"The registry refused: {error.cause}") from error


async def _memo(client: Client, workflow_id: str) -> dict[str, Any]:
    try:
        return dict(await (await client.get_workflow_handle(workflow_id).describe()).memo())
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return {}
