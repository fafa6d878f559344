"""Converts our dataclasses to JSON objects for Temporal, without fields that have their default.

Unknown fields are ignored when reading, so that two versions work side by side during a deploy.
Values from user code are neither copied nor inspected.
"""

import functools
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

import pydantic

T = TypeVar("T")


def to_wire(value: Any) -> Any:
    """A dataclass as a dict, including dataclasses in its fields and in lists in these."""
    if isinstance(value, list):
        return [each if _fields(_type(each)) is None else to_wire(each) for each in value]
    known = _fields(_type(value))
    if known is None:
        return value
    wire: dict[str, Any] = {}
    for each in known:
        item = getattr(value, each.name)
        if not _is_default(each, item):
            wire[each.name] = to_wire(item)
    return wire


def from_wire(model: type[T], value: Any) -> T:
    """The inverse of `to_wire`. Raises pydantic's `ValidationError`."""
    hashable: Any = model  # for mypy, which does not know that classes are hashable
    read: T = _adapter(hashable).validate_python(value)
    return read


@functools.cache
def _adapter(model: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(model)


_type: Callable[[object], Any] = type


@functools.lru_cache(maxsize=1_000)
def _fields(model: Any) -> tuple[Field[Any], ...] | None:
    """The fields of a dataclass; None for another class."""
    return fields(model) if is_dataclass(model) else None


def _is_default(each: Field[Any], value: Any) -> bool:
    if each.default is not MISSING:
        # Other values are compared by identity: they may be large, or define their own equality.
        return value is each.default or (isinstance(value, int | str) and value == each.default)
    return each.default_factory is not MISSING and not value
