"""Runs functions on the embedded server: with a real worker, and events that are routed as the
ingress does it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowHandle, WorkflowHistory

import inngest_temporal as inngest
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.worker import create_worker


class App:
    """A running app: send it events, look at its runs."""

    def __init__(
        self,
        client: Client,
        functions: Sequence[inngest.Function[Any]],
        router: Router,
        follower: Follower | None = None,
    ) -> None:
        """`follower`: the worker's."""
        self.follower = follower
        self.client = client
        self.functions = functions
        self.router = router

    async def send(
        self, name: str, data: dict[str, Any] | None = None, **fields: Any
    ) -> events.Stamped:
        stamped = events.stamp({"name": name, "data": data or {}, **fields})
        await self.router.route([stamped])
        return stamped

    def run_of(
        self, function: inngest.Function[Any], event: events.Stamped
    ) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(events.run_id(function.id, event))

    async def run(
        self,
        function: inngest.Function[Any],
        data: dict[str, Any] | None = None,
        name: str = "test/event",
    ) -> Any:
        """Send an event and wait for the result of the function's run. Raises
        `WorkflowFailureError`."""
        return await self.run_of(function, await self.send(name, data)).result()


@contextlib.asynccontextmanager
async def running(
    client: Client,
    *functions: inngest.Function[Any],
    retry_interval: timedelta | None = timedelta(milliseconds=10),
    **options: Any,
) -> AsyncIterator[App]:
    """A worker of these functions, published and polling."""
    worker = create_worker(client, functions, retry_interval=retry_interval, **options)
    [plugin] = [
        plugin for plugin in worker.config()["plugins"] if isinstance(plugin, InngestPlugin)
    ]
    async with worker, Follower(client) as follower:
        await plugin.published.wait()
        await follower.refresh()
        yield App(
            client,
            functions,
            Router(client, follower, Waits.of(client).deliver, rpc_timeout=PATIENCE),
            plugin.follower,
        )


async def another(client: Client) -> Client:
    """A client as in another process: a client can have only one worker for a task queue."""
    return await Client.connect(
        client.service_client.config.target_host, namespace=client.namespace
    )


async def until(condition: Any, seconds: float = 60) -> Any:
    """Wait for a condition, with a limit."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(pause(began))


def pause(began: float, least: float = 0.02) -> float:
    """Seconds until a condition that has been waited for since `began` is checked again. Checks
    take CPU time that others may need, so they become rarer."""
    return min(max(least, (time.monotonic() - began) / 20), 0.5)


async def registered(run: WorkflowHandle[Any, Any], count: int = 1) -> None:
    """Wait until `count` of the run's waits have begun: then its history shows their timers."""
    async with asyncio.timeout(60):
        async for event in run.fetch_history_events(wait_new_event=True):
            count -= event.HasField("timer_started_event_attributes")
            if not count:
                return


async def is_cancel_requested(client: Client, workflow_id: str) -> bool:
    """Whether a workflow was asked to cancel itself, also if no worker has told it so yet."""
    described = await client.get_workflow_handle(workflow_id).describe()
    return described.raw_description.workflow_extended_info.cancel_requested


def kinds(history: WorkflowHistory) -> str:
    """The activities in their order: `l`ocal ones and `r`egular ones."""
    kind = {
        "marker_recorded_event_attributes": "l",
        "activity_task_scheduled_event_attributes": "r",
    }
    return "".join(kind.get(str(event.WhichOneof("attributes")), "") for event in history.events)


def new_client(app_id: str = "app", **options: Any) -> inngest.Inngest:
    return inngest.Inngest(app_id=app_id, is_production=False, **options)


PATIENCE = timedelta(seconds=30)
"""Limit of one call to a server that shares two cores with everything else."""

TRIGGER = inngest.TriggerEvent(event="test/event")
