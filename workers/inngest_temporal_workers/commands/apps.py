"""Apps that are served over HTTP, for `sync` and `dev`: asks them for their functions, registers
these, and says what there is."""

import asyncio
from collections.abc import Container, Iterable
from dataclasses import dataclass

import httpx
from temporalio.client import Client
from temporalio.service import RPCError

from inngest_temporal.errors import BodyInvalidError, Error, SyncError
from inngest_temporal.http.registrations import register
from inngest_temporal.http.syncing import Synced, is_served, sync, sync_client
from inngest_temporal.routing.publishing import release_key
from inngest_temporal.routing.registry import AppConfig, Follower
from inngest_temporal.sdk.registration import app_url
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.plugin import system_worker

from .processes import ProcessError, complain, say
from .temporal import PATIENCE, Waiting, wait_for_temporal
from .working import listed

POLL_SECONDS = 5.0
"""Seconds between two looks at an app, as in Inngest's command."""
PROBE_SECONDS = 1.0
"""How long discovery waits for one answer."""
PORTS = (
    *(80, 443, *range(3000, 3011), 4321, 5000, 5173, 8000, 8080, 8081, 8787, 8888),
    *range(8910, 8916),
)
PATHS = ("/api/inngest", "/x/inngest", "/.netlify/functions/inngest", "/.redwood/functions/inngest")
"""Paths that discovery tries, as in Inngest."""


def read_url(text: str) -> str:
    """The URL of an app, from what a person has written. Raises `ProcessError`."""
    try:
        return app_url(text if "://" in text else f"http://{text}")
    except BodyInvalidError:
        raise ProcessError(
            f"{text} is not the address of an app. Write it like http://localhost:3000/api/inngest."
        ) from None


async def sync_app(url: str, settings: Settings, stop: asyncio.Event) -> None:
    """The command `sync`. Raises `ProcessError`, `Error`."""
    client = await wait_for_temporal(stop, Waiting(seconds=PATIENCE))
    if client is None:
        return
    async with sync_client() as http, system_worker(client):
        try:
            synced = await sync(http, url, dev=settings.dev, keys=settings.signing_keys)
            app = await registered(client, Follower(client), url, synced)
        except (RPCError, RuntimeError, TimeoutError) as error:
            raise ProcessError(
                f"The app at {url} could not be registered: {error}. Try again."
            ) from error
    say(app_text(app), end="")


async def registered(client: Client, follower: Follower, url: str, synced: Synced) -> AppConfig:
    """What is known of an app that was asked to register, once everybody can know it.

    Raises `Error` if it is refused, or has registered elsewhere.
    """
    if synced.registration is not None:
        await register(client, synced.registration)
    snapshot = await follower.refresh()
    for app in snapshot.apps:
        if app.http is not None and _is_same(app, url, synced):
            return app
    raise SyncError(
        f"The app at {url} says that it has registered, but not here. Set INNGEST_DEV, or in"
        " production INNGEST_BASE_URL, in its environment to the address of this ingress."
    )


def app_text(app: AppConfig) -> str:
    """An app and its functions, in lines."""
    assert app.http is not None
    made_with = ", ".join(filter(None, (app.http.sdk, app.http.framework)))
    functions = listed(app.functions) or "  no functions\n"
    return f"\nApp {app.app_id} at {app.http.url} ({made_with}):\n{functions}"


def _is_same(app: AppConfig, url: str, synced: Synced) -> bool:
    name = synced.app_id if synced.registration is None else synced.registration.app.app_id
    if name is not None:
        return app.app_id == name
    return app.http is not None and app.http.url == url


@dataclass
class _Known:
    """What was seen of an app, and logged about it."""

    key: str = ""
    """Key of the release that was registered last, if it is known."""
    app: AppConfig | None = None
    problem: str = ""


class AppsFollower:
    """For `dev`: keeps the current functions of apps registered."""

    def __init__(
        self,
        client: Client,
        server: str,
        urls: Iterable[str] = (),
        *,
        discovers: bool = False,
        own_ports: Container[int] = (),
    ) -> None:
        """`server`: our own address. `discovers`: whether to look for apps on the usual ports,
        except `own_ports`."""
        self._client = client
        # Not the ingress's: that is to wait for the functions of a module that starts.
        self._follower = Follower(client)
        self._server = server
        self._known = {url: _Known() for url in urls}
        self._discovers = discovers
        self._own_ports = own_ports

    async def follow(self) -> None:
        """Look at the apps again and again, until it is cancelled."""
        async with sync_client() as http:
            while True:
                if self._discovers:
                    await self._discover(http)
                await asyncio.gather(*(self._look(http, *each) for each in self._known.items()))
                await asyncio.sleep(POLL_SECONDS)

    async def _look(self, http: httpx.AsyncClient, url: str, known: _Known) -> None:
        try:
            synced = await sync(http, url, dev=True, server=self._server)
            if not await self._is_unchanged(known, synced):
                self._show(known, await registered(self._client, self._follower, url, synced))
                known.key = _key(synced)
        except Error as error:
            self._complain(known, error.message)
        except (RPCError, RuntimeError, TimeoutError) as error:
            self._complain(known, f"The app at {url} can't be registered yet: {error}")
        else:
            if known.problem and known.app is not None:
                say(f"App {known.app.app_id} at {url} is there again.")
            known.problem = ""

    async def _is_unchanged(self, known: _Known, synced: Synced) -> bool:
        """Whether the registry has what the app has just answered."""
        if known.app is None or not known.key or known.key != _key(synced):
            return False
        return known.app in (await self._follower.refresh()).apps

    def _show(self, known: _Known, app: AppConfig) -> None:
        if app != known.app:
            say(app_text(app), end="")
            known.problem = ""
        known.app = app

    def _complain(self, known: _Known, problem: str) -> None:
        if problem != known.problem:
            stays = " Its functions stay registered as they were." if known.app is not None else ""
            complain(problem + stays)
        known.problem = problem

    async def _discover(self, http: httpx.AsyncClient) -> None:
        taken = {httpx.URL(url).port or 80 for url in self._known}
        ports = [port for port in PORTS if port not in taken and port not in self._own_ports]
        for found in await asyncio.gather(*(_served_on(http, port) for port in ports)):
            if found is not None:
                self._known[found] = _Known()


async def _served_on(http: httpx.AsyncClient, port: int) -> str | None:
    """The URL of an app that listens on a port of this machine."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection("localhost", port)
        writer.close()
    except (OSError, TimeoutError):
        return None
    for path in PATHS:
        url = f"http://localhost:{port}{path}"
        if await is_served(http, url, PROBE_SECONDS):
            return url
    return None


def _key(synced: Synced) -> str:
    made = synced.registration
    return "" if made is None else release_key(made.app, made.app_version)
