"""`InngestPlugin`: the functions of one app, run by a Temporal worker that a team already has.

    Worker(client, task_queue="orders", workflows=[...], plugins=[InngestPlugin([fulfil_order])])

It adds a workflow type for each function and our activities to the worker, and publishes the
functions' configuration with the worker's task queue. In the same process it also runs a worker of
the shared system queue, for the entity workflows. The user's data converter, interceptors,
workflows and activities stay as they are.
"""

import asyncio
import concurrent.futures
import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import Client
from temporalio.plugin import SimplePlugin
from temporalio.worker import ReplayerConfig, Worker, WorkerConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from inngest_temporal.errors import Error, FunctionConfigInvalidError
from inngest_temporal.functions import Function, FunctionPart
from inngest_temporal.routing.locks import Locks
from inngest_temporal.routing.registry import AppConfig, Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names
from inngest_temporal_workers.entities.activities import SystemActivities
from inngest_temporal_workers.entities.app import AppWorkflow
from inngest_temporal_workers.entities.batch import BatchWorkflow
from inngest_temporal_workers.entities.debounce import DebounceWorkflow
from inngest_temporal_workers.entities.hub import HubWorkflow
from inngest_temporal_workers.entities.intake import IntakeActivities, IntakeWorkflow
from inngest_temporal_workers.entities.lock import WORKFLOWS as LOCKS
from inngest_temporal_workers.entities.lock import LockActivities
from inngest_temporal_workers.entities.mailbox import MailboxWorkflow
from inngest_temporal_workers.entities.rate_limit import RateLimitWorkflow
from inngest_temporal_workers.entities.registry import RegistryWorkflow
from inngest_temporal_workers.entities.replay import ReplayActivities, ReplayWorkflow
from inngest_temporal_workers.entities.schedule import CronTick, ScheduleActivities
from inngest_temporal_workers.entities.signal import SignalWorkflow
from inngest_temporal_workers.healing import healing
from inngest_temporal_workers.noise import quieten
from inngest_temporal_workers.publishing import Publisher
from inngest_temporal_workers.runs.activities import RunActivities
from inngest_temporal_workers.runs.admission import AdmissionActivities
from inngest_temporal_workers.runs.executions import ExecutionActivities, RunSettings
from inngest_temporal_workers.runs.heartbeats import Heartbeats
from inngest_temporal_workers.runs.memory import MemoCache
from inngest_temporal_workers.runs.missing import LeavesActivities, dynamic_run_workflow
from inngest_temporal_workers.runs.workflow import run_workflows

HEARTBEAT_THROTTLE = timedelta(seconds=1)
"""The SDK must send its heartbeats at once, so that a later one of ours arrives after them."""


class InngestPlugin(SimplePlugin):
    """Runs Inngest functions in a Temporal worker.

    `functions` must belong to one app. `retry_interval` replaces Inngest's delays between attempts,
    for development. `max_threads` is the maximum number of threads for handlers that are not async
    (default: `INNGEST_THREAD_POOL_MAX_WORKERS`, otherwise Python's default).

    Raises `FunctionConfigInvalidError` if there is no function, two have the same id, they are of
    several apps, or a configuration is invalid.
    """

    def __init__(
        self,
        functions: Sequence[Function[Any]],
        *,
        retry_interval: timedelta | None = None,
        max_threads: int | None = None,
    ) -> None:
        super().__init__("inngest-temporal")
        self._parts = parts_of(functions)
        self.app_id = functions[0].client.app_id
        self._app_version = functions[0].client.app_version
        self._settings = RunSettings(MemoCache(), retry_interval)
        self._workflows = run_workflows(list(self._parts), self._settings)
        self._max_threads = max_threads
        self._heartbeats = Heartbeats()
        self.published = asyncio.Event()
        """Set when the functions' configuration is published; from then on events start them."""
        self._publisher: Publisher | None = None

    @property
    def problem(self) -> str | None:
        """Why events don't start the functions any more; None if they do, as far as is known."""
        return None if self._publisher is None else self._publisher.removed

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add the functions to the worker's workflows and activities."""
        client = config["client"]
        threads = self._max_threads or _max_threads()
        self._executor = concurrent.futures.ThreadPoolExecutor(
            threads, thread_name_prefix="inngest-handler"
        )
        self.follower = Follower(client)
        """Reads the registry for the worker."""
        waits = Waits.of(client)
        router = Router(client, self.follower, waits.deliver)
        executions = ExecutionActivities(
            client, self._parts, self._settings, router, self._executor, self._heartbeats
        )
        activities = RunActivities(client, lambda _: self.app_id, router, waits, self.follower)
        admission = AdmissionActivities(Locks(client), self._parts, self.follower)
        workflows = [*config.get("workflows", []), *self._workflows]
        if not any(_is_dynamic(each) for each in workflows):  # a worker can have one
            prefix = f"{self.app_id}-"
            workflows.append(dynamic_run_workflow(self._settings, lambda id: id.startswith(prefix)))
        config["workflows"] = workflows
        config["interceptors"] = [*config.get("interceptors", []), LeavesActivities()]
        config["activities"] = [
            *config.get("activities", []),
            *executions.all(),
            *activities.all(),
            *admission.all(),
        ]
        runner = config.get("workflow_runner")
        if isinstance(runner, SandboxedWorkflowRunner):
            # Modules of the team's own workflows may import ours.
            restrictions = runner.restrictions.with_passthrough_modules(
                "inngest_temporal", "inngest_temporal_workers"
            )
            config["workflow_runner"] = dataclasses.replace(runner, restrictions=restrictions)
        config["max_heartbeat_throttle_interval"] = HEARTBEAT_THROTTLE
        return config

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Let a replayer know the functions' workflows."""
        config["workflows"] = [*config.get("workflows", []), *self._workflows, *SYSTEM_WORKFLOWS]
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:
        """Publish the functions and run the worker, together with one of the system queue."""
        configs = [part.config for part in self._parts.values()]
        app = AppConfig(app_id=self.app_id, task_queue=worker.task_queue, functions=configs)
        try:
            async with (
                own_system_worker(worker.client, self.follower),
                self.follower,
                self._heartbeats,
                healing(worker.client),
            ):
                working = asyncio.ensure_future(next(worker))
                self._publisher = publisher = Publisher(worker.client, app, self._app_version)
                publishing = asyncio.create_task(self._publish(publisher))
                try:
                    await asyncio.wait([working, publishing], return_when=asyncio.FIRST_COMPLETED)
                    if publishing.done() and publishing.exception() is not None:
                        # No event would ever start these functions, so fail instead of idling.
                        await worker.shutdown()
                        await working
                        publishing.result()
                    await working
                finally:
                    publishing.cancel()
                    working.cancel()
                    await publisher.leave()
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _publish(self, publisher: Publisher) -> None:
        await publisher.publish(self.follower)
        self.published.set()
        await publisher.keep(self.follower)


def _is_dynamic(workflow_class: type) -> bool:
    definition = workflow._Definition.from_class(workflow_class)
    return definition is not None and definition.name is None


def _max_threads() -> int | None:
    value = os.environ.get("INNGEST_THREAD_POOL_MAX_WORKERS") or None
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and int(value)):
        raise Error(
            f"INNGEST_THREAD_POOL_MAX_WORKERS is {value!r}. Set it to a number of threads, or unset"
            " it."
        )
    return int(value)


SYSTEM_WORKFLOWS = [
    HubWorkflow,
    MailboxWorkflow,
    RegistryWorkflow,
    AppWorkflow,
    SignalWorkflow,
    CronTick,
    RateLimitWorkflow,
    DebounceWorkflow,
    BatchWorkflow,
    IntakeWorkflow,
    ReplayWorkflow,
    *LOCKS,
]


@functools.cache
def build_id() -> str:
    """The build id of a worker whose workflows are all ours. Temporal's default hashes all code in
    the process, which takes half as long as importing it."""
    return f"inngest-temporal-{importlib.metadata.version('inngest-temporal')}"


def set_build_id(options: dict[str, Any]) -> None:
    """Set our build id in a worker's options, unless they say how the worker is versioned."""
    if not options.keys() & {"build_id", "deployment_config", "use_worker_versioning"}:
        options["build_id"] = build_id()


def system_worker(client: Client, follower: Follower | None = None) -> Worker:
    """A worker of the shared system queue, for the entity workflows. It uses `follower`, or one of
    its own."""
    quieten()
    follower = follower or Follower(client)
    return Worker(
        client,
        task_queue=names.SYSTEM_TASK_QUEUE,
        build_id=build_id(),
        workflows=SYSTEM_WORKFLOWS,
        activities=[
            *SystemActivities(client, follower).all(),
            *LockActivities(client).all(),
            *ScheduleActivities(client, follower).all(),
            *IntakeActivities(client, follower).all(),
            *ReplayActivities(client, follower).all(),
        ],
    )


def own_system_worker(client: Client, follower: Follower) -> Worker:
    """Like `system_worker`, but a second one in this process is a clear error."""
    try:
        return system_worker(client, follower)
    except RuntimeError as error:
        if "overlapping worker task types" not in str(error):
            raise
        raise RuntimeError(
            f"A worker of this process already polls task queue {names.SYSTEM_TASK_QUEUE!r} with"
            " this client, and Temporal allows one for each client. Give each worker that has an"
            " InngestPlugin its own Client.connect()."
        ) from error


def parts_of(functions: Sequence[Function[Any]]) -> dict[str, FunctionPart]:
    """The parts of these functions (each function, and its on_failure), by full id."""
    if not functions:
        raise FunctionConfigInvalidError(
            "No functions: give at least one made with client.create_function."
        )
    for function in functions:
        if not isinstance(function, Function):
            raise FunctionConfigInvalidError(
                f"{function!r} is not an Inngest function: decorate it with client.create_function."
            )
    apps = sorted({function.client.app_id for function in functions})
    if len(apps) > 1:
        raise FunctionConfigInvalidError(
            f"Functions of several apps ({', '.join(apps)}) can't share a worker: run one worker"
            " for each app."
        )
    parts: dict[str, FunctionPart] = {}
    for function in functions:
        for part in function.parts():
            if part.id in parts:
                raise FunctionConfigInvalidError(
                    f'Two functions have the id "{part.id}": give each its own fn_id.'
                )
            if len(part.id.encode()) > names.MAX_FUNCTION_ID_BYTES:
                raise FunctionConfigInvalidError(
                    f'The function id "{part.id[:40]}..." has {len(part.id.encode())} bytes; the'
                    f" limit, app id included, is {names.MAX_FUNCTION_ID_BYTES}. Give it a shorter"
                    " fn_id."
                )
            parts[part.id] = part
    return parts
