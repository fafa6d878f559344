import datetime
from typing import Any

import pydantic
import pytest

from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.models import (
    WIRE,
    Batch,
    Cancel,
    Concurrency,
    Debounce,
    Event,
    Priority,
    RateLimit,
    SendEventsResult,
    Singleton,
    Throttle,
    Timeouts,
    TriggerCron,
    TriggerEvent,
    duration_text,
    milliseconds,
    parse_duration,
)

second = datetime.timedelta(seconds=1)


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        (0, 0),
        (90_000, 90_000),
        (-1, -1),
        (second, 1000),
        (second / 8, 125),
        (second / 1_000_000, 0),
    ],
)
def test_a_duration_is_milliseconds_or_a_timedelta(
    duration: int | datetime.timedelta, ms: int
) -> None:
    assert milliseconds(duration) == ms


@pytest.mark.parametrize("duration", ["5s", 1.5, True, None])
def test_anything_else_is_not_a_duration(duration: Any) -> None:
    with pytest.raises(TypeError, match=r"int \(milliseconds\) or a timedelta"):
        milliseconds(duration)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (1000, "1s"),
        (90_000, "90s"),
        (60_000, "1m"),
        (7_200_000, "2h"),
        (86_400_000, "1d"),
        (datetime.timedelta(days=14), "2w"),
        (datetime.timedelta(days=8), "8d"),
    ],
)
def test_a_duration_is_written_in_the_largest_unit_that_divides_it(
    duration: int | datetime.timedelta, text: str
) -> None:
    assert duration_text(duration) == text
    assert parse_duration(text) == milliseconds(duration)


@pytest.mark.parametrize(
    ("duration", "problem"),
    [
        (999, "at least 1 second"),
        (0, "at least 1 second"),
        (-5000, "at least 1 second"),
        (1001, "whole number of"),
    ],
)
def test_a_duration_below_or_between_whole_seconds_is_not_written(
    duration: int, problem: str
) -> None:
    with pytest.raises(FunctionConfigInvalidError, match=problem):
        duration_text(duration)
    error = Batch(max_size=2, timeout=duration).to_dict()
    assert isinstance(error, Exception)
    assert problem in str(error)


@pytest.mark.parametrize(
    ("text", "ms"), [("1d12h", 129_600_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0)]
)
def test_duration_text_of_inngest_is_read(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "1h-5m", "five", "5y"])
def test_other_text_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("model", "wire"),
    [
        (
            Batch(max_size=5, timeout=90_000),
            {"maxSize": 5, "timeout": "90s", "key": None, "if": None},
        ),
        (Cancel(event="a", if_exp="x"), {"event": "a", "if": "x", "timeout": None}),
        (Concurrency(limit=1, scope="env", key="x"), {"key": "x", "limit": 1, "scope": "env"}),
        (Debounce(period=second), {"key": None, "period": "1s", "timeout": None}),
        (Priority(run="1"), {"run": "1"}),
        (RateLimit(limit=1, period=60_000), {"key": None, "limit": 1, "period": "1m"}),
        (Throttle(limit=1, period=60_000), {"key": None, "limit": 1, "period": "1m", "burst": 1}),
        (Timeouts(start=1000), {"start": "1s", "finish": None}),
        (Singleton(mode="skip"), {"key": None, "mode": "skip"}),
        (TriggerEvent(event="a"), {"event": "a", "expression": None}),
        (TriggerCron(cron="* * * * *", jitter="5s"), {"cron": "* * * * *", "jitter": "5s"}),
        (SendEventsResult(ids=["a"]), {"error": None, "ids": ["a"]}),
        (
            Event(name="a", data={"t": (1, 2)}),
            {"data": {"t": [1, 2]}, "id": "", "name": "a", "ts": 0},
        ),
    ],
)
def test_models_are_written_under_inngests_names(model: Any, wire: dict[str, object]) -> None:
    assert model.to_dict() == wire


@pytest.mark.parametrize(
    "model",
    [
        Batch(max_size=5, timeout=90_000, if_exp="x"),
        Cancel(event="a", if_exp="x", timeout=1000),
        Debounce(period=60_000, timeout=3_600_000),
        Timeouts(start=1000, finish=604_800_000),
    ],
)
def test_what_is_written_can_be_read_back(model: Batch | Cancel | Debounce | Timeouts) -> None:
    assert type(model).model_validate(model.to_dict(), context=WIRE) == model


def test_a_user_cannot_give_a_duration_as_text() -> None:
    with pytest.raises(FunctionConfigInvalidError, match="timeout"):
        Batch(max_size=5, timeout="90s")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", ["5", 5.0, True, None])
def test_types_are_strict_and_the_error_names_the_field(size: Any) -> None:
    with pytest.raises(
        FunctionConfigInvalidError, match=r"^Batch, max_size: should be a valid integer"
    ):
        Batch(max_size=size)


def test_values_outside_a_choice_are_refused() -> None:
    with pytest.raises(
        FunctionConfigInvalidError, match=r"^Concurrency, scope: should be 'account', 'env' or 'fn'"
    ):
        Concurrency(limit=1, scope="app")  # type: ignore[arg-type]
    with pytest.raises(
        FunctionConfigInvalidError, match=r"^Singleton, mode: should be 'skip' or 'cancel'"
    ):
        Singleton(mode="wait")  # type: ignore[arg-type]


def test_unknown_fields_are_ignored() -> None:
    assert Batch.from_raw({"max_size": 5, "color": "red"}) == Batch(max_size=5)


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Batch(max_size=5).max_size = 6


def test_an_event_can_be_changed_by_middleware() -> None:
    event = Event(name="a")
    event.data = {"secret": "***"}
    assert event.to_dict() == {"data": {"secret": "***"}, "id": "", "name": "a", "ts": 0}


def test_an_event_without_data_has_empty_data() -> None:
    assert Event.from_raw({"name": "a", "data": None}) == Event(name="a", data={})
    assert Event(name="a").data is not Event(name="b").data


def test_from_raw_takes_mappings_and_json_text() -> None:
    event = Event(name="a", data={"x": [1]}, id="i", ts=5)
    assert (
        Event.from_raw({"name": "a", "data": {"x": [1]}, "id": "i", "ts": 5, "user": {}, "v": "2"})
        == event
    )
    assert Event.from_raw('{"name": "a", "data": {"x": [1]}, "id": "i", "ts": 5}') == event


@pytest.mark.parametrize(
    "raw", [{"name": 5}, {"name": "a", "ts": "5"}, {}, "x", 5, None, {"name": "a", "data": [1]}]
)
def test_from_raw_returns_an_error_instead_of_raising_it(raw: object) -> None:
    assert isinstance(Event.from_raw(raw), Exception)


def test_from_raw_of_configuration_returns_our_error() -> None:
    error = Batch.from_raw({"timeout": 1000})
    assert isinstance(error, FunctionConfigInvalidError)
    assert str(error) == "Batch, max_size: Field required"
