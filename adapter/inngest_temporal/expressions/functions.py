"""The functions of expressions: Inngest's (reference §6) and CEL's own.

`matches()` runs on the library's RE2, so no pattern takes more than linear time.
"""

import base64
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any, cast
from zoneinfo import ZoneInfo

from inngest_temporal.errors import EvaluationError, LimitError

from .syntax import LIBRARY
from .values import (
    EPOCH,
    MISSING,
    NOW,
    TYPES,
    Env,
    Type,
    as_text,
    checked,
    is_number,
    spend,
    spend_text,
    type_name,
)

_SEARCH = LIBRARY.compile("text.matches(pattern)", disable_check=True)
_UNITS = {
    "ns": 0.001,
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d|w)")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)")
_DATE_FORMATS = (
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%m/%d/%Y",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %I:%M:%S %p",
    "%d.%m.%Y",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%b %d %Y",
    "%B %d %Y",
    "%a %b %d %H:%M:%S %Y",
    "%Y-%m-%d %H:%M:%S %z",
    "%Y-%m",
    "%Y",
)


def _text_argument(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"{name}() needs a string, not {type_name(value)}")
    return value


def _to_duration(
    env: Env, value: Any, *, name: str = "duration", allow_days: bool = False
) -> timedelta:
    if isinstance(value, timedelta):
        return value
    text = _text_argument(name, value)
    spend(env, 4)
    sign, body = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    parts = list(_DURATION_PART.finditer(body)) if len(body) < 100 else []
    if (not parts or sum(len(p[0]) for p in parts) != len(body)) and body != "0":
        raise EvaluationError(f"{text[:50]!r} isn't a duration; write it like '1h30m'")
    if not allow_days and any(p[2] in "dw" for p in parts):
        raise EvaluationError(
            f"{text!r} has days or weeks; {name}() takes hours at most, as in '24h'"
        )
    micros = sum(
        int(p[1]) * int(_UNITS[p[2]])
        if p[1].isdigit() and p[2] != "ns"
        else float(p[1]) * _UNITS[p[2]]
        for p in parts
    )
    return sign * timedelta(microseconds=micros)


def _to_timestamp(_env: Env, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return EPOCH + timedelta(seconds=value)
    found = _RFC3339.fullmatch(text := _text_argument("timestamp", value))
    if not found:
        raise EvaluationError(
            f"{text[:50]!r} isn't an RFC 3339 timestamp; for other formats use date()"
        )
    day, time, fraction, offset = found.groups()
    fraction = ((fraction or "") + "000000")[:6]
    return datetime.fromisoformat(
        f"{day}T{time}.{fraction}{offset.upper().replace('Z', '+00:00')}"
    ).astimezone(UTC)


def _date(env: Env, value: Any) -> datetime:
    """A moment from text in many formats (UTC unless it says otherwise), or from s, ms, us or ns
    since 1970."""
    if isinstance(value, datetime):
        return value
    text = ""
    if isinstance(value, str):
        spend_text(env, value)
        text = value.strip()[:100]
    if text.lstrip("-").isdigit() and len(text) > 8:
        value = int(text)
    if is_number(value):
        unit = next(
            (u for limit, u in ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000)) if abs(value) < limit),
            10**9,
        )
        if isinstance(value, int):
            return EPOCH + timedelta(microseconds=value * 1_000_000 // unit)
        return EPOCH + timedelta(seconds=value / unit)
    _text_argument("date", value)
    parsed = _parse_date(env, text)
    if parsed is None:
        raise EvaluationError(
            f"{text[:50]!r} isn't a date; write it like '2024-05-06' or '2024-05-06T07:08:09Z'"
        )
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)


def _parse_date(env: Env, text: str) -> datetime | None:
    iso = re.sub(r"(\.\d{6})\d+", r"\1", text.removesuffix(" UTC"))
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        pass
    spend(env, 300)  # trying them all takes 0.2 ms
    for form in _DATE_FORMATS:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    try:
        return parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None


def _now(env: Env) -> datetime:
    if env[NOW] is None:
        env[NOW] = datetime.now(UTC)
    return cast(datetime, env[NOW])


def _b64decode(env: Env, value: Any) -> str:
    text = _text_argument("b64decode", value)
    spend_text(env, text)
    text = text.replace("\n", "").replace("\r", "")
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, validate=True).decode()
    except ValueError:
        raise EvaluationError("b64decode() needs base64 of UTF-8 text") from None


def _no_json(name: str) -> None:
    raise EvaluationError(f"json_parse() needs JSON, which has no {name}")


def _json_parse(env: Env, value: Any) -> dict[str, Any]:
    text = _text_argument("json_parse", value)
    spend(env, len(text) // 8)
    parsed = json.loads(text, parse_constant=_no_json)
    if not isinstance(parsed, dict):
        raise EvaluationError(
            f"json_parse() needs the text of an object, not of a {type_name(parsed)}"
        )
    return parsed


def _size(_env: Env, value: Any) -> int:
    if value is MISSING:
        return 0
    if isinstance(value, (str, bytes, list, tuple, dict)):
        return len(value)
    raise EvaluationError(f"{type_name(value)} has no size()")


def _to_int(_env: Env, value: Any, *, unsigned: bool = False) -> int:
    name = "uint" if unsigned else "int"
    match value:
        case bool():
            raise EvaluationError(f"{name}() doesn't take a bool; write x ? 1 : 0")
        case int() | float():
            number = int(value)
        case str() if re.fullmatch(r"[+-]?[0-9]{1,20}", value):
            number = int(value)
        case datetime() if not unsigned:
            number = (value - EPOCH) // timedelta(seconds=1)
        case str():
            raise EvaluationError(f"{value[:50]!r} isn't a whole number")
        case _:
            raise EvaluationError(f"{name}() doesn't take {type_name(value)}")
    return cast(int, checked(number, unsigned))


def _to_double(env: Env, value: Any) -> float:
    if isinstance(value, str):
        spend_text(env, value)
        if "_" in value:
            raise EvaluationError(f"{value[:50]!r} isn't a number")
        return float(value)
    if not is_number(value):
        raise EvaluationError(f"double() doesn't take {type_name(value)}")
    return float(value)


def _to_string(env: Env, value: Any) -> str:
    if value is None or isinstance(value, (list, tuple, dict, Type)):
        raise EvaluationError(f"string() doesn't take {type_name(value)}")
    return as_text(env, value)


def _to_bool(_env: Env, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if isinstance(value, str) and value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise EvaluationError("bool() takes a bool, or 'true' or 'false'")


_PATTERN_PART = re.compile(
    r"""
      (?P<open> \( ) | (?P<close> \) )
    | \{ (?:\d+,(?=\d))? (?P<times>\d{1,4}) ,? \}
    | \[ \^? \]? (?: \\. | \[:\^?\w+:\] | [^\]\\] )* \]
    | \\[pP]\w | \\[pP]\{\^?\w+\} | \\. | .
    """,
    re.VERBOSE | re.DOTALL,
)
_UNICODE_CLASS = re.compile(r"\\[pP]")
_MAX_PATTERN_WORK = 180_000
"""Work above which RE2 refuses a pattern."""


@lru_cache(maxsize=1_024)
def _pattern_work(pattern: str) -> int:
    """The work of compiling a pattern, which the library does in each search: RE2 unrolls
    `\\pL{1,50}`, and that takes 50 ms."""
    groups, last = [0], 0
    for part in _PATTERN_PART.finditer(pattern):
        if part["open"]:
            groups.append(0)
            continue
        if part["close"] and len(groups) > 1:
            last = groups.pop()
        elif part["times"]:
            groups[-1] -= last
            last *= int(part["times"])
        else:
            last = 2 + 600 * len(_UNICODE_CLASS.findall(part[0]))
        groups[-1] += last
    return min(sum(groups), _MAX_PATTERN_WORK)


@lru_cache(maxsize=1_024)
def _search(text: str, pattern: str) -> bool | None:
    """None if the pattern or the text is refused. Cached: the waits of a mailbox search one text
    for one pattern."""
    try:
        found = _SEARCH.eval(data={"text": text, "pattern": pattern}).value()
    except (RuntimeError, TypeError):
        return None
    return found if isinstance(found, bool) else None  # the library returns errors as values


def _matches(env: Env, text: Any, pattern: Any) -> bool:
    text, pattern = _text_argument("matches", text), _text_argument("matches", pattern)
    if len(pattern) > 1_000:
        raise LimitError("the pattern of matches() is longer than 1,000 characters")
    spend(env, 25 + len(text) // 8 + _pattern_work(pattern))
    found = _search(text, pattern) if len(text) <= 1_000 else _search.__wrapped__(text, pattern)
    if found is None:
        raise EvaluationError(
            f"matches() needs Unicode text and a pattern RE2 accepts, not {pattern[:50]!r}"
        )
    return found


def _of_text(name: str, compute: Callable[..., Any]) -> Callable[..., Any]:
    """A function or method of a string that may take more strings."""

    def call(env: Env, *values: Any) -> Any:
        texts = [_text_argument(name, value) for value in values]
        spend_text(env, texts[0])
        return compute(*texts)

    return call


def _zone(env: Env, name: str) -> tzinfo:
    spend(env, 100)  # an unknown name is looked up in the file system each time
    if found := re.fullmatch(r"([+-]?)(\d\d):(\d\d)", name):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset)
    return ZoneInfo(name)


def _time_part(
    name: str,
    of_moment: Callable[[datetime], int],
    of_duration: Callable[[timedelta], int] | None = None,
) -> Callable[..., Any]:
    def call(env: Env, value: Any, zone: Any = None) -> int:
        if isinstance(value, timedelta) and of_duration is not None and zone is None:
            return of_duration(value)
        if not isinstance(value, datetime):
            raise EvaluationError(
                f"{name}() needs a timestamp, as in date(x).{name}(), not {type_name(value)}"
            )
        return of_moment(
            value.astimezone(UTC if zone is None else _zone(env, _text_argument(name, zone)))
        )

    return call


def _whole(value: timedelta, unit: timedelta) -> int:
    return value // unit if value >= timedelta() else -(-value // unit)


@dataclass(frozen=True)
class BuiltIn:
    call: Callable[..., Any]
    """Called with the `Env`, the target if it is a method, and the arguments."""
    arguments: tuple[int, ...]
    """The possible numbers of arguments, including the target of a method."""
    plain: bool = True
    method: bool = False
    takes_missing: bool = False
    """Whether it may get a missing argument; other calls are false then."""


def _to_bytes(env: Env, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    spend_text(env, text := _text_argument("bytes", value))
    return text.encode()


def _moved(name: str, sign: int) -> Callable[..., datetime]:
    return lambda env, value: (
        _now(env) + sign * _to_duration(env, value, name=name, allow_days=True)
    )


FUNCTIONS: dict[str, BuiltIn] = {
    # Inngest's functions.
    "lowercase": BuiltIn(_of_text("lowercase", str.lower), (1,)),
    "uppercase": BuiltIn(_of_text("uppercase", str.upper), (1,)),
    "b64decode": BuiltIn(_b64decode, (1,)),
    "json_parse": BuiltIn(_json_parse, (1,)),
    "date": BuiltIn(_date, (1,)),
    "now": BuiltIn(_now, (0,)),
    "now_plus": BuiltIn(_moved("now_plus", 1), (1,)),
    "now_minus": BuiltIn(_moved("now_minus", -1), (1,)),
    # CEL's functions.
    "size": BuiltIn(_size, (1,), method=True, takes_missing=True),
    "int": BuiltIn(_to_int, (1,)),
    "uint": BuiltIn(partial(_to_int, unsigned=True), (1,)),
    "double": BuiltIn(_to_double, (1,)),
    "string": BuiltIn(_to_string, (1,)),
    "bool": BuiltIn(_to_bool, (1,)),
    "bytes": BuiltIn(_to_bytes, (1,)),
    "timestamp": BuiltIn(_to_timestamp, (1,)),
    "duration": BuiltIn(_to_duration, (1,)),
    "dyn": BuiltIn(lambda _env, value: value, (1,)),
    "type": BuiltIn(lambda _env, value: TYPES[type_name(value)], (1,)),
    "matches": BuiltIn(_matches, (2,), method=True),
    "contains": BuiltIn(_of_text("contains", operator.contains), (2,), plain=False, method=True),
    "startsWith": BuiltIn(_of_text("startsWith", str.startswith), (2,), plain=False, method=True),
    "endsWith": BuiltIn(_of_text("endsWith", str.endswith), (2,), plain=False, method=True),
} | {
    name: BuiltIn(_time_part(name, of_moment, of_duration), (1, 2), plain=False, method=True)
    for name, of_moment, of_duration in cast(
        list[tuple[str, Callable[[datetime], int], Callable[[timedelta], int] | None]],
        [
            ("getFullYear", lambda t: t.year, None),
            ("getMonth", lambda t: t.month - 1, None),
            ("getDate", lambda t: t.day, None),
            ("getDayOfMonth", lambda t: t.day - 1, None),
            ("getDayOfWeek", lambda t: t.isoweekday() % 7, None),
            ("getDayOfYear", lambda t: t.timetuple().tm_yday - 1, None),
            ("getHours", lambda t: t.hour, lambda d: _whole(d, timedelta(hours=1))),
            ("getMinutes", lambda t: t.minute, lambda d: _whole(d, timedelta(minutes=1))),
            ("getSeconds", lambda t: t.second, lambda d: _whole(d, timedelta(seconds=1))),
            (
                "getMilliseconds",
                lambda t: t.microsecond // 1000,
                lambda d: _whole(d, timedelta(milliseconds=1)),
            ),
        ],
    )
}
