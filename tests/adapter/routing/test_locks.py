"""What runs ask of locks, without a server: their priority, and the values of keys."""

from typing import Any

import pytest
from temporalio.common import Priority

from inngest_temporal.config import FunctionConfig
from inngest_temporal.models import Concurrency, Singleton, Throttle, TriggerEvent
from inngest_temporal.models import Priority as RunPriority
from inngest_temporal.routing import locks

EVENT: dict[str, Any] = {"id": "1", "name": "a", "ts": 0, "data": {"n": 5.0, "no": False}}


def config(**options: Any) -> FunctionConfig:
    return FunctionConfig(id="app-fn", name="fn", triggers=[TriggerEvent(event="a")], **options)


@pytest.mark.parametrize(("factor", "key"), [(600, 1), (60, 2), (0, None), (-60, 4), (-600, 5)])
def test_strong_factors_go_first_or_last_in_a_backlog(factor: int, key: int | None) -> None:
    assert locks.priority_of(factor) == (Priority(priority_key=key) if key else Priority.default)


@pytest.mark.parametrize(
    ("run", "factor"),
    [
        ("event.data.n > 1.0 ? 120 : 0", 120),
        ("99999", 43_200),
        ("-99999", -43_200),
        ("'x'", 0),
        ("1/0", 0),
    ],
)
def test_a_factor_is_a_whole_number_within_bounds(run: str, factor: int) -> None:
    assert locks.factor_of(config(priority=RunPriority(run=run)), EVENT) == factor


def test_a_keys_value_is_shortened_and_a_singleton_without_one_needs_no_lock() -> None:
    event = {**EVENT, "data": {"n": 5.0, "long": "x" * 10_000}}
    long = config(concurrency=[Concurrency(limit=1, key="event.data.long")])
    [need] = locks.needs_of(long, event)
    assert need.value.endswith("…")
    assert len(need.value) == locks.MAX_SHOWN
    missing = config(singleton=Singleton(key="event.data.no", mode="skip"))
    assert locks.needs_of(missing, EVENT) == []
    whole = config(throttle=Throttle(limit=1, period=1_000, key="event.data.n"))
    assert [each.value for each in locks.needs_of(whole, EVENT)] == ["5"]
