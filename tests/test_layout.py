"""The shape of the code: what may import what, how long a function may be, and that names are
unique."""

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = (ROOT / "adapter", ROOT / "workers")
MAX_LINES = 40
"""Maximum lines of a function's body, its signature and docstring aside."""

INTERNAL_ERRORS = {"ApiError", "OverloadedError", "PageError", "ReplyError"}
"""Exceptions that are control flow of one sub-package of the adapter, and never leave it."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Each module of the product: its dotted name, file and syntax tree."""
    found = {}
    for source in SOURCES:
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = (path, ast.parse(path.read_text()))
    return found


def imported(name: str) -> set[str]:
    """The modules of the product that a module imports, anywhere in it: for type checkers, too."""
    path, tree = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                kept = parts[: len(parts) - node.level + 1]
                base = ".".join([*kept, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules() else base)
    return {each for each in found if each in modules() and each != name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other (Kosaraju)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str, edges: dict[str, set[str]], into: list[str]) -> None:
        seen.add(name)
        for each in sorted(edges[name]):
            if each not in seen:
                visit(each, edges, into)
        into.append(name)

    for name in sorted(graph):
        if name not in seen:
            visit(name, graph, order)
    back: dict[str, set[str]] = {name: set() for name in graph}
    for name, edges in graph.items():
        for each in edges:
            back[each].add(name)
    seen.clear()
    found = []
    for name in reversed(order):
        if name not in seen:
            component: list[str] = []
            visit(name, back, component)
            found.append(sorted(component))
    return [component for component in found if len(component) > 1]


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionNode]]:
    """Every function below a node, with its dotted name."""
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, FunctionNode | ast.ClassDef):
            inner = f"{prefix}.{child.name}"
        if isinstance(child, FunctionNode):
            yield inner, child
        yield from functions(child, inner)


def lines(function: FunctionNode) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    last = function.end_lineno
    assert last is not None
    return last - body[0].lineno + 1


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}
    assert circles(graph) == [["b", "c"]]


def test_no_modules_import_each_other() -> None:
    assert circles({name: imported(name) for name in modules()}) == []


def test_the_adapter_knows_nothing_of_the_workers() -> None:
    climbing = {
        (name, each)
        for name in modules()
        if name.startswith("inngest_temporal.")
        for each in imported(name)
        if each.startswith("inngest_temporal_workers")
    }
    assert climbing == set()


def test_no_function_is_too_long() -> None:
    long = {
        name
        for module, (_, tree) in modules().items()
        for name, function in functions(tree, module)
        if lines(function) > MAX_LINES
    }
    assert long == set()


def test_no_two_classes_have_one_name() -> None:
    homes = defaultdict(set)
    for module, (_, tree) in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(module)
    assert {name for name, found in homes.items() if len(found) > 1} == set()


def test_all_public_errors_of_the_adapter_are_in_one_module() -> None:
    elsewhere = {
        node.name
        for module, (_, tree) in modules().items()
        if module.startswith("inngest_temporal.") and module != "inngest_temporal.errors"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.name.endswith(("Error", "Exception"))
        and not node.name.startswith("_")
    }
    assert elsewhere - INTERNAL_ERRORS == set()


def test_every_module_says_what_it_is() -> None:
    assert [
        name
        for name, (_, tree) in modules().items()
        if tree.body and ast.get_docstring(tree) is None
    ] == []
