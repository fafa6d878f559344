"""The values of expressions: equality, order, arithmetic and JSON, with Inngest's rules for null
and missing keys.

Whatever takes an `Env` as its first argument may spend some of the evaluation's work there.
"""

import base64
import json
import operator
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from inngest_temporal.errors import EvaluationError, LimitError

from .syntax import UInt

MAX_WORK = 500_000
"""Maximum work of one evaluation: nodes that its macros visit, and what text, lists, dates and
patterns take (0.6 us each; ~0.5 s)."""
MAX_SIZE = 1_000_000
"""Maximum size of what `+` builds: characters of a text, or elements of a list."""


@dataclass(frozen=True, slots=True)
class Type:
    name: str


class _Missing:
    """The value of a key that isn't there: almost null (reference §6 has the table)."""

    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()

Env: TypeAlias = list[Any]
"""State of one evaluation: event, async, vars, now, work left, then one slot per macro variable."""

_EVENT, _ASYNC, _VARS, NOW, WORK, SLOTS = range(6)
ROOTS = {"event": _EVENT, "async": _ASYNC, "vars": _VARS}
"""Place of each variable in an `Env`."""
_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
TYPES = {
    name: Type(name)
    for name in (
        "bool",
        "bytes",
        "double",
        "int",
        "list",
        "map",
        "null_type",
        "string",
        "type",
        "uint",
    )
} | {_TIMESTAMP: Type(_TIMESTAMP), _DURATION: Type(_DURATION)}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT_MIN, _INT_MAX, _UINT_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1


def spend(env: Env, work: int) -> None:
    env[WORK] -= work
    if env[WORK] < 0:
        raise LimitError(
            f"the expression takes too much work (limit {MAX_WORK:,} operations); filter smaller"
            " lists"
        )


def spend_text(env: Env, text: str | bytes) -> None:
    """Spend the work of reading or copying a text."""
    spend(env, len(text) >> 5)


def _spend_comparison(env: Env, text: str | bytes) -> None:
    """Spend the work of comparing a text, which is a hundred times as fast."""
    if len(text) > 4_096:
        spend(env, len(text) >> 12)


def type_name(value: Any) -> str:
    match value:
        case None | _Missing():
            return "null_type"
        case bool():
            return "bool"
        case UInt():
            return "uint"
        case int():
            return "int"
        case float():
            return "double"
        case str():
            return "string"
        case bytes():
            return "bytes"
        case list() | tuple():
            return "list"
        case dict():
            return "map"
        case datetime():
            return _TIMESTAMP
        case timedelta():
            return _DURATION
        case Type():
            return "type"
        case _:
            raise EvaluationError(f"{type(value).__name__} isn't a JSON value")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def truthy(value: Any) -> bool:
    """Truth as in JavaScript; in addition, missing is falsy. Lists and maps are truthy even
    when empty."""
    if isinstance(value, (int, float, str, bytes)):
        return bool(value)
    return value is not None and value is not MISSING


def equal(env: Env, a: Any, b: Any) -> bool:
    kind = type(a)
    if kind is str and type(b) is str:
        _spend_comparison(env, a)
        return bool(a == b)
    if a is None or b is None:
        return (a is None or a is MISSING) and (b is None or b is MISSING)
    if a is MISSING or b is MISSING:
        return False
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        spend(env, 1 + len(a))
        return len(a) == len(b) and all(equal(env, x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        spend(env, 1 + len(a))
        return len(a) == len(b) and all(
            (other := _lookup(b, key)) is not MISSING and equal(env, value, other)
            for key, value in a.items()
        )
    if is_number(a) and is_number(b):
        return bool(a == b)
    if kind is bytes:
        _spend_comparison(env, a)
    return type_name(a) == type_name(b) and bool(a == b)


_ZEROS: dict[str, Any] = {
    "null_type": 0,
    "bool": False,
    "int": 0,
    "uint": 0,
    "double": 0,
    "string": "",
    "bytes": b"",
    _TIMESTAMP: datetime.min.replace(tzinfo=UTC),
    _DURATION: timedelta(),
}


def ordered(env: Env, symbol: str, compare: Callable[[Any, Any], bool], a: Any, b: Any) -> bool:
    """`a < b` and the like, for all types."""
    if a is MISSING:
        return symbol[0] == "<"
    if b is MISSING:
        return symbol[0] == ">"
    if is_number(a) and is_number(b):
        return compare(a, b)
    left, right = type_name(a), type_name(b)
    if left == "null_type":
        a, left = _ZEROS.get(right), right
    elif right == "null_type":
        b, right = _ZEROS.get(left), left
    if left != right or left not in _ZEROS:
        raise EvaluationError(
            f"{left} {symbol} {right} has no order; convert one side, as in double(x)"
        )
    if isinstance(a, (str, bytes)):
        _spend_comparison(env, a)
    return compare(a if a is not None else 0, b if b is not None else 0)


def _lookup(mapping: dict[Any, Any], key: Any) -> Any:
    """The value of a key, as CEL compares keys: 1 is 1.0 and 1u, but not true."""
    if type(key) is str:
        return mapping.get(key, MISSING)
    if isinstance(key, (dict, list, bytes, datetime, timedelta)) or key is None:
        raise EvaluationError(f"a map has no keys of type {type_name(key)}")
    value = mapping.get(key, MISSING)
    if value is MISSING or isinstance(key, str):
        return value
    found = any(
        other == key and isinstance(other, bool) == isinstance(key, bool) for other in mapping
    )
    return value if found else MISSING


def select(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, MISSING)
    if value is None or value is MISSING:
        return MISSING
    raise EvaluationError(f"{type_name(value)} has no field {key!r}")


def index(value: Any, key: Any) -> Any:
    if value is None or value is MISSING or key is MISSING:
        return MISSING
    if isinstance(value, dict):
        return _lookup(value, key)
    if isinstance(value, (list, tuple)):
        if not is_number(key) or key % 1 != 0:
            raise EvaluationError(f"a list index must be a whole number, not {type_name(key)}")
        if not 0 <= key < len(value):
            raise EvaluationError(f"index {key} is outside the list of {len(value)}")
        return value[int(key)]
    raise EvaluationError(f"{type_name(value)} can't be indexed")


def contains(env: Env, item: Any, items: Any) -> bool:
    if item is MISSING or items is MISSING:
        return False
    if isinstance(items, dict):
        return _lookup(items, item) is not MISSING
    if isinstance(items, (list, tuple)):
        if type(item) is str:
            spend(env, len(items) // 8 + len(items) * (len(item) >> 12))
            return item in items
        spend(env, len(items))
        return any(equal(env, item, other) for other in items)
    raise EvaluationError(f"'in' needs a list or a map on its right, not {type_name(items)}")


def checked(value: Any, unsigned: bool) -> Any:
    if isinstance(value, int):
        if unsigned:
            if not 0 <= value <= _UINT_MAX:
                raise EvaluationError("uint overflow")
            return UInt(value)
        if not _INT_MIN <= value <= _INT_MAX:
            raise EvaluationError("int overflow")
    return value


def _sized(value: Any) -> Any:
    if len(value) > MAX_SIZE:
        raise LimitError(f"'+' builds a value larger than {MAX_SIZE:,}")
    return value


def add(env: Env, a: Any, b: Any) -> Any:
    if a is MISSING or a is None:
        return b if b is not MISSING or a is MISSING else a
    if b is MISSING or b is None:
        return a
    if is_number(a) and is_number(b):
        return checked(a + b, type(a) is UInt is type(b))
    if (isinstance(a, str) and isinstance(b, str)) or (
        isinstance(a, bytes) and isinstance(b, bytes)
    ):
        spend_text(env, a)
        spend_text(env, b)
        return _sized(a + b)  # type: ignore[operator]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        spend(env, (len(a) + len(b)) // 8)
        return _sized([*a, *b])
    if isinstance(a, timedelta) and isinstance(b, (timedelta, datetime)):
        return b + a
    if isinstance(a, datetime) and isinstance(b, timedelta):
        return a + b
    left, right = type_name(a), type_name(b)
    if left == right:
        raise EvaluationError(f"{left} + {right} has no meaning")
    return _sized(as_text(env, a) + as_text(env, b))


def _subtract(env: Env, a: Any, b: Any) -> Any:
    if isinstance(a, (datetime, timedelta)) and isinstance(b, (datetime, timedelta)):
        return a - b  # type: ignore[operator]  # duration - timestamp: a TypeError, reported as one of the expression
    return _arithmetic("-", operator.sub, a, b)


def _arithmetic(symbol: str, compute: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if not (is_number(a) and is_number(b)):
        raise EvaluationError(
            f"{type_name(a)} {symbol} {type_name(b)} has no meaning; convert, as in double(x)"
        )
    return checked(compute(a, b), type(a) is UInt is type(b))


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise EvaluationError("division by zero")
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    if b == 0:
        return float("nan") if a == 0 or a != a else float("inf") if a > 0 else float("-inf")
    return a / b


def _remainder(a: Any, b: Any) -> Any:
    if a != int(a) or b != int(b):  # JSON has one kind of number, so 4.0 may stand for 4
        raise EvaluationError("% needs whole numbers; convert first, as in int(x)")
    if b == 0:
        raise EvaluationError("division by zero")
    result = abs(int(a)) % abs(int(b))
    return -result if a < 0 else result


def _negate(_env: Env, a: Any) -> Any:
    if isinstance(a, timedelta):
        return -a
    if not is_number(a) or type(a) is UInt:
        raise EvaluationError(f"-{type_name(a)} has no meaning")
    return checked(-a, unsigned=False)


def _number_text(value: float) -> str:
    if isinstance(value, int):
        return int.__repr__(value)
    if value == value and abs(value) < 1e21 and value == int(value):
        return f"{value:.0f}"  # -0.0 is "-0"
    return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(text := repr(value), text)


def _timestamp_text(value: datetime) -> str:
    text = value.astimezone(UTC).isoformat(
        timespec="microseconds" if value.microsecond else "seconds"
    )
    text = text.removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "Z"


def _duration_text(value: timedelta) -> str:
    micros = value // timedelta(microseconds=1)
    text = f"{abs(micros) // 1_000_000}.{abs(micros) % 1_000_000:06}".rstrip("0").rstrip(".")
    return f"{'-' if micros < 0 else ''}{text}s"


def as_text(env: Env, value: Any) -> str:
    match value:
        case str():
            spend_text(env, value)
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number_text(plain(env, value))
        case bytes():
            spend_text(env, value)
            return value.decode()
        case list() | tuple() | dict():
            return json.dumps(plain(env, value), separators=(",", ":"), ensure_ascii=False)
        case _:
            return str(plain(env, value))


def plain(env: Env, value: Any) -> Any:
    """The JSON value an expression ends with; missing ends as false."""
    match value:
        case str():
            spend_text(env, value)
            return value
        case None | bool() | float():
            return value
        case _Missing():
            return False
        case int():
            spend(env, value.bit_length() >> 5)  # writing a long integer takes long
            return int(value)
        case dict():
            spend(env, 1 + len(value))
            return {as_text(env, k): plain(env, v) for k, v in value.items()}
        case list() | tuple():
            spend(env, 1 + len(value))
            return [plain(env, v) for v in value]
        case datetime():
            return _timestamp_text(value)
        case timedelta():
            return _duration_text(value)
        case bytes():
            spend_text(env, value)
            return base64.b64encode(value).decode()
        case Type(name=name):
            return name
        case _:
            return type_name(value)  # raises


OPERATORS: dict[str, Callable[..., Any]] = {
    "_-_": _subtract,
    "_*_": lambda _env, a, b: _arithmetic("*", operator.mul, a, b),
    "_/_": lambda _env, a, b: _arithmetic("/", _divide, a, b),
    "_%_": lambda _env, a, b: _arithmetic("%", _remainder, a, b),
    "-_": _negate,
}
ORDERS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "_<_": ("<", operator.lt),
    "_<=_": ("<=", operator.le),
    "_>_": (">", operator.gt),
    "_>=_": (">=", operator.ge),
}
