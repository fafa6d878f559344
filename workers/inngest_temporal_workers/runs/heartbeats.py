"""Heartbeats of the activities that execute user code.

The worker's event loop sends them. A blocking call in an async handler stops that loop; then a
thread sends them, so that a step which takes long that way does not count as lost, and is not
executed a second time beside itself.
"""

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from temporalio import activity

INTERVAL = 5.0
"""Seconds between two of one activity. The thread begins when a second one is late."""


@dataclass(frozen=True)
class _Beat:
    at: float
    context: contextvars.Context
    """Of its activity."""
    next: asyncio.TimerHandle


class Heartbeats:
    """Those of one worker. As a context manager, it runs the thread for the event loop that enters
    it."""

    def __init__(self) -> None:
        self._last: dict[bytes, _Beat] = {}
        """By task token: the last one that the event loop sent."""
        self._stopped = threading.Event()
        self._loop_thread = 0

    async def __aenter__(self) -> None:
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._stand_in, name="inngest-heartbeats", daemon=True).start()

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()

    @contextlib.contextmanager
    def sent(self) -> Iterator[None]:
        """Heartbeat for the current activity while the block runs."""
        loop, token, context = (
            asyncio.get_running_loop(),
            activity.info().task_token,
            contextvars.copy_context(),
        )

        def wait() -> None:
            self._last[token] = _Beat(time.monotonic(), context, loop.call_later(INTERVAL, beat))

        def beat() -> None:
            activity.heartbeat()
            wait()

        wait()
        try:
            yield
        finally:
            self._last.pop(token).next.cancel()

    def _stand_in(self) -> None:
        blocked = False
        while not self._stopped.wait(INTERVAL):
            late = time.monotonic() - 2 * INTERVAL
            silent = [beat.context for beat in self._last.copy().values() if beat.at < late]
            if silent:
                asyncio.run(_beat(silent))
                if not blocked:
                    self._warn(silent[0])
            blocked = bool(silent)

    def _warn(self, context: contextvars.Context) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        context.run(
            activity.logger.warning,
            "An async handler blocks its worker, which does nothing else meanwhile: make the"
            " handler not async, or call what takes long by asyncio.to_thread. The worker's event"
            " loop is at\n%s",
            stack,
        )


async def _beat(contexts: list[contextvars.Context]) -> None:
    for context in contexts:
        context.run(activity.heartbeat)
    # The SDK gives them to a task of the running loop.
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
