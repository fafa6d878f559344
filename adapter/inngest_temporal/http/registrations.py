"""Apps of official SDKs: `/fn/register`, by which they register, `/fn/remove`, and `/dev`, by which
they look for a development server.

An SDK calls `/fn/register` when somebody asks it to (`inngest_temporal.http.syncing`), and passes
the answer on. The JavaScript SDK reads status and error from the body, not the status of the reply,
and does not accept a null `error`. Source: HTTP protocol, §4.
"""

import asyncio
import contextlib
import importlib.metadata
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client
from temporalio.service import RPCError

from inngest_temporal.errors import (
    BodyInvalidError,
    FunctionConfigInvalidError,
    SdkDeniedError,
    WorkerMissingError,
)
from inngest_temporal.routing import events
from inngest_temporal.routing.publishing import (
    PUBLISH_TIMEOUT,
    app_entity,
    publish,
    release_key,
    remove,
)
from inngest_temporal.routing.registry import AppConfig, Follower
from inngest_temporal.sdk.registration import Registration, app_url, denied, read_registration
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings

from .auth import Keys
from .bodies import Bodies
from .replies import ReplyError, error_reply, json_reply, unavailable

REGISTER_SECONDS = 8.0
"""How long an app waits for its answer. The caller that asked it to register gives up after 10."""
MEND_SECONDS = 60.0
"""How often schedules are checked if an app registers the same functions again and again."""


@dataclass(frozen=True)
class Registered:
    """The result of a registration."""

    is_modified: bool
    version: int
    """Version of the app's configuration."""


async def register(
    client: Client,
    registration: Registration,
    timeout: timedelta = PUBLISH_TIMEOUT,
    *,
    mend: bool = True,
) -> Registered:
    """Publish an app's functions; `mend` is that of `publish`.

    Raises:
        SdkDeniedError: The app must upgrade its SDK.
        FunctionConfigInvalidError: See `publish`.
        WorkerMissingError: No worker did it in time.
        RPCError: Temporal can't be reached.
    """
    app = registration.app
    refusal = denied(app.http.sdk if app.http is not None else "")
    if refusal is not None:
        raise SdkDeniedError(refusal)
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            before = (await app_entity(client, app.app_id).memo()).get("version", 0)
            version = await publish(
                client, app, timeout, app_version=registration.app_version, mend=mend
            )
    except TimeoutError:
        raise _no_worker() from None
    return Registered(version != before, version)


class Registrations:
    """Registers and removes apps that are served over HTTP."""

    def __init__(
        self, client: Client, settings: Settings, follower: Follower, keys: Keys, bodies: Bodies
    ) -> None:
        self._client = client
        self._settings = settings
        self._follower = follower
        self._keys = keys
        self._bodies = bodies
        self._mended: dict[str, tuple[str, float]] = {}
        """App id -> the release whose schedules were checked, and when."""

    def routes(self) -> list[Route]:
        found = [
            Route("/fn/register", self.register, methods=["POST"]),
            Route("/fn/remove", self.remove, methods=["DELETE"]),
        ]
        return [*found, Route("/dev", self.dev)] if self._settings.dev else found

    async def register(self, request: Request) -> Response:
        """`POST /fn/register`: `{"ok": true, "modified": ..., "sync_id": "...", "app_id":
        "..."}`."""
        self._check_kind(request)
        self._keys.check_registration(request)
        try:
            async with self._bodies.read(request) as raw:
                body = events.parse(raw)
            registration = read_registration(body, request.headers.get("x-inngest-sdk", ""))
            return await self._register(registration)
        except Exception as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            return refusal

    async def remove(self, request: Request) -> Response:
        """`DELETE /fn/remove?url=`: remove the app that is served at this URL."""
        self._keys.check_registration(request)
        try:
            url = app_url(request.query_params.get("url", ""))
            apps = (await Follower(self._client).refresh()).apps
            app = next((each for each in apps if each.http and each.http.url == url), None)
            if app is None:
                raise ReplyError(error_reply(404, f"No app is served at {url}"))
            await self._remove(app.app_id)
            return json_reply({"ok": True, "app_id": app.app_id})
        except Exception as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            return refusal

    async def dev(self, _: Request) -> Response:
        """`GET /dev`: tells SDKs that this is a development server, and which functions it
        knows."""
        snapshot = self._follower.snapshot
        apps = () if snapshot is None else snapshot.apps
        return json_reply(
            {
                "version": importlib.metadata.version("inngest-temporal"),
                "authed": False,
                "startOpts": {},
                "functions": [function for app in apps for function in _functions(app)],
                "handlers": [_handler(app) for app in apps if app.http is not None],
                "isSingleNodeService": False,
                "isMissingSigningKey": not self._settings.signing_keys,
                "isMissingEventKeys": not self._settings.event_keys,
                "features": {},
            }
        )

    async def _register(self, registration: Registration) -> Response:
        app = registration.app
        key = release_key(app, registration.app_version)
        mended, at = self._mended.get(app.app_id, ("", 0.0))
        mend = mended != key or time.monotonic() > at + MEND_SECONDS
        timeout = timedelta(seconds=REGISTER_SECONDS)
        registered = await register(self._client, registration, timeout, mend=mend)
        if mend:
            self._mended[app.app_id] = (key, time.monotonic())
        await self._refresh()
        return json_reply(
            {
                "ok": True,
                "modified": registered.is_modified,
                "sync_id": names.digest(key, registered.version),
                "app_id": app.app_id,
            }
        )

    async def _remove(self, app_id: str) -> None:
        try:
            async with asyncio.timeout(REGISTER_SECONDS):
                await remove(self._client, app_id, timedelta(seconds=REGISTER_SECONDS))
        except TimeoutError:
            raise _no_worker() from None
        await self._refresh()

    async def _refresh(self) -> None:
        """Read the registry, so that events start the new functions at once. Not if this process
        has not begun to follow the registry yet."""
        if self._follower.snapshot is not None:
            with contextlib.suppress(RPCError, RuntimeError, TimeoutError):
                await self._follower.refresh()

    def _check_kind(self, request: Request) -> None:
        kind = "dev" if self._settings.dev else "cloud"
        expected = request.headers.get("x-inngest-expected-server-kind") or kind
        if expected != kind:
            remedy = "set INNGEST_DEV for both the app and the ingress, or for neither"
            problem = f"Expected server kind {expected}, got {kind}: {remedy}"
            raise ReplyError(error_reply(400, problem))


def _refusal(error: Exception) -> Response | None:
    """The reply to an error; None for a bug."""
    if isinstance(error, SdkDeniedError):
        body = {"code": "sdk_version_denied", "error": error.message, "status": 400}
        return json_reply(body, 400)
    if isinstance(error, BodyInvalidError | FunctionConfigInvalidError):
        return error_reply(400, error.message)
    if isinstance(error, WorkerMissingError):
        return error_reply(503, error.message)
    failure = unavailable(error)
    return None if failure is None else error_reply(*failure)


def _no_worker() -> WorkerMissingError:
    return WorkerMissingError(
        "No worker has handled the registration in time. Start one (inngest-temporal worker"
        " --http), or try again if there is one."
    )


def _functions(app: AppConfig) -> list[dict[str, Any]]:
    return [
        {**function.to_wire(), "slug": function.id, "appID": app.app_id}
        for function in app.functions
    ]


def _handler(app: AppConfig) -> dict[str, Any]:
    sdk = {} if app.http is None else app.http.model_dump()
    return {"sdk": {"appName": app.app_id, "functions": len(app.functions), **sdk}}
