"""The command line: `inngest-temporal dev`, `ingress`, `worker`, `sync` and `remove`.

What a person did wrong is answered with a sentence and exit code 1, never with a traceback of ours.
Each command imports what it needs when it runs, since that takes a second: `dev` starts its
children first.
"""

import asyncio
import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inngest_temporal_workers.grace import GRACE

from . import logs, sources
from .logs import LogFormat, LogLevel
from .processes import (
    ProcessError,
    importing,
    listen,
    parse_address,
    run_until_stopped,
    say,
    serving,
)

if TYPE_CHECKING:
    from .working import WorkingProcess

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
Level = Annotated[LogLevel, typer.Option(help="Least severe level that is logged.")]
Format = Annotated[LogFormat, typer.Option(help="How log lines are written, on standard error.")]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where to serve the metrics of Temporal's SDK for Prometheus, at /metrics.",
    ),
]

Dashboard = Annotated[
    Literal["on", "read-only", "off"],
    typer.Option(
        envvar="INNGEST_TEMPORAL_DASHBOARD",
        help="The dashboard of the ingress; read-only: it changes nothing. Outside dev mode one"
        " signs in with a signing key.",
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        say(f"inngest-temporal {importlib.metadata.version('inngest-temporal')}")
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
    sdk_url: Annotated[
        list[str] | None,
        typer.Option(
            "--sdk-url",
            "-u",
            metavar="URL",
            help="An Inngest app that is served over HTTP, as in"
            " http://localhost:3000/api/inngest; may be repeated.",
        ),
    ] = None,
    discover: Annotated[
        bool, typer.Option(help="Look for such apps on the usual ports of this machine.")
    ] = False,
    dashboard: Dashboard = "on",
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """Everything on this machine: an embedded Temporal server, the ingress, and a worker that
    follows your changes."""
    from .dev import DevServer
    from .dev_options import DevOptions

    with _plain_errors():
        source = sources.find(module) if module else None
        server = DevServer(
            DevOptions(
                source,
                host,
                port,
                temporal_port,
                ui_port,
                reload,
                db_filename,
                retry_interval,
                log_level,
                log_format,
                _app_urls(sdk_url),
                discover,
                dashboard,
            )
        )
        run_until_stopped(server.run, server.kill)


def _app_urls(given: list[str] | None) -> list[str]:
    if not given:
        return []
    from .apps import read_url

    return [*map(read_url, given)]


@app.command()
def ingress(
    host: Host = "127.0.0.1",
    port: Port = 8288,
    dashboard: Dashboard = "on",
    temporal_ui_url: Annotated[
        str,
        typer.Option(
            envvar="INNGEST_TEMPORAL_UI_URL",
            metavar="URL",
            help="Address of Temporal's Web UI, to which the dashboard then links.",
        ),
    ] = "",
    metrics: Metrics = None,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.TEXT,
) -> None:
    """The HTTP side: takes events, answers for runs. Any number of replicas; needs only
    Temporal."""
    with _plain_errors():
        with importing():
            import uvloop  # a fifth less CPU for each event

            from .ingress import read_settings, run_ingress
        settings = read_settings(dashboard, temporal_ui_url)
        logs.configure(log_level, log_format, metrics=metrics)
        run_until_stopped(
            lambda stop: run_ingress(settings, host, port, stop),
            loop_factory=uvloop.new_event_loop,
        )


@app.command()
def worker(
    module: Annotated[str | None, typer.Argument(help=MODULE)] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Call apps that are served over HTTP; needs no MODULE.")
    ] = False,
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
    health: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to serve /health and /ready over HTTP."),
    ] = None,
    serve_at: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="With --http: where to serve an ingress, too, to which apps report steps.",
        ),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="With --listen: the URL under which other ingresses reach this one."
        ),
    ] = None,
    metrics: Metrics = None,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.TEXT,
    try_at: Annotated[
        str | None, typer.Option(hidden=True, help="Ingress to print a curl for.")
    ] = None,
    announce: Annotated[
        int | None, typer.Option(hidden=True, help="Pipe to print to, for `dev`.")
    ] = None,
) -> None:
    """Runs the functions of one app, or with --http of all apps that are served over HTTP. Any
    number of replicas; needs only Temporal."""
    with _plain_errors():
        place = None if health is None else parse_address("--health", health)
        if http:
            if module is not None or task_queue is not None:
                raise ProcessError("--http goes without MODULE and --task-queue: run two workers.")
            with importing():
                from inngest_temporal.temporal.connection import Settings

                from .calling import CallingOptions, CallingProcess
            logs.configure(log_level, log_format, metrics=metrics)
            options = CallingOptions(serve_at, advertise, grace, retry_interval)
            calling = CallingProcess(options, Settings.from_env())
            _run_worker(calling, calling.serve, place)
            return
        if module is None:
            raise ProcessError("Name the MODULE whose functions run here, or use --http.")
        if serve_at is not None or advertise is not None:
            raise ProcessError("--listen and --advertise go with --http.")
        source = sources.find(module)
        with importing():
            from .loading import load
            from .working import WorkerOptions, WorkerProcess

            functions = load(source)
        logs.configure(log_level, log_format, events=announce is not None, metrics=metrics)
        process = WorkerProcess(
            WorkerOptions(module, functions, task_queue, grace, retry_interval, try_at, announce)
        )
        _run_worker(process, process.run, place)


def _run_worker(
    process: "WorkingProcess",
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    place: tuple[str, int] | None,
) -> None:
    import uvloop  # a fifth less CPU for each run

    async def run_with_health(stop: asyncio.Event) -> None:
        if place is None:
            await run(stop)
            return
        from .health import health_app

        async with serving(health_app(process.problem), listen(*place, "--health")):
            await run(stop)

    run_until_stopped(run_with_health, loop_factory=uvloop.new_event_loop)


@app.command()
def sync(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the app serves its functions.")],
) -> None:
    """Registers an app that is served over HTTP, as the last step of its deploy. Needs the signing
    key, and Temporal."""
    from inngest_temporal.temporal.connection import Settings

    from .apps import read_url, sync_app

    with _plain_errors():
        settings, place = Settings.from_env(), read_url(url)
        logs.configure(LogLevel.WARNING, LogFormat.TEXT)
        run_until_stopped(lambda stop: sync_app(place, settings, stop))


@app.command()
def remove(
    app_id: Annotated[str, typer.Argument(metavar="APP", help="The app_id of its client.")],
) -> None:
    """Removes an app: nothing starts its functions any more. Stop its workers first: one that
    starts brings it back."""
    from .removing import remove_app

    with _plain_errors():
        logs.configure(LogLevel.WARNING, LogFormat.TEXT)
        run_until_stopped(lambda stop: remove_app(app_id, stop))


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


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _explains_itself(error):
            raise
        logs.report(str(error))
        raise typer.Exit(1) from error


def _explains_itself(error: Exception) -> bool:
    if isinstance(error, ProcessError):
        return True
    from inngest_temporal.errors import Error

    return isinstance(error, Error)


if __name__ == "__main__":
    main()
