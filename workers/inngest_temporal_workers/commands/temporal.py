"""How our processes wait for Temporal."""

import asyncio
import contextlib
import time

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from inngest_temporal.temporal.connection import (
    connect,
    find_namespace,
    is_temporary,
    place_of,
    problem_of,
)

from .logs import report
from .processes import ProcessError, say

RECONNECT_SECONDS = 1.0
"""Seconds between two attempts to reach Temporal."""
PATIENCE = 30.0
"""Seconds that a command which does one thing waits for Temporal."""
QUIET_SECONDS = 0.1
"""Seconds between two attempts while Temporal is being started."""


class Waiting:
    """Prints once what a process waits for, and when that is over."""

    def __init__(self, is_quiet: bool = False, seconds: float | None = None) -> None:
        """`is_quiet`: the parent of this process is starting Temporal, too. `seconds`: how long to
        wait at most."""
        self._is_quiet = is_quiet
        self._ends_at = None if seconds is None else time.monotonic() + seconds
        self._said = ""

    def on(self, error: BaseException) -> None:
        """Report a failure before trying again. Raises `ProcessError` if that can't help."""
        message = problem_of(error, temporal_place()) or f"The worker ended: {error}"
        if not is_temporary(error):
            raise ProcessError(message) from error
        if self._ends_at is not None and time.monotonic() > self._ends_at:
            raise ProcessError(f"{message} It took too long: nothing was done.") from error
        if self._is_quiet:
            return
        if message != self._said:
            report(message)
        self._said = message

    def over(self) -> None:
        """Report that it works now."""
        if self._said:
            say(f"Temporal can be reached now, at {temporal_place()}.")
        self._said = ""

    async def pause(self, stop: asyncio.Event) -> None:
        """Wait between two attempts."""
        with contextlib.suppress(TimeoutError):
            seconds = QUIET_SECONDS if self._is_quiet else RECONNECT_SECONDS
            await asyncio.wait_for(stop.wait(), seconds)


async def wait_for_temporal(stop: asyncio.Event, waiting: Waiting) -> Client | None:
    """A client of a namespace that is ready for us, once Temporal is there; None if `stop` was set
    before.

    Raises `ProcessError` if Temporal is there and refuses.
    """
    temporal_place()  # invalid settings don't become valid by waiting
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
    return place_of(config.get("target_host", "localhost:7233"), config.get("namespace", "default"))
