"""`inngest-temporal dev`: an embedded Temporal server, the ingress and a worker, on one machine.

The ingress runs in this process, and what apps that are served over HTTP need; the Temporal server
and the worker of a module are children, stopped in order: worker, ingress, server.

Events are answered with 503 until the worker's functions are known to the ingress; then this says
that it is ready. A change of a Python file restarts the worker alone. One that can't be imported
leaves the server and the ingress as they are: events are accepted, and their runs wait for a worker
that starts.
"""

import asyncio
import contextlib
import importlib.util
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

from temporalio.client import Client
from temporalio.service import RPCError

from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing.registry import POLL_INTERVAL, Follower
from inngest_temporal.temporal.connection import DashboardMode, Settings, connect
from inngest_temporal_workers.http.dispatches import Dispatches
from inngest_temporal_workers.http.worker import create_http_worker

from . import embedded
from .apps import AppsFollower
from .children import Children, in_background
from .embedded import temporal_server, until_answering
from .ends import report_ends
from .loading import Source
from .logs import LogFormat, LogLevel
from .processes import ProcessError, err, first, interval_of, listen, out, serving, url_of

GRACE_SECONDS = 2.0
"""Time for running steps when the worker is restarted: someone is waiting for it."""


@dataclass(frozen=True)
class DevOptions:
    """The options of the command."""

    source: Source | None
    """None: no worker; start some elsewhere."""
    host: str
    port: int
    temporal_port: int
    ui_port: int
    reload: bool
    db_filename: str | None
    retry_interval: float | None
    log_level: LogLevel
    log_format: LogFormat
    app_urls: Sequence[str] = ()
    """Apps that are served over HTTP."""
    discovers: bool = False
    """Whether to look for such apps."""
    dashboard: DashboardMode = DashboardMode.ON

    @property
    def follows_apps(self) -> bool:
        """Whether there may be apps that are served over HTTP to look at."""
        return bool(self.app_urls) or self.discovers

    @property
    def url(self) -> str:
        """Address of the ingress."""
        return url_of(self.host, self.port)


class DevServer:
    """All that `inngest-temporal dev` runs."""

    def __init__(self, options: DevOptions) -> None:
        self._options = options
        self._children = Children()
        self._shown = ""
        self._placed = asyncio.Event()
        """Whether it was said where everything is."""

    async def run(self, stop: asyncio.Event) -> None:
        """Run everything until `stop`. Raises `ProcessError` if something can't start, or ends by
        itself."""
        running = asyncio.create_task(self._run())
        await first(running, stop)
        if not running.done():
            out.print("\nStopping.")
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    def kill(self) -> None:
        """End all children at once."""
        self._children.kill()

    async def _run(self) -> None:
        options = self._options
        listener = _check(options)
        _use_embedded_server(options)
        server = temporal_server(
            self._children, options.temporal_port, options.ui_port, options.db_filename
        )
        # Left in the opposite order, whatever the reason: worker, ingress, server.
        async with contextlib.AsyncExitStack() as stack:
            lost = await stack.enter_async_context(server)
            client = await connect()
            follower = Follower(client)
            stack.push_async_callback(follower.stop)
            settings, dispatches = self._settings(), Dispatches()
            ingress = create_ingress(client, settings, follower=follower, calls=dispatches)
            parts = [lost, await stack.enter_async_context(serving(ingress, listener))]
            if options.source is not None:
                # What a worker imports takes as long as the server's start: the two go together.
                following = self._follow(options.source, follower)
                parts.append(await stack.enter_async_context(in_background(following)))
            await until_answering(lost)
            calling = self._call_apps(settings, dispatches)
            parts.append(await stack.enter_async_context(in_background(calling)))
            parts.append(await stack.enter_async_context(in_background(report_ends(client))))
            if options.follows_apps:
                apps = self._apps(client).follow()
                parts.append(await stack.enter_async_context(in_background(apps)))
            self._print_places()
            self._placed.set()
            if options.source is None:
                await self._ready(follower)
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()

    def _settings(self) -> Settings:
        ui_url = url_of(embedded.HOST, self._options.ui_port)
        return Settings(dev=True, dashboard=self._options.dashboard, temporal_ui_url=ui_url)

    async def _call_apps(self, settings: Settings, dispatches: Dispatches) -> None:
        """Run the functions of apps that are served over HTTP."""
        worker = create_http_worker(
            await connect(lazy=False),
            settings,
            dispatches=dispatches,
            address=self._options.url,
            retry_interval=interval_of(self._options.retry_interval),
            graceful_shutdown_timeout=timedelta(seconds=GRACE_SECONDS),
        )
        await worker.run()

    def _apps(self, client: Client) -> AppsFollower:
        options = self._options
        return AppsFollower(
            client,
            options.url,
            options.app_urls,
            discovers=options.discovers,
            own_ports=(options.port, options.temporal_port, options.ui_port),
        )

    def _print_places(self) -> None:
        options = self._options
        kept = options.db_filename or "in memory: --db-filename keeps it"
        out.print(f"Events           {options.url}/e/dev")
        out.print(f"Temporal Web UI  {url_of(embedded.HOST, options.ui_port)}")
        out.print(
            f"Temporal         {embedded.HOST}:{options.temporal_port}, namespace default ({kept})"
        )
        if options.source is None and not options.follows_apps:
            out.print(
                "No module was named, so no functions run here. Start workers with TEMPORAL_ADDRESS"
                f" set to that, or an Inngest app with INNGEST_DEV={options.url}, and name its URL"
                " with -u."
            )

    async def _ready(self, follower: Follower, functions: str = "") -> None:
        """From now on the ingress knows what the worker has published, and says so."""
        await self._placed.wait()
        while True:
            try:
                await follower.refresh()
                break
            except (RPCError, RuntimeError, TimeoutError):
                await asyncio.sleep(POLL_INTERVAL)
        follower.start()
        options = self._options
        if functions != self._shown:
            out.print(functions, end="")
            self._shown = functions
        shown = options.dashboard != DashboardMode.OFF
        out.print("\nReady." + (f" Dashboard: {options.url}" if shown else ""))

    # The worker of a module.

    async def _follow(self, source: Source, follower: Follower) -> None:
        """Run the worker, and again after each change. Raises `ProcessError` if it ends and there
        is no reload."""
        options = self._options
        changes: asyncio.Queue[str] = asyncio.Queue()
        watch = _watch(source.directory, changes) if options.reload else asyncio.sleep(math.inf)
        async with in_background(watch) as watching:
            while True:
                while not changes.empty():
                    changes.get_nowait()
                async with self._worker(source, follower) as ended:
                    changed = asyncio.create_task(changes.get())
                    await asyncio.wait(
                        {ended, changed, watching}, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not changed.done() and not watching.done():
                        if not options.reload:
                            raise ProcessError("The worker ended; what it printed says why.")
                        err.print(
                            f"\nNo worker runs. It starts again when a file in {source.directory}"
                            " changes."
                        )
                        await asyncio.wait({changed, watching}, return_when=asyncio.FIRST_COMPLETED)
                    if watching.done():
                        watching.result()
                    out.print(f"\n{await changed} changed: the worker starts again.")

    @contextlib.asynccontextmanager
    async def _worker(
        self, source: Source, follower: Follower
    ) -> AsyncIterator["asyncio.Task[int]"]:
        """Yields a task that ends with the worker's process."""
        # -P: nothing in the current directory may hide our packages.
        command = [sys.executable, "-u", "-P", "-m", "inngest_temporal_workers"]
        command += ["worker", source.text, "--grace", f"{GRACE_SECONDS:g}"]
        if self._options.retry_interval is not None:
            command += ["--retry-interval", f"{self._options.retry_interval:g}"]
        command += [
            "--log-level",
            self._options.log_level,
            "--log-format",
            self._options.log_format,
        ]
        reading, writing = os.pipe()
        command += ["--announce", str(writing), "--try-at", self._options.url]
        with os.fdopen(reading, "rb") as pipe:
            child = self._children.start(command, pass_fds=[writing])
            async with contextlib.AsyncExitStack() as stack:
                try:
                    process = await stack.enter_async_context(child)
                finally:
                    os.close(writing)
                await stack.enter_async_context(in_background(self._announced(pipe, follower)))
                yield asyncio.create_task(process.wait())

    async def _announced(self, pipe: IO[bytes], follower: Follower) -> None:
        """A worker that has published its functions tells them over the pipe, and closes it."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            functions = (await reader.read()).decode()
        finally:
            transport.close()
        if functions:
            await self._ready(follower, functions)


def _check(options: DevOptions) -> socket.socket:
    """The ingress's port, once it is known that nothing stands in the way. Raises
    `ProcessError`."""
    if options.reload and importlib.util.find_spec("watchfiles") is None:
        raise ProcessError(
            "Reload needs watchfiles: pip install 'inngest-temporal[dev]', or use --no-reload."
        )
    listener = listen(options.host, options.port, "--port")
    for port, option in (
        (options.temporal_port, "--temporal-port"),
        (options.ui_port, "--ui-port"),
    ):
        listen(embedded.HOST, port, option).close()
    return listener


def _use_embedded_server(options: DevOptions) -> None:
    """This process and its children: not the Temporal, or the Inngest, that the environment or a
    file speaks of."""
    for variable in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        del os.environ[variable]
    for variable in ("INNGEST_BASE_URL", "INNGEST_API_BASE_URL", "INNGEST_EVENT_API_BASE_URL"):
        os.environ.pop(variable, None)  # clients prefer them to INNGEST_DEV
    os.environ["TEMPORAL_ADDRESS"] = f"{embedded.HOST}:{options.temporal_port}"
    os.environ["TEMPORAL_NAMESPACE"] = "default"
    os.environ["TEMPORAL_CONFIG_FILE"] = os.devnull
    os.environ["INNGEST_DEV"] = options.url


async def _watch(directory: Path, changes: "asyncio.Queue[str]") -> None:
    try:
        from watchfiles import PythonFilter, awatch
    except ModuleNotFoundError:
        raise ProcessError(
            "Reload needs watchfiles: pip install 'inngest-temporal[dev]', or use --no-reload."
        ) from None

    try:
        async for batch in awatch(directory, watch_filter=PythonFilter()):
            changes.put_nowait(", ".join(sorted({os.path.relpath(path) for _, path in batch})))
    except (OSError, RuntimeError) as error:  # such as the system's limit of watches
        raise ProcessError(
            f"Files in {directory} can't be watched for changes: {error}. Use --no-reload."
        ) from error
