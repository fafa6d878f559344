"""Apps of the official SDKs on the embedded server: an ingress, a worker that calls apps, and apps
that are served on loopback."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
from temporalio.client import Client
from temporalio.worker import Worker

from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing.registry import Follower
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.commands.processes import listen, serving
from inngest_temporal_workers.http.dispatches import Dispatches
from inngest_temporal_workers.http.worker import create_http_worker
from tests.harness import another, pause

ENDED = ("Completed", "Failed", "Cancelled", "Skipped")


class HttpWorld:
    """An ingress, and a worker that calls apps."""

    def __init__(
        self, client: Client, url: str, follower: Follower, settings: Settings, worker: Worker
    ) -> None:
        self.client = client
        self.url = url
        self.worker = worker
        self._follower = follower
        self._kind = "dev" if settings.dev else "cloud"
        self._event_key = [*settings.event_keys, "dev"][0]
        keys = settings.signing_keys
        headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
        self._http = httpx.AsyncClient(base_url=url, timeout=30, headers=headers, verify=False)

    async def sync(self, app_url: str) -> None:
        """Have an app register, as `dev -u` does."""
        headers = {"x-inngest-server-kind": self._kind}
        answer = await self._http.put(app_url, json={"url": app_url}, headers=headers)
        assert answer.status_code == 200, answer.text
        await self.refresh()

    async def refresh(self) -> None:
        """Learn what is registered now."""
        await self._follower.refresh()

    async def send(self, name: str, data: dict[str, Any] | None = None) -> str:
        """Send an event, and return its id."""
        url = f"/e/{self._event_key}"
        answer = await self._http.post(url, json={"name": name, "data": data or {}})
        assert answer.status_code == 200, answer.text
        [id] = answer.json()["ids"]
        return str(id)

    async def runs(self, event: str, seconds: float = 60) -> list[dict[str, Any]]:
        """The runs of an event, once all have ended."""
        began = time.monotonic()
        while True:
            answer = await self._http.get(f"/v1/events/{event}/runs")
            runs: list[dict[str, Any]] = answer.json()["data"]
            if runs and all(run["status"] in ENDED for run in runs):
                return runs
            assert time.monotonic() < began + seconds, runs
            await asyncio.sleep(pause(began))

    async def run(self, name: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send an event, and wait for its only run."""
        [run] = await self.runs(await self.send(name, data))
        return run


@contextlib.asynccontextmanager
async def http_world(
    client: Client,
    *,
    retry_interval: timedelta = timedelta(milliseconds=10),
    settings: Settings | None = None,
    listens: bool = True,
    grace: timedelta = timedelta(0),
) -> AsyncIterator[HttpWorld]:
    """An ingress on loopback and a worker that calls apps, in this process. `listens`: whether the
    worker says where its ingress is, as with `--listen`."""
    settings = settings or Settings(dev=True)
    client = await another(client)
    dispatches = Dispatches()
    listener = listen("127.0.0.1", 0, "port")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with Follower(client) as follower:
        app = create_ingress(client, settings, follower=follower, calls=dispatches)
        worker = create_http_worker(
            client,
            settings,
            dispatches=dispatches,
            address=url if listens else None,
            retry_interval=retry_interval,
            graceful_shutdown_timeout=grace,
        )
        async with serving(app, listener), worker:
            yield HttpWorld(client, url, follower, settings, worker)


@contextlib.asynccontextmanager
async def served(
    make: Callable[[str], Any], path: str = "/api/inngest", port: int = 0
) -> AsyncIterator[str]:
    """An ASGI application on loopback; yields the URL of its SDK handler. `make` gets its
    origin."""
    listener = listen("127.0.0.1", port, "port")
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(make(origin), listener):
        yield origin + path
