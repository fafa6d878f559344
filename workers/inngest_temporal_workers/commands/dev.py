"""`inngest-temporal dev`: an embedded Temporal server, the ingress and a worker, on one machine.

The ingress runs in this process, and what apps that are served over HTTP need (`dev_ingress`); the
Temporal server and the worker of a module are children, stopped in order: worker, ingress, server.
The children start first, since what this process and a worker import takes a second in each.

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
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from . import embedded, logs
from .children import Children, in_background
from .dev_options import GRACE_SECONDS, DevOptions
from .embedded import temporal_server
from .processes import ProcessError, complain, first, imported, listen, say
from .sources import Source


class DevServer:
    """Everything that `inngest-temporal dev` runs."""

    def __init__(self, options: DevOptions) -> None:
        self._options = options
        self._children = Children()
        self._published: asyncio.Queue[str] = asyncio.Queue()

    async def run(self, stop: asyncio.Event) -> None:
        """Run everything until `stop`. Raises `ProcessError` if something can't start, or ends by
        itself."""
        running = asyncio.create_task(self._run())
        await first(running, stop)
        if not running.done():
            say("\nStopping.")
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
            serving = self._serve(listener, lost)
            parts = [lost, await stack.enter_async_context(in_background(serving))]
            if options.source is not None:
                following = self._follow(options.source)
                parts.append(await stack.enter_async_context(in_background(following)))
            else:
                self._published.put_nowait("")  # all there is
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()

    async def _serve(self, listener: socket.socket, lost: "asyncio.Task[None]") -> None:
        await imported(f"{__package__}.dev_ingress")
        from .dev_ingress import DevIngress

        logs.configure(self._options.log_level, self._options.log_format, events=True)
        await DevIngress(self._options, self._published).run(listener, lost)

    # The worker of a module.

    async def _follow(self, source: Source) -> None:
        """Run the worker, and again after each change. Raises `ProcessError` if it ends and there
        is no reload."""
        options = self._options
        changes: asyncio.Queue[str] = asyncio.Queue()
        watch = _watch(source.directory, changes) if options.reload else asyncio.sleep(math.inf)
        async with in_background(watch) as watching:
            while True:
                while not changes.empty():
                    changes.get_nowait()
                async with self._worker(source) as ended:
                    changed = asyncio.create_task(changes.get())
                    await asyncio.wait(
                        {ended, changed, watching}, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not changed.done() and not watching.done():
                        if not options.reload:
                            raise ProcessError("The worker ended; what it printed says why.")
                        complain(
                            f"\nNo worker runs. It starts again when a file in {source.directory}"
                            " changes."
                        )
                        await asyncio.wait({changed, watching}, return_when=asyncio.FIRST_COMPLETED)
                    if watching.done():
                        watching.result()
                    say(f"\n{await changed} changed: the worker starts again.")

    @contextlib.asynccontextmanager
    async def _worker(self, source: Source) -> AsyncIterator["asyncio.Task[int]"]:
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
                await stack.enter_async_context(in_background(self._announced(pipe)))
                yield asyncio.create_task(process.wait())

    async def _announced(self, pipe: IO[bytes]) -> None:
        """Wait for the text that a worker writes to the pipe when its functions are published."""
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
            self._published.put_nowait(functions)


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
