"""`inngest-temporal worker --http`: calls the apps that are served over HTTP.

It may be an ingress, too; then apps report steps to it directly.
"""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from inngest_temporal.http.app import create_ingress
from inngest_temporal.temporal.connection import Settings, connect
from inngest_temporal_workers.http.dispatches import Dispatches
from inngest_temporal_workers.http.worker import HttpAppsPlugin, create_http_worker

from .processes import ProcessError, interval_of, listen, parse_address, say, serving
from .temporal import temporal_place
from .working import WorkingProcess


@dataclass(frozen=True)
class CallingOptions:
    """The options of the command."""

    listen: str | None = None
    """HOST:PORT of its ingress."""
    advertise: str | None = None
    """URL under which other ingresses reach this one."""
    grace: float = 0
    """Seconds that calls may continue after a stop was requested."""
    retry_interval: float | None = None


class CallingProcess(WorkingProcess):
    """Calls apps."""

    not_ready = "The registry has not been read yet."

    def __init__(self, options: CallingOptions, settings: Settings) -> None:
        super().__init__(options.grace)
        self._options = options
        self._settings = settings
        self._dispatches = Dispatches()
        self._address = _address(options)

    async def serve(self, stop: asyncio.Event) -> None:
        """Run the worker and its ingress until `stop`. Raises `ProcessError`."""
        async with contextlib.AsyncExitStack() as stack:
            if self._options.listen is not None:
                listener = listen(*parse_address("--listen", self._options.listen), "--listen")
                app = create_ingress(await connect(), self._settings, calls=self._dispatches)
                await stack.enter_async_context(serving(app, listener))
            await self.run(stop)

    def create(self, client: Client) -> Worker:
        return create_http_worker(
            client,
            self._settings,
            dispatches=self._dispatches,
            address=self._address,
            retry_interval=interval_of(self._options.retry_interval),
            graceful_shutdown_timeout=timedelta(seconds=self._options.grace),
        )

    async def tell(self, client: Client, worker: Worker) -> None:
        [plugin] = [each for each in worker.config()["plugins"] if isinstance(each, HttpAppsPlugin)]
        await plugin.ready.wait()
        say(f"Calls apps  from task queue {worker.task_queue}")
        if self._address is None:
            say(
                "Apps are called once for each step: with --listen they can report steps during a"
                " call, which is faster."
            )
        else:
            say(f"Ingress     {self._address}")
        say(f"Temporal    {temporal_place()}")


def _address(options: CallingOptions) -> str | None:
    if options.advertise is not None:
        if options.listen is None:
            raise ProcessError("--advertise needs --listen: nothing would answer there.")
        if not options.advertise.startswith(("http://", "https://")):
            raise ProcessError(f"--advertise {options.advertise}: write a URL, http://HOST:PORT.")
        return options.advertise.rstrip("/")
    if options.listen is None:
        return None
    host, port = parse_address("--listen", options.listen)
    if host in ("0.0.0.0", "::"):
        host = _own_address()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _own_address() -> str:
    """The address of this machine in its network, if it has one."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses an interface
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address
