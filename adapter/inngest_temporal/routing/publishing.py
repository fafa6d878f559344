"""Publishing and removing the functions of an app: by its workers, or by the ingress when an app
that is served over HTTP registers.

Both tell the app's entity, which is a workflow (`inngest_temporal_workers.entities.app`), and then
the registry's entity, which lists the app's new version so that readers read the app again.
"""

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowUpdateFailedError

from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.models import TriggerCron
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT
from inngest_temporal.temporal.entity import EntityHandle

from .registry import AppConfig, AppDocument

PUBLISH_TIMEOUT = timedelta(seconds=30)
SHARED_SECONDS = 10
"""Replicas that start within this time share one update. Temporal allows 10 updates in flight, and
forgets them all if there is one more."""
MAX_APP_BYTES = 1_600_000
"""Maximum size of an app's document: a memo and the state that is carried over are limited to 2 MiB
each."""


@dataclass(frozen=True)
class Publication:
    """What the app's entity is asked to publish."""

    key: str
    """Key of the release."""
    app: dict[str, Any]
    """`AppConfig` JSON."""
    after: int = 0
    """The last version that the registry knows of."""
    renewal: bool = False
    """Whether the worker has published it before; then an app that was removed stays removed."""


def release_key(app: AppConfig, app_version: str | None = None) -> str:
    """A key that is the same for all who publish the same functions and version of an app."""
    return names.digest(app.to_json(), app_version)


async def publish(
    client: Client,
    app: AppConfig,
    timeout: timedelta = PUBLISH_TIMEOUT,
    *,
    app_version: str | None = None,
    mend: bool = True,
    renewal: bool = False,
) -> int:
    """Publish an app's functions; returns the configuration's version once every reader can see it
    and its cron triggers are scheduled.

    A release that no worker has joined, as that of an app that is served over HTTP, replaces
    earlier ones that nobody joined. An unchanged release keeps its version and, without cron
    triggers, writes nothing. A worker on `names.SYSTEM_TASK_QUEUE` must run.

    Args:
        mend: Check the schedules of an unchanged release, too: somebody may have deleted one.
        renewal: Do not publish an app again that was removed, however long ago; then the version
            is 0.

    Raises:
        FunctionConfigInvalidError: The configuration is too large, Temporal refuses a cron trigger,
            or the app is served over HTTP and there are workers that execute its functions.
        TimeoutError: No worker answered in time.
    """
    config, key = app.to_json(), release_key(app, app_version)
    _check_size(app, config)
    entity = app_entity(client, app.app_id)
    (known, is_there), listed = await asyncio.gather(
        entity.read(), listed_version(client, app.app_id)
    )
    is_known = is_there and document_of(known).release(key) is not None
    version: int = known.get("version", 0)
    if not is_known or (mend and _has_crons(app)):
        publication = Publication(key, config, max(version, listed), renewal)
        # An HTTP app that registers again after a refusal must not share the refused update.
        shared = None if app.http else names.digest(key, version, _share(), renewal)
        version = await _update(entity, "publish", publication, timeout, shared)
    if version:
        await list_version(client, app.app_id, version, timeout)
    return version


async def remove(client: Client, app_id: str, timeout: timedelta = PUBLISH_TIMEOUT) -> bool:
    """Remove an app: none of its functions is triggered any more. False if it was not there.

    Its entity remembers the removal even then, because a worker may be about to publish the app
    again after the registry was lost. Raises `TimeoutError` if no worker answered in time.
    """
    app = app_entity(client, app_id)
    known = await app.memo()
    listed = await listed_version(client, app_id)
    version = await _update(app, "remove", listed, timeout)
    await _update(_registry(client), "drop", [app_id, version], timeout)
    return listed > 0 or known.get("app") is not None


def app_entity(client: Client, app_id: str) -> EntityHandle:
    """The entity of an app."""
    return EntityHandle(client, names.APP_TYPE, names.app_id(app_id), RPC_TIMEOUT)


def document_of(memo: Mapping[str, Any]) -> AppDocument:
    """The releases in the memo of an app's entity."""
    app = memo.get("app")
    return AppDocument([], {}) if app is None else AppDocument.from_json(app)


async def list_version(
    client: Client, app_id: str, version: int, timeout: timedelta = PUBLISH_TIMEOUT
) -> None:
    """Have readers read this version of an app, unless they know it."""
    if await listed_version(client, app_id) < version:
        update_id = names.digest(app_id, version, _share())
        await _update(_registry(client), "put", [app_id, version], timeout, update_id)


def size(app: AppDocument) -> int:
    """Bytes of a document's JSON."""
    return len(json.dumps(dataclasses.asdict(app), separators=(",", ":")))


def _check_size(app: AppConfig, config: Mapping[str, Any]) -> None:
    bytes = size(AppDocument([], {}).with_release(config, "key", 0, 0))
    if bytes > MAX_APP_BYTES:
        raise FunctionConfigInvalidError(
            f"The configuration of app {app.app_id!r} ({len(app.functions)} functions) has"
            f" {bytes:,} bytes; the limit is {MAX_APP_BYTES:,}. Divide the functions among several"
            " apps."
        )


def _has_crons(app: AppConfig) -> bool:
    return any(
        isinstance(trigger, TriggerCron) for each in app.functions for trigger in each.triggers
    )


def _registry(client: Client) -> EntityHandle:
    return EntityHandle(client, names.REGISTRY_TYPE, names.REGISTRY_ID, RPC_TIMEOUT)


async def listed_version(client: Client, app_id: str) -> int:
    """The version of an app that the registry lists; 0 if it lists none.

    A registry that was terminated gets back what it listed. Otherwise the next app that is listed
    would be the only one.
    """
    registry = _registry(client)
    memo, is_there = await registry.read()
    apps: dict[str, int] = memo.get("apps", {})
    if apps and not is_there:
        await _update(registry, "restore", apps, PUBLISH_TIMEOUT)
    return apps.get(app_id, 0)


def _share() -> int:
    """A number that is the same for all who ask at about the same time."""
    return int(time.time() // SHARED_SECONDS)


async def _update(
    entity: EntityHandle,
    update: str,
    message: object,
    timeout: timedelta,
    update_id: str | None = None,
) -> int:
    """Update an entity. All who use the same `update_id` share one update."""
    try:
        return await entity.update_with_start(
            update, message, int, timeout=timeout, update_id=update_id
        )
    except WorkflowUpdateFailedError as error:
        raise FunctionConfigInvalidError(f"The registry refused: {error.cause}") from error
