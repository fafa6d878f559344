"""Serves the ingress by uvicorn with httptools, with limits that neither of them has.

Anyone can connect. So before its key is checked, a connection must not take much memory or time, or
write into the log.
"""

from asyncio import TimerHandle, Transport

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of a request's URL, headers and trailers together."""
MAX_CONNECTIONS = 1_000
"""Maximum number of connections of one process, which needs some more open files than that."""
HEAD_SECONDS = 10.0
"""How long a connection may take to send the head of a request."""
BODY_SECONDS = 60.0
"""How long the rest of a request may take."""


def config(app: ASGIApp, drain_seconds: int) -> uvicorn.Config:
    """The configuration of uvicorn. When it stops, requests in progress have `drain_seconds`."""
    return uvicorn.Config(
        app,
        log_config=None,
        http=GuardedProtocol,
        ws="none",
        # Otherwise uvicorn would warn of each request that it can't read.
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=drain_seconds,
    )


class GuardedProtocol(HttpToolsProtocol):
    """HTTP of one connection, within the limits above. A request that exceeds them is answered with
    431 or 400 if that is possible, and the connection is closed."""

    _head_bytes = 0
    """Bytes of URL, headers and trailers of the current request."""
    _silent_bytes = 0
    """Bytes since the parser last reported anything: an endless header, trailer or chunk
    extension."""
    _reported = False
    _allowed: float | None = None
    """How many seconds the current part of a request may take; None: there is no request."""
    _armed: float | None = None
    """The seconds for which the deadline was set. It is set when data ends in the middle of a
    request, so most requests, which come in one piece, need no timer."""
    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MAX_CONNECTIONS:
            self.transport = transport
            self._refuse(503)
            return
        super().connection_made(transport)
        self._allowed = HEAD_SECONDS
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._allowed = None
        self._expect()
        if self.flow is not None:  # None: it was refused
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._reported = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it is answered like any other request
        except httptools.HttpParserError:
            self._refuse(431 if self._head_bytes > MAX_HEAD_BYTES else 400)
            return
        self._silent_bytes = 0 if self._reported else self._silent_bytes + len(data)
        if self._silent_bytes > MAX_HEAD_BYTES:
            self._refuse(431)
        elif self._allowed is None and not self._reported:
            self._allowed = HEAD_SECONDS  # after empty lines uvicorn would wait for ever
        self._expect()

    def on_message_begin(self) -> None:
        self._allowed = HEAD_SECONDS
        self._head_bytes = 0
        self._reported = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._allowed = BODY_SECONDS
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._reported = True

    def on_body(self, body: bytes) -> None:
        self._reported = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        # If it was answered before its end, uvicorn waits for the next request without a limit.
        self._allowed = HEAD_SECONDS if self.cycle.response_complete else None
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._reported = True
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError  # makes the parser stop

    def _expect(self) -> None:
        """Close the connection if the current part of a request takes longer than allowed."""
        if self._allowed == self._armed:
            return
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._allowed is not None:
            self._deadline = self.loop.call_later(self._allowed, self._close)
        self._armed = self._allowed

    def _close(self) -> None:
        self.transport.close()

    def _refuse(self, status: int) -> None:
        if self.cycle is None or self.cycle.response_complete:
            head = STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(head)
        self.transport.close()
