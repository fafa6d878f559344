"""`inngest-temporal worker`: a worker that starts whenever Temporal is there, and says when events
reach its functions."""

import asyncio
import contextlib
import inspect
import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from inngest_temporal.config import FunctionConfig
from inngest_temporal.functions import Function
from inngest_temporal.models import TriggerCron, TriggerEvent
from inngest_temporal.routing.events import is_internal
from inngest_temporal.routing.registry import POLL_INTERVAL, Follower
from inngest_temporal.temporal.connection import find_namespace, problem_of
from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.worker import create_worker

from .processes import first, interval_of, say
from .temporal import Waiting, temporal_place, wait_for_temporal

_FAILED = re.compile(r"""event\.data\.function_id == (?:'|")([^'"]+)(?:'|")""")
"""The condition of an `on_failure`."""

LOOKS = 2
"""How often this process looks at the registry, as often as an ingress does, before it believes
that every ingress has seen what was published."""


@dataclass(frozen=True)
class WorkerOptions:
    """The options of the command."""

    module: str
    functions: Sequence[Function[Any]]
    task_queue: str | None = None
    grace: float = 0
    """Seconds that running steps may continue after a stop was requested."""
    retry_interval: float | None = None
    try_at: str | None = None
    """URL of an ingress, for which a curl command is printed."""
    announce: int | None = None
    """For `dev`: a file descriptor that gets what is printed otherwise, at once, and is closed."""


class WorkingProcess:
    """Runs a worker, and another one if Temporal goes away while it starts."""

    not_ready: str
    """Why the process is not ready at first."""

    def __init__(self, grace: float, is_quiet: bool = False) -> None:
        """`grace`: seconds that executions may continue after a stop was requested."""
        self._grace = grace
        self._is_quiet = is_quiet
        self._waiting = Waiting(is_quiet)
        self._client: Client | None = None
        self._ready = False

    def create(self, client: Client) -> Worker:
        """Create the worker."""
        raise NotImplementedError

    async def tell(self, client: Client, worker: Worker) -> None:
        """Wait until events reach the functions, and print that."""
        raise NotImplementedError

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`. Raises `ProcessError` if Temporal refuses this process."""
        while not stop.is_set():
            self._client = await wait_for_temporal(stop, self._waiting)
            if self._client is None:
                return
            try:
                await self._work(self._client, stop)
            except (RPCError, RuntimeError, TimeoutError) as error:
                if not stop.is_set():
                    self._waiting.on(error)
                    await self._waiting.pause(stop)
            finally:
                self._ready = False

    async def problem(self) -> str | None:
        """Why events don't reach this worker; None if they do."""
        if self._client is None or not self._ready:
            return self.not_ready
        try:
            await find_namespace(self._client)
        except (RPCError, RuntimeError, TimeoutError) as error:
            return problem_of(error, temporal_place()) or f"Temporal refuses: {error}"
        return None

    async def _work(self, client: Client, stop: asyncio.Event) -> None:
        worker = self.create(client)
        running = asyncio.create_task(worker.run())
        telling = asyncio.create_task(self._tell(client, worker))
        try:
            await first(running, stop)
        finally:
            telling.cancel()
            await asyncio.wait({telling})
        await self._stop(worker, running)

    async def _tell(self, client: Client, worker: Worker) -> None:
        await self.tell(client, worker)
        self._ready = True
        self._waiting.over()

    async def _stop(self, worker: Worker, running: "asyncio.Task[None]") -> None:
        if not running.done():
            if not worker.is_running:
                running.cancel()
            else:
                if self._grace and not self._is_quiet:
                    say(
                        f"Stopping. Running steps may go on for {self._grace:g} s; then another"
                        " worker executes them again."
                    )
                await worker.shutdown()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class WorkerProcess(WorkingProcess):
    """The functions of a module."""

    not_ready = "The functions are not published yet."

    def __init__(self, options: WorkerOptions) -> None:
        super().__init__(options.grace, is_quiet=options.announce is not None)
        self._options = options
        self._announce = options.announce
        self._plugin: InngestPlugin | None = None

    async def problem(self) -> str | None:
        problem = await super().problem()
        return self._plugin.problem if problem is None and self._plugin is not None else problem

    def create(self, client: Client) -> Worker:
        options = self._options
        return create_worker(
            client,
            options.functions,
            task_queue=options.task_queue,
            retry_interval=interval_of(options.retry_interval),
            graceful_shutdown_timeout=timedelta(seconds=options.grace),
        )

    async def tell(self, client: Client, worker: Worker) -> None:
        [self._plugin] = [
            each for each in worker.config()["plugins"] if isinstance(each, InngestPlugin)
        ]
        await self._plugin.published.wait()
        options = self._options
        text = functions_text(options.module, options.functions, worker.task_queue)
        if options.try_at:
            text += curl_text(options.functions, options.try_at)
        if self._announce is None:
            await _until_ingresses_have_looked(client)
            say(text, end="")
        else:
            announce, self._announce = self._announce, None
            with contextlib.suppress(BrokenPipeError), os.fdopen(announce, "w") as pipe:
                pipe.write(text)


async def _until_ingresses_have_looked(client: Client) -> None:
    """Wait as long as an ingress takes to read the registry, however busy Temporal is."""
    follower = Follower(client)
    for _ in range(LOOKS):
        await asyncio.sleep(POLL_INTERVAL)
        with contextlib.suppress(RPCError, RuntimeError, TimeoutError):
            await follower.refresh()


def functions_text(module: str, functions: Sequence[Function[Any]], task_queue: str) -> str:
    """The functions and what triggers them."""
    configs = [part.config for function in functions for part in function.parts()]
    return f"\nFunctions of {module}, on task queue {task_queue}:\n{listed(configs)}"


def listed(configs: Sequence[FunctionConfig]) -> str:
    """A line for each function: its id and what triggers it."""
    width = max((len(config.id) for config in configs), default=0)
    lines = (
        (config.id, ", ".join(map(_describe, config.triggers)) or "only invoked")
        for config in configs
    )
    return "".join(f"  {id:{width}}  {trigger}\n" for id, trigger in lines)


def _describe(trigger: TriggerEvent | TriggerCron) -> str:
    if isinstance(trigger, TriggerCron):
        return f"cron {trigger.cron}"
    expression = trigger.expression or ""
    failed = _FAILED.fullmatch(expression)
    if trigger.event == "inngest/function.failed" and failed:
        return f"when a run of {failed[1]} has failed"
    return f"event {trigger.event}" + (f" if {expression}" if expression else "")


def curl_text(functions: Sequence[Function[Any]], url: str) -> str:
    """For the first event that triggers one of the functions, with the data that its handler
    names; empty if there is none."""
    found = [
        (bool(trigger.expression), trigger.event, part.handler)
        for part in (function.parts()[0] for function in functions)
        for trigger in part.config.triggers
        if isinstance(trigger, TriggerEvent) and not is_internal(trigger.event)
    ]
    if not found:
        return ""
    # Rather one without a condition, which the sample may not meet.
    _, name, handler = min(found, key=lambda each: each[0])
    event = {"name": name.replace("*", "example"), "data": _sample_data(handler)}
    return (
        "\nSend an event:\n"
        f"  curl {url}/e/dev -d {shlex.quote(json.dumps(event))}\n"
        "Then, with the id that this prints, see what came of it:\n"
        f"  curl {url}/v1/events/ID/runs\n"
    )


def _sample_data(handler: object) -> dict[str, Any]:
    try:
        source = inspect.getsource(handler)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return {}
    return dict.fromkeys(re.findall(r"""event\.data(?:\.get\(|\[)["'](\w+)["']""", source), "1")
