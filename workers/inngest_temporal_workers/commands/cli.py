"""The command line: `inngest-temporal dev`, `ingress`, `worker` and `remove`.

What a person did wrong is answered with a sentence and exit code 1, never with a traceback of ours.
"""

import asyncio
import contextlib
import importlib.metadata
import inspect
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer
from temporalio.service import RPCError
from temporalio.worker import Worker

from inngest_temporal.errors import Error
from inngest_temporal.functions import Function
from inngest_temporal.models import TriggerCron, TriggerEvent
from inngest_temporal.routing.events import is_internal
from inngest_temporal.routing.registry import POLL_INTERVAL, Follower
from inngest_temporal.temporal.connection import Settings, connect
from inngest_temporal_workers.entities import registry
from inngest_temporal_workers.plugin import InngestPlugin, system_worker
from inngest_temporal_workers.worker import GRACE, create_worker

from . import loading
from .processes import (
    ProcessError,
    err,
    first,
    listen,
    out,
    run_until_stopped,
    serving,
    temporal_place,
    url_of,
    wait_for_temporal,
)

app = typer.Typer(
    help="Inngest-style functions on Temporal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MODULE = (
    "A module (shop.orders) or a file (shop/orders.py); with :NAME only that Function, or list of"
    " them."
)

_PORT: dict[str, Any] = {"min": 1, "max": 65535}
Host = Annotated[
    str, typer.Option(help="Where the ingress listens; 0.0.0.0: on all addresses of this machine.")
]
Port = Annotated[int, typer.Option(help="Port of the ingress.", **_PORT)]
RetryInterval = Annotated[
    float | None,
    typer.Option(help="Seconds between attempts, instead of Inngest's growing waits.", min=0.001),
]


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"inngest-temporal {importlib.metadata.version('inngest-temporal')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Inngest-style functions on Temporal."""


@app.command()
def dev(
    module: Annotated[str | None, typer.Argument(help=MODULE)] = None,
    host: Host = "127.0.0.1",
    port: Port = 8288,
    temporal_port: Annotated[
        int, typer.Option(help="Port of the embedded Temporal server.", **_PORT)
    ] = 7233,
    ui_port: Annotated[int, typer.Option(help="Port of Temporal's Web UI.", **_PORT)] = 8233,
    reload: Annotated[
        bool, typer.Option(help="Restart the worker when a file beside the module changes.")
    ] = True,
    db_filename: Annotated[
        str | None, typer.Option(help="Keep Temporal's state in this file.")
    ] = None,
    retry_interval: RetryInterval = None,
) -> None:
    """Everything on this machine: an embedded Temporal server, the ingress, and a worker that
    follows your changes."""
    from .dev import DevOptions, DevServer

    with _plain_errors():
        source = loading.find(module) if module else None
        server = DevServer(
            DevOptions(
                source, host, port, temporal_port, ui_port, reload, db_filename, retry_interval
            )
        )
        _log(logging.WARNING)
        run_until_stopped(server.run, server.kill)


@app.command()
def ingress(host: Host = "127.0.0.1", port: Port = 8288) -> None:
    """The HTTP side: takes events, answers for runs. Any number of replicas; needs only
    Temporal."""
    # A fifth less CPU for each event. Workers keep Python's own loop: users' code may expect it.
    import uvloop

    async def run(stop: asyncio.Event) -> None:
        place = temporal_place()
        listener = listen(host, port, "--port")
        async with serving(await connect(), settings, listener) as server:
            out.print(f"Events    {url_of(host, port)}/e/{'dev' if settings.dev else 'EVENT_KEY'}")
            out.print(f"Temporal  {place}")
            if settings.dev:
                out.print("Dev mode: without keys, anyone who reaches this port may send events.")
            elif not settings.signing_keys:
                out.print(
                    "Runs can't be read or cancelled over HTTP, because INNGEST_SIGNING_KEY is not"
                    " set."
                )
            await first(server, stop)

    with _plain_errors():
        settings = Settings.from_env()
        if not settings.dev and not settings.event_keys:
            raise ProcessError(
                "The ingress takes events only from those who know a key, and none is set. Set"
                " INNGEST_EVENT_KEY (and INNGEST_SIGNING_KEY to read and cancel runs), or"
                " INNGEST_DEV=1 to let anyone in on your own machine."
            )
        _log(logging.INFO)
        run_until_stopped(run, loop_factory=uvloop.new_event_loop)


@app.command()
def worker(
    module: Annotated[str, typer.Argument(help=MODULE)],
    task_queue: Annotated[
        str | None, typer.Option(help="Temporal task queue; inngest-APP unless given.")
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            help="Seconds that running steps may go on after a stop was asked for.", min=0
        ),
    ] = GRACE.total_seconds(),
    retry_interval: RetryInterval = None,
    try_at: Annotated[
        str | None, typer.Option(hidden=True, help="Ingress to print a curl for.")
    ] = None,
) -> None:
    """Runs the functions of one app. Any number of replicas; needs only Temporal."""

    async def run(stop: asyncio.Event) -> None:
        client = await wait_for_temporal(stop)
        if client is None:
            return
        temporal_worker = create_worker(
            client,
            functions,
            task_queue=task_queue,
            retry_interval=None if retry_interval is None else timedelta(seconds=retry_interval),
            graceful_shutdown_timeout=timedelta(seconds=grace),
        )
        [plugin] = [
            each for each in temporal_worker.config()["plugins"] if isinstance(each, InngestPlugin)
        ]
        running = asyncio.create_task(temporal_worker.run())
        await first(asyncio.create_task(plugin.published.wait()), running, stop)
        if plugin.published.is_set():
            if try_at:
                # Whoever pastes the curl at once should find an ingress that has seen the
                # functions.
                await asyncio.sleep(POLL_INTERVAL + 0.25)
            _print_functions(module, functions, temporal_worker.task_queue)
            if try_at:
                _print_curl(functions, try_at)
            await first(running, stop)
        await _stop(temporal_worker, running, grace, quiet=try_at is not None)

    with _plain_errors():
        functions = loading.load(loading.find(module))
        _log(logging.INFO)
        run_until_stopped(run)


@app.command()
def remove(
    app_id: Annotated[str, typer.Argument(metavar="APP", help="The app_id of its client.")],
) -> None:
    """Removes an app: nothing starts its functions any more. Stop its workers first: one that
    starts brings it back."""

    async def run(stop: asyncio.Event) -> None:
        client = await wait_for_temporal(stop)
        if client is None:
            return
        async with system_worker(client):
            try:
                removed = await registry.remove(client, app_id)
            except (RPCError, TimeoutError) as error:
                raise ProcessError(
                    f"App {app_id!r} could not be removed: {error}. Try again."
                ) from error
        if not removed:
            known = ", ".join(each.app_id for each in (await Follower(client).refresh()).apps)
            raise ProcessError(
                f"There is no app {app_id!r}. "
                + (f"There are {known}." if known else "There is none.")
            )
        out.print(
            f"App {app_id} is removed, with its schedules. Runs that have begun are still there,"
            " for a worker of it to go on with; without one they can only be terminated in"
            " Temporal."
        )

    with _plain_errors():
        _log(logging.WARNING)
        run_until_stopped(run)


def main() -> None:
    """The command `inngest-temporal`."""
    try:
        app(prog_name="inngest-temporal")
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of handlers that did not stop in time would keep the process; their steps are
        # handed over already.
        os._exit(end.code if isinstance(end.code, int) else 1)


async def _stop(
    temporal_worker: Worker, running: "asyncio.Task[None]", grace: float, *, quiet: bool
) -> None:
    if not running.done():
        if temporal_worker.is_running:
            if grace and not quiet:
                out.print(
                    f"Stopping. Running steps may go on for {grace:g} s; then another worker"
                    " executes them again."
                )
            await temporal_worker.shutdown()
        else:
            running.cancel()
    try:
        await running
    except asyncio.CancelledError:
        pass
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise ProcessError(f"The worker ended: {error}") from error


# What is printed.


def _print_functions(module: str, functions: Sequence[Function[Any]], task_queue: str) -> None:
    lines = []
    for function in functions:
        for part in function.parts():
            if part.id == function.on_failure_fn_id:
                lines.append((part.id, f"when a run of {function.id} has failed"))
            else:
                lines.append(
                    (part.id, ", ".join(map(_describe, part.config.triggers)) or "only invoked")
                )
    width = max(len(name) for name, _ in lines)
    out.print(f"\nFunctions of {module}, on task queue {task_queue}:")
    for name, trigger in lines:
        out.print(f"  {name:{width}}  {trigger}")


def _describe(trigger: TriggerEvent | TriggerCron) -> str:
    if isinstance(trigger, TriggerCron):
        return f"cron {trigger.cron}"
    return f"event {trigger.event}" + (f" if {trigger.expression}" if trigger.expression else "")


def _print_curl(functions: Sequence[Function[Any]], url: str) -> None:
    """For the first event that triggers one of the functions, with the data that its handler
    names."""
    for function in functions:
        part = function.parts()[0]
        for trigger in part.config.triggers:
            if isinstance(trigger, TriggerEvent) and not is_internal(trigger.event):
                event = {
                    "name": trigger.event.replace("*", "example"),
                    "data": _sample_data(part.handler),
                }
                out.print("\nSend an event:")
                out.print(f"  curl {url}/e/dev -d {shlex.quote(json.dumps(event))}")
                out.print("Then, with the id that this prints, see what came of it:")
                out.print(f"  curl {url}/v1/events/ID/runs")
                return


def _sample_data(handler: object) -> dict[str, Any]:
    try:
        source = inspect.getsource(handler)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return {}
    return dict.fromkeys(re.findall(r"""event\.data(?:\.get\(|\[)["'](\w+)["']""", source), "1")


# How it fails, and what it logs.


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (ProcessError, Error) as error:
        err.print(str(error))
        raise typer.Exit(1) from error


def _log(level: int) -> None:
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for name in ("httpx", "httpcore", "temporalio.worker"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
