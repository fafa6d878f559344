"""How a worker publishes its functions, and keeps them published while it is up.

It publishes a *release*: the functions, and the version of the app if its client has one. The app's
entity (`inngest_temporal_workers.entities.app`) keeps the releases that have workers. A worker
joins its release before it publishes it, and leaves it when it stops; while workers of other
releases are up, it renews. It publishes again if the registry has lost its release. So the registry
always comes to have what living workers have.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError
from ulid import ULID

from inngest_temporal.errors import FunctionConfigInvalidError, text_of
from inngest_temporal.routing.publishing import (
    app_entity,
    document_of,
    list_version,
    publish,
    release_key,
)
from inngest_temporal.routing.registry import AppConfig, AppDocument, Follower, Release
from inngest_temporal.temporal.connection import is_temporary

from .entities.app import RENEW_SECONDS, Member

logger = logging.getLogger(__name__)

DEPLOY_SECONDS = 600
"""How long two releases may be up before they are taken for two services with one app id."""
LEAVE_SECONDS = 2.0
"""How long a worker that stops waits for its app's entity to know."""
RETRY_SECONDS = 1.0
"""Seconds between two attempts of a worker that starts."""
SHOWN = 10
"""Maximum number of functions that a log line names."""


class Publisher:
    """Keeps one worker's functions in the registry while the worker is up."""

    def __init__(self, client: Client, app: AppConfig, app_version: str | None = None) -> None:
        self._client = client
        self._app = app
        self._app_version = app_version
        self._entity = app_entity(client, app.app_id)
        self._member = Member(release_key(app, app_version), str(ULID()))
        self._log = _Log(app.app_id, self._member.key)
        self.removed: str | None = None
        """If the app was removed while this worker is up, a sentence that says so."""

    async def publish(self, follower: Follower) -> None:
        """Publish the functions, trying again while Temporal is away or starting. When this
        returns, `follower` has read them."""
        told = False
        while True:
            try:
                before = document_of(await self._entity.memo())
                await self._join()
                await publish(self._client, self._app, app_version=self._app_version)
                self._log.published(before, document_of(await self._entity.memo()))
                await follower.refresh()
                return
            except (RPCError, RuntimeError, TimeoutError) as error:
                if not is_temporary(error):
                    raise
                if not told:
                    logger.warning(
                        "The functions of app %r can't be published yet, trying again: %s",
                        self._app.app_id,
                        text_of(error),
                    )
                told = True
                await asyncio.sleep(RETRY_SECONDS)

    async def keep(self, follower: Follower) -> None:
        """Keep the functions published, and log what workers of other releases change. Ends only by
        cancellation."""
        snapshot = follower.snapshot
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    snapshot = await follower.change(snapshot)
            try:
                await self._look()
            except (RPCError, RuntimeError, TimeoutError) as error:
                logger.debug("The registry can't be read, trying again later: %s", error)
            except FunctionConfigInvalidError as error:
                logger.error("%s", error)

    async def leave(self) -> None:
        """Leave the release, because the worker has stopped. If Temporal can't be reached, the
        entity notices later that the worker no longer renews.

        Returns when the app's entity has handled it. If a system worker stopped just when it got
        that task, the entity, and the worker that starts next, would wait for ten seconds.
        """
        with contextlib.suppress(RPCError, RuntimeError, TimeoutError):
            await self._entity.signal("leave", self._member)
            async with asyncio.timeout(LEAVE_SECONDS):
                while True:
                    if not await self._entity.has_task():
                        return
                    await asyncio.sleep(0.02)

    async def _look(self) -> None:
        memo, is_there = await self._entity.read()
        app = document_of(memo)
        if memo and memo.get("app") is None:
            self._tell_removed()
            return
        self.removed = None
        if not is_there or app.release(self._member.key) is None:
            await self._join()
            await publish(self._client, self._app, app_version=self._app_version, renewal=True)
            app = document_of(await self._entity.memo())
        else:
            await list_version(self._client, self._app.app_id, memo["version"])
            if len(app.releases) > 1:
                await self._join()
        self._log.seen(app)

    def _tell_removed(self) -> None:
        """An operator has removed the app, and this worker does not undo that."""
        if self.removed is None:
            self.removed = (
                f"App {self._app.app_id!r} was removed by `inngest-temporal remove`, so nothing"
                " starts its functions. Stop this worker, or restart it to bring the app back."
            )
            logger.warning("%s", self.removed)

    async def _join(self) -> None:
        await self._entity.signal_with_start("join", self._member)


class _Log:
    """Logs what happens to other releases of a worker's app, each thing once."""

    def __init__(self, app_id: str, key: str) -> None:
        self._app_id = app_id
        self._key = key
        self._others: dict[str, float] = {}
        """Key of a release -> when it was first seen."""
        self._told: set[tuple[str, str]] = set()
        self._names: set[str] = set()
        """Ids of the functions of all releases."""

    def published(self, before: AppDocument, after: AppDocument) -> None:
        """Log that the release was published, and which ones it replaced."""
        mine = after.release(self._key)
        if mine is None:
            return
        gone = [each for each in before.releases if after.release(each.key) is None]
        if gone and (http := gone[-1].app.get("http")):
            logger.warning(
                "App %r was served over HTTP at %s, and workers execute its functions from now on."
                " Runs under way go on calling it: keep it and a worker --http up until they have"
                " ended. If these are two services, give each an app id of its own.",
                self._app_id,
                http.get("url"),
            )
        elif gone:
            logger.info("App %r has a new release: %s.", self._app_id, _difference(gone[-1], mine))
        self.seen(after)

    def seen(self, app: AppDocument) -> None:
        """Log what has changed in the releases that are up."""
        mine = app.release(self._key)
        if mine is None:
            return
        for other in app.releases:
            if other.key != self._key:
                self._see(mine, other)
        functions = {id for each in app.releases for id in each.functions}
        for key in self._others.keys() - {each.key for each in app.releases}:
            if self._is_new("down", key):
                logger.warning(
                    "App %r: the workers of the other release have stopped%s.",
                    self._app_id,
                    _listing("; not triggered any more: ", self._names - functions),
                )
            del self._others[key]
        self._names = functions

    def _see(self, mine: Release, other: Release) -> None:
        begun = self._others.setdefault(other.key, time.monotonic())
        if self._is_new("up", other.key):
            self._warn(mine, other)
        elif time.monotonic() - begun > DEPLOY_SECONDS and self._is_new("long", other.key):
            logger.warning(
                "App %r has had two releases for over %d minutes: %s. If no deploy is in progress,"
                " these are two services with one app id: give each its own.",
                self._app_id,
                DEPLOY_SECONDS // 60,
                _difference(other, mine),
            )

    def _is_new(self, change: str, key: str) -> bool:
        """Whether this change of a release was not logged yet: a replica may restart many times."""
        is_new = (change, key) not in self._told
        self._told.add((change, key))
        return is_new

    def _warn(self, mine: Release, other: Release) -> None:
        if mine.functions and other.functions and not mine.functions.keys() & other.functions:
            logger.warning(
                "Another service uses app id %r, with functions that this one does not have%s."
                " Functions of both are triggered; give each service an app id of its own.",
                self._app_id,
                _listing(": ", other.functions),
            )
            return
        older, newer = sorted((mine, other), key=lambda each: each.order)
        logger.warning(
            "App %r also has workers of %s release. The newer one compared with the older: %s."
            " Until the workers of one have stopped, functions of both are triggered; if both have"
            " a function, its newer configuration counts.",
            self._app_id,
            "an older" if older is other else "a newer",
            _difference(older, newer),
        )


def _difference(older: Release, newer: Release) -> str:
    changed = {
        id for id, digest in newer.functions.items() if older.functions.get(id, digest) != digest
    }
    parts = [
        _listing("added ", newer.functions.keys() - older.functions.keys()),
        _listing("removed ", older.functions.keys() - newer.functions.keys()),
        _listing("changed ", changed),
    ]
    return "; ".join(filter(None, parts)) or "the same functions"


def _listing(before: str, functions: Any) -> str:
    shown = sorted(functions)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return before + ", ".join(shown[:SHOWN]) + more if shown else ""
