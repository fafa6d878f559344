"""Sessions of the dashboard, which everybody may see who has signed in with a signing key.

A session is a cookie that the key itself vouches for, so no process keeps any, and each replica
accepts those of the others. It ends after `SESSION_SECONDS`, or when the key is taken out of use.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Literal
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "inngest_dashboard"
SESSION_SECONDS = 12 * 3600

_PURPOSE = b"inngest-temporal: session of the dashboard"
"""Text that a session's key derives from, so that it is of no use for another purpose."""


class Sessions:
    """Makes and checks the cookies of one set of signing keys. Without keys everyone is signed
    in."""

    def __init__(
        self, signing_keys: Sequence[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._secrets = [
            hmac.digest(key.encode(), _PURPOSE, hashlib.sha256) for key in signing_keys if key
        ]
        self._clock = clock

    @property
    def needed(self) -> bool:
        """Whether a browser has to sign in."""
        return bool(self._secrets)

    def is_open(self, request: Request) -> bool:
        """Whether a request comes with a session that has not ended."""
        return not self.needed or self._is_valid(request.cookies.get(COOKIE, ""))

    def begin(self, request: Request, response: Response) -> None:
        """Sign the browser in by a cookie of the reply."""
        stated = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_urlsafe(12)}"
        value = f"{stated}.{_signature(self._secrets[0], stated)}"
        self._set(request, response, value, SESSION_SECONDS)

    def end(self, request: Request, response: Response) -> None:
        """Sign the browser out by removing the cookie."""
        self._set(request, response, "", 0)

    def _is_valid(self, cookie: str) -> bool:
        stated, _, given = cookie.rpartition(".")
        known = False
        for secret in self._secrets:
            known |= hmac.compare_digest(given.encode(), _signature(secret, stated).encode())
        until = stated.partition(".")[0]
        return known and int(until) > self._clock()

    def _set(self, request: Request, response: Response, value: str, seconds: int) -> None:
        response.set_cookie(
            COOKIE,
            value,
            max_age=seconds,
            path="/",
            secure=_is_https(request),
            httponly=True,
            samesite="strict",
        )


def _signature(secret: bytes, stated: str) -> str:
    return hmac.digest(secret, stated.encode(), hashlib.sha256).hex()


def _is_https(request: Request) -> bool:
    """Whether the browser speaks HTTPS, with us or with a proxy before us. One that claims so
    wrongly only keeps its own cookie from itself."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    return request.url.scheme == "https" or forwarded == "https"


Origin = Literal["ours", "foreign", "unknown"]


def origin_of(request: Request) -> Origin:
    """Which site a request comes from. Every browser says so with each form that it sends; a page
    of another site can't make it say otherwise."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return "ours" if site in ("same-origin", "none") else "foreign"
    origin = request.headers.get("origin")
    if origin is None:
        return "unknown"
    # Behind a proxy the scheme may be another one than the browser's.
    return "ours" if urlsplit(origin).netloc == request.headers.get("host") else "foreign"


def local_path(text: str) -> str:
    """The path to open after signing in, which is always one of ours."""
    parts = urlsplit(text)
    is_ours = not parts.scheme and not parts.netloc and text.startswith("/")
    return text if is_ours and "\\" not in text and text.isprintable() else "/"
