"""What our processes have in common: printing, serving HTTP, and stopping.

Nothing here imports Temporal's SDK, nor `inngest_temporal`, which take half a second: `dev` starts
its children before.
"""

import asyncio
import contextlib
import errno
import gc
import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any

DRAIN_SECONDS = 10
"""How long requests in progress may take after a stop was requested."""
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


def say(text: str = "", end: str = "\n") -> None:
    """Print a text at once."""
    print(text, end=end, flush=True)


def complain(text: str) -> None:
    """Print a text on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """While a process imports what it needs: looking for garbage in that, which all stays, takes a
    tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def imported(module: str) -> None:
    """Import a module in a thread, so that signals and children are handled meanwhile."""

    def load() -> None:
        with importing():
            importlib.import_module(module)

    await asyncio.to_thread(load)


def interval_of(seconds: float | None) -> timedelta | None:
    """The option `--retry-interval` in the form that workers take."""
    return None if seconds is None else timedelta(seconds=seconds)


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
    """The URL under which a browser on this machine reaches a server."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
