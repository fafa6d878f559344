"""Inngest's expression language: CEL in which a missing key is null instead of an error.

`cel-expr-python` (Google's C++) parses and expands macros, and its syntax tree is compiled once to Python closures: no
library can be given Inngest's missing keys, `&&` and `||`. Medians for `event.data.plan == 'enterprise' &&
event.data.amount > 10.0` on the fixture's event, two cores: the closures 0.8 us (75 us to compile, then cached);
evaluated by the libraries themselves 9 us (`cel-expr-python`) and 52 us (`common-expression-language`); `cel-python`
took 150 us on a tiny event. `matches()` runs on the library's RE2, so no pattern takes more than linear time.

An `Expression` is immutable and evaluation keeps its state in one local list, so any number of threads may share one.
It is deterministic given `now`, and bounded: length, nesting and work (`MAX_LENGTH`, `MAX_DEPTH`, `MAX_WORK`).

Numbers are CEL's (`7 / 2` is 3, `7 / 2.0` is 3.5; int, uint and double mix), not the accidents of Inngest's engine.
"""

import base64
import json
import operator
import re
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast
from zoneinfo import ZoneInfo

__all__ = ["EvaluationError", "Expression", "ExpressionError", "check_cancel_policy", "compile_expression"]

MAX_LENGTH = 8_192
"""Characters in one expression."""
MAX_DEPTH = 32
"""Levels of nesting, counting `a + b + c` and `a.b.c` as one level per operator: the parser's own limit."""
MAX_WORK = 500_000
"""Syntax tree nodes visited by the macros of one evaluation, plus a share of the text and lists it handles (~0.3 s)."""
MAX_SIZE = 1_000_000
"""Characters of text, or elements of a list, that `+` may build."""
CACHE_SIZE = 2_048
"""Compiled expressions kept per process."""


class ExpressionError(ValueError):
    """An expression that can't be compiled or isn't allowed where it stands.

    `position` is the offset in `source`, in characters; `message` says what is wrong and what to do.
    """

    def __init__(self, message: str, position: int = 0, source: str = "") -> None:
        self.message = message
        self.position = position
        self.source = source
        before = source[:position]
        line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
        where = f"column {column}" if "\n" not in source else f"line {line}, column {column}"
        super().__init__(f"{message} (at {where} of expression {_shortened(source)})" if source else message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.position, self.source)


class EvaluationError(ValueError):
    """An expression that has no value for the events it was given."""

    def __init__(self, message: str, source: str = "") -> None:
        self.message = message
        self.source = source
        super().__init__(f"{message} (in expression {_shortened(source)})" if source else message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.source)


class _LimitError(EvaluationError):
    """Too much work: unlike other errors, not falsy in `||`."""


def _shortened(source: str, limit: int = 200) -> str:
    return repr(source if len(source) <= limit else source[: limit - 3] + "...")


# -- the library: parsing and RE2 ------------------------------------------------------------------------------------


class _CelValue(Protocol):
    def value(self) -> object: ...


class _CelExpression(Protocol):
    def serialize(self) -> bytes: ...
    def eval(self, *, data: Mapping[str, object]) -> _CelValue: ...


class _CelEnv(Protocol):
    def compile(self, expression: str, disable_check: bool) -> _CelExpression: ...


class _CelModule(Protocol):
    def NewEnv(self) -> _CelEnv: ...


# The package has stubs but no `py.typed`, so type checkers may not follow an import statement.
_ENV = cast(_CelModule, import_module("cel_expr_python.cel")).NewEnv()
_ENV_LOCK = threading.Lock()
_MATCHES = _ENV.compile("text.matches(pattern)", disable_check=True)


@dataclass(frozen=True, slots=True)
class Const:
    value: Any
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Ident:
    name: str
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.key`, or `has(operand.key)` if `test`."""

    operand: "Node"
    key: str
    test: bool = False
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A function, method (`target` is not None) or operator (named as in CEL: `_==_`, `_[_]`, `!_`, ...)."""

    function: str
    target: "Node | None"
    args: "tuple[Node, ...]"
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ListLiteral:
    items: "tuple[Node, ...]"
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class MapLiteral:
    entries: "tuple[tuple[Node, Node], ...]"
    position: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Macro:
    """`items.kind(variable, [condition,] body)`, recognised from what the parser expands it to."""

    kind: str
    variable: str
    items: "Node"
    condition: "Node | None"
    body: "Node"
    position: int = field(default=0, compare=False)


Node: TypeAlias = Const | Ident | Select | Call | ListLiteral | MapLiteral | Macro


def children(node: Node) -> Iterator[Node]:
    match node:
        case Select(operand=operand):
            yield operand
        case Call(target=target, args=args):
            if target is not None:
                yield target
            yield from args
        case ListLiteral(items=items):
            yield from items
        case MapLiteral(entries=entries):
            for key, value in entries:
                yield key
                yield value
        case Macro(items=items_, condition=condition, body=body):
            yield items_
            if condition is not None:
                yield condition
            yield body


def const_path(node: Node) -> tuple[str, tuple[str, ...]] | None:
    """`("event", ("data", "k"))` for `event.data.k` and `event["data"]["k"]`; None for anything else."""
    keys: list[str] = []
    while True:
        match node:
            case Ident(name=name):
                return name, tuple(reversed(keys))
            case Select(operand=operand, key=key, test=False):
                keys.append(key)
                node = operand
            case Call(function="_[_]", args=(operand, Const(value=str(key)))):
                keys.append(key)
                node = operand
            case _:
                return None


_Fields: TypeAlias = dict[int, list[Any]]


def _fields(data: bytes) -> _Fields:
    """The fields of one protobuf message: number -> values (varints, 8-byte doubles as bytes, or nested bytes)."""
    fields: _Fields = {}
    at, end = 0, len(data)

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < end:
        tag = varint()
        value: int | bytes
        match tag & 7:
            case 0:
                value = varint()
            case wire:
                size = {1: 8, 5: 4}.get(wire) or varint()
                value = data[at : at + size]
                at += size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _text(fields: _Fields, number: int) -> str:
    return cast(bytes, fields[number][0]).decode() if number in fields else ""


class _TreeReader:
    """Reads `cel.expr.ParsedExpr` (https://github.com/google/cel-spec/blob/master/proto/cel/expr/syntax.proto)."""

    def __init__(self, source: str, serialized: bytes) -> None:
        self._source = source
        parsed = _fields(_fields(serialized)[2][0])
        info = _fields(parsed[3][0])
        entries = [_fields(entry) for entry in info.get(4, [])]
        self._positions: dict[int, int] = {e[1][0]: e.get(2, [0])[0] for e in entries if 1 in e}
        self.root = self._read(parsed[2][0])

    def _read(self, data: bytes) -> Node:
        expr = _fields(data)
        position = min(self._positions.get(expr.get(2, [0])[0], 0), len(self._source))
        for kind in (3, 4, 5, 6, 7, 8, 9):
            if kind in expr:
                fields = _fields(expr[kind][0])
                break
        match kind:
            case 3:
                return Const(self._constant(fields), position)
            case 4:
                return Ident(_text(fields, 1).removeprefix("."), position)
            case 5:
                return Select(self._read(fields[1][0]), _text(fields, 2), 3 in fields, position)
            case 6:
                target = self._read(fields[1][0]) if 1 in fields else None
                return Call(_text(fields, 2), target, tuple(map(self._read, fields.get(3, []))), position)
            case 7:
                return ListLiteral(tuple(map(self._read, fields.get(1, []))), position)
            case 8:
                if _text(fields, 1):
                    message = f"message types like {_text(fields, 1)} don't exist here; use a map: {{'key': value}}"
                    raise ExpressionError(message, position, self._source)
                pairs = [_fields(entry) for entry in fields.get(2, [])]
                return MapLiteral(tuple((self._read(p[3][0]), self._read(p[4][0])) for p in pairs), position)
            case _:
                return self._macro(fields, position)

    @staticmethod
    def _constant(fields: _Fields) -> Any:
        ((kind, (value, *_)),) = fields.items()
        match kind:
            case 2:
                return bool(value)
            case 3:
                return value - (1 << 64) if value >= 1 << 63 else value
            case 4:
                return UInt(value)
            case 5:
                return struct.unpack("<d", value)[0]
            case 6:
                return value.decode()
            case 7:
                return value
            case _:
                return None

    def _macro(self, fields: _Fields, position: int) -> Node:
        variable, accumulator = _text(fields, 1), _text(fields, 3)
        items, step = self._read(fields[2][0]), self._read(fields[6][0])

        def added(node: Node) -> Node | None:
            match node:
                case Call(function="_+_", args=(Ident(name=name), ListLiteral(items=(item,)))) if name == accumulator:
                    return item
                case _:
                    return None

        match step:
            case Call(function="_&&_", args=(Ident(name=name), body)) if name == accumulator:
                return Macro("all", variable, items, None, body, position)
            case Call(function="_||_", args=(Ident(name=name), body)) if name == accumulator:
                return Macro("exists", variable, items, None, body, position)
            case Call(function="_?_:_", args=(condition, then, _)):
                item = added(then)
                if item is None:
                    return Macro("exists_one", variable, items, None, condition, position)
                if item == Ident(variable):
                    return Macro("filter", variable, items, None, condition, position)
                return Macro("map", variable, items, condition, item, position)
            case _:
                item = added(step)
                if item is None:
                    raise ExpressionError("this macro isn't supported", position, self._source)
                return Macro("map", variable, items, None, item, position)


_PROBLEM = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


def _parse(source: str) -> Node:
    if len(source) > MAX_LENGTH:
        message = f"the expression has {len(source):,} characters (limit {MAX_LENGTH:,}); move data into the event"
        raise ExpressionError(message, MAX_LENGTH, source)
    if not source.strip():
        raise ExpressionError("the expression is empty; leave it out or write a condition", 0, source)
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise ExpressionError("the expression isn't valid Unicode", error.start, source) from None
    try:
        with _ENV_LOCK:
            serialized = _ENV.compile(source, disable_check=True).serialize()
    except (RuntimeError, TypeError) as error:
        raise _syntax_error(source, str(error)) from None
    return _TreeReader(source, serialized).root


def _syntax_error(source: str, report: str) -> ExpressionError:
    if "recursion" in report:
        message = f"the expression is nested too deeply (limit {MAX_DEPTH} levels); use fewer operators in a row"
        return ExpressionError(message, 0, source)
    found = _PROBLEM.search(report)
    if not found:
        return ExpressionError(f"the expression can't be parsed: {report[:200]}", 0, source)
    line, column, problem = int(found[1]), int(found[2]), found[3]
    starts = [0, *(m.end() for m in re.finditer("\n", source))]
    position = min(starts[min(line, len(starts)) - 1] + column - 1, len(source))
    rest = source[position:]
    word = re.match(r"\w+|\W", rest)
    if not problem.startswith("Syntax error"):
        return ExpressionError(problem, position, source)
    if not rest.strip():
        return ExpressionError("the expression ends too early; complete it", position, source)
    token = word[0] if word else rest[:1]
    remedies = {"=": "use == to compare", "&": "use &&", "|": "use ||", "and": "use &&", "or": "use ||", "not": "use !"}
    remedy = remedies.get(token, "check for a missing operator, quote or bracket")
    if rest[0] in "'\"":
        remedy = "close the string, and write a backslash as \\\\"
    return ExpressionError(f"unexpected {token!r}; {remedy}", position, source)


# -- values ----------------------------------------------------------------------------------------------------------


class UInt(int):
    """CEL's unsigned integer."""


@dataclass(frozen=True, slots=True)
class _Type:
    name: str


class _Missing:
    """The value of a key that isn't there: almost null (reference §6 has the table)."""

    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()

Env: TypeAlias = list[Any]
"""State of one evaluation: event, async, vars, now, work left, then one slot per macro variable."""
Closure: TypeAlias = Callable[[Env], Any]

_EVENT, _ASYNC, _VARS, _NOW, _WORK, _SLOTS = range(6)
_ROOTS = {"event": _EVENT, "async": _ASYNC, "vars": _VARS}
_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
_TYPES = {
    name: _Type(name)
    for name in ("bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint")
} | {_TIMESTAMP: _Type(_TIMESTAMP), _DURATION: _Type(_DURATION)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT_MIN, _INT_MAX, _UINT_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1


def _spend(env: Env, work: int) -> None:
    env[_WORK] -= work
    if env[_WORK] < 0:
        raise _LimitError(f"the expression takes too much work (limit {MAX_WORK:,} operations); filter smaller lists")


def _type_name(value: Any) -> str:
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
        case _Type():
            return "type"
        case _:
            raise EvaluationError(f"{type(value).__name__} isn't a JSON value")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _truthy(value: Any) -> bool:
    """JavaScript's idea of it, with one addition: missing is falsy. Lists and maps are truthy even when empty."""
    if isinstance(value, (int, float, str, bytes)):
        return bool(value)
    return value is not None and value is not MISSING


def _equal(env: Env, a: Any, b: Any) -> bool:
    kind = type(a)
    if kind is str and type(b) is str:
        return bool(a == b)
    if a is None or b is None:
        return (a is None or a is MISSING) and (b is None or b is MISSING)
    if a is MISSING or b is MISSING:
        return False
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        _spend(env, 1 + len(a))
        return len(a) == len(b) and all(_equal(env, x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        _spend(env, 1 + len(a))
        return len(a) == len(b) and all(
            (other := _lookup(b, key)) is not MISSING and _equal(env, value, other) for key, value in a.items()
        )
    if _is_number(a) and _is_number(b):
        return bool(a == b)
    return _type_name(a) == _type_name(b) and bool(a == b)


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


def _ordered(symbol: str, compare: Callable[[Any, Any], bool], a: Any, b: Any) -> bool:
    """`a < b` and the like, for all types."""
    if a is MISSING:
        return symbol[0] == "<"
    if b is MISSING:
        return symbol[0] == ">"
    if _is_number(a) and _is_number(b):
        return compare(a, b)
    left, right = _type_name(a), _type_name(b)
    if left == "null_type":
        a, left = _ZEROS.get(right), right
    elif right == "null_type":
        b, right = _ZEROS.get(left), left
    if left != right or left not in _ZEROS:
        raise EvaluationError(f"{left} {symbol} {right} has no order; convert one side, as in double(x)")
    return compare(a if a is not None else 0, b if b is not None else 0)


def _lookup(mapping: dict[Any, Any], key: Any) -> Any:
    """The value of a key, as CEL compares keys: 1 is 1.0 and 1u, but not true."""
    if type(key) is str:
        return mapping.get(key, MISSING)
    if isinstance(key, (dict, list, bytes, datetime, timedelta)) or key is None:
        raise EvaluationError(f"a map has no keys of type {_type_name(key)}")
    value = mapping.get(key, MISSING)
    if value is MISSING or isinstance(key, str):
        return value
    found = any(other == key and isinstance(other, bool) == isinstance(key, bool) for other in mapping)
    return value if found else MISSING


def _select(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value.get(key, MISSING)
    if value is None or value is MISSING:
        return MISSING
    raise EvaluationError(f"{_type_name(value)} has no field {key!r}")


def _index(value: Any, key: Any) -> Any:
    if value is None or value is MISSING or key is MISSING:
        return MISSING
    if isinstance(value, dict):
        return _lookup(value, key)
    if isinstance(value, (list, tuple)):
        if not _is_number(key) or key % 1 != 0:
            raise EvaluationError(f"a list index must be a whole number, not {_type_name(key)}")
        if not 0 <= key < len(value):
            raise EvaluationError(f"index {key} is outside the list of {len(value)}")
        return value[int(key)]
    raise EvaluationError(f"{_type_name(value)} can't be indexed")


def _contains(env: Env, item: Any, items: Any) -> bool:
    if item is MISSING or items is MISSING:
        return False
    if isinstance(items, dict):
        return _lookup(items, item) is not MISSING
    if isinstance(items, (list, tuple)):
        _spend(env, len(items) // 8)
        if type(item) is str:
            return item in items
        return any(_equal(env, item, other) for other in items)
    raise EvaluationError(f"'in' needs a list or a map on its right, not {_type_name(items)}")


def _checked(value: Any, unsigned: bool) -> Any:
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
        raise _LimitError(f"'+' builds a value larger than {MAX_SIZE:,}")
    return value


def _add(env: Env, a: Any, b: Any) -> Any:
    if a is MISSING or a is None:
        return b if b is not MISSING or a is MISSING else a
    if b is MISSING or b is None:
        return a
    if _is_number(a) and _is_number(b):
        return _checked(a + b, type(a) is UInt is type(b))
    if isinstance(a, str) and isinstance(b, str):
        _spend(env, (len(a) + len(b)) // 32)
        return _sized(a + b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        _spend(env, (len(a) + len(b)) // 8)
        return _sized([*a, *b])
    if isinstance(a, bytes) and isinstance(b, bytes):
        return _sized(a + b)
    if isinstance(a, timedelta) and isinstance(b, (timedelta, datetime)):
        return b + a
    if isinstance(a, datetime) and isinstance(b, timedelta):
        return a + b
    left, right = _type_name(a), _type_name(b)
    if left == right:
        raise EvaluationError(f"{left} + {right} has no meaning")
    return _sized(_as_text(env, a) + _as_text(env, b))


def _subtract(env: Env, a: Any, b: Any) -> Any:
    if isinstance(a, (datetime, timedelta)) and isinstance(b, (datetime, timedelta)):
        return a - b  # type: ignore[operator]  # duration - timestamp: a TypeError, reported as one of the expression
    return _arithmetic("-", operator.sub, a, b)


def _arithmetic(symbol: str, compute: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if not (_is_number(a) and _is_number(b)):
        raise EvaluationError(f"{_type_name(a)} {symbol} {_type_name(b)} has no meaning; convert, as in double(x)")
    return _checked(compute(a, b), type(a) is UInt is type(b))


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
    if not _is_number(a) or type(a) is UInt:
        raise EvaluationError(f"-{_type_name(a)} has no meaning")
    return _checked(-a, unsigned=False)


def _number_text(value: float) -> str:
    if isinstance(value, int):
        return int.__repr__(value)
    if value == value and abs(value) < 1e21 and value == int(value):
        return str(int(value))
    return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(text := repr(value), text)


def _timestamp_text(value: datetime) -> str:
    text = value.astimezone(UTC).isoformat(timespec="microseconds" if value.microsecond else "seconds")
    text = text.removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "Z"


def _duration_text(value: timedelta) -> str:
    micros = value // timedelta(microseconds=1)
    text = f"{abs(micros) // 1_000_000}.{abs(micros) % 1_000_000:06}".rstrip("0").rstrip(".")
    return f"{'-' if micros < 0 else ''}{text}s"


def _as_text(env: Env, value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number_text(value)
        case bytes():
            return value.decode()
        case list() | tuple() | dict():
            return json.dumps(_plain(env, value), separators=(",", ":"), ensure_ascii=False)
        case _:
            return str(_plain(env, value))


def _plain(env: Env, value: Any) -> Any:
    """The JSON value an expression ends with; missing ends as false."""
    match value:
        case None | str() | bool():
            return value
        case _Missing():
            return False
        case UInt():
            return int(value)
        case int() | float():
            return value
        case dict():
            _spend(env, 1 + len(value))
            return {_as_text(env, k): _plain(env, v) for k, v in value.items()}
        case list() | tuple():
            _spend(env, 1 + len(value))
            return [_plain(env, v) for v in value]
        case datetime():
            return _timestamp_text(value)
        case timedelta():
            return _duration_text(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _Type(name=name):
            return name
        case _:
            return _type_name(value)  # raises


# -- functions -------------------------------------------------------------------------------------------------------

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
        raise EvaluationError(f"{name}() needs a string, not {_type_name(value)}")
    return value


def _to_duration(_env: Env, value: Any, *, name: str = "duration", allow_days: bool = False) -> timedelta:
    if isinstance(value, timedelta):
        return value
    text = _text_argument(name, value)
    sign, body = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    parts = list(_DURATION_PART.finditer(body)) if len(body) < 100 else []
    if (not parts or sum(len(p[0]) for p in parts) != len(body)) and body != "0":
        raise EvaluationError(f"{text[:50]!r} isn't a duration; write it like '1h30m'")
    if not allow_days and any(p[2] in "dw" for p in parts):
        raise EvaluationError(f"{text!r} has days or weeks; {name}() takes hours at most, as in '24h'")
    micros = sum(
        int(p[1]) * int(_UNITS[p[2]]) if p[1].isdigit() and p[2] != "ns" else float(p[1]) * _UNITS[p[2]] for p in parts
    )
    return sign * timedelta(microseconds=micros)


def _to_timestamp(_env: Env, value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return _EPOCH + timedelta(seconds=value)
    found = _RFC3339.fullmatch(text := _text_argument("timestamp", value))
    if not found:
        raise EvaluationError(f"{text[:50]!r} isn't an RFC 3339 timestamp; for other formats use date()")
    day, time, fraction, offset = found.groups()
    fraction = ((fraction or "") + "000000")[:6]
    return datetime.fromisoformat(f"{day}T{time}.{fraction}{offset.upper().replace('Z', '+00:00')}").astimezone(UTC)


def _date(_env: Env, value: Any) -> datetime:
    """A moment from text in many formats (UTC unless it says otherwise), or from s, ms, us or ns since 1970."""
    if isinstance(value, datetime):
        return value
    text = value.strip()[:100] if isinstance(value, str) else ""
    if text.lstrip("-").isdigit() and len(text) > 8:
        value = int(text)
    if _is_number(value):
        unit = next((u for limit, u in ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000)) if abs(value) < limit), 10**9)
        if isinstance(value, int):
            return _EPOCH + timedelta(microseconds=value * 1_000_000 // unit)
        return _EPOCH + timedelta(seconds=value / unit)
    parsed = _parse_date(_text_argument("date", value).strip()[:100])
    if parsed is None:
        raise EvaluationError(f"{text[:50]!r} isn't a date; write it like '2024-05-06' or '2024-05-06T07:08:09Z'")
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)


def _parse_date(text: str) -> datetime | None:
    iso = re.sub(r"(\.\d{6})\d+", r"\1", text.removesuffix(" UTC"))
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        pass
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
    if env[_NOW] is None:
        env[_NOW] = datetime.now(UTC)
    return cast(datetime, env[_NOW])


def _b64decode(env: Env, value: Any) -> str:
    text = _text_argument("b64decode", value)
    _spend(env, len(text) // 32)
    text = text.replace("\n", "").replace("\r", "")
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded, validate=True).decode()
    except ValueError:
        raise EvaluationError("b64decode() needs base64 of UTF-8 text") from None


def _json_parse(env: Env, value: Any) -> dict[str, Any]:
    text = _text_argument("json_parse", value)
    _spend(env, len(text) // 8)
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise EvaluationError(f"json_parse() needs the text of an object, not of a {_type_name(parsed)}")
    return parsed


def _size(_env: Env, value: Any) -> int:
    if isinstance(value, (str, bytes, list, tuple, dict)):
        return len(value)
    raise EvaluationError(f"{_type_name(value)} has no size()")


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
            number = (value - _EPOCH) // timedelta(seconds=1)
        case str():
            raise EvaluationError(f"{value[:50]!r} isn't a whole number")
        case _:
            raise EvaluationError(f"{name}() doesn't take {_type_name(value)}")
    return cast(int, _checked(number, unsigned))


def _to_double(_env: Env, value: Any) -> float:
    if isinstance(value, str):
        if "_" in value:
            raise EvaluationError(f"{value[:50]!r} isn't a number")
        return float(value)
    if not _is_number(value):
        raise EvaluationError(f"double() doesn't take {_type_name(value)}")
    return float(value)


def _to_string(env: Env, value: Any) -> str:
    if value is None or isinstance(value, (list, tuple, dict, _Type)):
        raise EvaluationError(f"string() doesn't take {_type_name(value)}")
    return _as_text(env, value)


def _to_bool(_env: Env, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if isinstance(value, str) and value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise EvaluationError("bool() takes a bool, or 'true' or 'false'")


def _matches(env: Env, text: Any, pattern: Any) -> bool:
    text, pattern = _text_argument("matches", text), _text_argument("matches", pattern)
    if len(pattern) > 1_000:
        raise _LimitError("the pattern of matches() is longer than 1,000 characters")
    _spend(env, 100 + len(text) // 8 + 2 * len(pattern))
    try:
        found = _MATCHES.eval(data={"text": text, "pattern": pattern}).value()
    except (RuntimeError, TypeError):
        found = None
    if not isinstance(found, bool):  # the library returns errors as values
        raise EvaluationError(f"matches() needs Unicode text and a pattern RE2 accepts, not {pattern[:50]!r}")
    return found


def _text_test(name: str, test: Callable[[str, str], bool]) -> Callable[..., Any]:
    def call(env: Env, text: Any, part: Any) -> bool:
        text, part = _text_argument(name, text), _text_argument(name, part)
        _spend(env, len(text) // 32)
        return test(text, part)

    return call


def _zone(name: str) -> tzinfo:
    if found := re.fullmatch(r"([+-]?)(\d\d):(\d\d)", name):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset)
    return ZoneInfo(name)


def _time_part(
    name: str, of_moment: Callable[[datetime], int], of_duration: Callable[[timedelta], int] | None = None
) -> Callable[..., Any]:
    def call(_env: Env, value: Any, zone: Any = None) -> int:
        if isinstance(value, timedelta) and of_duration is not None and zone is None:
            return of_duration(value)
        if not isinstance(value, datetime):
            raise EvaluationError(f"{name}() needs a timestamp, as in date(x).{name}(), not {_type_name(value)}")
        return of_moment(value.astimezone(UTC if zone is None else _zone(_text_argument(name, zone))))

    return call


def _whole(value: timedelta, unit: timedelta) -> int:
    return value // unit if value >= timedelta() else -(-value // unit)


@dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]
    """Takes the `Env`, the target if it is a method, and the arguments."""
    arguments: tuple[int, ...]
    """How many, the target of a method included."""
    plain: bool = True
    method: bool = False


def _lowercase(env: Env, value: Any) -> str:
    text = _text_argument("lowercase", value)
    _spend(env, len(text) // 32)
    return text.lower()


def _uppercase(env: Env, value: Any) -> str:
    text = _text_argument("uppercase", value)
    _spend(env, len(text) // 32)
    return text.upper()


def _to_bytes(_env: Env, value: Any) -> bytes:
    return value if isinstance(value, bytes) else _text_argument("bytes", value).encode()


def _moved(env: Env, value: Any, sign: int, name: str) -> datetime:
    return _now(env) + sign * _to_duration(env, value, name=name, allow_days=True)


_FUNCTIONS: dict[str, _Function] = {
    # Inngest's
    "lowercase": _Function(_lowercase, (1,)),
    "uppercase": _Function(_uppercase, (1,)),
    "b64decode": _Function(_b64decode, (1,)),
    "json_parse": _Function(_json_parse, (1,)),
    "date": _Function(_date, (1,)),
    "now": _Function(_now, (0,)),
    "now_plus": _Function(lambda env, value: _moved(env, value, 1, "now_plus"), (1,)),
    "now_minus": _Function(lambda env, value: _moved(env, value, -1, "now_minus"), (1,)),
    # CEL's
    "size": _Function(_size, (1,), method=True),
    "int": _Function(_to_int, (1,)),
    "uint": _Function(lambda env, value: _to_int(env, value, unsigned=True), (1,)),
    "double": _Function(_to_double, (1,)),
    "string": _Function(_to_string, (1,)),
    "bool": _Function(_to_bool, (1,)),
    "bytes": _Function(_to_bytes, (1,)),
    "timestamp": _Function(_to_timestamp, (1,)),
    "duration": _Function(_to_duration, (1,)),
    "dyn": _Function(lambda _env, value: value, (1,)),
    "type": _Function(lambda _env, value: _TYPES[_type_name(value)], (1,)),
    "matches": _Function(_matches, (2,), method=True),
    "contains": _Function(_text_test("contains", operator.contains), (2,), plain=False, method=True),
    "startsWith": _Function(_text_test("startsWith", str.startswith), (2,), plain=False, method=True),
    "endsWith": _Function(_text_test("endsWith", str.endswith), (2,), plain=False, method=True),
} | {
    name: _Function(_time_part(name, of_moment, of_duration), (1, 2), plain=False, method=True)
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
            ("getMilliseconds", lambda t: t.microsecond // 1000, lambda d: _whole(d, timedelta(milliseconds=1))),
        ],
    )
}

_OPERATORS: dict[str, Callable[..., Any]] = {
    "_-_": _subtract,
    "_*_": lambda _env, a, b: _arithmetic("*", operator.mul, a, b),
    "_/_": lambda _env, a, b: _arithmetic("/", _divide, a, b),
    "_%_": lambda _env, a, b: _arithmetic("%", _remainder, a, b),
    "-_": _negate,
}
_ORDERS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "_<_": ("<", operator.lt),
    "_<=_": ("<=", operator.le),
    "_>_": (">", operator.gt),
    "_>=_": (">=", operator.ge),
}


_SYMBOLS = {"_==_", "_!=_", "_+_", "!_", "@in", "_?_:_", *_OPERATORS, *_ORDERS}


# -- compiling to closures -------------------------------------------------------------------------------------------


def operands(function: str, node: Call) -> Iterator[Node]:
    """Of a chain of one operator: a, b and c of `a && b && c`, however grouped."""
    for arg in node.args:
        if isinstance(arg, Call) and arg.function == function:
            yield from operands(function, arg)
        else:
            yield arg


def _node_count(node: Node) -> int:
    return 1 + sum(map(_node_count, children(node)))


class _Compiler:
    def __init__(self, source: str) -> None:
        self._source = source
        self._scope: dict[str, int] = {}
        self.slots = 0

    def build(self, node: Node) -> Closure:
        match node:
            case Const(value=value):
                return lambda env: value
            case Ident() | Select(test=False) | Call(function="_[_]"):
                return self._path(node)
            case Select(operand=operand, key=key):
                return self._has(self.build(operand), key)
            case ListLiteral(items=items):
                return self._list([self.build(item) for item in items], all(isinstance(i, Const) for i in items))
            case MapLiteral(entries=entries):
                return self._map([(self.build(key), self.build(value)) for key, value in entries])
            case Macro():
                return self._macro(node)
            case Call(function="_&&_"):
                return self._and([self.build(part) for part in operands("_&&_", node)])
            case Call(function="_||_"):
                return self._or([self.build(part) for part in operands("_||_", node)])
            case Call(target=None, function=function, args=args) if function in _SYMBOLS:
                return self._operator(function, [self.build(arg) for arg in args])
            case Call():
                return self._call(node)

    def _path(self, node: Node) -> Closure:
        """Identifiers, `.key`, `["key"]` and `[i]`; a chain of constant keys is one closure: the usual node."""
        path = const_path(node)
        if path is None:
            if isinstance(node, Select):
                operand, name = self.build(node.operand), node.key
                return lambda env: _select(operand(env), name)
            assert isinstance(node, Call)
            target, key = map(self.build, node.args)
            return lambda env: _index(target(env), key(env))
        root, keys = path
        slot = self._scope.get(root, _ROOTS.get(root))
        if slot is None:
            # An unknown name has no value, as in Inngest, unless it is the name of a type.
            constant: Any = _TYPES.get(".".join((root, *keys)), MISSING)
            return lambda env: constant
        if not keys:
            return lambda env: env[slot]

        def read(env: Env) -> Any:
            value = env[slot]
            for key in keys:
                value = value.get(key, MISSING) if type(value) is dict else _select(value, key)
            return value

        return read

    @staticmethod
    def _has(operand: Closure, key: str) -> Closure:
        return lambda env: _select(operand(env), key) is not MISSING

    @staticmethod
    def _list(items: list[Closure], constant: bool) -> Closure:
        def build(env: Env) -> list[Any]:
            return [None if (value := item(env)) is MISSING else value for item in items]

        if constant:
            shared = build([])
            return lambda env: shared
        return build

    @staticmethod
    def _map(entries: list[tuple[Closure, Closure]]) -> Closure:
        def build(env: Env) -> dict[Any, Any]:
            result: dict[Any, Any] = {}
            for key_of, value_of in entries:
                key, value = key_of(env), value_of(env)
                if not isinstance(key, (str, int)):
                    raise EvaluationError(f"{_type_name(key)} can't be the key of a map")
                if key in result:
                    raise EvaluationError(f"the map has the key {key!r} twice")
                result[key] = None if value is MISSING else value
            return result

        return build

    @staticmethod
    def _and(parts: list[Closure]) -> Closure:
        if len(parts) == 2:
            first, second = parts

            def both(env: Env) -> Any:
                value = first(env)
                return second(env) if value is True or _truthy(value) else value

            return both
        *head, last = parts

        def every(env: Env) -> Any:
            for part in head:
                value = part(env)
                if value is not True and not _truthy(value):
                    return value
            return last(env)

        return every

    @staticmethod
    def _or(parts: list[Closure]) -> Closure:
        *head, last = parts

        def either(env: Env) -> Any:
            for part in head:
                try:
                    value = part(env)
                except _LimitError:
                    raise
                except EvaluationError:
                    continue
                if value is True or _truthy(value):
                    return value
            return last(env)

        return either

    def _operator(self, function: str, args: list[Closure]) -> Closure:
        if function == "!_":
            (operand,) = args
            return lambda env: not _truthy(operand(env))
        if function == "_?_:_":
            condition, then, otherwise = args
            return lambda env: then(env) if _truthy(condition(env)) else otherwise(env)
        if function in _OPERATORS:
            return self._guarded(_OPERATORS[function], args)
        left, right = args
        if function == "_==_":
            return lambda env: _equal(env, left(env), right(env))
        if function == "_!=_":
            return lambda env: not _equal(env, left(env), right(env))
        if function in _ORDERS:
            symbol, compare = _ORDERS[function]
            return lambda env: _ordered(symbol, compare, left(env), right(env))
        if function == "@in":
            return lambda env: _contains(env, left(env), right(env))
        assert function == "_+_", function
        return self._guarded(_add, args, missing=True)

    @staticmethod
    def _guarded(call: Callable[..., Any], args: list[Closure], *, missing: bool = False) -> Closure:
        """A call whose errors are the expression's; false if an argument is missing, unless it takes `missing`."""

        def run(env: Env) -> Any:
            values = [arg(env) for arg in args]
            if not missing and MISSING in values:
                return False
            try:
                return call(env, *values)
            except EvaluationError:
                raise
            except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, OSError) as error:
                raise EvaluationError(str(error)) from None

        return run

    def _call(self, node: Call) -> Closure:
        name = node.function
        function = _FUNCTIONS.get(name)
        if node.target is None:
            if function is None or not function.plain:
                known = ", ".join(sorted(n for n, f in _FUNCTIONS.items() if f.plain))
                hint = f"call it as x.{name}(...)" if function else f"there are {known}"
                raise ExpressionError(f"unknown function {name}(); {hint}", node.position, self._source)
            nodes: tuple[Node, ...] = node.args
        else:
            path = const_path(node.target)
            known_root = path is None or path[0] in self._scope or path[0] in _ROOTS
            if function is None or not function.method:
                known = ", ".join(sorted(n for n, f in _FUNCTIONS.items() if f.method))
                hint = f"call it as {name}(x)" if function else f"there are {known}"
                message = f"unknown method {name}(); {hint}"
                if not known_root:
                    raise ExpressionError(message, node.position, self._source)
                return self._unknown_method(self.build(node.target), message)
            nodes = (node.target, *node.args)
        if len(nodes) not in function.arguments:
            takes = " or ".join(str(n - (node.target is not None)) for n in function.arguments)
            message = f"{name}() takes {takes} argument(s), not {len(node.args)}"
            raise ExpressionError(message, node.position, self._source)
        args = [self.build(arg) for arg in nodes]
        if name == "size":
            (operand,) = args
            return lambda env: 0 if (value := operand(env)) is MISSING else _size(env, value)
        return self._guarded(function.call, args)

    @staticmethod
    def _unknown_method(target: Closure, message: str) -> Closure:
        """Inngest finds out about these when they are called, so on a missing value they are false."""

        def run(env: Env) -> bool:
            if target(env) is MISSING:
                return False
            raise EvaluationError(message)

        return run

    def _macro(self, node: Macro) -> Closure:
        items_of = self.build(node.items)
        slot = _SLOTS + self.slots
        self.slots += 1
        outer = self._scope
        self._scope = {**outer, node.variable: slot}
        body = self.build(node.body)
        condition = None if node.condition is None else self.build(node.condition)
        self._scope = outer
        cost = 1 + _node_count(node.body) + (0 if node.condition is None else _node_count(node.condition))
        kind = node.kind

        def each(env: Env, items: Any) -> Iterator[Any]:
            if not isinstance(items, (list, tuple, dict)):
                raise EvaluationError(f"{kind}() needs a list or a map, not {_type_name(items)}")
            for item in items:
                _spend(env, cost)
                env[slot] = item
                yield item

        def exists(env: Env) -> bool:
            if (items := items_of(env)) is MISSING:
                return False
            failure: EvaluationError | None = None
            for _ in each(env, items):
                try:
                    if _truthy(body(env)):
                        return True
                except _LimitError:
                    raise
                except EvaluationError as error:
                    failure = error
            if failure is not None:
                raise failure
            return False

        def all_(env: Env) -> bool:
            return (items := items_of(env)) is not MISSING and all(_truthy(body(env)) for _ in each(env, items))

        def exists_one(env: Env) -> bool:
            if (items := items_of(env)) is MISSING:
                return False
            return sum(_truthy(body(env)) for _ in each(env, items)) == 1

        def filter_(env: Env) -> Any:
            if (items := items_of(env)) is MISSING:
                return MISSING
            return [item for item in each(env, items) if _truthy(body(env))]

        def map_(env: Env) -> Any:
            if (items := items_of(env)) is MISSING:
                return MISSING
            return [
                None if (value := body(env)) is MISSING else value
                for _ in each(env, items)
                if condition is None or _truthy(condition(env))
            ]

        macros: dict[str, Closure] = {
            "exists": exists,
            "all": all_,
            "exists_one": exists_one,
            "filter": filter_,
            "map": map_,
        }
        return macros[kind]


# -- the public surface ----------------------------------------------------------------------------------------------


def _reported(error: Exception, source: str) -> EvaluationError:
    match error:
        case EvaluationError():
            return type(error)(error.message, source)
        case RecursionError():
            return EvaluationError("the event is nested too deeply", source)
        case _:
            return EvaluationError(f"the event holds something that isn't JSON: {error}", source)


class Expression:
    """A compiled expression; get one from `compile_expression`."""

    __slots__ = ("_run", "_slots", "node", "source")

    def __init__(self, source: str, node: Node) -> None:
        compiler = _Compiler(source)
        self.source = source
        self.node = node
        """The syntax tree."""
        self._run = compiler.build(node)
        self._slots = [None] * compiler.slots

    def evaluate(
        self, event: Mapping[str, Any], async_event: Mapping[str, Any] | None = None, now: datetime | None = None
    ) -> Any:
        """The value for these events, as JSON: timestamps as RFC 3339 text, durations as `3600s`, missing as False.

        `event` is the run's triggering event, `async_event` the candidate of a wait or cancellation. `now` pins
        `now()`, for workflow code; it is the time of the call by default.

        Raises:
            EvaluationError: The expression has no value for these events.
        """
        env = self._env(event, async_event, now)
        try:
            return _plain(env, self._run(env))
        except Exception as error:
            raise _reported(error, self.source) from None

    def evaluate_raw(self, event: Mapping[str, Any]) -> Any:
        """Like `evaluate`, but not turned to JSON: missing is `MISSING`, timestamps are datetimes.

        Raises:
            EvaluationError: The expression has no value for this event.
        """
        try:
            return self._run(self._env(event, None, None))
        except Exception as error:
            raise _reported(error, self.source) from None

    def matches(
        self, event: Mapping[str, Any], async_event: Mapping[str, Any] | None = None, now: datetime | None = None
    ) -> bool:
        """Whether the expression is true for these events. Any other value, and any error, is no match."""
        try:
            return self._run(self._env(event, async_event, now)) is True
        except Exception:  # one run's event must never stop a mailbox that serves others
            return False

    def _env(self, event: Mapping[str, Any], async_event: Mapping[str, Any] | None, now: datetime | None) -> Env:
        if now is not None and now.tzinfo is None:
            now = now.replace(tzinfo=UTC)
        return [event, MISSING if async_event is None else async_event, MISSING, now, MAX_WORK, *self._slots]

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"


@lru_cache(maxsize=CACHE_SIZE)
def compile_expression(source: str) -> Expression:
    """Compile an expression, or return the one compiled before.

    Raises:
        ExpressionError: It isn't valid CEL, calls an unknown function, or is too long or too deep.
    """
    return Expression(source, _parse(source))


_POLICY_OPERATORS = {"_&&_", "_||_", "!_", "_==_", "_!=_", "_[_]", "@in", *_ORDERS}
_POLICY_FUNCTIONS = {"int", "uint", "double"}


def check_cancel_policy(expression: Expression | str) -> None:
    """Refuse what the `if` of a cancellation may not use (reference §4.1).

    Raises:
        ExpressionError: It uses a macro, arithmetic or a function other than int(), uint() and double().
    """
    if isinstance(expression, str):
        expression = compile_expression(expression)
    allowed = "use only comparisons, &&, ||, !, in, indexes, int(), uint() and double()"

    def check(node: Node) -> None:
        refused = ""
        match node:
            case Macro(kind=kind):
                refused = f"the macro {kind}()"
            case Select(test=True):
                refused = "the macro has()"
            case Call(target=None, function=function) if function in _POLICY_OPERATORS | _POLICY_FUNCTIONS:
                pass
            case Call(function=function):
                names = {"_?_:_": "?:", "-_": "-"}
                symbol = names.get(function, function.strip("_") if function[0] == "_" else f"{function}()")
                refused = symbol if function[0].isalpha() else f"the operator {symbol}"
        if refused:
            message = f"{refused} isn't allowed in the condition of a cancellation; {allowed}"
            raise ExpressionError(message, node.position, expression.source)
        for child in children(node):
            check(child)

    check(expression.node)
