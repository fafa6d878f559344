"""Splits a wait's condition into the mailbox where it waits and what the mailbox has to check.

    event.data.orderId == async.data.orderId && async.data.amount > 10

waits in the mailbox of events whose `data.orderId` is the trigger's, where the condition is checked
again as a whole; one that is nothing but the equality needs no check. For every candidate event
these are the same:

- the condition is true, with the `event.*` values of the trigger filled in (`reduce_event`);
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
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from inngest_temporal.errors import EvaluationError

from .checks import check_condition
from .evaluator import CACHE_SIZE, Expression
from .syntax import (
    Call,
    Const,
    Ident,
    Macro,
    Node,
    Select,
    children,
    const_path,
    operands,
)

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
    """The mailbox of a wait, and what is left to check there."""

    path: str
    """Canonical path of the candidate event, such as `data.orderId`; empty for every event."""
    value: Scalar
    """Canonical value that the candidate must have there; None stands for missing, too."""
    rest: str | None
    """The condition, unless it is only the equality; None if nothing is left to check."""
    event: dict[str, Any]
    """The parts of the trigger for `compile_expression(rest).matches(event, candidate)`."""


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
    if condition.equality_only:
        return WaitCondition(equality.path, value, None, {})
    return replace(whole, path=equality.path, value=value)


def whole_condition(source: str, event: dict[str, Any]) -> WaitCondition:
    """A condition that is not split, for the mailbox of all events of the name."""
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
    return _reduced(_split(source).paths, event)


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
    """The paths of `event` that an expression needs."""

    read: frozenset[tuple[str, ...]]
    tested: frozenset[tuple[str, ...]]
    """Paths that are arguments of `has()`."""


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


def _reduced(paths: _Paths, event: dict[str, Any]) -> dict[str, Any]:
    """`event` with only what the paths need."""
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
        elif not any(p in paths.read for p in _prefixes(keys)[:-1]) and not any(
            p in paths.tested and _found(event, p)[0] is _ABSENT for p in _prefixes(keys)
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
    """The smallest value of the same type."""
    return type(value)() if isinstance(value, (dict, list)) else value


# -- the split
# ---


@dataclass(frozen=True)
class _Equality:
    path: str
    value: Expression
    from_event: bool


@dataclass(frozen=True)
class _Condition:
    paths: _Paths
    equalities: tuple[_Equality, ...]
    equality_only: bool
    """Whether the condition is only an equality."""


@lru_cache(maxsize=CACHE_SIZE)
def _split(source: str) -> _Condition:
    """The part of the split that is the same for all runs of a function."""
    node = check_condition(source).node
    conjuncts = [node]
    if isinstance(node, Call) and node.function == "_&&_":
        conjuncts = list(operands("_&&_", node))
    equalities = tuple(
        _Equality(path, Expression(source, value), bool(_roots(value)))
        for path, value in filter(None, map(_equality, conjuncts))
    )
    return _Condition(_paths(node), equalities, len(conjuncts) == 1)


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
