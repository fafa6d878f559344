"""Splits a wait's condition into the mailbox where it waits and what the mailbox still has to
check.

    event.data.orderId == async.data.orderId && async.data.amount > 10

waits in the mailbox of events whose `data.orderId` is the trigger's, and leaves `async.data.amount
> 10` to check. For every candidate event these are the same:

- the whole condition is true, with the `event.*` values of the trigger filled in (`reduce_event`);
- the candidate's `value_at` the wait's path is the wait's value, and the rest is true or there is
  no rest.

As in Inngest (reference §5.5), filling in makes an absent `event.*` path null, so `event.data.u ==
async.data.u` of a trigger without `u` is true for the events whose `u` is missing or null. A path
stays absent where null would show: if the condition also asks `has()` about it, or reads the map
around it as a whole.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from .checks import check_condition
from .evaluator import CACHE_SIZE, Expression, compile_expression
from .syntax import (
    MAX_LENGTH,
    Call,
    Const,
    ExpressionError,
    Ident,
    Macro,
    Node,
    Select,
    children,
    const_path,
    operands,
)
from .values import EvaluationError

__all__ = [
    "Scalar",
    "WaitCondition",
    "canonical_scalar",
    "reduce_event",
    "split_condition",
    "value_at",
]

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class WaitCondition:
    """Where a wait waits, and what is left to check there."""

    path: str
    """Canonical path of the candidate event, such as `data.orderId`; empty for every event."""
    value: Scalar
    """Canonical value that the candidate must have there; None stands for missing, too."""
    rest: str | None
    """Source of the condition left, the same for every run of a function; None if nothing is left.
    """
    event: dict[str, Any]
    """What `rest` needs of the trigger: `compile_expression(rest).matches(event, candidate)`."""


def split_condition(source: str, event: dict[str, Any]) -> WaitCondition:
    """Split the condition of a wait started by the trigger `event`.

    The equality is the first between an `async` path and something of the trigger. One with a
    literal, or whose value many events share (null, a bool), is used only if there is no better,
    since all its waits share a mailbox.

    Raises:
        ExpressionError: The condition can't be compiled or reads an unknown variable.
    """
    condition = _split(source)
    whole = whole_condition(source, event)
    best: tuple[int, _Equality, Scalar] | None = None
    for equality in condition.equalities:
        try:
            usable, value = canonical_scalar(equality.value.evaluate_raw(whole.event))
        except EvaluationError:
            continue
        rank = (value is None or isinstance(value, bool)) * 2 + (not equality.from_event)
        if usable and (best is None or rank < best[0]):
            best = rank, equality, value
    if best is None:
        return whole
    _, equality, value = best
    return WaitCondition(
        equality.path,
        value,
        equality.rest,
        _reduced(equality.rest_paths, whole.event, condition.paths),
    )


def whole_condition(source: str, event: dict[str, Any]) -> WaitCondition:
    """A condition that is not split: its wait is in the mailbox of all events of the name."""
    return WaitCondition("", None, source, reduce_event(source, event))


def value_at(event: dict[str, Any], path: str) -> tuple[bool, Scalar]:
    """The canonical value an event has at a canonical path, as `(True, value)`; None if it is
    missing or null.

    `(False, None)` if no wait can match there: the value is a list, a map or NaN, or the path leads
    through a scalar.
    """
    value: Any = event
    for key in _parsed_path(path):
        if value is None:
            return True, None
        if not isinstance(value, dict):
            return False, None
        value = value.get(key)
    return canonical_scalar(value)


def canonical_scalar(value: object) -> tuple[bool, Scalar]:
    """One spelling for equal values: 5.0 is 5. `(False, None)` for what no mailbox can stand for.

    Python takes True for 1: compare canonical values as JSON (`names.digest` does).
    """
    match value:
        case None | str() | bool():
            return True, value
        case int():
            return True, int(value)
        case float() if math.isnan(value):
            return False, None
        case float():
            return True, int(value) if value.is_integer() else value
        case _:
            return False, None


def reduce_event(source: str, event: dict[str, Any]) -> dict[str, Any]:
    """The trigger reduced to what an expression needs of it, with the absent paths as null."""
    paths = _split(source).paths
    return _reduced(paths, event, paths)


# -- paths
# ---

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH_PART = re.compile(r'\.?([A-Za-z_][A-Za-z0-9_]*)|\[("(?:[^"\\]|\\.)*")\]')


def _path_text(keys: tuple[str, ...]) -> str:
    """`data.orderId`, `data["weird key"].x`."""
    text = "".join(f".{key}" if _NAME.fullmatch(key) else f"[{json.dumps(key)}]" for key in keys)
    return text.removeprefix(".")


@lru_cache(maxsize=CACHE_SIZE)
def _parsed_path(path: str) -> tuple[str, ...]:
    keys: list[str] = []
    at = 0
    while at < len(path):
        part = _PATH_PART.match(path, at)
        if part is None:
            raise ValueError(
                f"{path!r} isn't a path as split_condition writes it, such as data.orderId"
            )
        keys.append(part[1] if part[1] is not None else json.loads(part[2]))
        at = part.end()
    return tuple(keys)


@dataclass(frozen=True)
class _Paths:
    """What an expression needs of `event`."""

    read: frozenset[tuple[str, ...]]
    tested: frozenset[tuple[str, ...]]
    """By has()."""


def _paths(node: Node) -> _Paths:
    read: set[tuple[str, ...]] = set()
    tested: set[tuple[str, ...]] = set()

    def visit(node: Node, bound: frozenset[str]) -> None:
        if isinstance(node, Select) and node.test:
            path = const_path(node.operand)
            if path is not None:
                if path[0] == "event" and "event" not in bound:
                    tested.add((*path[1], node.key))
                return
        elif (path := const_path(node)) is not None:
            if path[0] == "event" and "event" not in bound:
                read.add(path[1])
            return
        if isinstance(node, Macro):
            visit(node.items, bound)
            inner = bound | {node.variable}
            for part in (node.condition, node.body):
                if part is not None:
                    visit(part, inner)
            return
        for child in children(node):
            visit(child, bound)

    visit(node, frozenset())
    return _Paths(frozenset(read), frozenset(tested))


_ABSENT = object()


def _found(event: Any, keys: tuple[str, ...]) -> tuple[Any, int]:
    """The value at a path, or the scalar or list it stops at, and how many keys lead there."""
    value = event
    for depth, key in enumerate(keys):
        if value is None:
            return _ABSENT, depth
        if not isinstance(value, dict):
            return value, depth
        value = value.get(key, _ABSENT)
        if value is _ABSENT:
            return _ABSENT, depth + 1
    return value, len(keys)


def _prefixes(keys: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [keys[:length] for length in range(len(keys) + 1)]


def _reduced(paths: _Paths, event: dict[str, Any], whole: _Paths) -> dict[str, Any]:
    """`event` with only `paths`; `whole` are those of the condition they are part of, and decide
    what stays absent."""
    reduced: dict[str, Any] = {}

    def put(keys: tuple[str, ...], value: Any) -> None:
        target = reduced
        for key in keys[:-1]:
            target = target.setdefault(key, {})
        target.setdefault(keys[-1], value)

    for keys in sorted(paths.read, key=len):
        if not keys:
            return event
        if any(prefix in paths.read for prefix in _prefixes(keys)[:-1]):
            continue
        value, depth = _found(event, keys)
        if value is not _ABSENT:
            put(keys[:depth], value if depth == len(keys) else _outline(value))
        elif not any(p in whole.read for p in _prefixes(keys)[:-1]) and not any(
            p in whole.tested and _found(event, p)[0] is _ABSENT for p in _prefixes(keys)
        ):
            put(keys, None)
    for keys in sorted(paths.tested, key=len):
        if any(prefix in paths.read for prefix in _prefixes(keys)):
            continue
        value, depth = _found(event, keys)
        if value is not _ABSENT:
            put(keys[:depth], _outline(value))
    return reduced


def _outline(value: Any) -> Any:
    """As little of a value as tells its type."""
    return type(value)() if isinstance(value, (dict, list)) else value


# -- the split
# ---


@dataclass(frozen=True)
class _Equality:
    path: str
    value: Expression
    from_event: bool
    rest: str | None
    rest_paths: _Paths


@dataclass(frozen=True)
class _Condition:
    paths: _Paths
    equalities: tuple[_Equality, ...]


@lru_cache(maxsize=CACHE_SIZE)
def _split(source: str) -> _Condition:
    """What of the split is the same for all runs of a function."""
    whole = check_condition(source)
    parts, nodes = [source], [whole.node]
    if isinstance(whole.node, Call) and whole.node.function == "_&&_":
        texts, conjuncts = _conjuncts(source), list(operands("_&&_", whole.node))
        if _compiled(texts) == conjuncts:
            parts, nodes = texts, conjuncts
    paths = list(map(_paths, nodes))
    equalities: list[_Equality] = []
    for index, node in enumerate(nodes):
        sides = _equality(node)
        if sides is None:
            continue
        path, value = sides
        kept = parts[:index] + parts[index + 1 :]
        if kept and index == len(parts) - 1 and not _is_boolean(nodes[-2]):
            kept.append("true")  # what `a && b` is, if a is truthy, is b
        rest = " && ".join(kept) or None
        if rest is not None and len(rest) > MAX_LENGTH:
            continue  # the source has fewer spaces
        rest_paths = _merged(paths[:index] + paths[index + 1 :])
        equalities.append(
            _Equality(path, Expression(source, value), bool(_roots(value)), rest, rest_paths)
        )
    return _Condition(_merged(paths), tuple(equalities))


def _compiled(texts: list[str]) -> list[Node]:
    """The syntax trees of the texts; none if this module cut them where the parser doesn't."""
    try:
        return [compile_expression(text).node for text in texts]
    except ExpressionError:
        return []


def _merged(paths: list[_Paths]) -> _Paths:
    return _Paths(
        frozenset().union(*(p.read for p in paths)), frozenset().union(*(p.tested for p in paths))
    )


def _equality(node: Node) -> tuple[str, Node] | None:
    """`async.<path> == <something known when the wait begins>`, either way round."""
    match node:
        case Call(function="_==_", args=(left, right)):
            for candidate, value in ((left, right), (right, left)):
                path = const_path(candidate)
                if (
                    path is not None
                    and path[0] == "async"
                    and path[1]
                    and _roots(value) <= {"event"}
                ):
                    return _path_text(path[1]), value
    return None


_UNKNOWN_UNTIL_LATER = {"now", "now_plus", "now_minus"}


def _roots(node: Node) -> set[str]:
    """The names an expression reads; a call of the clock counts as one."""
    match node:
        case Ident(name=name):
            return {name}
        case Const():
            return set()
        case _:
            names = set().union(*map(_roots, children(node)))
            if isinstance(node, Macro):
                names.discard(node.variable)
                names |= _roots(node.items)
            if isinstance(node, Call) and node.function in _UNKNOWN_UNTIL_LATER:
                names.add(node.function)
            return names


_BOOLEAN = {"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "!_"}


def _is_boolean(node: Node) -> bool:
    match node:
        case Const(value=value):
            return isinstance(value, bool)
        case Select(test=test):
            return test
        case Macro(kind=kind):
            return kind in ("all", "exists", "exists_one")
        case Call(function=function) if function in _BOOLEAN:
            return True
        case Call(function="_&&_" | "_||_", args=args):
            return all(map(_is_boolean, args))
        case Call(function=function, target=target):
            return target is not None and function in (
                "startsWith",
                "endsWith",
                "contains",
                "matches",
            )
        case _:
            return False


_TOKEN = re.compile(
    r"""
      (?P<skip> \s+ | //[^\n]* )
    | (?P<text> [bB]?[rR][bB]? (?: \"{3}[\s\S]*?\"{3} | '{3}[\s\S]*?'{3} | "[^"\n]*" | '[^'\n]*' )
              | [bB]? (?: \"{3}(?:\\[\s\S]|[^\\])*?\"{3} | '{3}(?:\\[\s\S]|[^\\])*?'{3}
                        | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
              | `[^`\n]*` )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<symbol> && | \|\| | \? )
    | (?P<other> \w+ | . )
    """,
    re.VERBOSE,
)


def _conjuncts(source: str) -> list[str]:
    """The source texts that `&&` joins at the top of a condition that compiles; the condition
    itself if none."""
    tokens = [m for m in _TOKEN.finditer(source) if m.lastgroup != "skip"]

    def split(start: int, end: int) -> list[tuple[int, int]]:
        """Of the tokens from `start` to `end`, exclusive."""
        depth, marks, loose, wrapped = 0, [start], False, True
        for index in range(start, end):
            token = tokens[index]
            if token.lastgroup == "open":
                depth += 1
            elif token.lastgroup == "close":
                depth -= 1
            elif depth == 0 and token.lastgroup == "symbol":
                if token[0] == "&&":
                    marks.append(index + 1)
                else:
                    loose = True  # `||` and `?:` bind less than `&&`
            if depth == 0 and index < end - 1:
                wrapped = False
        if loose:
            return [(start, end)]
        if len(marks) > 1:
            ends = [*(mark - 1 for mark in marks[1:]), end]
            return [
                part for begin, stop in zip(marks, ends, strict=True) for part in split(begin, stop)
            ]
        if wrapped and end - start > 2 and tokens[start][0] == "(":
            inner = split(start + 1, end - 1)
            if len(inner) > 1:
                return inner
        return [(start, end)]

    return [
        source[tokens[start].start() : tokens[end - 1].end()]
        for start, end in split(0, len(tokens))
    ]
