"""Converts Python values to JSON and back."""

import functools
import inspect
import json
from collections.abc import Mapping, ValuesView
from typing import Any, Protocol, cast

import pydantic

from .errors import OutputUnserializableError
from .models import Event

_DATA: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(
    Any, config=pydantic.ConfigDict(ser_json_inf_nan="constants")
)


class EmptySentinel:
    """The class itself stands for "not given" where None is a value."""


class Serializer(Protocol):
    """Turns values of a given type into JSON and back.

    Used for a step or a function when the client has one and an `output_type` was given.
    """

    def serialize(self, obj: object, typ: object) -> object:
        """The JSON value of `obj`, which is of type `typ`."""
        ...

    def deserialize(self, obj: object, typ: object) -> object:
        """The value of type `typ` that JSON `obj` stands for."""
        ...


class PydanticSerializer:
    """Serializer for every type that pydantic knows: models, dataclasses, dates, containers of
    them."""

    def serialize(self, obj: object, typ: object) -> object:
        """The JSON value of `obj`, dumped as the declared `typ`."""
        return _adapter(typ).dump_python(obj, mode="json")

    def deserialize(self, obj: object, typ: object) -> object:
        """`obj` validated as `typ`. Raises `pydantic.ValidationError`."""
        return _adapter(typ).validate_python(obj)


def serialize(
    serializer: Serializer | None,
    obj: object,
    typ: object,
    of: str | None = None,
    *,
    raw: bool = False,
) -> Any:
    """The JSON value of a result: through the serializer if there are both it and a `typ`, then
    (unless `raw`) through `to_json`."""
    value = obj
    if serializer is not None and typ is not EmptySentinel:
        try:
            value = serializer.serialize(obj, typ)
        except Exception as error:
            raise OutputUnserializableError(f"{_subject(of)}, as {typ!r}: {error}") from error
    return value if raw else to_json(value, of)


def deserialize(serializer: Serializer | None, obj: object, typ: object) -> Any:
    """The value of a recorded result: through the serializer if there are both it and a `typ`,
    otherwise as it is."""
    return obj if serializer is None or typ is EmptySentinel else serializer.deserialize(obj, typ)


def to_json(obj: object, of: str | None = None) -> Any:
    """The value that `obj` is after a way through JSON: tuples are lists, keys are text as
    `json.dumps` writes them.

    `of` names the step or function that returned it. Raises `OutputUnserializableError`; NaN and
    Infinity count.
    """
    try:
        return json.loads(json.dumps(obj, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        _refuse_awaitables(obj, of)
        raise OutputUnserializableError(
            f"{_subject(of)}: {error}. Return JSON values, or give the client a serializer and the"
            " step or function an output_type."
        ) from error


def data_to_json(data: object, of: str) -> Any:
    """The data of an event, an invocation or a signal as `client.send` and the official SDK write
    it: a moment is ISO text; decimals, UUIDs and enums their text or value; dataclasses and models
    are objects; sets are lists.

    `of` names what is sent. Raises `OutputUnserializableError`.
    """
    try:
        dumped = _DATA.dump_python(data, mode="json", by_alias=True)
        return json.loads(json.dumps(dumped, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(of, error) from error


def event_to_json(event: Event, of: str) -> dict[str, Any]:
    """An event as `client.send` writes it, without what it has no value for: `{name, data?, id?,
    ts?}`. Raises `OutputUnserializableError`."""
    fields = event.to_dict()
    if isinstance(fields, Exception):
        raise _not_json(f"{of}, event {event.name!r}", fields) from fields
    given = {name: value for name, value in fields.items() if value or name == "name"}
    return cast(dict[str, Any], data_to_json(given, f"{of}, event {event.name!r}"))


def _not_json(of: str, error: Exception) -> OutputUnserializableError:
    return OutputUnserializableError(f"{of}: its data can't be JSON: {error}.")


def _refuse_awaitables(obj: object, of: str | None, depth: int = 3) -> None:
    """Raises `OutputUnserializableError` if there is something in `obj` that was not awaited."""
    if inspect.isawaitable(obj):
        raise OutputUnserializableError(
            f"{_subject(of)}: {_awaitable_text(obj)}, which nobody awaited. Put await before it."
        )
    inner = obj.values() if isinstance(obj, Mapping) else obj
    if depth and isinstance(inner, ValuesView | list | tuple):
        for each in inner:
            _refuse_awaitables(each, of, depth - 1)


def _awaitable_text(obj: object) -> str:
    if not inspect.iscoroutine(obj):
        return f"a {type(obj).__name__}"
    arguments = {} if obj.cr_frame is None else obj.cr_frame.f_locals
    obj.close()  # otherwise Python warns that nobody awaited it
    of_step = f'("{arguments["step_id"]}")' if "step_id" in arguments else "(...)"
    return f"a coroutine, {obj.__qualname__}{of_step}"


def _subject(of: str | None) -> str:
    return "Unserializable data" if of is None else f'"{of}" returned unserializable data'


@functools.lru_cache(maxsize=512)
def _cached_adapter(typ: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(typ)


def _adapter(typ: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return _cached_adapter(typ)
    except TypeError:
        # Unhashable, such as Annotated[int, []]. If the type itself is bad, this says so again.
        return pydantic.TypeAdapter(typ)
