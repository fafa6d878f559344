import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import MAX_OUTPUT_BYTES, Done, ErrorInfo, Op, Returned
from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.sdk.ops import MAX_CAUSE_BYTES, MAX_DEPTH
from inngest_temporal.sdk.replies import (
    HANDLER_ID,
    MAX_REPLY_BYTES,
    Answer,
    Reply,
    read_checkpoint,
    read_reply,
)

SDK = {"x-inngest-sdk": "inngest-js:v4.24.0"}
A = hashlib.sha1(b"a").hexdigest()
NOW_MS = 1_795_702_400_000  # 2026-11-26T14:13:20Z
DAY_MS = 86_400_000


def ops(*wires: Any, **headers: str) -> Answer:
    """The answer to a 206 with these operations."""
    return read(206, list(wires), **headers)


def read(status: int, body: Any = None, **headers: str) -> Answer:
    """`headers` have `_` for `-`; `sdk="no"` leaves out the header of SDKs."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items() if name != "sdk"}
    return read_reply(Reply(status, named if "sdk" in headers else SDK | named, raw), NOW_MS)


def op(opcode: str, **fields: Any) -> dict[str, Any]:
    return {"op": opcode, "id": A, "displayName": "a", **fields}


def only(answer: Answer) -> Op:
    """The one thing that the handler needs next."""
    assert answer.ops is not None
    assert len(answer.ops) == 1
    return answer.ops[0]


def error_of(answer: Answer) -> ErrorInfo:
    assert answer.failed is not None
    assert (answer.done, answer.retry, answer.ops, answer.returned) == ([], None, None, None)
    return answer.failed


GARBAGE = [
    *(b"", b" ", b"null", b"5", b'"x"', b"[null]", b"[5]", b"[[]]", b"[{}]", b'[{"op":5}]', b"{"),
    *(b"\xff", b"[NaN]", b"[1e999]", b'[{"op":"StepRun"}]', b'[{"op":"StepRun","id":""}]'),
    *(b'[{"op":"StepRun","id":5}]', b'[{"op":"StepRun","id":"a\\u0000"}]', b"<html>"),
    *(b'[{"op":"StepRun","id":"' + b"x" * 201 + b'"}]', b"[" * 100_000),
    b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
]
NO_CHECKPOINTS = [
    *(b"", b"null", b"[]", b"{}", b'{"qi_id":"q"}', b'{"steps":[]}', b'{"qi_id":5,"steps":[]}'),
    *(b'{"qi_id":"q","steps":{}}', b'{"qi_id":"q","steps":[5]}', b'{"qi_id":"q","steps":[{}]}'),
    *(b'{"qi_id":"q","steps":[{"op":"StepRun"}]}', b"\xff"),
]


class TestStatus:
    @pytest.mark.parametrize("status", [200, 202, 203, 299])
    @pytest.mark.parametrize("value", [None, 0, False, "", "text", [], {"a": [1.5]}, [{"op": "x"}]])
    def test_a_success_returns_its_body(self, status: int, value: Any) -> None:
        assert read(status, value) == Answer(returned=Returned(value))

    @pytest.mark.parametrize(
        ("body", "value"),
        [(b"", None), (b"  \n", None), (b"plain", "plain"), (b"<p>", "<p>"), (b"\xff", "\ufffd")],
    )
    def test_a_body_that_is_not_json_is_returned_as_text(self, body: bytes, value: Any) -> None:
        assert read(200, body) == Answer(returned=Returned(value))

    @pytest.mark.parametrize("status", [200, 201, 206, 299])
    def test_a_success_without_the_header_of_sdks_is_invalid(self, status: int) -> None:
        error = error_of(read(status, {"a": 1}, sdk="no"))
        assert (error.name, error.retriable) == ("InvalidReply", True)

    def test_a_page_of_a_proxy_is_shown(self) -> None:
        error = error_of(read(200, b"<h1>Welcome</h1>" * 1000, sdk="no"))
        assert "x-inngest-sdk" in error.message
        assert error.stack is not None
        assert error.stack.startswith("<h1>Welcome")
        assert len(error.stack) == 2000

    @pytest.mark.parametrize("status", [100, 301, 307, 400, 401, 404, 410, 429, 500, 503, 599, 0])
    @pytest.mark.parametrize("header", [None, "true", "false", "TRUE", ""])
    def test_whether_to_try_again_is_in_the_header_alone(
        self, status: int, header: str | None
    ) -> None:
        headers = {} if header is None else {"x_inngest_no_retry": header}
        body = {"name": "TypeError", "message": "boom", "stack": "at x"}
        error = error_of(read(status, body, **headers))
        assert (error.name, error.message, error.stack) == ("TypeError", "boom", "at x")
        assert error.retriable is (header not in ("true", "TRUE"))

    def test_a_failure_before_the_sdk_responded_says_so(self) -> None:
        error = error_of(read(502, b"Bad Gateway", sdk="no", retry_after="7"))
        assert error.name == "Server returned a fatal error"
        assert error.message == "Your server returned HTTP 502 before the SDK responded."
        assert (error.stack, error.retriable, error.retry_after_ms) == ("Bad Gateway", True, 7000)

    def test_success_that_must_not_be_retried_is_a_failure(self) -> None:
        error = error_of(read(200, {"message": "no"}, x_inngest_no_retry="true"))
        assert (error.message, error.retriable) == ("no", False)

    @pytest.mark.parametrize("status", [200, 201, 206, 400, 500])
    def test_a_reply_that_is_too_large_is_a_failure(self, status: int) -> None:
        error = error_of(read(status, b" " * (MAX_REPLY_BYTES + 1)))
        assert (error.name, error.retriable) == ("output_too_large", True)
        assert error.message.startswith("output_too_large: ")

    @pytest.mark.parametrize(
        ("text", "version"),
        [("1", 1), ("2", 2), ("0", None), ("-1", None), ("3", None), ("x", None), ("", None)],
    )
    def test_only_a_known_version_counts(self, text: str, version: int | None) -> None:
        assert read(200, 1, x_inngest_req_version=text).version == version


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "name", "message"),
        [
            ({"name": "E", "message": "m"}, "E", "m"),
            ({"message": "m"}, "Error", "m"),
            ({"name": "", "message": "m"}, "Error", "m"),
            ({"name": 5, "message": 5}, "Error", "invalid status code: 500"),
            ({"error": "e", "requestedStep": A}, "Error", "e"),
            ({}, "Error", "invalid status code: 500"),
            (None, "Error", "invalid status code: 500"),
            ("text", "Error", "text"),
            (5, "Error", "5"),
            ([1, 2], "Error", "[1, 2]"),
            (json.dumps({"name": "E", "message": "m"}), "E", "m"),
            (json.dumps(json.dumps({"name": "E", "message": "m"})), "E", "m"),
            ('{"name": "E"', "Error", '{"name": "E"'),
            ('"quoted', "Error", '"quoted'),
            ({"name": "E", "message": "half \ud800"}, "E", "half \ufffd"),
        ],
    )
    def test_name_and_message_are_found_in_any_form(
        self, body: Any, name: str, message: str
    ) -> None:
        error = error_of(read(500, body))
        assert (error.name, error.message) == (name, message)

    @pytest.mark.parametrize("body", [b"", b" "])
    def test_an_empty_body_has_its_status_as_message(self, body: bytes) -> None:
        assert error_of(read(500, body)).message == "invalid status code: 500"

    def test_a_cause_is_kept_unless_it_is_large(self) -> None:
        cause = {"name": "Inner", "message": "i", "cause": {"message": "j"}}
        assert error_of(read(500, {"message": "m", "cause": cause})).cause == cause
        assert error_of(read(500, {"message": "m", "cause": "x" * MAX_CAUSE_BYTES})).cause is None

    def test_long_texts_are_cut(self) -> None:
        error = error_of(
            read(500, {"name": "N" * 9999, "message": "m" * 10**6, "stack": "s" * 10**6})
        )
        assert len(error.name) < 1_000
        assert len(error.message) < 51_000
        assert len(error.stack or "") < 51_000


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "ms"),
        [
            ("30", 30_000),
            (" 30 ", 30_000),
            ("0", 1_000),
            ("-5", 1_000),
            ("86401", DAY_MS),
            ("999999", DAY_MS),
            ("99999999", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("2026-11-26T14:14:20Z", 60_000),
            ("2026-11-26T14:14:20.500Z", 60_500),
            ("2026-11-26T15:14:20+01:00", 60_000),
            ("2026-11-26T14:14:20", 60_000),
            ("2026-11-26 14:14:20", 60_000),
            ("2030-01-02T03:04:05.000Z", DAY_MS),
            ("1999-01-02T03:04:05.000Z", 1_000),
            ("Thu, 26 Nov 2026 14:14:20 GMT", 60_000),
            ("Thu, 26 Nov 2026 14:14:20 +0000", 60_000),
            ("Thursday, 26-Nov-26 14:14:20 GMT", 60_000),
            ("26 Nov 26 14:14 GMT", 40_000),
            ("Thu Nov 26 14:14:20 2026", 60_000),
            ("Thu, 99 Nov 2026 14:14:20 GMT", None),
            ("9999-99-99T00:00:00Z", None),
        ],
    )
    def test_the_header_is_the_pause_of_a_function(self, header: str, ms: int | None) -> None:
        assert error_of(read(500, {"message": "m"}, retry_after=header)).retry_after_ms == ms

    def test_the_header_is_the_pause_of_a_step(self) -> None:
        answer = ops(op("StepError", error={"name": "E", "message": "m"}), retry_after="30")
        assert answer.retry is not None
        assert answer.retry.error is not None
        assert answer.retry.error.retry_after_ms == 30_000

    def test_what_is_not_tried_again_has_no_pause(self) -> None:
        headers = {"retry_after": "30", "x_inngest_no_retry": "true"}
        assert error_of(read(500, {"message": "m"}, **headers)).retry_after_ms is None
        answer = ops(op("StepFailed", error={"message": "m"}), retry_after="30")
        assert answer.done[0].error == ErrorInfo("Error", "m", retriable=False)


class TestOperations:
    def test_an_empty_list_needs_nothing(self) -> None:
        assert ops() == Answer(ops=[])

    @pytest.mark.parametrize("opcode", ["None", "DiscoveryRequest"])
    def test_an_operation_without_effect_needs_nothing(self, opcode: str) -> None:
        assert ops({"op": opcode}, {"op": opcode}) == Answer(ops=[])
        done = ops(op("StepRun", data=1), {"op": opcode})
        assert (done.ops, len(done.done)) == (None, 1)

    def test_a_single_operation_needs_no_list(self) -> None:
        assert read(206, op("RunComplete", data=5)) == Answer(returned=Returned(5))

    @pytest.mark.parametrize(
        "body",
        GARBAGE,
    )
    def test_garbage_is_an_invalid_reply(self, body: bytes) -> None:
        error = error_of(read(206, body))
        assert (error.name, error.retriable) == ("InvalidReply", True)
        assert error.message

    @pytest.mark.parametrize("status", [201, 206])
    def test_no_secret_is_shown_beside_what_cannot_be_read(self, status: int) -> None:
        secret = {"url": "https://x.example", "auth_key": "sk-very-secret"}
        body: Any = [op("AIGateway", opts=secret), op("Rocket")]
        if status == 201:
            body = {"status": 206, "headers": {}, "body": json.dumps(body)}
        answer = read(status, body)
        assert error_of(answer).message.startswith("The reply has an unknown operation")
        assert "sk-very-secret" not in str(answer)

    @pytest.mark.parametrize("opcode", ["StepNotFound", "SyncRunComplete", "", "Rocket"])
    def test_an_unknown_operation_is_a_failure(self, opcode: str) -> None:
        answer = ops(op("StepRun", data=1), op(opcode))
        assert error_of(answer).message.startswith("The reply has an unknown operation")

    def test_names_of_operations_are_read_in_any_case(self) -> None:
        assert ops(op("steprun", data=1)).done == ops(op("STEPRUN", data=1)).done != []

    def test_more_than_a_thousand_operations_are_a_failure(self) -> None:
        wires = [op("StepPlanned", id=str(number)) for number in range(1000)]
        assert len(ops(*wires).ops or []) == 1000
        error = error_of(ops(*wires, op("StepPlanned")))
        assert (error.name, error.retriable) == ("InngestErrFunctionOverflowed", False)

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"displayName": "d", "userland": {"id": "u"}, "name": "n"}, "d"),
            ({"displayName": None, "userland": {"id": "u"}, "name": "n"}, "u"),
            ({"displayName": "", "userland": {"id": None}, "name": "n"}, "n"),
            ({"displayName": 5, "userland": "u", "name": None}, A),
            ({"displayName": "x" * 5000}, "x" * 1000),
        ],
    )
    def test_a_step_has_the_first_name_that_is_given(
        self, fields: dict[str, Any], name: str
    ) -> None:
        assert only(ops(op("StepPlanned", **fields))).name == name

    @pytest.mark.parametrize("opcode", ["StepRun", "Step"])
    @pytest.mark.parametrize("data", [None, 0, "", {"a": []}, {"data": {"error": 1}}])
    def test_a_result_of_a_step_is_done(self, opcode: str, data: Any) -> None:
        assert ops(op(opcode, data=data)).done == [Done(Op(protocol.RUN, A, "a"), data)]

    def test_a_result_without_data_is_null(self) -> None:
        assert ops(op("StepRun")).done == [Done(Op(protocol.RUN, A, "a"))]

    def test_timing_says_when_a_step_was_executed(self) -> None:
        timing = {"a": 1_795_713_407_541_000_000, "b": 1_500_000_000}
        done = ops(op("StepRun", timing=timing)).done[0]
        assert (done.began_ms, done.ended_ms) == (1_795_713_407_541, 1_795_713_409_041)

    @pytest.mark.parametrize("timing", [None, 5, {}, {"a": "x"}, {"a": -5, "b": -7}, {"a": 2**70}])
    def test_timing_that_makes_no_sense_is_dropped(self, timing: Any) -> None:
        done = ops(op("StepRun", timing=timing)).done[0]
        assert (done.began_ms, done.ended_ms) == (0, 0)

    def test_a_result_that_is_too_large_is_an_error_of_the_step(self) -> None:
        done = ops(op("StepRun", data="x" * MAX_OUTPUT_BYTES)).done[0]
        assert done.data is None
        assert done.error is not None
        assert (done.error.name, done.error.retriable) == ("OutputTooLargeError", False)

    def test_a_result_that_just_fits_is_kept(self) -> None:
        data = "é" * ((MAX_OUTPUT_BYTES - 2) // 6)
        body = json.dumps([op("StepRun", data=data)], ensure_ascii=False).encode()
        assert read(206, body).done[0].data == data
        body = json.dumps([op("StepRun", data=data + "é")], ensure_ascii=False).encode()
        assert read(206, body).done[0].error is not None

    @pytest.mark.parametrize("status", [200, 206])
    def test_a_return_value_that_is_too_large_fails_the_function(self, status: int) -> None:
        value = "x" * MAX_OUTPUT_BYTES
        error = error_of(read(status, value if status == 200 else [op("RunComplete", data=value)]))
        assert (error.name, error.retriable) == ("OutputTooLargeError", False)

    def test_steps_and_the_end_may_come_together(self) -> None:
        answer = ops(op("StepRun", data=1), op("RunComplete", id=HANDLER_ID, data=None))
        assert answer == Answer([Done(Op(protocol.RUN, A, "a"), 1)], returned=Returned(None))

    def test_a_planned_step_is_needed(self) -> None:
        assert ops(op("StepPlanned")).ops == [Op(protocol.RUN, A, "a")]
        raced = op("StepPlanned", opts={"parallelMode": "race", "input": [1]})
        assert ops(raced).ops == [Op(protocol.RUN, A, "a", {"race": True})]
        raced = op("Sleep", name="1s", opts={"parallelMode": "race"})
        options = {"duration_ms": 1000, "race": True}
        assert ops(raced).ops == [Op(protocol.SLEEP, A, "a", options)]

    @pytest.mark.parametrize("opcode", ["DeferAdd", "DeferAbort"])
    def test_deferred_operations_are_named_and_ignored(self, opcode: str) -> None:
        assert ops(op(opcode)) == Answer(ops=[], ignored=[f"{opcode} a"])
        answer = ops(op(opcode), op("RunComplete", data=1))
        assert answer == Answer(returned=Returned(1), ignored=[f"{opcode} a"])

    def test_unknown_keys_are_ignored(self) -> None:
        extra = {"mode": "sync", "rawArgs": [], "promise": {}, "metadata": [], "opts": "x"}
        assert ops(op("StepRun", data=1, **extra)) == ops(op("StepRun", data=1))


class TestStepErrors:
    ERROR: dict[str, Any] = {"name": "E", "message": "m", "stack": "s", "cause": {"message": "c"}}  # noqa: RUF012

    @pytest.mark.parametrize("header", ["false", ""])
    def test_a_step_error_may_be_tried_again(self, header: str) -> None:
        timing = {"a": 5_000_000, "b": 2_000_000}
        answer = ops(op("StepError", error=self.ERROR, timing=timing), x_inngest_no_retry=header)
        error = ErrorInfo("E", "m", "s", cause={"message": "c"})
        again = Done(Op(protocol.RUN, A, "a"), error=error, began_ms=5, ended_ms=7)
        assert answer == Answer(retry=again)

    def test_a_failed_step_is_done_with_its_error(self) -> None:
        answer = ops(op("StepFailed", error=self.ERROR, data={"__serialized": True}))
        error = ErrorInfo("E", "m", "s", retriable=False, cause={"message": "c"})
        assert answer == Answer([Done(Op(protocol.RUN, A, "a"), error=error)])

    def test_a_header_or_a_field_rules_out_a_retry(self) -> None:
        by_header = ops(op("StepError", error=self.ERROR), x_inngest_no_retry="true")
        by_field = ops(op("StepError", error=self.ERROR | {"noRetry": True}))
        assert by_header == by_field == ops(op("StepFailed", error=self.ERROR))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({}, "Unknown error"),
            ({"error": None, "data": {"message": "d"}}, "d"),
            ({"error": "text"}, "text"),
            ({"error": {"message": ""}}, "Unknown error"),
        ],
    )
    def test_a_message_is_found_in_any_form(self, fields: dict[str, Any], message: str) -> None:
        answer = ops(op("StepError", **fields))
        assert answer.retry is not None
        assert answer.retry.error is not None
        assert (answer.retry.error.name, answer.retry.error.message) == ("Error", message)

    def test_a_step_error_of_the_handler_fails_the_attempt(self) -> None:
        lazy = op("DeferAdd", displayName="later")
        wire = op("StepError", id=HANDLER_ID, error=self.ERROR)
        answer = ops(lazy, wire, retry_after="5")
        assert answer.failed == ErrorInfo("E", "m", "s", True, 5_000, cause={"message": "c"})
        assert (answer.retry, answer.done, answer.ignored) == (None, [], ["DeferAdd later"])

    def test_a_failed_step_of_the_handler_fails_the_function(self) -> None:
        wire = op("StepFailed", id=HANDLER_ID, error=self.ERROR)
        answer = ops(op("StepRun", data=1), wire)
        assert answer.failed == ErrorInfo("E", "m", "s", False, cause={"message": "c"})
        assert [done.data for done in answer.done] == [1]

    def test_the_first_of_several_counts(self) -> None:
        answer = ops(
            op("StepRun", id="r", data=1),
            op("StepError", error=self.ERROR),
            op("StepError", id="other", error=self.ERROR),
            op("StepPlanned", id="p"),
        )
        assert answer.retry is not None
        assert answer.retry.op.id == A
        assert [done.op.id for done in answer.done] == ["r"]
        assert [each.id for each in answer.ops or []] == ["p"]


class TestWaiting:
    @pytest.mark.parametrize(
        ("text", "ms"),
        [
            ("1d", DAY_MS),
            ("1h30m", 5_400_000),
            ("90s", 90_000),
            ("1.5s", 1_500),
            ("500ms", 500),
            ("1w2d", 9 * DAY_MS),
            ("1m30s", 90_000),
            ("1h0m0s", 3_600_000),
            ("1s500µs", 1_000),
            ("100ns", 0),
            ("", 0),
            ("0", 0),
            ("-5s", 0),
            ("400d", 400 * DAY_MS),
        ],
    )
    def test_a_sleep_has_a_duration(self, text: str, ms: int) -> None:
        by_name = only(ops(op("Sleep", name=text, opts={})))
        assert by_name == Op(protocol.SLEEP, A, "a", {"duration_ms": ms})
        assert only(ops(op("Sleep", name=text, opts=None))) == by_name
        assert only(ops(op("Sleep", name=text or "", opts={"duration": text}))) == by_name

    @pytest.mark.parametrize(
        ("text", "ms"),
        [
            ("2026-11-26T14:13:20.000Z", NOW_MS),
            ("2026-11-26T14:13:20.250Z", NOW_MS + 250),
            ("2026-11-26T15:13:20+01:00", NOW_MS),
            ("2026-11-26T14:13:20", NOW_MS),
            ("1999-01-01T00:00:00Z", 915_148_800_000),
        ],
    )
    def test_a_sleep_has_an_end(self, text: str, ms: int) -> None:
        assert only(ops(op("Sleep", name=text))) == Op(protocol.SLEEP, A, "a", {"until_ms": ms})

    @pytest.mark.parametrize("text", ["tomorrow", "1x", "1", "d", "9" * 500 + "d", "2026-99-99"])
    def test_a_sleep_with_another_text_is_a_failure(self, text: str) -> None:
        error = error_of(ops(op("Sleep", name=text)))
        assert error.message.startswith('step "a" can\'t sleep')

    def test_a_wait_for_an_event_has_name_condition_and_timeout(self) -> None:
        wire = op("WaitForEvent", name="x/y", opts={"timeout": "1h", "if": "async.data.n > 1"})
        options = {"events": ["x/y"], "if": "async.data.n > 1", "timeout_ms": 3_600_000}
        assert only(ops(wire)) == Op(protocol.WAIT_FOR_EVENT, A, "a", options)

    @pytest.mark.parametrize(
        ("timeout", "ms"),
        [
            ("", 0),
            (None, 0),
            ("2026-11-26T14:14:20Z", 60_000),
            ("1999-01-01T00:00:00Z", 0),
            ("500d", 500 * DAY_MS),
        ],
    )
    def test_the_timeout_of_a_wait_is_a_duration_or_a_moment(
        self, timeout: str | None, ms: int
    ) -> None:
        wire = op("WaitForEvent", name="no", opts={"event": "x/y", "timeout": timeout, "if": None})
        assert only(ops(wire)).options == {"events": ["x/y"], "if": None, "timeout_ms": ms}

    @pytest.mark.parametrize("timeout", ["soon", 5, {}, "9" * 999 + "d"])
    @pytest.mark.parametrize("opcode", ["WaitForEvent", "WaitForSignal", "InvokeFunction"])
    def test_an_invalid_timeout_is_a_failure(self, opcode: str, timeout: Any) -> None:
        opts = {"timeout": timeout, "function_id": "f", "payload": {}}
        error = error_of(ops(op(opcode, name="n", opts=opts)))
        assert error.message.startswith('step "a" can\'t have the timeout')

    @pytest.mark.parametrize("conflict", ["replace", "fail", None])
    def test_a_wait_for_a_signal_may_replace_another(self, conflict: str | None) -> None:
        wire = op("WaitForSignal", name="s", opts={"timeout": "1m", "conflict": conflict})
        options = {"signal": "s", "replace": conflict == "replace", "timeout_ms": 60_000}
        assert only(ops(wire)) == Op(protocol.WAIT_FOR_SIGNAL, A, "a", options)

    @pytest.mark.parametrize("timeout", ["", None])
    def test_a_wait_for_a_signal_may_have_no_timeout(self, timeout: str | None) -> None:
        wire = op("WaitForSignal", name="n", opts={"signal": "s", "timeout": timeout})
        assert only(ops(wire)).options == {"signal": "s", "replace": False}

    @pytest.mark.parametrize("opcode", ["WaitForEvent", "WaitForSignal"])
    @pytest.mark.parametrize("name", ["", None, 5, "x" * 5_000, "a\0b"])
    def test_an_invalid_name_is_a_failure(self, opcode: str, name: Any) -> None:
        assert error_of(ops(op(opcode, name=name))).retriable

    def test_an_invocation_has_function_payload_and_timeout(self) -> None:
        payload = {"data": {"q": 1}, "v": "2", "user": {"id": 1}}
        opts = {"function_id": "app-f", "payload": payload, "timeout": "1m"}
        assert only(ops(op("InvokeFunction", opts=opts))) == Op(
            protocol.INVOKE,
            A,
            "a",
            {
                "function_id": "app-f",
                "payload": {"data": {"q": 1}, "v": "2"},
                "timeout_ms": 60_000,
            },
        )

    @pytest.mark.parametrize("payload", [None, {}, {"data": None, "v": None}, {"v": ""}])
    def test_an_invocation_may_have_no_payload(self, payload: Any) -> None:
        opts = {"function_id": "app-f", "payload": payload, "timeout": None}
        expected = {"function_id": "app-f", "payload": {"data": {}}}
        assert only(ops(op("InvokeFunction", opts=opts))).options == expected

    @pytest.mark.parametrize(
        "opts",
        [None, {}, {"function_id": ""}, {"function_id": 5}, {"function_id": "f\0"}]
        + [{"function_id": "f", "payload": {"data": data}} for data in ([], 5, "x")],
    )
    def test_an_invalid_invocation_is_a_failure(self, opts: Any) -> None:
        assert error_of(ops(op("InvokeFunction", opts=opts))).retriable


class TestGateways:
    def test_a_fetch_is_left_to_us(self) -> None:
        opts = {"url": "http://x/y", "method": "PUT", "headers": {"a": "b", "n": None}, "body": "t"}
        answer = ops(op("Gateway", opts=opts))
        assert only(answer) == Op(protocol.RUN, A, "a", {"gateway": "fetch"})
        call = answer.gateways[A]
        assert (call.kind, call.url, call.method) == ("fetch", "http://x/y", "PUT")
        assert (call.headers, call.body, call.auth_key) == ({"a": "b"}, "t", None)

    def test_a_call_of_a_model_is_left_to_us_and_its_key_is_not_shown(self) -> None:
        opts = {"url": "http://x", "auth_key": "secret", "body": {"m": [1]}, "format": "anthropic"}
        answer = ops(op("AIGateway", opts=opts | {"headers": {}, "parallelMode": "race"}))
        assert only(answer).options == {"race": True, "gateway": "ai"}
        call = answer.gateways[A]
        assert (call.kind, call.method, call.body) == ("ai", "POST", '{"m":[1]}')
        assert (call.auth_key, call.format) == ("secret", "anthropic")
        assert "secret" not in f"{answer!r} {call}"

    def test_a_url_is_enough(self) -> None:
        call = ops(op("Gateway", opts={"url": "http://x"})).gateways[A]
        assert (call.method, call.headers, call.body) == ("POST", {}, None)

    @pytest.mark.parametrize("opts", [None, {}, {"url": ""}, {"url": 5}])
    def test_a_request_without_a_url_is_a_failure(self, opts: Any) -> None:
        assert error_of(ops(op("Gateway", opts=opts))).retriable


class TestStreams:
    INNER: dict[str, Any] = {  # noqa: RUF012
        "status": 206,
        "headers": {"X-Inngest-Req-Version": "2", "x-inngest-sdk": "inngest-py:v1"},
        "body": json.dumps([op("StepRun", data=1)]),
    }

    def test_the_envelope_of_javascript_is_opened(self) -> None:
        answer = read(201, b"   " + json.dumps(self.INNER | {"version": 1}).encode())
        assert ([done.data for done in answer.done], answer.version) == ([1], 2)

    def test_the_version_may_be_in_the_envelope(self) -> None:
        assert read(201, self.INNER | {"headers": {}, "version": 1}).version == 1

    def test_the_header_of_sdks_may_be_inside(self) -> None:
        assert len(read(201, self.INNER, sdk="no").done) == 1

    def test_a_body_need_not_be_text(self) -> None:
        assert read(201, {"status": 200, "body": {"a": 1}}).returned == Returned({"a": 1})
        assert read(201, {"status": 200, "body": None}).returned == Returned(None)
        assert read(201, {"status": 200}).returned == Returned(None)

    @pytest.mark.parametrize(
        "names", ["StatusCode Body RetryAt NoRetry", "status body retryAt noRetry"]
    )
    def test_the_envelope_of_go_is_opened(self, names: str) -> None:
        status, body, retry_at, no_retry = names.split()
        failed = {status: 500, body: json.dumps({"name": "E", "message": "m"})}
        error = error_of(read(201, failed | {retry_at: "2026-11-26T14:14:20Z", no_retry: False}))
        assert error == ErrorInfo("E", "m", retry_after_ms=60_000)
        assert not error_of(read(201, failed | {no_retry: True})).retriable

    def test_an_error_may_be_in_the_envelope(self) -> None:
        headers = {"x-inngest-no-retry": "true"}
        envelope = {"status": 400, "headers": headers, "body": '{"message":"m"}'}
        assert error_of(read(201, envelope)) == ErrorInfo("Error", "m", retriable=False)

    def test_an_error_of_the_stream_is_a_failure(self) -> None:
        error = error_of(read(201, self.INNER | {"error": "stream broke"}))
        assert (error.message, error.retriable) == ("stream broke", True)

    @pytest.mark.parametrize(
        "body",
        [b"", b"   ", b"null", b"[]", b"5", b"{}", b'{"status":"200"}', b'{"status":true}', b"{"],
    )
    def test_garbage_is_an_invalid_reply(self, body: bytes) -> None:
        assert error_of(read(201, body)).name == "InvalidReply"

    def test_a_stream_in_a_stream_is_not_opened(self) -> None:
        answer = read(201, {"status": 201, "body": "{}"})
        assert answer.returned == Returned({})


class TestCheckpoints:
    def test_executed_steps_are_read_and_others_left_out(self) -> None:
        steps = [op("StepRun", data=1), op("StepPlanned"), op("DeferAdd"), op("DeferAbort")]
        body = {"qi_id": "q", "steps": [*steps, op("Step", id="b", displayName="b")]}
        dispatch, done = read_checkpoint(json.dumps(body).encode())
        assert dispatch == "q"
        assert done == [Done(Op(protocol.RUN, A, "a"), 1), Done(Op(protocol.RUN, "b", "b"))]

    def test_a_checkpoint_may_have_no_steps(self) -> None:
        assert read_checkpoint(b'{"qi_id":"q","steps":[]}') == ("q", [])

    @pytest.mark.parametrize(
        "opcode",
        ["Sleep", "WaitForEvent", "InvokeFunction", "StepError", "StepFailed", "RunComplete", "X"],
    )
    def test_other_operations_are_refused(self, opcode: str) -> None:
        body = json.dumps({"qi_id": "q", "steps": [op(opcode)]}).encode()
        with pytest.raises(BodyInvalidError, match=f"cannot checkpoint opcode {opcode}"):
            read_checkpoint(body)

    @pytest.mark.parametrize(
        "body",
        NO_CHECKPOINTS,
    )
    def test_garbage_is_refused(self, body: bytes) -> None:
        with pytest.raises(BodyInvalidError):
            read_checkpoint(body)

    def test_a_step_that_is_too_large_is_refused(self) -> None:
        """The app then answers its call with the step, and is told of it there."""
        body = {"qi_id": "q", "steps": [op("StepRun", data="x" * MAX_OUTPUT_BYTES)]}
        with pytest.raises(BodyInvalidError, match="over the limit"):
            read_checkpoint(json.dumps(body).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ["id", "name", "displayName", "userland", "data", "error", "timing", "opts"]
OPTIONS = ["timeout", "if", "event", "signal", "conflict", "function_id", "payload", "duration"]
OPTIONS += ["url", "method", "headers", "body", "auth_key", "format", "parallelMode"]
OPCODES = ["StepRun", "StepError", "StepFailed", "StepPlanned", "Sleep", "WaitForEvent", "Gateway"]
OPCODES += [
    "WaitForSignal",
    "InvokeFunction",
    "AIGateway",
    "RunComplete",
    "DeferAdd",
    "None",
    "Step",
]
odd_texts = st.sampled_from(
    ["", "1d", "race", A, HANDLER_ID, "2030-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59"]
)
odd_values = json_values | odd_texts
wires = st.fixed_dictionaries(
    {"op": st.sampled_from(OPCODES)},
    optional=dict.fromkeys(FIELDS, odd_values)
    | {
        "id": st.just(A) | odd_values,
        "opts": st.dictionaries(st.sampled_from(OPTIONS), odd_values),
    },
)
bodies = (
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.lists(wires, max_size=3).map(lambda value: json.dumps(value).encode())
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "status": st.integers() | odd_values,
        "headers": st.dictionaries(st.text(), odd_values) | odd_values,
        "body": bodies.map(lambda body: body.decode(errors="replace")) | odd_values,
        "error": odd_values,
        "version": odd_values,
        "retryAt": odd_values,
        "noRetry": odd_values,
    },
).map(lambda value: json.dumps(value).encode())
HEADERS = ["x-inngest-sdk", "x-inngest-no-retry", "retry-after", "x-inngest-req-version"]
headers = st.dictionaries(
    st.sampled_from(HEADERS) | st.text(), st.text() | odd_texts | st.just("true")
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([200, 201, 206, 206, 400, 500]) | st.integers(),
    headers | headers.map(lambda given: given | SDK),
    bodies | envelopes,
)
def test_any_reply_has_a_meaning(status: int, given: dict[str, str], body: bytes) -> None:
    answer = read_reply(Reply(status, given, body), NOW_MS)
    assert answer.done or answer.retry or answer.ops is not None or answer.returned or answer.failed
    ends = [answer.returned, answer.failed]
    assert ends.count(None) >= 1
    if ends.count(None) == 1:
        assert (answer.retry, answer.ops, answer.gateways) == (None, None, {})
    if answer.failed is not None:
        assert answer.failed.message
        after_ms = answer.failed.retry_after_ms
        assert after_ms is None or 1_000 <= after_ms <= DAY_MS
    json.dumps([done.data for done in answer.done], allow_nan=False)
    for need in answer.ops or []:
        json.dumps(need.options, allow_nan=False)
        assert ("gateway" in need.options) is (need.id in answer.gateways)


@settings(deadline=None, max_examples=300)
@given(
    bodies
    | json_values.map(lambda value: json.dumps({"qi_id": "q", "steps": value}).encode())
    | st.lists(wires).map(lambda value: json.dumps({"qi_id": "q", "steps": value}).encode())
)
def test_any_checkpoint_is_read_or_refused(body: bytes) -> None:
    try:
        dispatch, done = read_checkpoint(body)
    except BodyInvalidError:
        return
    assert dispatch
    json.dumps([each.data for each in done], allow_nan=False)


def test_the_time_is_this_machines_unless_it_is_given() -> None:
    wire = [op("WaitForEvent", name="x", opts={"timeout": "2100-01-01T00:00:00Z"})]
    answer = read_reply(Reply(206, SDK, json.dumps(wire).encode()))
    assert only(answer).options["timeout_ms"] > DAY_MS
