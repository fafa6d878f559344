"""Reads every reply and checkpoint that the official SDKs sent to a recorder.

`recorded.json`: what the SDKs of JavaScript (4.24.0: `js-`, 3.54.2: `js3-`) and Python (0.5.19:
`py-`) sent. Times, stacks and digests are replaced by words such as `<ns>`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import Done, Op
from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.sdk.replies import HANDLER_ID, Answer, Reply, read_checkpoint, read_reply

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recorded.json").read_text())
REPLIES = [each for each in RECORDED if "status" in each]
CHECKPOINTS = [each for each in RECORDED if "status" not in each]

KINDS = {
    "StepPlanned": protocol.RUN,
    "Sleep": protocol.SLEEP,
    "WaitForEvent": protocol.WAIT_FOR_EVENT,
    "WaitForSignal": protocol.WAIT_FOR_SIGNAL,
    "InvokeFunction": protocol.INVOKE,
    "Gateway": protocol.RUN,
    "AIGateway": protocol.RUN,
}
LAZY = ("DeferAdd", "DeferAbort")
DURATIONS = {"1m30s": 90_000, "1m": 60_000, "1h": 3_600_000, "2d": 172_800_000, "5m": 300_000}
DURATIONS["10m"] = 600_000
NOW_MS = 1_795_700_000_000


def reply_of(recorded: dict[str, Any]) -> Reply:
    body = recorded["body"]
    text = body if body == "" else json.dumps(body)
    if recorded["status"] == 201:
        text = "   " + text
    return Reply(recorded["status"], recorded["headers"], text.encode())


def inner(recorded: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body, without the envelope of a streamed reply."""
    status, headers, body = recorded["status"], recorded["headers"], recorded["body"]
    if status == 201:
        headers = {name.lower(): value for name, value in body["headers"].items()}
        status, body = body["status"], json.loads(body["body"])
    return status, headers, body


def step_ids(steps: list[Op]) -> list[str]:
    return [step.id for step in steps]


@pytest.mark.parametrize("recorded", REPLIES, ids=lambda each: each["name"])
def test_recorded_replies_are_read(recorded: dict[str, Any]) -> None:
    answer = read_reply(reply_of(recorded), NOW_MS)
    status, headers, body = inner(recorded)
    never_again = headers.get("x-inngest-no-retry") == "true"
    version = headers.get("x-inngest-req-version")
    assert answer.version == (int(version) if version in ("1", "2") else None)
    if status == 206:
        check_operations(answer, body, never_again)
    elif status < 300:
        assert answer.returned is not None
        assert answer.returned.value == (None if body == "" else body)
        assert (answer.done, answer.ops, answer.failed) == ([], None, None)
    else:
        assert answer.failed is not None
        assert answer.failed.retriable is not never_again
        if "x-inngest-sdk" in headers:
            assert answer.failed.message == body.get("message", body.get("error"))
            assert answer.failed.name == body.get("name", "Error")
            assert answer.failed.cause == body.get("cause")
        else:
            assert answer.failed.name == "Server returned a fatal error"
            assert str(status) in answer.failed.message
        assert (answer.done, answer.ops, answer.returned) == ([], None, None)
        if "retry-after" in headers and not never_again:
            # The header names a time in 2030; the pause is a day at most.
            assert answer.failed.retry_after_ms == 86_400_000


def check_operations(answer: Answer, body: list[dict[str, Any]], never_again: bool) -> None:
    assert answer.failed is None
    ended = [op for op in body if op["op"] in ("StepRun", "Step", "StepFailed")]
    assert step_ids([done.op for done in answer.done]) == [op["id"] for op in ended]
    for done, op in zip(answer.done, ended, strict=True):
        check_done(done, op)
    needed = [op for op in body if op["op"] in KINDS]
    assert (answer.ops is None) is not bool(needed)
    for need, op in zip(answer.ops or [], needed, strict=True):
        check_needed(answer, need, op)
    again = [op for op in body if op["op"] == "StepError"]
    assert (answer.retry is None) is not bool(again)
    if answer.retry is not None:
        assert not never_again
        assert answer.retry.op.id == again[0]["id"]
        assert answer.retry.error is not None
        assert answer.retry.error.message == again[0]["error"]["message"]
        assert answer.retry.error.retriable
    completed = [op for op in body if op["op"] == "RunComplete"]
    assert all(op["id"] == HANDLER_ID for op in completed)
    assert (answer.returned is None) is not bool(completed)
    if answer.returned is not None:
        assert answer.returned.value == completed[0]["data"]
    assert answer.ignored == [f"{op['op']} {op['name']}" for op in body if op["op"] in LAZY]
    assert len(body) == len(ended) + len(needed) + len(again) + len(completed) + len(answer.ignored)


def check_done(done: Done, op: dict[str, Any]) -> None:
    assert done.op.name == (op.get("displayName") or op["name"])
    assert done.retry_ms is None
    if op["op"] == "StepFailed":
        assert done.error is not None
        assert (done.error.name, done.error.message) == (
            op["error"]["name"],
            op["error"]["message"],
        )
        assert done.error.cause == op["error"].get("cause")
        assert not done.error.retriable
    else:
        assert (done.data, done.error) == (op["data"], None)


def check_needed(answer: Answer, need: Op, op: dict[str, Any]) -> None:
    name = op.get("displayName") or op["name"]
    assert (need.kind, need.id, need.name) == (KINDS[op["op"]], op["id"], name)
    options = op.get("opts") or {}
    match op["op"]:
        case "StepPlanned":
            race = options.get("parallelMode") == "race"
            assert need.options == ({"race": True} if race else {})
        case "Sleep" if op["name"] in DURATIONS:
            assert need.options == {"duration_ms": DURATIONS[op["name"]]}
        case "Sleep":
            assert list(need.options) == ["until_ms"]
            assert need.options["until_ms"] > NOW_MS
        case "WaitForEvent":
            timeout_ms = DURATIONS[options["timeout"]]
            expected = {"events": [op["name"]], "if": options["if"], "timeout_ms": timeout_ms}
            assert need.options == expected
        case "WaitForSignal":
            assert need.options == {
                "signal": "task/1",
                "replace": options.get("conflict") == "replace",
                "timeout_ms": 300_000,
            }
        case "InvokeFunction":
            assert need.options == {
                "function_id": options["function_id"],
                "payload": {"data": {"x": 1}},
                "timeout_ms": 600_000,
            }
        case "Gateway" | "AIGateway":
            kind = "ai" if op["op"] == "AIGateway" else "fetch"
            assert need.options == {"gateway": kind}
            call = answer.gateways[need.id]
            assert call.url == options["url"]
            assert call.auth_key == options.get("auth_key")
            assert "sk-test" not in repr(answer)
            assert call.body is not None
            given = json.loads(call.body) if kind == "ai" else call.body
            assert given == options["body"]


@pytest.mark.parametrize("recorded", CHECKPOINTS, ids=lambda each: each["name"])
def test_recorded_checkpoints_are_read(recorded: dict[str, Any]) -> None:
    body = json.dumps(recorded["sent"]).encode()
    if "qi_id" not in recorded["sent"]:  # from an endpoint, which is not a function
        with pytest.raises(BodyInvalidError, match="qi_id"):
            read_checkpoint(body)
        return
    dispatch, done = read_checkpoint(body)
    steps = [step for step in recorded["sent"]["steps"] if step["op"] == "StepRun"]
    assert dispatch == recorded["sent"]["qi_id"]
    assert [(each.op.id, each.op.name, each.data) for each in done] == [
        (step["id"], step["displayName"], step["data"]) for step in steps
    ]
