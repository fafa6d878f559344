"""Loads the functions of MODULE, the command line's argument.

    shop.orders             a module, importable from the current directory
    shop/orders.py          a file
    shop/orders.py:fulfil   one `Function` in it, or one list of them

Without a name it is every `Function` in the module.
"""

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from inngest_temporal.errors import Error
from inngest_temporal.functions import Function
from inngest_temporal_workers.plugin import parts_of


class ModuleError(Error):
    """The functions of a module can't be loaded; the message says why and what to do."""

    include_stack = False


@dataclass(frozen=True)
class Source:
    """Where functions are to be loaded from."""

    text: str
    """As it was given."""
    module: str
    """Dotted name."""
    attribute: str | None
    path: Path | None
    """The file, if it was given as one."""
    directory: Path
    """What to watch for changes: the file's directory, or the one that holds the outermost package.
    """


def find(text: str) -> Source:
    """Understand MODULE without importing anything. Raises `ModuleError` if there is no such file
    or module."""
    target, attribute = text, None
    match = re.fullmatch(r"(.+):([^:/\\]*)", text)
    if match:
        target, attribute = match.groups()
        if not attribute.isidentifier():
            raise ModuleError(
                f"{text!r}: {attribute!r} is no name. Write MODULE:NAME, as in app.py:functions."
            )
    if target.endswith(".py") or "/" in target or "\\" in target:
        return _find_file(text, Path(target), attribute)
    return _find_module(text, target, attribute)


def load(source: Source) -> list[Function[Any]]:
    """Import the module and return its functions.

    Raises `ModuleError` if it can't be imported (with the user's part of the traceback) or has no
    functions of that name, `FunctionConfigInvalidError` if a worker can't run these functions
    together.
    """
    module = _import(source)
    functions = _named(module, source) if source.attribute else _all(module, source)
    parts_of(functions)
    return functions


def _find_file(text: str, path: Path, attribute: str | None) -> Source:
    if path.is_dir():
        raise ModuleError(
            f"{str(path)!r} is a directory. Name a file in it, as in {path / 'app.py'}."
        )
    if not path.is_file():
        raise ModuleError(
            f"There is no file {str(path)!r} (in {Path.cwd()}). Name one that exists."
        )
    if path.suffix != ".py":
        raise ModuleError(
            f"{str(path)!r} is no Python file. Name one that ends with .py, or a module as in"
            " shop.orders."
        )
    path = path.resolve()
    module, root = path.stem, path.parent
    while (
        root / "__init__.py"
    ).is_file() and root.name.isidentifier():  # so that relative imports work
        module, root = f"{root.name}.{module}", root.parent
    return Source(
        text, module, attribute, path, root if root == path.parent else root / module.split(".")[0]
    )


def _find_module(text: str, name: str, attribute: str | None) -> Source:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ModuleError(
            f"{text!r} is neither a module nor a file. Name a module as in shop.orders, or a file"
            " as in shop/orders.py."
        )
    _importable(Path.cwd())
    outermost = name.split(".")[0]
    spec = importlib.util.find_spec(outermost)
    if spec is None:
        raise _no_module(name)
    if spec.submodule_search_locations:
        directory = Path(next(iter(spec.submodule_search_locations)))
    else:
        directory = Path(spec.origin).parent if spec.origin and spec.has_location else Path.cwd()
    return Source(text, name, attribute, None, directory)


def _no_module(name: str) -> ModuleError:
    file = Path(*name.split(".")).with_suffix(".py")
    return ModuleError(
        f"There is no module {name!r} (looked in {Path.cwd()} and the installed packages). Run this"
        f" command in the directory that holds it, or name the file, as in {file}."
    )


def _import(source: Source) -> ModuleType:
    try:
        if source.path is None:
            _importable(Path.cwd())
            return importlib.import_module(source.module)
        return _import_file(source.path, source.module)
    except ModuleNotFoundError as error:
        if source.path is None and error.name and f"{source.module}.".startswith(f"{error.name}."):
            raise _no_module(source.module) from None
        raise _failed(source, error) from None
    except (Exception, SystemExit) as error:
        raise _failed(source, error) from None


def _import_file(path: Path, name: str) -> ModuleType:
    _importable(Path.cwd())
    _importable(path.parent)
    _importable(path.parents[name.count(".")])
    if "." in name:
        return importlib.import_module(name)
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        name = str(
            path
        )  # a file named like a module that is in use, such as queue.py, must not replace it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
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
    shown = "".join(
        traceback.format_exception(type(error), error, _users_part(error.__traceback__))
    ).rstrip()
    return ModuleError(f"{source.text} can't be imported. Correct what this says:\n\n{shown}")


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
    assert source.attribute is not None
    name = source.attribute
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if isinstance(value, Function)]
        remedy = (
            f"It has the functions {', '.join(there)}." if there else "It has no functions either."
        )
        raise ModuleError(f"{source.text}: the module has no {name!r}. {remedy}")
    value = getattr(module, name)
    if isinstance(value, Function):
        return [value]
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ModuleError(
            f"{source.text}: {name} is no Function, nor a list of them, but {_describe(value)}."
        )
    if not value:
        raise ModuleError(f"{source.text}: the list {name} is empty. Put functions into it.")
    for index, item in enumerate(value):
        if not isinstance(item, Function):
            raise ModuleError(
                f"{source.text}: {name}[{index}] is no Function but {_describe(item)}."
            )
    return list(value)


def _all(module: ModuleType, source: Source) -> list[Function[Any]]:
    found = {id(value): value for value in vars(module).values() if isinstance(value, Function)}
    if found:
        return list(found.values())
    if any(_is_official(value) for value in vars(module).values()):
        raise ModuleError(
            f"{source.text} has functions of the official SDK. Change its import to `import"
            " inngest_temporal as inngest`."
        )
    raise ModuleError(
        f"{source.text} has no functions. Decorate a handler with client.create_function(...), or"
        f" name a list of functions, as in {source.text}:functions."
    )


def _is_official(value: object) -> bool:
    return type(value).__name__ == "Function" and type(value).__module__.split(".")[0] == "inngest"


def _describe(value: object) -> str:
    """What a value is, for someone who expected a `Function` there."""
    if _is_official(value):
        return (
            "one of the official SDK: change the module's import to `import inngest_temporal as"
            " inngest`"
        )
    if callable(value):
        return f"{value!r}: decorate it with client.create_function(...)"
    return f"{value!r}: name what client.create_function(...) returned"
