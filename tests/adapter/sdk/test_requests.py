import hashlib
import json
import uuid
from typing import Any

import pytest

from inngest_temporal.drivers.protocol import ExecutionRequest
from inngest_temporal.sdk.requests import MAX_INLINE_BYTES, HttpCall, execution_call, function_uuid
from inngest_temporal.sdk.signatures import canonical, verify

KEY = "signkey-test-0123456789abcdef"
URL = "https://app.example/api/inngest?fnId=shop-order"
EVENT = {"id": "01E", "name": "t/order", "data": {"n": 1.0}, "ts": 1_795_700_000_000, "user": {}}
A, B = (hashlib.sha1(step).hexdigest() for step in (b"a", b"b"))


def call(**changed: Any) -> HttpCall:
    given: dict[str, Any] = {
        "url": URL,
        "function_id": "shop-order",
        "run_id": "01JZZZZZZZZZZZZZZZZZZZZZZZ",
        "events": [EVENT],
        "memos": [],
        "request": ExecutionRequest(retries=4),
        "dispatch": None,
        "keys": [],
        "now": 1_795_700_000,
    }
    return execution_call(**(given | changed))


def test_the_first_call_has_the_events_and_no_steps() -> None:
    made = call()
    assert made.url == f"{URL}&stepId=step"
    assert made.headers == {
        "content-type": "application/json",
        "x-run-id": "01JZZZZZZZZZZZZZZZZZZZZZZZ",
        "x-inngest-step-id": "step",
        "x-inngest-req-version": "-1",
    }
    assert json.loads(made.body) == {
        "ctx": {
            "attempt": 0,
            "disable_immediate_execution": False,
            "max_attempts": 5,
            "run_id": "01JZZZZZZZZZZZZZZZZZZZZZZZ",
            "stack": {"stack": [], "current": 0},
            "step_id": "step",
            "use_api": False,
        },
        "event": EVENT,
        "events": [EVENT],
        "steps": {},
        "use_api": False,
        "version": -1,
    }


def test_a_request_that_is_left_to_us_is_asked_for() -> None:
    made = call(request=ExecutionRequest(target=A, gateway=True))
    assert made.url == f"{URL}&stepId=step"
    ctx = json.loads(made.body)["ctx"]
    assert (ctx["step_id"], ctx["disable_immediate_execution"]) == ("step", True)


def test_a_call_with_a_dispatch_lets_the_app_checkpoint() -> None:
    made = call(dispatch="d1")
    ctx = json.loads(made.body)["ctx"]
    assert (ctx["qi_id"], ctx["fn_id"]) == ("d1", function_uuid("shop-order"))
    assert str(uuid.UUID(ctx["fn_id"])) == ctx["fn_id"]
    assert made.headers["x-request-id"] == made.headers["x-inngest-job-id"] == "d1"


def test_a_function_has_one_uuid() -> None:
    assert function_uuid("a") == function_uuid("a") != function_uuid("b")


def test_a_later_call_has_its_target_and_the_memos_in_order() -> None:
    request = ExecutionRequest(target=B, attempt=2, retries=0, version=2, plan_only=True)
    made = call(request=request, memos=[(B, '{"data": 1}'), (A, "null")])
    sent = json.loads(made.body)
    assert made.url.endswith(f"?fnId=shop-order&stepId={B}")
    assert made.headers["x-inngest-step-id"] == B
    assert made.headers["x-inngest-req-version"] == "2"
    assert sent["version"] == 2
    assert sent["ctx"]["step_id"] == B
    assert sent["ctx"]["attempt"] == 2
    assert sent["ctx"]["max_attempts"] == 1
    assert sent["ctx"]["disable_immediate_execution"] is True
    assert sent["ctx"]["stack"] == {"stack": [B, A], "current": 2}
    assert list(sent["steps"].items()) == [(B, {"data": 1}), (A, None)]


def test_memos_are_sent_as_they_are() -> None:
    text = '{"data":  [1.0, 12345678901234567890, "\\u00e9"]}'
    assert text.encode() in call(memos=[(A, text)]).body


def test_a_signed_body_is_canonical() -> None:
    memos = [(B, '{"data":  [1.0, 12345678901234567890, "\\u00e9"]}'), (A, "null")]
    made = call(memos=memos, keys=[KEY, "other"], dispatch="d")
    assert canonical(json.loads(made.body)) == made.body
    assert b'[1,12345678901234567000,"\xc3\xa9"]' in made.body
    signature = made.headers["x-inngest-signature"]
    assert verify([KEY], made.body, signature, 1_795_700_000)
    assert not verify(["other"], made.body, signature, 1_795_700_000)


def test_a_url_without_a_query_gets_one() -> None:
    assert call(url="http://app/inngest").url == "http://app/inngest?stepId=step"


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_large_state_is_fetched_by_the_app(keys: list[str]) -> None:
    memos = [(A, json.dumps({"data": "x" * MAX_INLINE_BYTES})), (B, "null")]
    sent = json.loads(call(memos=memos, keys=keys).body)
    assert sent["use_api"] is sent["ctx"]["use_api"] is True
    assert (sent["events"], sent["steps"], sent["event"]) == ([], {}, EVENT)
    assert sent["ctx"]["stack"] == {"stack": [A, B], "current": 2}


def test_state_that_just_fits_is_inline() -> None:
    empty = len(call(memos=[(A, '""')]).body)
    room = MAX_INLINE_BYTES - empty
    for length, is_inline in ((room, True), (room + 1, False)):
        sent = json.loads(call(memos=[(A, json.dumps("x" * length))]).body)
        assert sent["use_api"] is not is_inline


def test_the_sdk_of_go_gets_any_state_inline() -> None:
    memos = [(A, json.dumps({"data": "x" * MAX_INLINE_BYTES}))]
    sent = json.loads(call(memos=memos, sdk="go:v0.16.0").body)
    assert sent["use_api"] is False
    assert len(sent["steps"]) == 1


def test_no_field_is_null() -> None:
    """The SDK of JavaScript refuses such a field."""
    sent = json.loads(call(events=[EVENT, EVENT], dispatch="d").body)
    assert len(sent["events"]) == 2
    assert None not in [*sent.values(), *sent["ctx"].values(), *sent["event"].values()]
