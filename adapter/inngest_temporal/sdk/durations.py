"""Durations and moments in the formats of official SDKs."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from inngest_temporal.drivers.failures import RETRY_AFTER_MS
from inngest_temporal.models import parse_duration

_BELOW_MS = re.compile(r"\d+(?:\.\d+)?(?:us|µs|μs|ns)")
"""Parts of a Go duration below a millisecond, which are ignored."""
_MAX_DIGITS = 18
_WHOLE_SECONDS = re.compile(r"[+-]?\d{1,6}")


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as `1d`, `1h30m`, `1.5s` or `500ms`; none, or a negative one,
    is 0. Raises `ValueError`."""
    if text.startswith("-") and duration_ms(text[1:]) >= 0:
        return 0
    coarse = _BELOW_MS.sub("", text)
    if not coarse or len(max(re.findall(r"\d+", coarse), key=len, default="")) > _MAX_DIGITS:
        if not coarse:
            return 0
        raise ValueError(f"{text[:100]!r} is too long a duration")
    return parse_duration(coarse)


def moment_ms(text: str) -> int | None:
    """Milliseconds since 1970 of an ISO moment; None for another text."""
    if len(text) < 10:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _since_1970(moment)


def remaining_ms(text: str, now_ms: int) -> int:
    """Milliseconds of a duration, or until an ISO moment. Raises `ValueError`."""
    until_ms = moment_ms(text)
    return duration_ms(text) if until_ms is None else max(0, until_ms - now_ms)


def retry_after_ms(header: str | None, now_ms: int) -> int | None:
    """What a `retry-after` says, in the limits that Inngest has: seconds, or a date in ISO's or any
    of HTTP's formats. None if there is none, or it can't be read."""
    header = (header or "").strip()
    if not header:
        return None
    if _WHOLE_SECONDS.fullmatch(header):
        delay = int(header) * 1000
    else:
        until_ms = moment_ms(header)
        if until_ms is None:
            until_ms = _http_date_ms(header)
        if until_ms is None:
            return None
        delay = until_ms - now_ms
    low, high = RETRY_AFTER_MS
    return min(max(delay, low), high)


def _http_date_ms(text: str) -> int | None:
    try:
        return _since_1970(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _since_1970(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
