"""Child processes that end with their parent, in process groups of their own: a terminal's Ctrl-C
reaches only the parent, which stops them in order. On Linux the kernel kills them should the parent
be killed."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import IO, Any

STOP_SECONDS = 5
"""Time to end after a SIGTERM; then SIGKILL."""

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


class Children:
    """The child processes of this one."""

    def __init__(self) -> None:
        self._alive: list[Process] = []

    @contextlib.asynccontextmanager
    async def start(
        self, command: Sequence[str], log: IO[bytes] | None = None, pass_fds: Sequence[int] = ()
    ) -> AsyncIterator[Process]:
        """A process that ends with the context. `log`: where its output goes; None: ours."""
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]
        child = await asyncio.create_subprocess_exec(
            *launch,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            pass_fds=pass_fds,
        )
        self._alive = [each for each in self._alive if each.returncode is None] + [child]
        try:
            yield child
        finally:
            _send(child, signal.SIGTERM)
            try:
                await asyncio.wait_for(child.wait(), STOP_SECONDS)
            except TimeoutError:
                _send(child, signal.SIGKILL)
                await child.wait()

    def kill(self) -> None:
        """End all at once."""
        for child in self._alive:
            _send(child, signal.SIGKILL)


def _send(child: Process, number: signal.Signals) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            child.send_signal(number)


@contextlib.asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is cancelled at the end of the context."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        # Its error, if it has one, was for the code that watches the task.
        await asyncio.wait({task})
