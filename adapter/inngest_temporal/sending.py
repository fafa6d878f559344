"""How a client posts events to the ingress: connections, and attempts."""

import asyncio
import functools
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx

from .models import SendEventsResult
from .sync import maybe_await

SEND_ATTEMPTS = 5
SEND_BACKOFF_SECONDS = 0.1
"""Wait after the first attempt. It is doubled each time, and a random part of it is added."""


@dataclass(frozen=True)
class Sender:
    """Posts events with one HTTP client: with one that blocks, and a `pause` that does, it never
    suspends."""

    http: httpx.AsyncClient | httpx.Client
    pause: Callable[[float], Awaitable[None] | None]
    origin: str
    """Origin of the ingress, for error messages."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> SendEventsResult:
        """Post a body; returns the answer of the ingress, or the problem of the last attempt."""
        result = SendEventsResult()
        for attempt in range(SEND_ATTEMPTS):
            if attempt:
                delay = SEND_BACKOFF_SECONDS * 2 ** (attempt - 1)
                await maybe_await(self.pause(delay * (1 + random.random())))
            try:
                response = await maybe_await(self.http.post(url, content=body, headers=headers))
            except httpx.RequestError as error:
                problem = f"{type(error).__name__} {error}".strip()
                where = f"the ingress at {self.origin}"
                result = SendEventsResult(
                    error=f"Could not send events: no reply from {where} ({problem}). Is it up?"
                )
                continue
            result = _result(response)
            if response.status_code < 500:
                break
        return result


class Connections:
    """Connections to the ingress, kept between sends: one pool for threads, and one for each event
    loop, which can't share."""

    def __init__(self, origin: str, timeout_seconds: float) -> None:
        self._origin = origin
        self._timeout = httpx.Timeout(timeout_seconds)
        self._lock = threading.Lock()
        self._sync: httpx.Client | None = None
        self._async: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    def synchronous(self) -> Sender:
        """A sender for any thread."""
        with self._lock:
            if self._sync is None:
                self._sync = httpx.Client(timeout=self._timeout, verify=_tls())
            return Sender(self._sync, time.sleep, self._origin)

    def asynchronous(self) -> Sender:
        """A sender for the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async:
                # Connections hold their loop, so weak references would not do.
                self._async = {
                    known: client for known, client in self._async.items() if not known.is_closed()
                }
                self._async[loop] = httpx.AsyncClient(timeout=self._timeout, verify=_tls())
            return Sender(self._async[loop], asyncio.sleep, self._origin)


@functools.cache
def _tls() -> ssl.SSLContext:
    """A shared context, because creating one takes about 10 ms."""
    return httpx.create_ssl_context()


def _result(response: httpx.Response) -> SendEventsResult:
    answer = f"{response.request.url.copy_with(path='/e/...')} answered HTTP {response.status_code}"
    result = SendEventsResult.from_raw(response.content)
    if isinstance(result, Exception):
        return SendEventsResult(
            error=f"{answer} with what is no reply to events; is it the ingress?"
        )
    if response.is_error and not result.error:
        return SendEventsResult(
            error=f"{answer} without a reason; is it the ingress?", ids=result.ids
        )
    return result
