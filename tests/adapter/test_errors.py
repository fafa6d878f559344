import datetime
import inspect
from typing import Any

import pytest

from inngest_temporal import errors
from inngest_temporal.drivers.failures import RETRY_AFTER_MS, error_info
from inngest_temporal.errors import (
    CodedError,
    Error,
    ErrorCode,
    Interrupt,
    NonRetriableError,
    OutputUnserializableError,
    RetryAfterError,
    SendEventsError,
    StepError,
    StepUnexpectedError,
)


def test_every_exception_but_the_interrupt_is_an_error() -> None:
    kinds = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException)
    }
    assert {kind for kind in kinds if not issubclass(kind, Error)} == {Interrupt}


def test_interrupt_passes_except_exception() -> None:
    assert not issubclass(Interrupt, Exception)


def test_error_tells_message_name_and_stack() -> None:
    with pytest.raises(Error) as caught:
        raise Error("no such thing")
    assert caught.value.message == "no such thing"
    assert caught.value.name == "Error"
    assert caught.value.stack is not None
    assert caught.value.stack.startswith("Traceback (most recent call last):")
    assert caught.value.stack.rstrip().endswith("Error: no such thing")
    assert caught.value.is_retriable
    assert caught.value.include_stack


def test_the_stack_of_an_error_shows_its_cause() -> None:
    error = Error("outer")
    error.__cause__ = ValueError("inner")
    assert error.stack is not None
    assert "ValueError: inner" in error.stack


def test_non_retriable_error_is_not_retriable_and_may_be_without_message() -> None:
    error = NonRetriableError()
    assert (error.message, error.is_retriable, error.quiet) == ("", False, False)
    assert NonRetriableError("gone", quiet=True).quiet


def test_step_error_shows_the_error_of_the_step_not_its_own() -> None:
    error = StepError("no money", "PaymentError", "the stack")
    assert (error.message, error.name, error.stack) == ("no money", "PaymentError", "the stack")
    assert not error.is_retriable


@pytest.mark.parametrize("after", [90_000, datetime.timedelta(seconds=90)])
def test_retry_after_takes_milliseconds_and_timedeltas_from_now(
    after: int | datetime.timedelta,
) -> None:
    before = datetime.datetime.now(datetime.UTC)
    error = RetryAfterError("busy", after)
    assert (
        datetime.timedelta(seconds=90)
        <= error.retry_after - before
        < datetime.timedelta(seconds=95)
    )
    assert error.is_retriable


def test_retry_after_takes_a_moment_and_reads_a_naive_one_as_local_time() -> None:
    aware = datetime.datetime(
        2026, 11, 23, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
    )
    assert RetryAfterError(None, aware).retry_after == aware
    naive = datetime.datetime(2026, 11, 23, 12)
    assert RetryAfterError(None, naive).retry_after == naive.astimezone()


@pytest.mark.parametrize("after", ["5s", 1.5, True, None])
def test_retry_after_refuses_anything_else(after: object) -> None:
    with pytest.raises(TypeError, match=r"milliseconds \(int\), a timedelta or a datetime"):
        RetryAfterError("busy", after)  # type: ignore[arg-type]


def test_send_events_error_keeps_the_accepted_ids() -> None:
    assert SendEventsError("half", ["01A"]).ids == ["01A"]


def test_coded_error_carries_its_own_code() -> None:
    error = CodedError(ErrorCode.STEP_NESTED, "Nested steps are not supported.", is_retriable=False)
    assert (error.code, error.is_retriable) == (ErrorCode.STEP_NESTED, False)
    assert CodedError.code is ErrorCode.UNKNOWN


def test_errors_that_another_attempt_would_repeat_are_not_retriable() -> None:
    assert not OutputUnserializableError("x").is_retriable
    assert not StepUnexpectedError("x").include_stack


@pytest.mark.parametrize(
    ("retry_after", "year"),
    [
        (10**18, 9999),
        (-(10**18), 1),
        (datetime.timedelta.max, 9999),
        (datetime.timedelta.min, 1),
        (
            datetime.datetime.max.replace(tzinfo=datetime.timezone(-datetime.timedelta(hours=5))),
            9999,
        ),
        (datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=5))), 1),
    ],
)
def test_a_retry_after_beyond_all_dates_is_the_furthest_one(retry_after: Any, year: int) -> None:
    error = RetryAfterError("later", retry_after)
    assert error.retry_after.year == year
    assert error.retry_after.tzinfo is datetime.UTC
    least, most = RETRY_AFTER_MS
    assert error_info(error).retry_after_ms == (most if year == 9999 else least)
