"""The models that users pass to the package and get from it: events, triggers, flow control.

Fields, defaults and JSON names are those of the official SDK. Wherever a duration is asked for, an
int is milliseconds; on the wire it is text in one unit (`90s`, `2h`), so at least one second and
whole seconds.
"""

import datetime
import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import (
    AliasChoices,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from .errors import FunctionConfigInvalidError, is_official

# Not recursive, so that a TypedDict is accepted as data.
JSON = TypeAliasType(
    "JSON", bool | int | float | str | Mapping[str, object] | Sequence[object] | None
)

WIRE: Any = {"wire": True}
"""Validation context for configuration read back from JSON: durations are text, and errors are
pydantic's own."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
LONGEST_MS = 36_500 * _UNITS_MS["d"]
"""Longest duration: what is longer is a mistake, and at some length nothing can count it."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def milliseconds(duration: int | datetime.timedelta) -> int:
    """A duration as whole milliseconds (rounded down). Raises `TypeError` for anything but an int
    or a timedelta."""
    if isinstance(duration, datetime.timedelta):
        return duration // datetime.timedelta(milliseconds=1)
    if isinstance(duration, int) and not isinstance(duration, bool):
        return duration
    raise TypeError(f"A duration is an int (milliseconds) or a timedelta, not {duration!r}.")


def parse_duration(text: str) -> int:
    """Milliseconds of a duration in Inngest's notation: `30s`, `1d12h`, `1.5h`. Raises
    `ValueError`."""
    parts = _DURATION.findall(text)
    if text == "0":
        return 0
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 1d12h")
    ms = sum(float(number) * _UNITS_MS[unit] for number, unit in parts)
    if ms > LONGEST_MS:
        raise ValueError(f"{shown(text)} is over {LONGEST_MS // _UNITS_MS['d']} days")
    return int(ms)


def duration_text(duration: int | datetime.timedelta) -> str:
    """A duration in the largest unit that divides it: 90_000 is `90s`, two hours are `2h`.

    Raises `FunctionConfigInvalidError` below one second or between whole seconds, as the official
    SDK does.
    """
    ms = milliseconds(duration)
    if ms < 1000:
        raise FunctionConfigInvalidError("duration must be at least 1 second")
    if ms % 1000:
        raise FunctionConfigInvalidError("duration must be a whole number of seconds")
    unit = next(unit for unit in ("w", "d", "h", "m", "s") if ms % _UNITS_MS[unit] == 0)
    return f"{ms // _UNITS_MS[unit]}{unit}"


def _read_duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str) and info.context is WIRE:
        return parse_duration(value)
    if isinstance(value, int | datetime.timedelta) and not isinstance(value, bool):
        return value
    problem = f"should be milliseconds (int) or a datetime.timedelta, not {shown(value)}"
    try:
        problem += f"; write {parse_duration(str(value)):_} for that"
    except ValueError:
        pass
    raise PydanticCustomError("duration", "{problem}", {"problem": problem})


Duration = Annotated[
    int | datetime.timedelta,
    BeforeValidator(_read_duration),
    PlainSerializer(duration_text, return_type=str),
]


class Model(pydantic.BaseModel):
    """Base of the models: strict types, unknown fields ignored."""

    # NaN must be refused when JSON is written, and not become null before.
    model_config = pydantic.ConfigDict(strict=True, ser_json_inf_nan="constants")

    @classmethod
    def from_raw(cls, raw: object) -> Self | Exception:
        """The model for a mapping or JSON text; an error is returned, not raised."""
        try:
            return (
                cls.model_validate_json(raw)
                if isinstance(raw, str | bytes)
                else cls.model_validate(raw)
            )
        except Exception as error:
            return error

    def to_dict(self) -> dict[str, object] | Exception:
        """Plain JSON values under the names used on the wire; an error is returned, not raised."""
        try:
            return self.model_dump(by_alias=True, mode="json")
        except Exception as error:
            return error


class ConfigModel(Model):
    """Base of the models that configure a function: immutable, and `FunctionConfigInvalidError` for
    a bad value."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True)

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _explain(
        cls, data: Any, handler: pydantic.ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if info.context is not None:
            return handler(data)  # the error of the whole model will name this part
        try:
            return handler(data)
        except pydantic.ValidationError as error:
            raise FunctionConfigInvalidError(f"{cls.__name__}, {describe(error)}") from None


class _ExtendedModel(ConfigModel):
    """Base of models that have fields which the official ones lack: those are written and shown
    only if they are set."""

    _additions: ClassVar[frozenset[str]] = frozenset()
    """Names of these fields."""

    @pydantic.model_serializer(mode="wrap")
    def _as_the_official_one(
        self, handler: pydantic.SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {
            field: value
            for field, value in written.items()
            if field not in self._additions or value is not None
        }

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return (
            (name, value)
            for name, value in super().__repr_args__()
            if name not in self._additions or value is not None
        )


def describe(error: pydantic.ValidationError) -> str:
    """The first problem of a validation error, as `field: problem`."""
    first = error.errors(include_url=False)[0]
    problem = first["msg"].replace("Input should be", "should be")
    if first["type"] == "model_type":
        problem = f"should be a {first['ctx']['class_name']}"
    if problem.startswith("should be") and ", not " not in problem:
        problem += f", not {shown(first['input'])}"
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), problem)))


def shown(value: object) -> str:
    """An invalid value for a message: shortened, and with its type."""
    text = repr(value)
    if is_official(type(value)):
        return f"{text} of the official SDK: change the import to `inngest_temporal`"
    if text.startswith(type(value).__name__):
        return text
    return f"{text if len(text) <= 100 else text[:97] + '...'} ({type(value).__name__})"


class Event(Model):
    """An event, sent or received."""

    data: Mapping[str, JSON] = Field(default={})
    id: str = ""
    """Unique per event if given: within 24 hours a function runs once for it. Received: the
    internal ULID if it was sent without one."""
    name: str
    ts: int = 0
    """Milliseconds since 1970 in UTC; 0 when sending means now."""

    @pydantic.field_validator("data", mode="before")
    @classmethod
    def _no_data(cls, data: object) -> object:
        return {} if data is None else data


class Signal(Model):
    """A signal that a run has waited for."""

    signal: str
    """Its name."""
    data: JSON = None


class SendEventsResult(Model):
    """The ingress's reply to a POST of events."""

    error: str | None = None
    ids: list[str] = Field(default=[])
    """Internal id (ULID) of each accepted event, in order."""


BATCH_TIMEOUT = datetime.timedelta(seconds=60)
"""Timeout of a batch that has none configured: Inngest's default."""


class Batch(ConfigModel):
    """Start one run for several events. A batch ends when it has `max_size` events or is `timeout`
    old."""

    max_size: Annotated[
        int,
        Field(validation_alias=AliasChoices("max_size", "maxSize"), serialization_alias="maxSize"),
    ]
    timeout: Duration | None = None
    key: str | None = None
    """CEL over `event`: one batch per value."""
    if_exp: Annotated[
        str | None, Field(validation_alias=AliasChoices("if_exp", "if"), serialization_alias="if")
    ] = None
    """CEL over `event`: an event for which it is false gets its own run."""


class Cancel(_ExtendedModel):
    """Cancel a run when an event arrives."""

    _additions = frozenset({"until"})

    event: str
    if_exp: Annotated[
        str | None, Field(validation_alias=AliasChoices("if_exp", "if"), serialization_alias="if")
    ] = None
    """CEL: `event` is the run's, `async` the one that arrives."""
    timeout: Duration | None = None
    """How long after the run's start the event still counts."""
    until: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """Instead of `timeout`: the moment after which the event does not count any more."""


class Concurrency(_ExtendedModel):
    """Limit how many steps execute at once; or, at level `fn`, how many runs are under way."""

    _additions = frozenset({"level"})

    key: str | None = None
    """CEL over `event`: one limit per value."""
    limit: int
    """Maximum number at once; 0: no limit."""
    scope: Literal["account", "env", "fn"] | None = None
    """Who shares the limit; default `fn`."""
    level: Literal["step", "fn"] | None = None
    """`step` (default): a run counts while it executes, not while it sleeps or waits. `fn`: from
    its first execution to its end."""


class Debounce(ConfigModel):
    """Start a run only after `period` without another event."""

    key: str | None = None
    """CEL over `event`: one wait per value."""
    period: Duration
    timeout: Duration | None = None
    """Start after this time, even if events keep coming."""


class Priority(ConfigModel):
    """Order in the queue."""

    run: str
    """CEL over `event`, to an integer: seconds by which the run goes before (or, negative, after)
    others."""


class RateLimit(ConfigModel):
    """At most `limit` runs per `period`; further events start none."""

    key: str | None = None
    """CEL over `event`: one limit per value."""
    limit: int
    period: Duration


class Throttle(ConfigModel):
    """At most `limit` run starts per `period`; further runs wait."""

    key: str | None = None
    """CEL over `event`: one limit per value."""
    limit: int
    period: Duration
    burst: int | None = 1
    """Starts that are allowed at once, in addition to the even spacing."""


class Checkpointing(ConfigModel):
    """How far one execution of a handler goes from step to step, and how often it makes the results
    durable.

    A crash repeats at most the steps whose results were not durable yet.
    """

    buffered_steps: Annotated[int, Field(ge=1)] = 1
    """Steps after which their results are made durable. 1: each before the next one begins."""
    max_interval: Duration = 0
    """Time after which results are made durable, however few they are; 0: by their number alone."""
    max_runtime: Duration = 60_000
    """Time after which no further step begins in the same execution; 0: no limit."""

    @property
    def max_interval_ms(self) -> int:
        return milliseconds(self.max_interval)

    @property
    def max_runtime_ms(self) -> int:
        return milliseconds(self.max_runtime)


class Timeouts(ConfigModel):
    """Cancel a run that takes too long."""

    start: Duration | None = None
    """From the run's creation to its first execution."""
    finish: Duration | None = None
    """From its first execution to its end."""


class Singleton(ConfigModel):
    """One run at a time."""

    key: str | None = None
    """CEL over `event`: one run per value."""
    mode: Literal["skip", "cancel"]
    """Which run ends: the new one (`skip`) or the one that executes (`cancel`)."""


class TriggerEvent(ConfigModel):
    """Run on an event."""

    event: str
    """Name, or a prefix ending in `/*` or `.*`."""
    expression: str | None = None
    """CEL over `event`: it triggers only when true."""


class TriggerCron(ConfigModel):
    """Run on a schedule."""

    cron: str
    """Five fields or `@daily` and the like, in UTC, or with a time zone in front: `TZ=Europe/Paris
    0 9 * * *`."""
    jitter: str | None = None
    """Random delay of at most this, `1s` to `5m`."""


class ParallelMode(enum.Enum):
    """How `group.parallel` continues; see there."""

    RACE = "race"
    WAIT = "wait"


class Streaming(enum.Enum):
    """Whether the official SDK's endpoints stream. Nothing here streams; imports of the name keep
    working."""

    DISABLE = "disable"
    FORCE = "force"
