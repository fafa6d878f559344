"""What `inngest-temporal dev` runs in its own process: the ingress, and what apps that are served
over HTTP need. `dev` imports it while its children start.
"""

import asyncio
import contextlib
import socket
import time
from datetime import timedelta

from temporalio.client import Client
from temporalio.service import RetryConfig, RPCError

from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing.registry import POLL_INTERVAL, Follower
from inngest_temporal.temporal.connection import DashboardMode, Settings, connect, find_namespace
from inngest_temporal_workers.http.dispatches import Dispatches

from . import embedded
from .children import in_background
from .dev_options import GRACE_SECONDS, DevOptions
from .ends import report_ends
from .processes import ProcessError, imported, interval_of, say, serving, url_of

START_SECONDS = 30
"""How long the embedded server may take to answer."""
ANSWER_INTERVAL = 0.02
"""Seconds between two attempts to reach it."""


class DevIngress:
    """The parts of `dev` that are not children."""

    def __init__(self, options: DevOptions, published: "asyncio.Queue[str]") -> None:
        """`published`: what each worker says once it has published its functions."""
        self._options = options
        self._published = published
        self._shown = ""

    async def run(self, listener: socket.socket, lost: "asyncio.Task[None]") -> None:
        """Serve until it is cancelled. `lost`: the task that ends with the Temporal server. Raises
        `ProcessError`."""
        options = self._options
        async with contextlib.AsyncExitStack() as stack:
            client = await connect()
            follower = Follower(client)
            stack.push_async_callback(follower.stop)
            settings, dispatches = self._settings(), Dispatches()
            ingress = create_ingress(client, settings, follower=follower, calls=dispatches)
            parts = [await stack.enter_async_context(serving(ingress, listener))]
            await _until_answering(lost)
            self._say_places()
            work = [
                self._tell(follower),
                self._call_apps(settings, dispatches),
                report_ends(client),
            ]
            if options.follows_apps:
                work.append(self._follow_apps(client))
            for each in work:
                parts.append(await stack.enter_async_context(in_background(each)))
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()

    def _settings(self) -> Settings:
        return Settings(
            dev=True,
            dashboard=DashboardMode(self._options.dashboard),
            temporal_ui_url=url_of(embedded.HOST, self._options.ui_port),
        )

    async def _call_apps(self, settings: Settings, dispatches: Dispatches) -> None:
        """Run the functions of apps that are served over HTTP."""
        # Imported here: it takes a third of a second, for which a module's functions need not wait.
        await imported("inngest_temporal_workers.http.worker")
        from inngest_temporal_workers.http.worker import create_http_worker

        worker = create_http_worker(
            await connect(lazy=False),
            settings,
            dispatches=dispatches,
            address=self._options.url,
            retry_interval=interval_of(self._options.retry_interval),
            graceful_shutdown_timeout=timedelta(seconds=GRACE_SECONDS),
        )
        await worker.run()

    async def _follow_apps(self, client: Client) -> None:
        """Keep the functions of apps that are served over HTTP registered."""
        from .apps import AppsFollower

        options = self._options
        apps = AppsFollower(
            client,
            options.url,
            options.app_urls,
            discovers=options.discovers,
            own_ports=(options.port, options.temporal_port, options.ui_port),
        )
        await apps.follow()

    def _say_places(self) -> None:
        options = self._options
        kept = options.db_filename or "in memory: --db-filename keeps it"
        say(f"Events           {options.url}/e/dev")
        say(f"Temporal Web UI  {url_of(embedded.HOST, options.ui_port)}")
        say(f"Temporal         {embedded.HOST}:{options.temporal_port}, namespace default ({kept})")
        if options.source is None and not options.follows_apps:
            say(
                "No module was named, so no functions run here. Start workers with TEMPORAL_ADDRESS"
                f" set to that, or an Inngest app with INNGEST_DEV={options.url}, and name its URL"
                " with -u."
            )

    async def _tell(self, follower: Follower) -> None:
        """Whenever functions were published, print that when the ingress knows them."""
        while True:
            functions = await self._published.get()
            await _read(follower)
            follower.start()
            if functions != self._shown:
                say(functions, end="")
                self._shown = functions
            shown = self._options.dashboard != DashboardMode.OFF
            say("\nReady." + (f" Dashboard: {self._options.url}" if shown else ""))


async def _read(follower: Follower) -> None:
    while True:
        try:
            await follower.refresh()
            return
        except (RPCError, RuntimeError, TimeoutError):
            await asyncio.sleep(POLL_INTERVAL)


async def _until_answering(lost: "asyncio.Task[None]") -> None:
    """Wait until the embedded server answers. Raises `ProcessError` if it does not, or has
    ended."""
    deadline = time.monotonic() + START_SECONDS
    client = await connect(retry_config=RetryConfig(max_retries=0))
    while True:
        if lost.done():
            lost.result()
        try:
            await find_namespace(client)
            return
        except (RPCError, RuntimeError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"The embedded Temporal server does not answer: {error}"
                ) from error
            await asyncio.sleep(ANSWER_INTERVAL)
