"""Calls apps: one POST for each execution, over connections that are kept."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import httpx

from inngest_temporal.sdk.replies import MAX_REPLY_BYTES, Reply
from inngest_temporal.sdk.requests import HttpCall

CONNECT_SECONDS = 10.0
"""Limit of a connection's beginning."""
KEPT_SECONDS = 4.0
"""How long an idle connection is kept: Node's servers close theirs after 5 seconds."""
MAX_CALLS = 200
"""Calls under way to one app (one origin); further ones wait for their turn."""
MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # A host that has gone is noticed within about two minutes, however long a call may take.
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


class CallError(Exception):
    """The app did not answer. The message is for whoever looks at the run."""


class AppCaller:
    """The HTTP client of one worker. As a context manager it closes its connections."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                http2=True,
                limits=httpx.Limits(
                    max_connections=None,
                    max_keepalive_connections=MAX_CALLS,
                    keepalive_expiry=KEPT_SECONDS,
                ),
                socket_options=_KEEPALIVE,
                trust_env=False,
            ),
            # The activity has a limit; until then an app may be silent while a step executes.
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        )
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}
        """Origin -> what bounds its calls, and how many there are."""

    async def __aenter__(self) -> "AppCaller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, call: HttpCall) -> Reply:
        """What the app replied. Raises `CallError`."""
        async with self._turn(call.url):
            url = call.url
            for _ in range(MAX_REDIRECTS + 1):
                reply = await self._post(url, call)
                location = reply.headers.get("location")
                if reply.status not in _REDIRECTS or not location:
                    return reply
                url = urljoin(url, location)
        raise CallError(f"{call.url} redirects more than {MAX_REDIRECTS} times.")

    async def _post(self, url: str, call: HttpCall) -> Reply:
        try:
            async with self._http.stream(
                "POST", url, content=call.body, headers=call.headers
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_REPLY_BYTES:
                        break  # whoever reads it sees that it is too large
                return Reply(response.status_code, response.headers, bytes(body))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise CallError(f"{url} is no address of an app: {error}") from error
        except httpx.ConnectError as error:
            raise CallError(f"There is no connection to {url}: {error}") from error
        except httpx.ConnectTimeout as error:
            message = f"There was no connection to {url} within {CONNECT_SECONDS:.0f} s."
            raise CallError(message) from error
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
            raise CallError(f"{url} closed the connection before it answered: {problem}") from error

    @contextlib.asynccontextmanager
    async def _turn(self, url: str) -> AsyncIterator[None]:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
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
