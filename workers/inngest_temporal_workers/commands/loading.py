"""Loads the functions of MODULE, the command line's argument (`sources`).

Without a name in it they are every `Function` in the module, those in its lists, tuples and dicts
included.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import inngest_temporal
from inngest_temporal.errors import is_official
from inngest_temporal.functions import Function
from inngest_temporal_workers.plugin import parts_of

from .processes import complain
from .sources import ModuleError, Source, no_module

SERVING = {"connect", "digital_ocean", "django", "fast_api", "flask", "tornado"}
"""Parts of the official SDK that serve functions over HTTP or a socket."""
_EXPERIMENTAL = "inngest_temporal.experimental"
NO_SERVING = "Delete it, and `serve`: a worker runs the functions without an HTTP framework."


def load(source: Source) -> list[Function[Any]]:
    """Import the module and return its functions.

    Raises `ModuleError` if it can't be imported (with the user's part of the traceback) or has no
    functions of that name, `FunctionConfigInvalidError` if a worker can't run these functions
    together.
    """
    module = _import(source)
    functions = _named(module, source) if source.attribute else _all(module, source)
    parts_of(functions)
    for name in _unchanged(source):
        complain(
            f"Module {name} uses the official SDK, whose errors and types are not those of this"
            " package. Change its import to `import inngest_temporal as inngest`."
        )
    return functions


def _unchanged(source: Source) -> list[str]:
    """The user's modules that still import the official SDK."""
    official = sys.modules.get("inngest")
    if official is None:
        return []
    folders = [Path.cwd()] if source.path is None else [Path.cwd(), source.path.parent]

    def is_the_users(module: ModuleType) -> bool:
        file = Path(getattr(module, "__file__", None) or "/")
        is_beside = any(file.is_relative_to(folder) for folder in folders)
        return is_beside and "site-packages" not in file.parts

    def is_theirs(value: object) -> bool:
        return value is official or (isinstance(value, type) and is_official(value))

    return [
        name
        for name, module in sorted(sys.modules.items())
        if is_the_users(module) and any(map(is_theirs, vars(module).values()))
    ]


def _import(source: Source) -> ModuleType:
    name, path = source.module, source.path
    _importable(Path.cwd())
    try:
        if path is None:
            return importlib.import_module(name)
        _importable(path.parent)
        _importable(path.parents[name.count(".")])
        return importlib.import_module(name) if "." in name else _import_file(name, path)
    except ModuleNotFoundError as error:
        if path is None and error.name and f"{name}.".startswith(f"{error.name}."):
            raise no_module(name) from None
        raise _failed(source, error) from None
    except (Exception, SystemExit) as error:
        raise _failed(source, error) from None


def _import_file(name: str, path: Path) -> ModuleType:
    if name in sys.modules:
        # A file named like a module that is in use, such as queue.py, must not replace it.
        name = str(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _importable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _failed(source: Source, error: BaseException) -> ModuleError:
    trace = _users_part(error.__traceback__)
    shown = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    hint = f"\n\nThat is a part of the official SDK. {NO_SERVING}" if _is_serving(error) else ""
    if isinstance(error, ImportError) and (error.name or "").startswith(_EXPERIMENTAL):
        hint = (
            f"\n\n{_EXPERIMENTAL} does not exist: inngest_temporal.testing takes the place of"
            " experimental.mocked; the rest needs the official SDK (docs/HTTP_APPS.md)."
        )
    return ModuleError(f"{source.text} can't be imported. Correct what this says:\n\n{shown}{hint}")


def _is_serving(error: BaseException) -> bool:
    """Whether a module asks for what the official SDK has to serve functions by: as
    `inngest.fast_api`, or as a part of ours after its import was changed."""
    if isinstance(error, ImportError):
        package, _, part = (error.name or "").partition(".")
        return package == "inngest" or (
            package == inngest_temporal.__name__
            and (part in SERVING or any(f"'{each}'" in error.msg for each in SERVING))
        )
    return (
        isinstance(error, AttributeError)
        and error.obj is inngest_temporal
        and error.name in SERVING
    )


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """Without the frames of this module and of the import machinery that lead to the user's
    file."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace


def _named(module: ModuleType, source: Source) -> list[Function[Any]]:
    name = str(source.attribute)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if isinstance(value, Function)]
        raise ModuleError(
            f"{source.text}: the module has no {name!r}."
            f" It has the functions {', '.join(known) or '(none)'}."
        )
    value = getattr(module, name)
    items = _items(value)
    if not items:
        raise ModuleError(f"{source.text}: the list {name} is empty. Put functions into it.")
    for item in items:
        if _is_official(item):
            raise _official(module, source)
        if not isinstance(item, Function):
            raise ModuleError(
                f"{source.text} is not a function, nor a list of functions: it has {item!r}."
                " Decorate a handler with client.create_function(...), and name what that returned."
            )
    return items


def _all(module: ModuleType, source: Source) -> list[Function[Any]]:
    values = [item for value in vars(module).values() for item in _items(value)]
    found = {id(value): value for value in values if isinstance(value, Function)}
    if found:
        return list(found.values())
    if any(map(_is_official, values)):
        raise _official(module, source)
    raise ModuleError(
        f"{source.text} has no functions. Decorate a handler with client.create_function(...), or"
        f" name a list of functions, as in {source.text}:functions."
    )


def _items(value: Any) -> list[Any]:
    """The items of a list, tuple or dict; any other value is the only item."""
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_official(value: object) -> bool:
    return type(value).__name__ == "Function" and is_official(type(value))


def _official(module: ModuleType, source: Source) -> ModuleError:
    """The error for a module whose functions are the official SDK's, intended or not."""
    for line, name in _rebinding(module):
        return ModuleError(
            f"{source.text}, line {line}: `import {name}` makes `inngest` the official SDK again."
            f" {NO_SERVING}"
        )
    return ModuleError(
        f"{source.text} has functions of the official SDK. Change its import to `import"
        " inngest_temporal as inngest`."
    )


def _rebinding(module: ModuleType) -> Iterator[tuple[int, str]]:
    """Lines such as `import inngest.fast_api`, which bind the name `inngest`."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("inngest.") and alias.asname is None:
                    yield node.lineno, alias.name
