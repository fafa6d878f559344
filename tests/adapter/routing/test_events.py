import base64
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.routing import events
from inngest_temporal.routing.events import Seed, Stamped

RUN = "01K4WQ6R6SPXJ4G0WYDR7E5S0Z"
SEED = f"1700000000000,{base64.b64encode(bytes(range(10))).decode()}"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


# Normalising


def test_a_bare_event_is_completed() -> None:
    before = time.time_ns() // 1_000_000
    stamped = events.stamp({"name": "shop/order"})
    after = time.time_ns() // 1_000_000
    assert stamped.event.pop("ts") in range(before, after + 1)
    assert stamped.event == {
        "id": stamped.internal_id,
        "name": "shop/order",
        "data": {},
        "user": {},
    }
    ULID.from_str(stamped.internal_id)


def test_every_field_of_the_sender_is_kept_and_unknown_ones_are_dropped() -> None:
    sent = {
        "id": "o-1",
        "name": "a",
        "data": {"x": 1},
        "user": {"y": 2},
        "ts": 1_700_000_000_000,
        "v": "1",
    }
    assert events.stamp({**sent, "other": 1}).event == sent


@pytest.mark.parametrize(
    "empty", [{"data": None}, {"user": None}, {"ts": None}, {"ts": 0}, {"id": None}, {"v": None}]
)
def test_null_means_absent(empty: dict[str, Any]) -> None:
    stamped = events.stamp({"name": "a", **empty})
    assert stamped.event["data"] == {}
    assert stamped.event["user"] == {}
    assert stamped.event["ts"] > 0
    assert stamped.event["id"] == stamped.internal_id
    assert "v" not in stamped.event


def test_reserved_data_of_a_sender_is_dropped_without_touching_what_was_given() -> None:
    sent = {"name": "a", "data": {"_inngest": {"correlation_id": "x.y"}, "keep": 1}}
    assert events.stamp(sent).event["data"] == {"keep": 1}
    assert "_inngest" in sent["data"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (1, "event must be an object, not a number"),
        ([], "event must be an object, not an array"),
        (None, "event must be an object, not null"),
        ({}, "event name is empty"),
        ({"name": ""}, "event name is empty"),
        ({"name": 5}, "event name must be a string, not a number"),
        ({"name": "Inngest/x"}, "event name is reserved for internal use: Inngest/x"),
        (
            {"name": "inngest/function.failed"},
            "event name is reserved for internal use: inngest/function.failed",
        ),
        ({"name": "é" * 257}, "event name is over the max length: Max 512 bytes / Size 514 bytes"),
        ({"name": "a", "id": 5}, "event id must be a string, not a number"),
        ({"name": "a", "data": []}, "event data must be an object, not an array"),
        ({"name": "a", "data": "x"}, "event data must be an object, not a string"),
        ({"name": "a", "user": 1}, "event user must be an object, not a number"),
        ({"name": "a", "v": {}}, "event v must be a string, not an object"),
        (
            {"name": "a", "ts": True},
            "event ts must be an integer (milliseconds since 1970), not a boolean",
        ),
        (
            {"name": "a", "ts": 1.5},
            "event ts must be an integer (milliseconds since 1970), not a float",
        ),
        (
            {"name": "a", "ts": 5},
            "event ts must be milliseconds between 1980-01-01 and 2100-01-01, not 5",
        ),
        ({"name": "a", "ts": 4_102_444_800_001}, "event ts must be milliseconds between"),
    ],
)
def test_the_refusal_of_an_event_says_what_is_wrong(raw: object, message: str) -> None:
    with pytest.raises(BodyInvalidError, match=re.escape(message)):
        events.stamp(raw)


def test_size_is_measured_as_temporal_stores_it() -> None:
    room = (
        events.MAX_EVENT_BYTES
        - len(json.dumps(events.stamp({"name": "a"}).event, separators=(",", ":")))
        - 7
    )
    events.stamp({"name": "a", "data": {"s": "x" * (room - 3)}})
    with pytest.raises(
        BodyInvalidError, match=r"Event is over the max size: Max 1800000 bytes / Size 18\d+ bytes"
    ):
        events.stamp({"name": "a", "data": {"s": "x" * (room + 10)}})
    with pytest.raises(BodyInvalidError, match="Event is over the max size"):
        events.stamp({"name": "a", "data": {"s": "é" * (room // 2)}})


def test_nesting_is_bounded() -> None:
    events.stamp({"name": "a", "data": nested(99)})
    with pytest.raises(BodyInvalidError, match="event is nested too deeply: Max 100 levels"):
        events.stamp({"name": "a", "data": nested(100)})
    with pytest.raises(BodyInvalidError, match="event is nested too deeply: Max 100 levels"):
        events.stamp({"name": "a", "data": nested(100_000)})


def test_a_wide_event_is_not_a_deep_one() -> None:
    events.stamp({"name": "a", "data": {"rows": [{"cells": [[], {}]} for _ in range(1000)]}})


# Parsing


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON: Expecting value at character 0"),
        (b"{", "not valid JSON"),
        (b'{"a":1}{"a":2}', "not valid JSON: Extra data at character 7"),
        (b"\xff\xfe", "not valid UTF-8"),
        (b'{"a":NaN}', "NaN is not a JSON value"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON value"),
        (b'{"a":1e999}', "number out of range: 1e999"),
        (b'{"a":' + b"9" * 5000 + b"}", "number that is too long"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(BodyInvalidError, match=re.escape(message)):
        events.parse(body)


def test_half_characters_are_replaced_and_whole_ones_are_kept() -> None:
    assert events.parse(rb'{"a":"\ud800x","b":"\ud83d\ude00"}') == {"a": "�x", "b": "😀"}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_parsing_is_json(value: object) -> None:
    assert events.parse(json.dumps(value).encode()) == value


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        value = events.parse(body)
        events.stamp(value)
    except BodyInvalidError:
        pass


# Ids


def test_a_seed_gives_the_ids_that_inngest_gives() -> None:
    seed = Seed.parse(SEED)
    assert seed is not None
    first = ULID.from_str(seed.internal_id(1))
    assert first.milliseconds == 1_700_000_000_000
    assert first.bytes[6:] == bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 10])
    assert ULID.from_str(seed.internal_id(0)).bytes[6:] == bytes(range(10))


def test_a_seed_wraps_around() -> None:
    seed = Seed(1, b"\xff" * 10)
    assert ULID.from_str(seed.internal_id(1)).bytes[6:] == b"\xff" * 6 + b"\0" * 4


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "1",
        "x,AAECAwQFBgcICQ==",
        "1,zz",
        "1,AAE=",
        "-1,AAECAwQFBgcICQ==",
        "9" * 15 + ",AAECAwQFBgcICQ==",
    ],
)
def test_a_malformed_seed_is_ignored(header: str | None) -> None:
    assert Seed.parse(header) is None


def test_a_run_of_a_named_event_depends_on_function_and_event_id_only() -> None:
    one = events.stamp({"name": "a", "id": "order-1", "data": {"x": 1}})
    two = events.stamp({"name": "b", "id": "order-1"})
    assert one.internal_id == two.internal_id
    assert events.run_id("app-f", one) == events.run_id("app-f", two)
    assert events.run_id("app-f", one) != events.run_id("app-g", one)
    assert events.run_id("app-f", one) != events.run_id(
        "app-f", events.stamp({"name": "a", "id": "order-2"})
    )


def test_an_event_sent_again_under_its_internal_id_is_the_same_one() -> None:
    first = events.stamp({"name": "a"}, str(ULID()))
    again = events.stamp(first.event, str(ULID()))
    assert events.run_id("app-f", again) == events.run_id("app-f", first)
    # An id that only looks alike is another one.
    lower = events.stamp({**first.event, "id": first.internal_id.lower()}, str(ULID()))
    assert events.run_id("app-f", lower) != events.run_id("app-f", first)


def test_a_run_of_an_unnamed_event_depends_on_the_internal_id_and_sorts_by_its_time() -> None:
    seed = Seed(1_700_000_000_000, bytes(10))
    one, two = (
        events.stamp({"name": "a"}, seed.internal_id(1)),
        events.stamp({"name": "a"}, seed.internal_id(1)),
    )
    other = events.stamp({"name": "a"}, seed.internal_id(2))
    assert events.run_id("app-f", one) == events.run_id("app-f", two)
    assert (
        len(
            {
                events.run_id("app-f", one),
                events.run_id("app-f", other),
                events.run_id("app-g", one),
            }
        )
        == 3
    )
    assert ULID.from_str(events.run_id("app-f", one)).milliseconds == 1_700_000_000_000


@given(st.text(), st.text(min_size=1))
def test_every_run_id_is_a_ulid_that_begins_like_its_events_id(
    function: str, event_id: str
) -> None:
    stamped = events.stamp({"name": "a", "id": event_id})
    for text in (
        events.run_id(function, stamped),
        events.batch_run_id(function, stamped.internal_id),
    ):
        assert str(ULID.from_str(text)) == text
        assert text[0] <= "7"
        assert text.startswith(events.run_prefix(stamped.internal_id))
    assert events.run_id(function, stamped) != events.batch_run_id(function, stamped.internal_id)


def test_runs_of_events_whose_ids_begin_alike_differ() -> None:
    ids = [f"01M844C8Y4K6A2BZ3T9Z3FYH{n:02}" for n in range(100)]
    assert len({events.run_prefix(id) for id in ids}) == 1
    assert len({events.run_id("app-f", Stamped({}, id)) for id in ids}) == 100


# The system's own events


def test_an_invocation_is_addressed_and_its_sender_cannot_answer_for_a_step() -> None:
    posted = {
        "name": "x",
        "data": {"a": 1, "_inngest": {"correlation_id": "r.s"}},
        "user": {"u": 1},
    }
    stamped = events.stamp_invocation(posted, "app-fn")
    assert stamped.event["name"] == "inngest/function.invoked"
    assert stamped.event["data"] == {"a": 1, "_inngest": {"fn_id": "app-fn"}}
    assert stamped.event["user"] == {"u": 1}
    assert events.correlation_id(stamped.event) is None
    with pytest.raises(BodyInvalidError, match="must contain an event object"):
        events.stamp_invocation([], "app-fn")


def test_an_invoking_step_gives_the_same_ids_every_time() -> None:
    def build(step: str) -> Stamped:
        return events.invoked(
            "app-child",
            {"a": 1, "_inngest": "x"},
            run_id=RUN,
            step=step,
            source_function_id="app-parent",
            source_app_id="app",
            ts=1_700_000_000_000,
            v="2",
        )

    stamped = build("abc")
    assert stamped == build("abc")
    assert stamped.event["id"] != build("def").event["id"]
    assert stamped.event["v"] == "2"
    assert events.correlation_id(stamped.event) == f"{RUN}.abc"
    assert stamped.event["data"] == {
        "a": 1,
        "_inngest": {
            "fn_id": "app-child",
            "correlation_id": f"{RUN}.abc",
            "source_app_id": "app",
            "source_fn_id": "app-parent",
        },
    }


ORDER = {
    "id": "e",
    "name": "shop/order",
    "data": {"x": 1},
    "ts": 1,
    "user": {},
}


def test_a_completed_run_emits_finished() -> None:
    (finished,) = events.ended(
        "app-f", RUN, [ORDER], "Completed", ts=1_700_000_000_000, result=None
    )
    ULID.from_str(finished.event.pop("id"))
    assert finished.event == {
        "name": "inngest/function.finished",
        "ts": 1_700_000_000_000,
        "user": {},
        "data": {
            "function_id": "app-f",
            "run_id": RUN,
            "event": ORDER,
            "events": [ORDER],
            "result": None,
            "_inngest": {"status": "Completed"},
        },
    }


def test_a_failed_run_emits_finished_and_failed() -> None:
    error = ErrorInfo("ValueError", "no", stack="Traceback", retriable=False)
    finished, failed = events.ended(
        "app-f", RUN, [ORDER], "Failed", ts=1_700_000_000_000, error=error
    )
    shown = {
        "error": "NonRetriableError",
        "name": "ValueError",
        "message": "no",
        "stack": "Traceback",
    }
    assert finished.event["data"]["error"] == failed.event["data"]["error"] == shown
    assert "result" not in failed.event["data"]
    assert failed.event["name"] == "inngest/function.failed"
    assert failed.event["id"] == RUN
    assert failed.event["data"]["_inngest"] == {"status": "Failed"}
    assert failed.internal_id != finished.internal_id


def test_a_cancelled_run_emits_finished_and_cancelled() -> None:
    finished, cancelled = events.ended("app-f", RUN, [ORDER], "Cancelled", ts=1_700_000_000_000)
    assert [finished.event["name"], cancelled.event["name"]] == [events.FINISHED, events.CANCELLED]
    assert cancelled.event["id"] == RUN
    assert not {"error", "result"} & cancelled.event["data"].keys()


def test_an_end_reported_again_has_the_same_ids() -> None:
    args: Any = ("app-f", RUN, [ORDER], "Failed")
    error = ErrorInfo("E", "m")
    assert events.ended(*args, ts=1_700_000_000_000, error=error) == events.ended(
        *args, ts=1_700_000_000_000, error=error
    )


@pytest.mark.parametrize("name", ["inngest/function.failed", "inngest/function.finished"])
def test_a_run_started_by_the_end_of_a_run_emits_nothing(name: str) -> None:
    assert (
        events.ended(
            "app-f", RUN, [{**ORDER, "name": name}], "Failed", ts=1, error=ErrorInfo("E", "m")
        )
        == []
    )


def test_a_run_started_by_a_cancellation_emits() -> None:
    assert events.ended(
        "app-f", RUN, [{**ORDER, "name": events.CANCELLED}], "Completed", ts=1_700_000_000_000
    )


def test_an_invoked_run_names_the_step_that_waits_for_it() -> None:
    event = {**ORDER, "data": {"_inngest": {"correlation_id": "r.s"}}}
    (finished,) = events.ended("app-f", RUN, [event], "Completed", ts=1_700_000_000_000, result=1)
    assert finished.event["data"]["correlation_id"] == "r.s"


def test_a_lifecycle_event_that_would_be_too_large_leaves_out_copies_first() -> None:
    large = {**ORDER, "data": {"s": "x" * 1_700_000}}
    (finished,) = events.ended("app-f", RUN, [large], "Completed", ts=1_700_000_000_000, result=1)
    assert finished.event["data"]["events"] == []
    assert finished.event["data"]["event"] == large
    assert finished.event["data"]["result"] == 1
    assert finished.event["data"]["_inngest"] == {"status": "Completed", "omitted": ["events"]}

    (finished,) = events.ended(
        "app-f", RUN, [large], "Completed", ts=1_700_000_000_000, result="y" * 1_700_000
    )
    assert finished.event["data"]["_inngest"]["omitted"] == ["events", "result"]
    assert finished.event["data"]["event"] == large


@pytest.mark.parametrize(
    ("name", "internal"), [("inngest/x", True), ("INNGEST/x", True), ("inngest", False)]
)
def test_names_that_begin_with_inngest_and_a_slash_are_internal(name: str, internal: bool) -> None:
    assert events.is_internal(name) is internal
