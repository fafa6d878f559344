"""The syntax of expressions: `cel-expr-python` (Google's C++) parses and expands macros, this reads
its tree.

Chains of one operator and macros are recognised in what the parser makes of them; errors name their
place.
"""

import re
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

from inngest_temporal.errors import ExpressionError

MAX_LENGTH = 8_192
"""Maximum number of characters of one expression."""
MAX_DEPTH = 32
"""Levels of nesting, counting `a + b + c` and `a.b.c` as one level per operator: the parser's own
limit."""


class _CelType(Protocol):
    def name(self) -> str: ...


class _CelValue(Protocol):
    def type(self) -> _CelType: ...
    def value(self) -> object: ...
    def plain_value(self) -> object: ...


class _CelExpression(Protocol):
    def serialize(self) -> bytes: ...
    def eval(self, *, data: Mapping[str, object]) -> _CelValue: ...


class _CelEnv(Protocol):
    def compile(self, expression: str, disable_check: bool) -> _CelExpression: ...


class _CelModule(Protocol):
    def NewEnv(self) -> _CelEnv: ...


# The package has stubs but no `py.typed`, so type checkers may not follow an import statement.
LIBRARY = cast(_CelModule, import_module("cel_expr_python.cel")).NewEnv()
_LOCK = threading.Lock()


class UInt(int):
    """CEL's unsigned integer."""


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
    """A function, method (`target` is not None) or operator (named as in CEL: `_==_`, `_[_]`, `!_`,
    ...)."""

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


def operands(function: str, node: Call) -> Iterator[Node]:
    """The operands of a chain of one operator: a, b and c of `a && b && c`, however grouped."""
    for arg in node.args:
        if isinstance(arg, Call) and arg.function == function:
            yield from operands(function, arg)
        else:
            yield arg


def const_path(node: Node) -> tuple[str, tuple[str, ...]] | None:
    """`("event", ("data", "k"))` for `event.data.k` and `event["data"]["k"]`; None for anything
    else."""
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
_FIXED_SIZES = {1: 8, 5: 4}
"""Wire type -> bytes."""


def _fields(data: bytes) -> _Fields:
    """The fields of one protobuf message: number -> values (varints, 8-byte doubles as bytes, or
    nested bytes)."""
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
                size = _FIXED_SIZES.get(wire) or varint()
                value = data[at : at + size]
                at += size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _text(fields: _Fields, number: int) -> str:
    return cast(bytes, fields[number][0]).decode() if number in fields else ""


class _TreeReader:
    """Reads `cel.expr.ParsedExpr`
    (https://github.com/google/cel-spec/blob/master/proto/cel/expr/syntax.proto)."""

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
                return Call(
                    _text(fields, 2), target, tuple(map(self._read, fields.get(3, []))), position
                )
            case 7:
                return ListLiteral(tuple(map(self._read, fields.get(1, []))), position)
            case 8:
                if _text(fields, 1):
                    message = (
                        f"message types like {_text(fields, 1)} don't exist here; use a map:"
                        " {'key': value}"
                    )
                    raise ExpressionError(message, position, self._source)
                pairs = [_fields(entry) for entry in fields.get(2, [])]
                return MapLiteral(
                    tuple((self._read(p[3][0]), self._read(p[4][0])) for p in pairs), position
                )
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
                case Call(function="_+_", args=(Ident(name=name), ListLiteral(items=(item,)))) if (
                    name == accumulator
                ):
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
_WORD = re.compile(r"\w+|&&|\|\||\W")
_TOO_DEEP = ("CANCELLED: Expression recursion limit", "Exceeded max recursion depth")
_REMEDIES = {
    "=": "use == to compare",
    "&": "use &&",
    "|": "use ||",
    "and": "use &&",
    "or": "use ||",
    "not": "use !",
}


def parse(source: str) -> Node:
    if len(source) > MAX_LENGTH:
        message = (
            f"the expression has {len(source):,} characters (limit {MAX_LENGTH:,}); move data into"
            " the event"
        )
        raise ExpressionError(message, MAX_LENGTH, source)
    if not source.strip():
        raise ExpressionError(
            "the expression is empty; leave it out or write a condition", 0, source
        )
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise ExpressionError("the expression isn't valid Unicode", error.start, source) from None
    try:
        with _LOCK:
            serialized = LIBRARY.compile(source, disable_check=True).serialize()
    except (RuntimeError, TypeError) as error:
        raise _syntax_error(source, str(error)) from None
    return _TreeReader(source, serialized).root


def _syntax_error(source: str, report: str) -> ExpressionError:
    found = _PROBLEM.search(report)
    if (found[3] if found else report).startswith(_TOO_DEEP):
        message = (
            f"the expression is nested too deeply (limit {MAX_DEPTH} levels); use fewer operators"
            " in a row"
        )
        return ExpressionError(message, 0, source)
    if not found:
        return ExpressionError(f"the expression can't be parsed: {report[:200]}", 0, source)
    line, column, problem = int(found[1]), int(found[2]), found[3]
    starts = [0, *(m.end() for m in re.finditer("\n", source))]
    position = min(starts[min(line, len(starts)) - 1] + column - 1, len(source))
    rest = source[position:]
    if not problem.startswith("Syntax error"):
        return ExpressionError(problem, position, source)
    if not rest.strip():
        return ExpressionError("the expression ends too early; complete it", position, source)
    token = next(_WORD.finditer(rest))[0]
    remedy = _REMEDIES.get(token, "check for a missing operator, quote or bracket")
    if rest[0] in "'\"":
        remedy = "close the string, and write a backslash as \\\\"
    return ExpressionError(f"unexpected {token!r}; {remedy}", position, source)
