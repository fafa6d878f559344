"""Heartbeats of the activities that execute user code.

The worker's event loop sends them. A blocking call in an async handler stops that loop; then a
thread sends them. Otherwise a step that blocks for long would count as lost and be executed a
second time, while it still runs.
"""

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass

from temporalio import activity
from temporalio.service import RPCError

from .checkpoints import Checkpoints

INTERVAL = 5.0
"""Seconds between two heartbeats of one activity. The thread takes over after two such intervals
without one."""


@dataclass
class _Beat:
    """An activity under way."""

    at: float
    """When the event loop was last seen at work."""
    context: contextvars.Context
    checkpoints: Checkpoints


class Heartbeats:
    """The heartbeats of one worker. As a context manager, it runs the thread that stands in for the
    event loop in which it is entered."""

    def __init__(self) -> None:
        self._beats: dict[bytes, _Beat] = {}
        """By task token."""
        self._stopped = threading.Event()
        self._loop_thread = 0

    async def __aenter__(self) -> None:
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._stand_in, name="inngest-heartbeats", daemon=True).start()

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()

    @contextlib.asynccontextmanager
    async def sent(self, checkpoints: Checkpoints) -> AsyncIterator[None]:
        """Heartbeat for the current activity while the block runs."""
        token = activity.info().task_token
        beat = _Beat(time.monotonic(), contextvars.copy_context(), checkpoints)
        self._beats[token] = beat

        async def send() -> None:
            while True:
                await asyncio.sleep(INTERVAL)
                beat.at = time.monotonic()
                with contextlib.suppress(RPCError, TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await checkpoints.keep_alive()
                beat.at = time.monotonic()

        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            sending.cancel()
            del self._beats[token]

    def _stand_in(self) -> None:
        blocked = False
        while not self._stopped.wait(INTERVAL):
            late = time.monotonic() - 2 * INTERVAL
            silent = [beat for beat in self._beats.copy().values() if beat.at < late]
            if silent:
                asyncio.run(_send(silent))
                if not blocked:
                    self._warn(silent[0].context)
            blocked = bool(silent)

    def _warn(self, context: contextvars.Context) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        context.run(
            activity.logger.warning,
            "An async handler blocks its worker, which can do nothing else meanwhile: define the"
            " handler without async, or make the slow call by asyncio.to_thread. The worker's event"
            " loop is at\n%s",
            stack,
        )


async def _send(beats: list[_Beat]) -> None:
    for beat in beats:
        beat.context.run(activity.heartbeat, *beat.checkpoints.details)
    # The SDK sends heartbeats in tasks of the running loop: wait for these.
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
