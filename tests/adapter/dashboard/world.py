"""An app with its dashboard: a worker, and an ingress on loopback."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Follower
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.commands.processes import listen, serving
from tests.harness import App, running

DEV = Settings(dev=True)


class World:
    """A dashboard, and the app whose runs it shows."""

    def __init__(self, url: str, app: App, http: httpx.AsyncClient) -> None:
        self.url = url
        self.app = app
        self.http = http
        """Speaks to the ingress like a browser that sends forms from its pages."""

    async def send(self, name: str, data: dict[str, Any] | None = None, **fields: Any) -> str:
        """Send an event to the ingress, and return its internal id."""
        answer = await self.http.post("/e/dev", json={"name": name, "data": data or {}, **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["ids"][0])

    def run_of(self, function: inngest.Function[Any], event: str) -> str:
        """Id of the run of a function that is started by the event with this internal id."""
        return events.run_id(function.id, events.Stamped({}, event))


@contextlib.asynccontextmanager
async def served(client: Client, settings: Settings = DEV) -> AsyncIterator[httpx.AsyncClient]:
    """An ingress alone."""
    listener = listen("127.0.0.1", 0, "port")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with Follower(client) as follower:
        await follower.refresh()
        ingress = create_ingress(client, settings, follower=follower)
        headers = {"sec-fetch-site": "same-origin"}
        async with (
            serving(ingress, listener),
            httpx.AsyncClient(base_url=url, timeout=60, headers=headers, verify=False) as http,
        ):
            yield http


@contextlib.asynccontextmanager
async def world(
    client: Client, *functions: inngest.Function[Any], settings: Settings = DEV, **options: Any
) -> AsyncIterator[World]:
    """A worker and an ingress."""
    async with running(client, *functions, **options) as app, served(client, settings) as http:
        yield World(str(http.base_url), app, http)
