"""What the ingress answers, and logs, while Temporal refuses or does not answer."""

import logging

import pytest
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.http import replies
from inngest_temporal.http.replies import Outage, unavailable

BUSY = RPCError("too busy", RPCStatusCode.RESOURCE_EXHAUSTED, b"")


def test_many_requests_that_fail_are_logged_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(replies, "_outage", Outage())
    failures = {unavailable(error) for error in (BUSY, TimeoutError(), BUSY)}
    assert {status for status, _ in filter(None, failures)} == {503}
    line = "Temporal refused or did not answer: RESOURCE_EXHAUSTED too busy"
    assert caplog.messages == [line]
    assert unavailable(ValueError("a bug")) is None
    assert len(caplog.messages) == 1


def test_an_error_without_a_message_is_logged_by_its_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(replies, "_outage", Outage())
    unavailable(TimeoutError())
    assert caplog.messages == ["Temporal can't be reached: TimeoutError"]


def test_later_lines_count_what_failed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(replies, "TELL_SECONDS", 0.05)
    outage = Outage()
    outage.tell("first")
    count = 0
    while len(caplog.messages) == 1:
        outage.tell("later")
        count += 1
    assert caplog.messages == ["first", f"later ({count - 1} more requests failed like this)"]
