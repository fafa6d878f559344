"""The forms of replies, and the replies to failures of Temporal."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response
from temporalio.service import RPCError
from ulid import ULID

from inngest_temporal.errors import RegistryNotReadyError, VisibilityBusyError, text_of
from inngest_temporal.routing.router import refuses
from inngest_temporal.temporal.runs import rfc3339

from .bodies import OverloadedError

logger = logging.getLogger(__name__)

TELL_SECONDS = 10.0
"""Seconds between two log lines about requests that fail because of Temporal."""


class ReplyError(Exception):
    """Ends a request with this reply."""

    def __init__(self, reply: Response) -> None:
        super().__init__(reply.status_code)
        self.reply = reply


def json_reply(
    body: Mapping[str, Any] | list[Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A reply with a JSON body. After a 503, a sender may try again in a second."""
    if status == 503:
        headers = {"Retry-After": "1", **(headers or {})}
    # ASCII, because text from user code may have halves of characters, which UTF-8 can't encode.
    return Response(json.dumps(body, separators=(",", ":")), status, headers, "application/json")


def error_reply(status: int, message: str) -> Response:
    """An error of the event API."""
    return json_reply({"error": message, "status": status}, status)


def v1_error(status: int, message: str) -> Response:
    """An error of the run API."""
    return json_reply({"error": message, "data": None, "status": status}, status)


def envelope(
    data: Any, seconds: int, status: int = 200, more: Mapping[str, Any] | None = None
) -> Response:
    """Data of the run API, which may be cached for `seconds`; `more` is further metadata."""
    now = datetime.now(UTC)
    metadata = {
        "fetched_at": rfc3339(now),
        "cached_until": rfc3339(now + timedelta(seconds=seconds)),
        **(more or {}),
    }
    return json_reply(
        {"data": data, "metadata": metadata},
        status,
        {"Cache-Control": f"private, max-age={seconds}"},
    )


class Outage:
    """Logs that requests fail because of Temporal. During an outage all may fail, so it logs one
    line in `TELL_SECONDS`."""

    def __init__(self) -> None:
        self._quiet_until = 0.0
        self._untold = 0

    def tell(self, problem: str) -> None:
        """Log the problem of a request, or count it if another one was logged a moment ago."""
        if time.monotonic() < self._quiet_until:
            self._untold += 1
            return
        more = f" ({self._untold} more requests failed like this)" if self._untold else ""
        logger.warning("%s%s", problem, more)
        self._quiet_until = time.monotonic() + TELL_SECONDS
        self._untold = 0


_outage = Outage()


def unavailable(error: Exception) -> tuple[int, str] | None:
    """Status and public message for an error of Temporal's client; None for any other error, which
    is a bug."""
    if isinstance(error, RegistryNotReadyError | VisibilityBusyError):
        return 503, str(error)
    if isinstance(error, OverloadedError):
        return 503, "Too many requests at once; try again"
    if isinstance(error, RPCError):
        if refuses(error):
            return 400, f"Temporal refused the request: {error.message}"
        _outage.tell(f"Temporal refused or did not answer: {error.status.name} {error.message}")
        return 503, "Temporal can't be reached or is overloaded; try again"
    if isinstance(error, TimeoutError) or is_connect(error):
        _outage.tell(f"Temporal can't be reached: {text_of(error)}")
        return 503, "Temporal can't be reached; try again"
    return None


def is_connect(error: Exception) -> bool:
    """Whether Temporal's client could not connect, for which it has no own class of errors."""
    return isinstance(error, RuntimeError) and "connect" in str(error)


def ulid(text: str) -> str:
    """An id from a path, in its usual form. Raises `ReplyError`."""
    try:
        return str(ULID.from_str(text.upper()))
    except ValueError:
        raise ReplyError(v1_error(400, "Invalid ID: it must be a ULID")) from None
