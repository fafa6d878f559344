"""Where functions are loaded from: MODULE, the command line's argument.

shop.orders             a module, importable from the current directory
shop/orders.py          a file
shop/orders.py:fulfil   one `Function` in it, or one list of them
"""

import importlib.util
import re
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from .processes import ProcessError


class ModuleError(ProcessError):
    """The functions of a module can't be loaded; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Where functions are loaded from."""

    text: str
    """MODULE as it was written."""
    module: str
    """Dotted name."""
    attribute: str | None
    path: Path | None
    """The file, if one was named."""
    directory: Path
    """What to watch for changes: the file's directory, or that of the outermost package."""


def find(text: str) -> Source:
    """Understand MODULE without importing it. Raises `ModuleError` if there is no such file or
    module."""
    match = re.fullmatch(r"(.+?)(?::([^:/\\]*))?", text)
    target, attribute = match.groups() if match else (text, None)
    if attribute is not None and not attribute.isidentifier():
        raise ModuleError(
            f"{text!r}: {attribute!r} can't be a name. Write MODULE:NAME, as in app.py:functions."
        )
    if target.endswith(".py") or "/" in target or "\\" in target:
        return _find_file(text, Path(target), attribute)
    return _find_module(text, target, attribute)


def _find_file(text: str, path: Path, attribute: str | None) -> Source:
    if not path.is_file() or path.suffix != ".py":
        raise ModuleError(
            f"There is no Python file {str(path)!r} (in {Path.cwd()}). Name one, as in"
            " shop/orders.py, or a module, as in shop.orders."
        )
    path = path.resolve()
    module, root = path.stem, path.parent
    while (root / "__init__.py").is_file():  # so that relative imports work
        module, root = f"{root.name}.{module}", root.parent
    package, dot, _ = module.partition(".")
    return Source(text, module, attribute, path, root / package if dot else root)


def _find_module(text: str, name: str, attribute: str | None) -> Source:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ModuleError(
            f"{text!r} is neither a module nor a file. Name a module as in shop.orders, or a file"
            " as in shop/orders.py."
        )
    top = name.split(".")[0]
    # Not by `importable`: what this process has yet to import is not to come from there.
    spec = PathFinder.find_spec(top, [str(Path.cwd())]) or importlib.util.find_spec(top)
    if spec is None:
        raise no_module(name)
    places = [*(spec.submodule_search_locations or ())]
    if not places and spec.has_location and spec.origin:
        places = [str(Path(spec.origin).parent)]
    return Source(text, name, attribute, None, Path(places[0]) if places else Path.cwd())


def no_module(name: str) -> ModuleError:
    """The error for a module that does not exist."""
    file = Path(*name.split(".")).with_suffix(".py")
    return ModuleError(
        f"There is no module {name!r} (looked in {Path.cwd()} and the installed packages). Run this"
        f" command in the directory that holds it, or name the file, as in {file}."
    )
