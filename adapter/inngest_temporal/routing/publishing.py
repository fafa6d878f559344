"""How the functions of an app become known, and unknown: by its workers, or by the ingress when an
app that is served over HTTP registers.

Both ask the app's entity, which is a workflow (`inngest_temporal_workers.entities.app`), and then
the registry's to list the app's new version, so that readers look at it.
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
"""Replicas that start within such a time share one update: Temporal allows 10 in flight, and one
too many makes it forget them all."""
MAX_APP_BYTES = 1_600_000
"""Maximum size of an app's document: a memo is limited to 2 MiB, and so is what is carried over."""


@dataclass(frozen=True)
class Publication:
    """What the app's entity is asked to publish."""

    key: str
    """The release's."""
    app: dict[str, Any]
    """`AppConfig` JSON."""
    after: int = 0
    """The last version that the registry knows of."""
    renewal: bool = False
    """Whether the worker that asks has published it before: an app that was removed stays so."""


def release_key(app: AppConfig, app_version: str | None = None) -> str:
    """What all who publish the same functions and version of an app have in common."""
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
    """Make an app's functions known; returns the configuration's version once every reader can see
    it and its cron triggers are scheduled.

    If no worker has joined the release, it replaces what was published so; an app that is served
    over HTTP has no workers that join. An unchanged release keeps its version and, without cron
    triggers, writes nothing. A worker on `names.SYSTEM_TASK_QUEUE` must run.

    Args:
        mend: Have the schedules of an unchanged release looked at: somebody may have deleted one.
        renewal: Leave an app alone that was removed, however long ago it was found missing; then
            the version is 0.

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
        # Who registers again after a refusal is not to get the same refusal once more.
        shared = None if app.http else names.digest(key, version, _share(), renewal)
        version = await _update(entity, "publish", publication, timeout, shared)
    if version:
        await list_version(client, app.app_id, version, timeout)
    return version


async def remove(client: Client, app_id: str, timeout: timedelta = PUBLISH_TIMEOUT) -> bool:
    """Make an app unknown: none of its functions is triggered any more. False if it is not there.

    Also then its entity remembers it: a worker may be about to publish it again because the
    registry was lost. Raises `TimeoutError` if no worker answered in time.
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
    """What the memo of an app's entity says of its releases."""
    app = memo.get("app")
    return AppDocument([], {}) if app is None else AppDocument.from_json(app)


async def list_version(
    client: Client, app_id: str, version: int, timeout: timedelta = PUBLISH_TIMEOUT
) -> None:
    """Make readers look at an app's version, unless they know it."""
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
    """The version of an app that readers look for; 0 if it is not there.

    A registry that was terminated gets back what it listed: with the next app that it is told of,
    all others would be gone.
    """
    registry = _registry(client)
    memo, is_there = await registry.read()
    apps: dict[str, int] = memo.get("apps", {})
    if apps and not is_there:
        await _update(registry, "restore", apps, PUBLISH_TIMEOUT)
    return apps.get(app_id, 0)


def _share() -> int:
    """The same for all who ask at about the same time."""
    return int(time.time() // SHARED_SECONDS)


async def _update(
    entity: EntityHandle,
    update: str,
    message: object,
    timeout: timedelta,
    update_id: str | None = None,
) -> int:
    """Those who update with one id share one update."""
    try:
        return await entity.update_with_start(
            update, message, int, timeout=timeout, update_id=update_id
        )
    except WorkflowUpdateFailedError as error:
        raise FunctionConfigInvalidError(f"The registry refused: {error.cause}") from error
