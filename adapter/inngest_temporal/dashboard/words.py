"""The configuration of a function, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from markupsafe import Markup

from inngest_temporal.config import FunctionConfig
from inngest_temporal.models import (
    BATCH_TIMEOUT,
    Cancel,
    Concurrency,
    TriggerCron,
    TriggerEvent,
    milliseconds,
)

from .rendering import duration

_SCOPES = {
    "env": "shared by all functions with this key",
    "account": "shared by all functions with this key",
}


@dataclass(frozen=True)
class Saying:
    """One thing that a function is configured to do."""

    about: str
    text: Markup


def triggers_of(config: FunctionConfig) -> list[Markup]:
    """The triggers of a function."""
    said = []
    for trigger in config.triggers:
        if isinstance(trigger, TriggerEvent):
            said.append(_code("event {}", trigger.event) + _if(trigger.expression))
        elif isinstance(trigger, TriggerCron):
            jitter = Markup(", up to {} late").format(trigger.jitter) if trigger.jitter else ""
            said.append(_code("schedule {}", trigger.cron) + jitter)
    return said or [Markup("nothing: it is only invoked")]


def sayings(config: FunctionConfig) -> list[Saying]:
    """The configuration of a function, without its triggers."""
    return [*_flow_control(config), *_queueing(config), *_ends(config)]


def _flow_control(config: FunctionConfig) -> Iterator[Saying]:
    for limit in config.concurrency or []:
        if limit.limit:
            yield Saying("Concurrency", _concurrency(limit))
    if (throttle := config.throttle) is not None:
        text = Markup("starts at most {} in {}").format(
            _runs(throttle.limit), _ms(throttle.period)
        ) + _each(throttle.key)
        if throttle.burst and throttle.burst > 1:
            text += Markup(", {} at once").format(throttle.burst)
        yield Saying("Throttle", text + Markup("; further runs wait"))
    if (rate := config.rate_limit) is not None:
        text = Markup("at most {} in {}").format(_runs(rate.limit), _ms(rate.period))
        yield Saying("Rate limit", text + _each(rate.key) + Markup("; further events start none"))
    if config.idempotency:
        yield Saying("Idempotency", Markup("one run in 24 hours") + _each(config.idempotency))
    if (debounce := config.debounce) is not None:
        text = Markup("starts once no event came for {}").format(_ms(debounce.period))
        text += _each(debounce.key)
        if debounce.timeout is not None:
            text += Markup(", after {} at the latest").format(_ms(debounce.timeout))
        yield Saying("Debounce", text)
    if (batch := config.batch_events) is not None:
        text = Markup("one run for up to {} events, after {} at the latest").format(
            batch.max_size, _ms(batch.timeout or BATCH_TIMEOUT)
        )
        yield Saying("Batch", text + _each(batch.key) + _if(batch.if_exp))


def _queueing(config: FunctionConfig) -> Iterator[Saying]:
    if (singleton := config.singleton) is not None:
        gives_way = (
            "a new one is skipped" if singleton.mode == "skip" else "a new one cancels the other"
        )
        text = Markup("one run at a time") + _each(singleton.key) + Markup("; ") + gives_way
        yield Saying("Singleton", text)
    if config.priority is not None:
        yield Saying("Priority", _code("goes before others by {} seconds", config.priority.run))


def _ends(config: FunctionConfig) -> Iterator[Saying]:
    if config.retries:
        text = Markup("each step, and the handler, is tried up to {} times").format(
            config.retries + 1
        )
    else:
        text = Markup("none: what fails once fails the run")
    yield Saying("Retries", text)
    if (timeouts := config.timeouts) is not None:
        if timeouts.start is not None:
            limit = _ms(timeouts.start)
            yield Saying("Timeout", Markup("cancelled unless it begins within {}").format(limit))
        if timeouts.finish is not None:
            limit = _ms(timeouts.finish)
            yield Saying("Timeout", Markup("cancelled unless it ends within {}").format(limit))
    for cancel in config.cancel or []:
        yield Saying("Cancel", _cancel(cancel))


def _concurrency(limit: Concurrency) -> Markup:
    is_of_runs = limit.level == "fn"
    most = f"{_runs(limit.limit)} under way" if is_of_runs else f"{limit.limit:,} at once"
    text = Markup("at most {}").format(most) + _each(limit.key)
    return text + Markup(", {}").format(_SCOPES[limit.scope]) if limit.scope in _SCOPES else text


def _cancel(cancel: Cancel) -> Markup:
    text = _code("by event {}", cancel.event) + _if(cancel.if_exp)
    if cancel.timeout is not None:
        text += Markup(", within {} of its start").format(_ms(cancel.timeout))
    return text


def _each(key: str | None) -> Markup:
    return _code(" for each {}", key) if key else Markup("")


def _if(expression: str | None) -> Markup:
    return _code(" if {}", expression) if expression else Markup("")


def _code(text: str, code: str) -> Markup:
    return Markup(text).format(Markup("<code>{}</code>").format(code))


def _ms(given: int | timedelta) -> str:
    return duration(milliseconds(given))


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count:,} runs"
