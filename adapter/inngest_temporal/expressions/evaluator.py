"""Inngest's expression language: CEL in which a missing key is null instead of an error.

The library, `cel-expr-python`, parses; the tree is compiled once to Python closures over `values`
and `functions`. A rewrite of Inngest's null rules to plain CEL, evaluated by the library, was tried
and measured (`python -m benchmarks.expressions` shows it). It can't serve a mailbox: the library
compiles the pattern of `matches` in each evaluation, 0.1 s for `^[\\pL ]{1,50}$`; and it bounds the
iterations of macros, not what one iteration takes, reports no work, and holds the interpreter's
lock, so that nothing else in the worker goes on meanwhile.

An `Expression` is immutable and evaluation keeps its state in one local list, so any number of
threads may share one. It is deterministic given `now`, and bounded: length, nesting and work
(`MAX_LENGTH`, `MAX_DEPTH`, `MAX_WORK`).

Numbers are CEL's (`7 / 2` is 3, `7 / 2.0` is 3.5; int, uint and double mix), not the accidents of
Inngest's engine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeAlias

from inngest_temporal.errors import EvaluationError, ExpressionError, LimitError

from .functions import FUNCTIONS
from .syntax import (
    Call,
    Const,
    Ident,
    ListLiteral,
    Macro,
    MapLiteral,
    Node,
    Select,
    children,
    const_path,
    operands,
    parse,
)
from .values import (
    MAX_WORK,
    MISSING,
    OPERATORS,
    ORDERS,
    ROOTS,
    SLOTS,
    TYPES,
    WORK,
    Env,
    add,
    contains,
    equal,
    index,
    ordered,
    plain,
    select,
    spend,
    truthy,
    type_name,
)

__all__ = ["Expression", "compile_expression"]

CACHE_SIZE = 2_048
"""Maximum number of compiled expressions that a process keeps."""

Closure: TypeAlias = Callable[[Env], Any]


_SYMBOLS = {"_==_", "_!=_", "_+_", "!_", "@in", "_?_:_", *OPERATORS, *ORDERS}


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
                return self._list(
                    [self.build(item) for item in items], all(isinstance(i, Const) for i in items)
                )
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
        """Identifiers, `.key`, `["key"]` and `[i]`; a chain of constant keys is one closure: the
        usual node."""
        path = const_path(node)
        if path is None:
            if isinstance(node, Select):
                operand, name = self.build(node.operand), node.key
                return lambda env: select(operand(env), name)
            assert isinstance(node, Call)
            target, key = map(self.build, node.args)
            return lambda env: index(target(env), key(env))
        root, keys = path
        slot = self._scope.get(root, ROOTS.get(root))
        if slot is None:
            # An unknown name has no value, as in Inngest, unless it is the name of a type.
            constant: Any = TYPES.get(".".join((root, *keys)), MISSING)
            return lambda env: constant
        if not keys:
            return lambda env: env[slot]

        def read(env: Env) -> Any:
            value = env[slot]
            for key in keys:
                value = value.get(key, MISSING) if type(value) is dict else select(value, key)
            return value

        return read

    @staticmethod
    def _has(operand: Closure, key: str) -> Closure:
        return lambda env: select(operand(env), key) is not MISSING

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
                    raise EvaluationError(f"{type_name(key)} can't be the key of a map")
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
                return second(env) if value is True or truthy(value) else value

            return both
        *head, last = parts

        def every(env: Env) -> Any:
            for part in head:
                value = part(env)
                if value is not True and not truthy(value):
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
                except LimitError:
                    raise
                except EvaluationError:
                    continue
                if value is True or truthy(value):
                    return value
            return last(env)

        return either

    def _operator(self, function: str, args: list[Closure]) -> Closure:
        if function == "!_":
            (operand,) = args
            return lambda env: not truthy(operand(env))
        if function == "_?_:_":
            condition, then, otherwise = args
            return lambda env: then(env) if truthy(condition(env)) else otherwise(env)
        if function in OPERATORS:
            return self._guarded(OPERATORS[function], args)
        left, right = args
        if function == "_==_":
            return lambda env: equal(env, left(env), right(env))
        if function == "_!=_":
            return lambda env: not equal(env, left(env), right(env))
        if function in ORDERS:
            symbol, compare = ORDERS[function]
            return lambda env: ordered(env, symbol, compare, left(env), right(env))
        if function == "@in":
            return lambda env: contains(env, left(env), right(env))
        assert function == "_+_", function
        return self._guarded(add, args, missing=True)

    @staticmethod
    def _guarded(
        call: Callable[..., Any], args: list[Closure], *, missing: bool = False
    ) -> Closure:
        """A call whose errors are the expression's; false if an argument is missing, unless it
        takes `missing`."""

        def run(env: Env) -> Any:
            values = [arg(env) for arg in args]
            if not missing and MISSING in values:
                return False
            try:
                return call(env, *values)
            except EvaluationError:
                raise
            except (
                ValueError,
                TypeError,
                ArithmeticError,
                LookupError,
                RecursionError,
                OSError,
            ) as error:
                raise EvaluationError(str(error)) from None

        return run

    def _call(self, node: Call) -> Closure:
        name = node.function
        function = FUNCTIONS.get(name)
        if node.target is None:
            if function is None or not function.plain:
                known = ", ".join(sorted(n for n, f in FUNCTIONS.items() if f.plain))
                hint = f"call it as x.{name}(...)" if function else f"there are {known}"
                raise ExpressionError(
                    f"unknown function {name}(); {hint}", node.position, self._source
                )
            nodes: tuple[Node, ...] = node.args
        else:
            path = const_path(node.target)
            known_root = path is None or path[0] in self._scope or path[0] in ROOTS
            if function is None or not function.method:
                known = ", ".join(sorted(n for n, f in FUNCTIONS.items() if f.method))
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
        return self._guarded(
            function.call, [self.build(arg) for arg in nodes], missing=function.takes_missing
        )

    @staticmethod
    def _unknown_method(target: Closure, message: str) -> Closure:
        """Inngest finds out about these when they are called, so on a missing value they are
        false."""

        def run(env: Env) -> bool:
            if target(env) is MISSING:
                return False
            raise EvaluationError(message)

        return run

    def _macro(self, node: Macro) -> Closure:
        items_of = self.build(node.items)
        slot = SLOTS + self.slots
        self.slots += 1
        outer = self._scope
        self._scope = {**outer, node.variable: slot}
        body = self.build(node.body)
        condition = None if node.condition is None else self.build(node.condition)
        self._scope = outer
        cost = (
            1
            + _node_count(node.body)
            + (0 if node.condition is None else _node_count(node.condition))
        )
        kind, run = node.kind, _MACROS[node.kind]
        absent = MISSING if kind in ("filter", "map") else False

        def each(env: Env, items: Any) -> Iterator[Any]:
            if not isinstance(items, (list, tuple, dict)):
                raise EvaluationError(f"{kind}() needs a list or a map, not {type_name(items)}")
            for item in items:
                spend(env, cost)
                env[slot] = item
                yield item

        def evaluate(env: Env) -> Any:
            items = items_of(env)
            return absent if items is MISSING else run(env, each(env, items), body, condition)

        return evaluate


def _exists(env: Env, items: Iterable[Any], body: Closure, _condition: Closure | None) -> bool:
    failure: EvaluationError | None = None
    for _ in items:
        try:
            if truthy(body(env)):
                return True
        except LimitError:
            raise
        except EvaluationError as error:
            failure = error
    if failure is not None:
        raise failure
    return False


def _all(env: Env, items: Iterable[Any], body: Closure, _condition: Closure | None) -> bool:
    return all(truthy(body(env)) for _ in items)


def _exists_one(env: Env, items: Iterable[Any], body: Closure, _condition: Closure | None) -> bool:
    return sum(truthy(body(env)) for _ in items) == 1


def _filter(env: Env, items: Iterable[Any], body: Closure, _condition: Closure | None) -> list[Any]:
    return [item for item in items if truthy(body(env))]


def _map(env: Env, items: Iterable[Any], body: Closure, condition: Closure | None) -> list[Any]:
    return [
        None if (value := body(env)) is MISSING else value
        for _ in items
        if condition is None or truthy(condition(env))
    ]


_MACROS: dict[str, Callable[[Env, Iterable[Any], Closure, Closure | None], Any]] = {
    "exists": _exists,
    "all": _all,
    "exists_one": _exists_one,
    "filter": _filter,
    "map": _map,
}


# -- the public surface
# ----------------------------------------------------------------------------------------------


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

    __slots__ = ("_run", "_size", "_slots", "node", "source")

    def __init__(self, source: str, node: Node) -> None:
        compiler = _Compiler(source)
        self.source = source
        self.node = node
        """The syntax tree."""
        self._run = compiler.build(node)
        self._size = _node_count(node)
        self._slots = [None] * compiler.slots

    def evaluate(
        self,
        event: Mapping[str, Any],
        async_event: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> Any:
        """The value for these events, as JSON: timestamps as RFC 3339 text, durations as `3600s`,
        missing as False.

        `event` is the run's triggering event, `async_event` the candidate of a wait or
        cancellation. `now` pins `now()`, for workflow code; it is the time of the call by default.

        Raises:
            EvaluationError: The expression has no value for these events.
        """
        env = self._env(event, async_event, now)
        try:
            return plain(env, self._run(env))
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
        self,
        event: Mapping[str, Any],
        async_event: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> bool:
        """Whether the expression is true for these events. Any other value, and any error, is no
        match."""
        return self._match(self._env(event, async_event, now))[0]

    def measured_match(
        self, event: Mapping[str, Any], async_event: Mapping[str, Any] | None, now: datetime
    ) -> tuple[bool, int]:
        """Like `matches`, and the work it took, as `MAX_WORK` counts it.

        Both are the same each time, as workflow code needs: nothing depends on a clock.
        """
        return self._match(self._env(event, async_event, now))

    def _match(self, env: Env) -> tuple[bool, int]:
        try:
            matched = self._run(env) is True
        except Exception:  # one run's event must never stop a mailbox that serves others
            matched = False
        return matched, self._size + MAX_WORK - env[WORK]

    def _env(
        self, event: Mapping[str, Any], async_event: Mapping[str, Any] | None, now: datetime | None
    ) -> Env:
        if now is not None and now.tzinfo is None:
            now = now.replace(tzinfo=UTC)
        return [
            event,
            MISSING if async_event is None else async_event,
            MISSING,
            now,
            MAX_WORK,
            *self._slots,
        ]

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"


@lru_cache(maxsize=CACHE_SIZE)
def compile_expression(source: str) -> Expression:
    """Compile an expression, or return the one compiled before.

    Raises:
        ExpressionError: It isn't valid CEL, calls an unknown function, or is too long or too deep.
    """
    return Expression(source, parse(source))
