"""Reads request bodies, bounding the size of each and of all in progress."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from inngest_temporal.errors import BodyInvalidError

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Maximum size of one body. Inngest has no such limit; decoded JSON takes many times its size in
memory."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Maximum size of all bodies that are being received and routed."""


class OverloadedError(Exception):
    """There are more bodies at once than memory should hold."""


class Bodies:
    """The bodies of one process."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts as held until the context ends.

        Raises `BodyInvalidError` if it is too large, `OverloadedError` if there are too many.
        """
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:18]) > MAX_BODY_BYTES:
            raise _too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                self._held += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                if self._held > MAX_HELD_BYTES:
                    raise OverloadedError
                chunks.append(chunk)
            yield b"".join(chunks)
        finally:
            self._held -= size


def _too_large() -> BodyInvalidError:
    return BodyInvalidError(f"Request body is over the max size: Max {MAX_BODY_BYTES} bytes")
