"""The configuration of a function, which routing reads: triggers, flow control, and their checks.

A configuration is checked when a worker registers the function. Limits, names and refused
combinations are those of Inngest's server, which also checks them at registration.
"""

import datetime
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pydantic
from pydantic import AliasChoices, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from inngest_temporal.expressions import check_condition, check_expression

from .cron import parse_cron
from .errors import ExpressionError, FunctionConfigInvalidError
from .models import (
    LONGEST_MS,
    WIRE,
    Batch,
    Cancel,
    Concurrency,
    ConfigModel,
    Debounce,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
    TriggerCron,
    TriggerEvent,
    describe,
    duration_text,
    milliseconds,
    parse_duration,
    shown,
)

DEFAULT_RETRIES = 4
MAX_RETRIES = 20
MAX_TRIGGERS = 10
MAX_CANCEL = 5
MAX_CONCURRENCY = 2
MAX_TRIGGER_NAME = 255

_SECOND = datetime.timedelta(seconds=1)
_DAY = datetime.timedelta(days=1)
_LONGEST = datetime.timedelta(milliseconds=LONGEST_MS)


def _kind_of_trigger(value: object) -> str | None:
    """Tells pydantic which model a trigger is, so that an error is about that one."""
    for kind, model in (("cron", TriggerCron), ("event", TriggerEvent)):
        if isinstance(value, model) or (isinstance(value, Mapping) and kind in value):
            return kind
    return None


Trigger = Annotated[
    Annotated[TriggerCron, Tag("cron")] | Annotated[TriggerEvent, Tag("event")],
    Discriminator(
        _kind_of_trigger,
        custom_error_type="trigger",
        custom_error_message="Input should be a TriggerEvent or a TriggerCron",
    ),
]


class FunctionConfig(ConfigModel):
    """A function as a worker registers it and the ingress routes by it: plain data, under Inngest's
    names."""

    id: str
    """App id, a hyphen, and the function's own id."""
    name: str
    triggers: list[Trigger]
    """May be empty; then the function is only invoked."""
    batch_events: Annotated[
        Batch | None,
        Field(
            validation_alias=AliasChoices("batch_events", "batchEvents"),
            serialization_alias="batchEvents",
        ),
    ] = None
    cancel: list[Cancel] | None = None
    concurrency: list[Concurrency] | None = None
    debounce: Debounce | None = None
    idempotency: str | None = None
    """CEL over `event`: within 24 hours one run per value."""
    priority: Priority | None = None
    rate_limit: Annotated[
        RateLimit | None,
        Field(
            validation_alias=AliasChoices("rate_limit", "rateLimit"),
            serialization_alias="rateLimit",
        ),
    ] = None
    retries: int = DEFAULT_RETRIES
    """Attempts after the first, of each step and of the handler between steps."""
    singleton: Singleton | None = None
    throttle: Throttle | None = None
    timeouts: Timeouts | None = None
    paused: bool | None = None
    """Whether new runs wait until somebody resumes it. No app says so: it is kept beside what apps
    publish (`inngest_temporal.routing.pauses`)."""
    url: str | None = None
    """Where its app serves it over HTTP, with `fnId` and without `stepId`; None: its app's workers
    execute it."""

    @pydantic.field_validator("cancel", "concurrency", mode="before")
    @classmethod
    def _is_list(cls, value: object, info: pydantic.ValidationInfo) -> object:
        if value is None or isinstance(value, list):
            return value
        examples = {"cancel": 'Cancel(event="...")', "concurrency": "Concurrency(limit=5)"}
        problem = f"should be a list such as [{examples[str(info.field_name)]}], not {shown(value)}"
        raise PydanticCustomError("list", "{problem}", {"problem": problem})

    def to_wire(self) -> dict[str, Any]:
        """Plain JSON, without fields that are not set."""
        dumped = self.model_dump(by_alias=True, mode="json")
        return {name: value for name, value in dumped.items() if value is not None}

    @classmethod
    def from_wire(cls, raw: Mapping[str, Any]) -> "FunctionConfig":
        """The inverse of `to_wire`; unknown names are ignored. Raises
        `FunctionConfigInvalidError`."""
        try:
            return cls.model_validate(raw, context=WIRE)
        except pydantic.ValidationError as error:
            raise FunctionConfigInvalidError(
                f"Function {raw.get('id')!r}, {describe(error)}"
            ) from None


# Checks. Each yields the field, what is wrong with it, and what to do.

_Problem = tuple[str, str]


def check(config: FunctionConfig, app_id: str) -> None:
    """Raises `FunctionConfigInvalidError`, which lists every problem."""
    problems = [
        *_check_ids(config, app_id),
        *_check_triggers(config),
        *_check_batches(config),
        *_check_cancels(config),
        *_check_concurrency(config),
        *_check_flow_control(config),
        *_check_combinations(config),
    ]
    if problems:
        lines = [f"Function {config.id!r}, {field}: {problem}." for field, problem in problems]
        raise FunctionConfigInvalidError("\n".join(lines))


def _check_ids(config: FunctionConfig, app_id: str) -> Iterator[_Problem]:
    if not app_id:
        yield "app_id", "the client has an empty one; give it a text that never changes"
    if not 0 <= config.retries <= MAX_RETRIES:
        yield (
            "retries",
            (
                f"{config.retries} is out of range; use 0 to {MAX_RETRIES}, or none for"
                f" {DEFAULT_RETRIES}"
            ),
        )


def _check_triggers(config: FunctionConfig) -> Iterator[_Problem]:
    if len(config.triggers) > MAX_TRIGGERS:
        yield (
            "trigger",
            (
                f"{len(config.triggers)} are too many; use at most {MAX_TRIGGERS}, or several"
                " functions"
            ),
        )
    seen: set[TriggerEvent | str] = set()
    for index, trigger in enumerate(config.triggers):
        # Two crons with the same times are one, whatever their jitter.
        identity = trigger if isinstance(trigger, TriggerEvent) else " ".join(trigger.cron.split())
        field = f"trigger[{index}]"
        if identity in seen:
            yield field, "is there twice; remove one"
        seen.add(identity)
        if isinstance(trigger, TriggerCron):
            yield from _check_cron(trigger, field)
        else:
            yield from _check_event_name(trigger.event, f"{field}.event", pattern=True)
            yield from _check_expression(trigger.expression, f"{field}.expression")


def _check_event_name(name: str, field: str, *, pattern: bool) -> Iterator[_Problem]:
    exact = name[:-2] if pattern and name.endswith(("/*", ".*")) else name
    if not name:
        yield field, "is empty; name an event"
    elif len(name) > MAX_TRIGGER_NAME:
        yield field, f"has {len(name)} characters; use at most {MAX_TRIGGER_NAME}"
    elif pattern and ("*" in exact or not exact):
        yield (
            field,
            (
                f"{name!r} has a * in the wrong place; use a whole name, or a prefix that ends in"
                " /* or .*"
            ),
        )
    elif "*" in exact:
        yield field, f"{name!r} is a pattern; use a whole name"


def _check_expression(source: str | None, field: str) -> Iterator[_Problem]:
    if source is None:
        return
    try:
        check_expression(source)
    except ExpressionError as error:
        yield field, f"{error}; correct the expression"


def _check_duration(
    duration: int | datetime.timedelta | None,
    field: str,
    longest: datetime.timedelta = _LONGEST,
) -> Iterator[_Problem]:
    if duration is None:
        return
    remedy = "use whole seconds, at least one" + (
        "" if longest == _LONGEST else f" and at most {duration_text(longest)}"
    )
    try:
        text = duration_text(duration)
    except FunctionConfigInvalidError as error:
        yield field, f"{error}, and this is {milliseconds(duration)} ms; {remedy}"
        return
    if milliseconds(duration) > milliseconds(longest):
        yield field, f"{text} is too long; {remedy}"


def _check_least(number: int | None, least: int, field: str, remedy: str) -> Iterator[_Problem]:
    if number is not None and number < least:
        yield field, f"{number} is below {least}; {remedy}"


def _check_batches(config: FunctionConfig) -> Iterator[_Problem]:
    if (batch := config.batch_events) is not None:
        yield from _check_least(
            batch.max_size, 2, "batch_events.max_size", "leave batch_events out for one run each"
        )
        yield from _check_duration(batch.timeout, "batch_events.timeout")
        yield from _check_expression(batch.key, "batch_events.key")
        yield from _check_expression(batch.if_exp, "batch_events.if_exp")


def _check_cancels(config: FunctionConfig) -> Iterator[_Problem]:
    if len(cancel := config.cancel or []) > MAX_CANCEL:
        yield "cancel", f"{len(cancel)} entries are too many; use at most {MAX_CANCEL}"
    for index, each in enumerate(cancel):
        yield from _check_cancel(each, f"cancel[{index}]")


def _check_concurrency(config: FunctionConfig) -> Iterator[_Problem]:
    concurrency = config.concurrency or []
    whole = [limit for limit in concurrency if limit.level == "fn"]
    if (count := len(concurrency) - len(whole)) > MAX_CONCURRENCY:
        yield "concurrency", f"{count} limits are too many; use at most {MAX_CONCURRENCY}"
    if len(whole) > 1:
        yield "concurrency", f"{len(whole)} limits of level 'fn' are too many; use one"
    for index, limit in enumerate(concurrency):
        field = f"concurrency[{index}]"
        least = 1 if limit.level == "fn" else 0
        yield from _check_least(
            limit.limit, least, f"{field}.limit", "leave the entry out for no limit"
        )
        if limit.level == "fn" and limit.scope in ("env", "account"):
            yield f"{field}.scope", f"{limit.scope!r} can't be of level 'fn'; leave the scope out"
        yield from _check_expression(limit.key, f"{field}.key")
        if limit.scope in ("env", "account") and not limit.key:
            yield (
                f"{field}.key",
                f"scope {limit.scope!r} needs one; say with a key which functions share the limit",
            )


def _check_flow_control(config: FunctionConfig) -> Iterator[_Problem]:
    if (debounce := config.debounce) is not None:
        yield from _check_duration(debounce.period, "debounce.period", 7 * _DAY)
        yield from _check_duration(debounce.timeout, "debounce.timeout")
        # As in Inngest, an empty key is no key; for debounces only.
        yield from _check_expression(debounce.key or None, "debounce.key")
    yield from _check_expression(config.idempotency, "idempotency")
    if config.priority is not None:
        yield from _check_expression(config.priority.run, "priority.run")
    if (rate := config.rate_limit) is not None:
        yield from _check_least(rate.limit, 1, "rate_limit.limit", "allow at least one run")
        yield from _check_duration(rate.period, "rate_limit.period", _DAY)
        yield from _check_expression(rate.key, "rate_limit.key")
    if config.singleton is not None:
        yield from _check_expression(config.singleton.key, "singleton.key")
    if (throttle := config.throttle) is not None:
        yield from _check_least(throttle.limit, 0, "throttle.limit", "allow at least one start")
        yield from _check_least(throttle.burst, 0, "throttle.burst", "use 0 for none")
        yield from _check_duration(throttle.period, "throttle.period")
        yield from _check_expression(throttle.key, "throttle.key")
    if config.timeouts is not None:
        yield from _check_duration(config.timeouts.start, "timeouts.start")
        yield from _check_duration(config.timeouts.finish, "timeouts.finish")


def _check_cancel(cancel: Cancel, field: str) -> Iterator[_Problem]:
    yield from _check_event_name(cancel.event, f"{field}.event", pattern=False)
    yield from _check_duration(cancel.timeout, f"{field}.timeout")
    if cancel.if_exp is None:
        return
    try:
        check_condition(cancel.if_exp, cancels=True)
    except ExpressionError as error:
        yield f"{field}.if_exp", f"{error}; correct the expression"


def _check_combinations(config: FunctionConfig) -> Iterator[_Problem]:
    if config.batch_events is None:
        return
    for field in ("cancel", "debounce", "singleton", "priority"):
        if getattr(config, field):
            yield "batch_events", f"can't be combined with {field}; remove one of them"


def _check_cron(trigger: TriggerCron, field: str) -> Iterator[_Problem]:
    if len(trigger.cron) > MAX_TRIGGER_NAME:
        yield f"{field}.cron", f"has {len(trigger.cron)} characters; use at most {MAX_TRIGGER_NAME}"
        return
    try:
        parse_cron(trigger.cron)
    except ValueError as error:
        yield f"{field}.cron", f"{trigger.cron!r}: {error}"
    if trigger.jitter is None:
        return
    try:
        jitter = parse_duration(trigger.jitter)
    except ValueError as error:
        yield f"{field}.jitter", f"{error}; use 1s to 5m"
    else:
        if jitter and not 1_000 <= jitter <= 300_000:
            yield f"{field}.jitter", f"{trigger.jitter} is out of range; use 1s to 5m, or none"
