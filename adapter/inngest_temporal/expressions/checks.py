"""Checks before an expression is used: they refuse unknown variables, and what the condition of a
cancellation may not contain.

Inngest's engine takes an unknown variable for a missing value, so that a slip like `evnt.data.x`
never matches and nobody is told.
"""

from collections.abc import Iterator

from inngest_temporal.errors import ExpressionError

from .evaluator import Expression, compile_expression
from .syntax import Call, Ident, Macro, Node, Select, children, const_path
from .values import TYPES

_DECLARED = {"event", "vars"}
"""Variables that every expression may read. Inngest declares `vars` and gives it no value."""
_TYPE_PATHS = {tuple(name.split(".")) for name in TYPES}


def check_expression(source: str) -> Expression:
    """Compile an expression that reads one event: a trigger's condition, a key, a priority.

    Raises:
        ExpressionError: It doesn't compile or reads another variable than `event`.
    """
    expression = compile_expression(source)
    _refuse_unknown(expression, conditional=False)
    return expression


def check_condition(source: str, *, cancels: bool = False) -> Expression:
    """Compile the condition of a wait, or of a `Cancel` (`cancels`), which also reads `async`.

    Raises:
        ExpressionError: It doesn't compile or reads another variable than `event` and `async`; or
            it is a cancellation's and uses a macro, arithmetic or a function other than int(),
            uint() and double() (reference §4.1).
    """
    expression = compile_expression(source)
    _refuse_unknown(expression, conditional=True)
    if cancels:
        _refuse_beyond_policy(expression.node, source)
    return expression


def _refuse_unknown(expression: Expression, *, conditional: bool) -> None:
    allowed = _DECLARED | {"async"} if conditional else _DECLARED
    begins = "event. or async." if conditional else "event."
    for name, position in _unknown(expression.node, allowed):
        if name == "async":
            problem = "only the conditions of waits and cancellations read 'async'"
        else:
            problem = f"unknown variable {name!r}"
        message = f"{problem}; a path must begin with {begins}, and a text needs quotes"
        raise ExpressionError(message, position, expression.source)


def _unknown(node: Node, known: set[str]) -> Iterator[tuple[str, int]]:
    """Name and position of each unknown variable."""
    path = const_path(node)
    if path is not None and (path[0], *path[1]) in _TYPE_PATHS and path[0] not in known:
        return
    match node:
        case Ident(name=name, position=position) if name not in known:
            yield name, position
        case Macro(items=items, variable=variable):
            yield from _unknown(items, known)
            for inner in children(node):
                if inner is not items:
                    yield from _unknown(inner, known | {variable})
        case _:
            for inner in children(node):
                yield from _unknown(inner, known)


_ORDERS = {"_<_", "_<=_", "_>_", "_>=_"}
_POLICY = {"_&&_", "_||_", "!_", "_==_", "_!=_", "_[_]", "@in", *_ORDERS, "int", "uint", "double"}
_POLICY_NAMES = {"_?_:_": "?:", "-_": "-"}


def _refuse_beyond_policy(node: Node, source: str) -> None:
    allowed = "use only comparisons, &&, ||, !, in, indexes, int(), uint() and double()"
    refused = ""
    match node:
        case Macro(kind=kind):
            refused = f"the macro {kind}()"
        case Select(test=True):
            refused = "the macro has()"
        case Call(target=None, function=function) if function in _POLICY:
            pass
        case Call(function=function):
            symbol = _POLICY_NAMES.get(
                function, function.strip("_") if function[0] == "_" else f"{function}()"
            )
            refused = symbol if function[0].isalpha() else f"the operator {symbol}"
    if refused:
        message = f"{refused} isn't allowed in the condition of a cancellation; {allowed}"
        raise ExpressionError(message, node.position, source)
    for child in children(node):
        _refuse_beyond_policy(child, source)
