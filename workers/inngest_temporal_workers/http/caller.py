"""Calls apps: one POST for each execution, over connections that are kept.

`pyreqwest` (Rust's reqwest) is a twentieth of the CPU time that httpx takes for such a call, and
speaks HTTP/2 where that is offered (benchmarks/http_apps.py).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urljoin, urlsplit

import httpcore
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectTimeoutError, DetailedPyreqwestError, PyreqwestError

from inngest_temporal.sdk.replies import MAX_REPLY_BYTES, Reply
from inngest_temporal.sdk.requests import HttpCall

from .addresses import AddressPolicy, AddressRefusedError, permitted

CONNECT_TIMEOUT = timedelta(seconds=10)
"""Limit of a connection's beginning."""
CALL_TIMEOUT = timedelta(hours=2, minutes=5)
"""Limit of a call that was given up: pyreqwest leaves the connection of a cancelled one open.
Whoever waits for a call gives up sooner."""
KEPT = timedelta(seconds=4)
"""How long an idle connection is kept: Node's servers close theirs after 5 seconds."""
KEEPALIVE = timedelta(seconds=15)
"""TCP looks so often whether the other side is there: a call may take hours, in silence."""
KEEPALIVE_RETRIES = 4
MAX_CALLS = 200
"""Calls under way to one app (one origin); further ones wait for their turn."""
MAX_TURNS = 1_000
"""Calls to one app that are under way or wait: half of what a worker may have, so that an app that
answers nothing leaves room for others."""
MAX_REDIRECTS = 10
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 256 * 1024


class CallError(Exception):
    """The app did not answer. The message is for whoever looks at the run."""


class AppCaller:
    """The HTTP client of one worker. As a context manager it closes its connections."""

    def __init__(self, policy: AddressPolicy) -> None:
        """`policy`: where an app may redirect to that is not itself."""
        self._policy = policy
        self._http: Client = _builder().build()
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """Origin -> what bounds its calls, and how many there are."""

    async def __aenter__(self) -> "AppCaller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def is_crowded(self, url: str) -> bool:
        """Whether an app has so many calls that a further one should not even wait for its turn."""
        _, count = self._turns.get(_origin(url), (None, 0))
        return count >= MAX_TURNS

    async def call(self, call: HttpCall) -> Reply:
        """What the app replied. Raises `CallError`."""
        async with self._turn(call.url):
            url = call.url
            for redirects in range(MAX_REDIRECTS + 1):
                try:
                    async with self._client(url, call.url) as http:
                        reply = await _post(http, url, call)
                except CallError as error:
                    if redirects:
                        raise CallError(f"{call.url} redirects to another place. {error}") from None
                    raise
                location = reply.headers.get("location")
                if reply.status not in _REDIRECTS or not location:
                    return reply
                url = urljoin(url, location)
        raise CallError(f"{call.url} redirects more than {MAX_REDIRECTS} times.")

    @contextlib.asynccontextmanager
    async def _client(self, url: str, registered: str) -> AsyncIterator[Client]:
        """What calls a URL that an app redirects to: elsewhere it connects to the very address that
        the policy permits. Raises `CallError`."""
        if self._policy.everything or _is_same_server(url, registered):
            yield self._http
            return
        try:
            host, port = _place(url)
            [address, *_] = await permitted(
                self._policy, host, port, CONNECT_TIMEOUT.total_seconds()
            )
        except (AddressRefusedError, httpcore.NetworkError, ValueError) as error:
            raise CallError(f"The call to {url} was not made: {error}") from error
        async with _builder().resolve(host, address, port).build() as http:
            yield http

    @contextlib.asynccontextmanager
    async def _turn(self, url: str) -> AsyncIterator[None]:
        origin = _origin(url)
        turns, count = self._turns.get(origin, (asyncio.Semaphore(MAX_CALLS), 0))
        self._turns[origin] = (turns, count + 1)
        try:
            async with turns:
                yield
        finally:
            turns, count = self._turns[origin]
            if count == 1:
                del self._turns[origin]
            else:
                self._turns[origin] = (turns, count - 1)


def _builder() -> ClientBuilder:
    return (
        ClientBuilder()
        .no_proxy()
        .http2(True)
        .follow_redirects(False)  # they would become GETs
        .default_cookie_store(False)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(CALL_TIMEOUT)
        .pool_idle_timeout(KEPT)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(KEEPALIVE_RETRIES)
        .user_agent("inngest-temporal")
    )


async def _post(http: Client, url: str, call: HttpCall) -> Reply:
    try:
        request = http.post(url).headers(call.headers).body_bytes(call.body)
        async with request.build_streamed() as response:
            body = bytearray()
            # One byte more than the limit shows whoever reads it that it is too large.
            while len(body) <= MAX_REPLY_BYTES:
                chunk = await response.body_reader.read(_CHUNK_BYTES)
                if not chunk:
                    break
                body += chunk
            return Reply(response.status, dict(response.headers), bytes(body))
    except ConnectTimeoutError as error:
        seconds = CONNECT_TIMEOUT.total_seconds()
        message = f"There was no connection to {url} within {seconds:.0f} s."
        raise CallError(message) from error
    except (PyreqwestError, ValueError) as error:
        raise CallError(f"The call to {url} failed: {_cause(error)}") from error


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _place(url: str) -> tuple[str, int]:
    """Host and port. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("it is no URL that begins with http:// or https://, and names a host")
    return parts.hostname, parts.port or _PORTS[parts.scheme]


def _is_same_server(url: str, registered: str) -> bool:
    """Whether a URL is at a host and port that an app is served at, or at the host's usual ones."""
    try:
        (host, port), (known, known_port) = _place(url), _place(registered)
    except ValueError:
        return False
    return host == known and (port == known_port or port in _PORTS.values())


def _cause(error: Exception) -> str:
    """What went wrong at the bottom of it."""
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return causes[-1]["message"] if causes else str(error)
