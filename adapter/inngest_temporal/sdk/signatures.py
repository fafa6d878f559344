"""Signatures of requests and replies between us and apps: HMAC-SHA256 of a body and the time.

For a request, the canonical form of its JSON is signed (RFC 8785); for a reply, its plain bytes.
The key is what follows `signkey-<env>-`, as text.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

import rfc8785

SKEW = 300
"""Seconds by which a signature's time may be off, as in the SDKs."""

_PREFIX = re.compile(r"^signkey-\w+-")
_SIGNATURE = re.compile(r"t=([0-9]{1,12})&s=([0-9a-f]{64})")
_MAX_EXACT = 2**53 - 1


def sign(key: str, body: bytes, at: int) -> str:
    """The value of `x-inngest-signature`. `body`: of a request, in its canonical form; may be
    empty. `at`: seconds since 1970."""
    return f"t={at}&s={_digest(key, body, at)}"


def verify(keys: Sequence[str], body: bytes, signature: str, now: int, skew: int = SKEW) -> bool:
    """Whether a body was signed with one of the keys, no more than `skew` seconds ago or ahead.
    `body`: as for `sign`."""
    match = _SIGNATURE.fullmatch(signature)
    if match is None or abs(now - int(match[1])) > skew:
        return False
    valid = False
    for key in keys:
        valid |= hmac.compare_digest(_digest(key, body, int(match[1])), match[2])
    return valid


def canonical(value: Any) -> bytes:
    """A JSON value in the form of RFC 8785.

    Integers beyond 2**53 are written as the nearest double, as both SDKs read them; what is beyond
    doubles becomes null, as in JavaScript, and half a character U+FFFD.
    """
    try:
        return rfc8785.dumps(value)
    except ValueError:
        return rfc8785.dumps(_representable(value))


def _digest(key: str, body: bytes, at: int) -> str:
    secret = _PREFIX.sub("", key).encode()
    return hmac.new(secret, body + str(at).encode(), hashlib.sha256).hexdigest()


def _representable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_representable(key): _representable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_representable(each) for each in value]
    if isinstance(value, bool) or value is None:
        return value
    try:
        number = float(value)
    except OverflowError:
        return None
    if number - number != 0:  # infinite, or not a number
        return None
    return value if isinstance(value, int) and abs(value) <= _MAX_EXACT else number
