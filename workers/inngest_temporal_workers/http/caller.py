"""Calls apps: one POST for each execution, over connections that are kept.

`pyreqwest` (Rust's reqwest) takes a twentieth of the CPU time that httpx takes for such a call, and
speaks HTTP/2 if the app offers it (benchmarks/http_apps.py).
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
"""How long connecting may take."""
CALL_TIMEOUT = timedelta(hours=2, minutes=5)
"""How long an abandoned call lasts, because pyreqwest leaves the connection of a cancelled call
open. Our code gives up sooner."""
KEPT = timedelta(seconds=4)
"""How long an idle connection is kept. Node's servers close theirs after 5 seconds."""
KEEPALIVE = timedelta(seconds=15)
"""Interval at which TCP checks that the other side is there: a call may be silent for hours."""
KEEPALIVE_RETRIES = 4
MAX_CALLS = 200
"""Maximum number of calls under way to one app (one origin); further ones wait for their turn."""
MAX_TURNS = 1_000
"""Maximum number of calls to one app that are under way or wait. It is half of what a worker may
have, so that an app that does not answer leaves room for others."""
MAX_REDIRECTS = 10
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 256 * 1024


class CallError(Exception):
    """The app did not answer. The message is shown with the run."""


class AppCaller:
    """The HTTP client of one worker. As a context manager it closes its connections."""

    def __init__(self, policy: AddressPolicy) -> None:
        """`policy`: the addresses to which an app may redirect, in addition to its own."""
        self._policy = policy
        self._http: Client = _builder().build()
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """Origin -> the bound of its calls, and how many there are."""

    async def __aenter__(self) -> "AppCaller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def is_crowded(self, url: str) -> bool:
        """Whether an app has so many calls that another one should not even wait for its turn."""
        _, count = self._turns.get(_origin(url), (None, 0))
        return count >= MAX_TURNS

    async def call(self, call: HttpCall) -> Reply:
        """Call the app and follow its redirects; returns its reply. Raises `CallError`."""
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
        """The client for a URL to which an app redirects. If that is another server, the client
        connects to the very address that the policy permits. Raises `CallError`."""
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
        .follow_redirects(False)  # it would turn the POST into a GET
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
            # It reads more than the limit, so that `read_reply` sees that the body is too large.
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
        raise ValueError("a URL must begin with http:// or https:// and name a host")
    return parts.hostname, parts.port or _PORTS[parts.scheme]


def _is_same_server(url: str, registered: str) -> bool:
    """Whether a URL is at the app's host, and at the app's port or the usual ones (80, 443)."""
    try:
        (host, port), (known, known_port) = _place(url), _place(registered)
    except ValueError:
        return False
    return host == known and (port == known_port or port in _PORTS.values())


def _cause(error: Exception) -> str:
    """The innermost cause of an error."""
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    return causes[-1]["message"] if causes else str(error)
