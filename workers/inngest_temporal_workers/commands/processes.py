"""What our processes have in common: how they wait for Temporal, serve HTTP, and stop."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

from rich.console import Console
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.temporal.connection import connect, find_namespace, passes

out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)

RECONNECT_SECONDS = 1.0
"""Between two attempts to reach Temporal."""
QUIET_SECONDS = 0.1
"""The same where Temporal is just being started."""
DRAIN_SECONDS = 10
"""How long requests in progress may take after a stop was asked for."""
TWICE_SECONDS = 1.0
"""A second signal sooner than that is the same request: what starts us, such as make, may pass on a
terminal's."""


class ProcessError(Exception):
    """Ends a process with this message and exit code 1."""


def run_until_stopped(
    command: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    at_once: Callable[[], None] | None = None,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run `command` to its end. A signal sets the event that it gets; a later one ends the process,
    after `at_once`."""

    async def supervised() -> None:
        stop = asyncio.Event()
        asked = 0.0

        def on_signal() -> None:
            nonlocal asked
            if not stop.is_set():
                asked = time.monotonic()
                stop.set()
            elif time.monotonic() > asked + TWICE_SECONDS:
                if at_once is not None:
                    at_once()
                os._exit(130)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)
        await command(stop)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(supervised())


class Waiting:
    """Says once in a line what a process waits for, and when that is over."""

    def __init__(self, is_quiet: bool = False) -> None:
        """`is_quiet`: whoever has started this process is starting Temporal, too."""
        self._is_quiet = is_quiet
        self._said = ""

    def on(self, error: BaseException) -> None:
        """Something failed that is tried again. Raises `ProcessError` if that can't help."""
        if not passes(error):
            raise ProcessError(_refusal(error)) from error
        message = _reason(error)
        if self._is_quiet:
            return
        if message != self._said:
            err.print(message)
        self._said = message

    def over(self) -> None:
        """It works."""
        if self._said:
            out.print(f"Temporal can be reached now, at {temporal_place()}.")
        self._said = ""

    async def pause(self, stop: asyncio.Event) -> None:
        """Between two attempts."""
        with contextlib.suppress(TimeoutError):
            seconds = QUIET_SECONDS if self._is_quiet else RECONNECT_SECONDS
            await asyncio.wait_for(stop.wait(), seconds)


async def wait_for_temporal(stop: asyncio.Event, waiting: Waiting) -> Client | None:
    """A client of a namespace that is ready for us, once Temporal is there; None if `stop` was set
    before.

    Raises `ProcessError` if Temporal is there and refuses.
    """
    temporal_place()  # settings that can't be read don't change by waiting
    while not stop.is_set():
        try:
            client = await connect(lazy=False)
            await find_namespace(client)
            return client
        except ValueError as error:
            raise ProcessError(
                f"Temporal can't be at {temporal_place()}: {error}. Set TEMPORAL_ADDRESS."
            ) from error
        except (RPCError, RuntimeError, TimeoutError) as error:
            waiting.on(error)
        await waiting.pause(stop)
    return None


def interval_of(seconds: float | None) -> timedelta | None:
    """What `--retry-interval` says, as workers take it."""
    return None if seconds is None else timedelta(seconds=seconds)


def temporal_place() -> str:
    """Address and namespace that this process is configured for. Raises `ProcessError` if that
    can't be read."""
    try:
        config = ClientConfig.load_client_connect_config()
    except (OSError, RuntimeError, ValueError) as error:
        raise ProcessError(
            f"Temporal's settings can't be read: {error}. Correct the variables that begin with"
            " TEMPORAL_, or the configuration file."
        ) from error
    return (
        f"{config.get('target_host', 'localhost:7233')}, namespace"
        f" {config.get('namespace', 'default')}"
    )


def parse_address(option: str, text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` (`[::1]:8080`, `:8080` on all addresses). Raises
    `ProcessError`."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ProcessError(f"{option} {text}: write HOST:PORT, as in 127.0.0.1:8289.")
    return host.strip("[]") or "0.0.0.0", int(port)


@contextlib.asynccontextmanager
async def serving(app: Any, listener: socket.socket) -> AsyncIterator["asyncio.Task[None]"]:
    """An ASGI application, served while the context lasts; at its end requests in progress are
    answered first.

    Yields, once requests are answered, a task that goes on for as long as the server does.
    """
    import uvicorn  # a tenth of a second that a worker need not spend

    from inngest_temporal.http.server import config

    class Server(uvicorn.Server):
        # uvicorn would end the process by the signal that it caught, not with exit code 0.
        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
            return contextlib.nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    ready = asyncio.Event()
    server = Server(config(app, DRAIN_SECONDS))
    task = asyncio.create_task(server.serve([listener]), name="http")
    try:
        await first(task, ready)
        yield task
    finally:
        server.should_exit = True
        await task


async def first(*awaited: "asyncio.Future[Any] | asyncio.Event") -> None:
    """Wait for the first of these tasks and events."""
    events = [
        asyncio.create_task(each.wait()) for each in awaited if isinstance(each, asyncio.Event)
    ]
    tasks = [each for each in awaited if not isinstance(each, asyncio.Event)]
    await asyncio.wait([*tasks, *events], return_when=asyncio.FIRST_COMPLETED)
    for event in events:
        event.cancel()


def listen(host: str, port: int, option: str) -> socket.socket:
    """A socket that listens there. Raises `ProcessError`, which names the command's option, if it
    can't be had."""
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ProcessError(
                f"Port {port} of {host} is in use. Stop what uses it, or choose another one with"
                f" {option}."
            ) from None
        message = (
            f"Can't listen on port {port} of {host} ({error.strerror}). Check the host and"
            f" {option}."
        )
        raise ProcessError(message) from None
    # asyncio sets it only for sockets whose protocol is named, which this one's is not: a reply in
    # two writes then takes 40 ms. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(host: str, port: int) -> str:
    """How a browser on this machine reaches a server that listens there."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _reason(error: BaseException) -> str:
    missing = isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND
    if missing or ("Namespace" in str(error) and "not found" in str(error)):
        return (
            f"Temporal at {temporal_place()}: there is no such namespace. Create it, or set"
            " TEMPORAL_NAMESPACE. Trying until it is there."
        )
    return (
        f"Temporal can't be reached at {temporal_place()}. Trying until it can; TEMPORAL_ADDRESS"
        " and TEMPORAL_NAMESPACE say where it is."
    )


def _refusal(error: BaseException) -> str:
    if isinstance(error, RPCError) or "Failed client connect" in str(error):
        return (
            f"Temporal at {temporal_place()} refuses this process: {error}. Check"
            " TEMPORAL_NAMESPACE, TEMPORAL_API_KEY and the TLS settings."
        )
    return f"The worker ended: {error}"
