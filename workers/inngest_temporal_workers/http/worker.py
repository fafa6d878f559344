"""The worker that calls apps: it runs the functions of all apps that are served over HTTP.

All that it needs of an app is its URL, which is in the registry. It can have any number of
replicas.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import ReplayerConfig, Worker, WorkerConfig

from inngest_temporal.http.checkpoints import identity_of
from inngest_temporal.routing.locks import Locks
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.grace import GRACE
from inngest_temporal_workers.healing import healing
from inngest_temporal_workers.plugin import (
    HEARTBEAT_THROTTLE,
    own_system_worker,
    set_build_id,
)
from inngest_temporal_workers.runs.activities import RunActivities
from inngest_temporal_workers.runs.admission import AdmissionActivities
from inngest_temporal_workers.runs.executions import RunSettings
from inngest_temporal_workers.runs.heartbeats import Heartbeats
from inngest_temporal_workers.runs.memory import MemoCache

from .addresses import AddressPolicy
from .caller import AppCaller
from .dispatches import Dispatches
from .executions import HttpExecutions
from .gateway import Gateway
from .run import http_run_workflow

MAX_CALLS = 2_000
"""Maximum number of calls under way in one worker. A call that waits for its app costs little."""


class HttpAppsPlugin(SimplePlugin):
    """Makes a Temporal worker call the apps that are served over HTTP.

    The signing keys of `settings` sign the calls. An ingress in this process must get the same
    `dispatches`. `address` is the URL, without a path, under which ingresses reach this process;
    with None apps can't report steps during a call, and are called once for each step.
    `retry_interval` replaces Inngest's delays between attempts, for development.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        dispatches: Dispatches,
        address: str | None = None,
        retry_interval: timedelta | None = None,
    ) -> None:
        super().__init__("inngest-temporal-http")
        self._settings = settings
        self._dispatches = dispatches
        self._address = address
        self._runs = RunSettings(MemoCache(), retry_interval)
        self._heartbeats = Heartbeats()
        self._caller = AppCaller(AddressPolicy.from_env(dev=settings.dev))
        self._gateway = Gateway.from_env(dev=settings.dev)
        self.ready = asyncio.Event()
        """Set once the registry has been read."""

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add the workflow and the activities."""
        client = config["client"]
        self._follower = Follower(client)
        waits = Waits.of(client)
        router = Router(client, self._follower, waits.deliver)
        executions = HttpExecutions(
            client,
            self._runs,
            self._follower,
            router,
            self._caller,
            self._gateway,
            self._dispatches,
            self._heartbeats,
            self._settings.signing_keys,
            may_checkpoint=self._address is not None,
        )
        config["workflows"] = [*config.get("workflows", []), http_run_workflow(self._runs)]
        config["activities"] = [
            *config.get("activities", []),
            *executions.all(),
            *RunActivities(client, self._app_of, router, waits, self._follower).all(),
            *AdmissionActivities(Locks(client), {}, self._follower).all(),
        ]
        config["max_heartbeat_throttle_interval"] = HEARTBEAT_THROTTLE
        if self._address is not None:
            config["identity"] = identity_of(self._address)
        return config

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Let a replayer know the workflow."""
        config["workflows"] = [*config.get("workflows", []), http_run_workflow(self._runs)]
        return config

    def _app_of(self, function_id: str) -> str:
        snapshot = self._follower.snapshot
        function = None if snapshot is None else snapshot.function(function_id)
        return "" if function is None else function.app_id

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Run the worker, together with one of the system queue."""
        async with (
            own_system_worker(worker.client, self._follower),
            self._follower,
            self._heartbeats,
            self._caller,
            self._gateway,
            healing(worker.client),
        ):
            starting = asyncio.create_task(self._set_ready())
            try:
                await next(worker)
            finally:
                starting.cancel()

    async def _set_ready(self) -> None:
        if self._follower.snapshot is None:
            await self._follower.change(None)
        self.ready.set()


def create_http_worker(
    client: Client,
    settings: Settings,
    *,
    dispatches: Dispatches,
    address: str | None = None,
    retry_interval: timedelta | None = None,
    **options: Any,
) -> Worker:
    """A Temporal worker for all apps that are served over HTTP. The arguments are those of
    `HttpAppsPlugin`; `options` are those of `temporalio.worker.Worker`."""
    plugin = HttpAppsPlugin(
        settings, dispatches=dispatches, address=address, retry_interval=retry_interval
    )
    options.setdefault("graceful_shutdown_timeout", GRACE)
    options.setdefault("max_concurrent_activities", MAX_CALLS)
    set_build_id(options)
    plugins = [*options.pop("plugins", []), plugin]
    return Worker(client, task_queue=names.HTTP_TASK_QUEUE, plugins=plugins, **options)
