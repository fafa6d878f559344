"""Checks who may send events, invoke functions, register apps, and see and cancel runs."""

import binascii
import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from inngest_temporal.temporal.connection import Settings

from .replies import ReplyError, error_reply, json_reply, v1_error


class Keys:
    """The keys of an ingress. A request without a valid key ends with a `ReplyError`."""

    def __init__(self, settings: Settings) -> None:
        self._dev = settings.dev
        self._event_keys = [key.encode() for key in settings.event_keys]
        self._tokens = [
            token.encode() for key in settings.signing_keys for token in signing_tokens(key)
        ]

    def check_event_key(self, key: str) -> None:
        """Check that a sender may send events."""
        if not key:
            raise ReplyError(error_reply(401, "Event key is required"))
        if self._event_keys:
            if not _is_any(key, self._event_keys):
                raise ReplyError(error_reply(401, "Event key not found"))
        elif not self._dev:
            body = {
                "status": 503,
                "message": "",
                "error": "Event keys are required to process events securely",
            }
            raise ReplyError(json_reply(body, 503))

    def check_invocation(self, request: Request) -> None:
        """Check that a caller may invoke functions: everybody who may send events or cancel
        runs."""
        if self._dev and not (self._event_keys or self._tokens):
            return
        if not _is_any(_bearer(request), [*self._event_keys, *self._tokens]):
            raise ReplyError(error_reply(401, "Authentication failed"))

    def check_signing_key(self, request: Request) -> None:
        """Check that a caller may use the run API."""
        if self._tokens:
            if not _is_any(_bearer(request), self._tokens):
                raise ReplyError(Response("Authentication failed", 401, media_type="text/plain"))
        elif not self._dev:
            raise ReplyError(v1_error(503, "A signing key is required to serve runs securely"))

    def is_signing_key(self, text: str) -> bool:
        """Whether a text is a signing key, in any of the accepted forms."""
        return _is_any(text, self._tokens)

    def check_registration(self, request: Request) -> None:
        """Check that a caller may register apps."""
        if self._tokens:
            if not _is_any(_bearer(request), self._tokens):
                raise ReplyError(error_reply(401, "Authentication failed"))
        elif not self._dev:
            problem = "A signing key is required to register apps securely: set INNGEST_SIGNING_KEY"
            raise ReplyError(error_reply(503, problem))


def signing_tokens(key: str) -> list[str]:
    """The accepted forms of a signing key: as it is, without `signkey-<env>-`, or the hash of its
    bytes (§2.2).

    There is a hash only if the key has hexadecimal digits. SDKs send the hash after the key's
    prefix, so that is accepted, too. A prefix alone is not a key.
    """
    prefix, bare = "", key
    if key.startswith("signkey-"):
        *head, bare = key.split("-", 2)
        prefix = "-".join(head) + "-"
    if not bare:
        return []
    tokens = [key, bare]
    try:
        hashed = hashlib.sha256(binascii.unhexlify(bare)).hexdigest()
    except ValueError:
        return tokens
    return [*tokens, hashed, prefix + hashed]


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_any(text: str, keys: Sequence[bytes]) -> bool:
    """Whether a text is one of the keys. Compares with all of them, each in constant time."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(text.encode("utf-8", "replace"), key)
    return found
