"""The split of a wait's condition matches the same events as the whole condition."""

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inngest_temporal.errors import ExpressionError
from inngest_temporal.expressions import (
    WaitCondition,
    canonical_scalar,
    compile_expression,
    reduce_event,
    split_condition,
    value_at,
)

TRIGGER: dict[str, Any] = {
    "id": "evt-1",
    "name": "shop/order.created",
    "ts": 1,
    "data": {
        "orderId": "o-1",
        "amount": 5.0,
        "ok": True,
        "tags": ["a"],
        "weird key": "w",
        "nil": None,
        "map": {"a": 1},
    },
}


def split(source: str) -> WaitCondition:
    return split_condition(source, TRIGGER)


@pytest.mark.parametrize(
    ("source", "path", "value"),
    [
        ("event.data.orderId == async.data.orderId", "data.orderId", "o-1"),
        ("async.data.orderId == event.data.orderId", "data.orderId", "o-1"),
        ("(event.data.orderId == async.data.orderId)", "data.orderId", "o-1"),
        ("async.data.orderId == 'x'", "data.orderId", "x"),
        ("async['data'].orderId == 'x' // why", "data.orderId", "x"),
        ("async.data['weird key'] == event.data['weird key']", 'data["weird key"]', "w"),
        ('async.data["a.b"].c == 1', 'data["a.b"].c', 1),
        ("async.data.n == event.data.amount", "data.n", 5),
        ("async.data.n == 5u", "data.n", 5),
        ("async.data.n == -5", "data.n", -5),
        ("async.data.n == event.data.missing", "data.n", None),
        ("async.data.n == null", "data.n", None),
        ("async.data.t == event.data.tags[0]", "data.t", "a"),
        ("async.data.t == string(event.data.amount) + '-' + event.id", "data.t", "5-evt-1"),
    ],
)
def test_an_equality_becomes_path_and_value(source: str, path: str, value: object) -> None:
    assert split(source) == WaitCondition(path, value, None, {})  # type: ignore[arg-type]
    assert type(split(source).value) is type(value)


@pytest.mark.parametrize(
    ("source", "path", "value"),
    [
        ("event.id == async.id && async.data.n > 1", "id", "evt-1"),
        ("async.data.n > 1 && event.id == async.id", "id", "evt-1"),
        ("async.a > 1 && event.id == async.id && async.b < 2", "id", "evt-1"),
        ("(async.a > 1 && (event.id == async.id)) && async.b < 2", "id", "evt-1"),
        ("(async.a || async.b) && async.id == event.id", "id", "evt-1"),
        ("async.a == ' && ' && async.b in ['(', \"'\"]", "a", " && "),
        ("async.a == r'\\d' && async.b > '\\''", "a", "\\d"),
        ('async.a == R"\\\\" && async.b > "\\"&&"', "a", "\\\\"),
        ("async.a == '''it's && ''' && async.b > 1", "a", "it's && "),
        ("async.a == 'x' // && b\n && async.b > 1", "a", "x"),
        ("async.ok && event.id == async.id", "id", "evt-1"),
        ("event.id == async.id && async.ok", "id", "evt-1"),
    ],
)
def test_an_equality_among_others_is_found(source: str, path: str, value: object) -> None:
    condition = split(source)
    assert (condition.path, condition.value, condition.rest) == (path, value, source)
    assert type(condition.value) is type(value)
    assert condition.event == reduce_event(source, TRIGGER)


@pytest.mark.parametrize(
    "source",
    [
        "true",
        "async.data.n > 1",
        "async.data.orderId != event.data.orderId",
        "async.data.a == async.data.b",
        "event.data.a == event.data.b",
        "async == event",
        "async.data.tags == event.data.tags",
        "async.data.map == event.data.map",
        "async.data.tags[0] == 'a'",
        "async.data[event.id] == 'a'",
        "async.data.a == 'x' || async.data.b == 'y'",
        "async.data.a == 'x' ? true : false",
        "!(async.data.a == 'x')",
        "(async.data.a == 'x') == true",
        "async.data.a == event.data.tags[7]",
        "async.data.when == now()",
        "async.data.when == timestamp('2024-01-01T00:00:00Z')",
        "async.data.a == b'x'",
        "async.data.a == string",
        "async.data.tags.exists(t, async.data.a == t)",
    ],
)
def test_without_a_usable_equality_the_wait_is_for_every_event(source: str) -> None:
    condition = split(source)
    assert (condition.path, condition.value, condition.rest) == ("", None, source)
    assert condition.event == reduce_event(source, TRIGGER)


def test_the_most_selective_equality_is_used() -> None:
    assert (
        split("async.data.status == 'paid' && async.data.orderId == event.data.orderId").path
        == "data.orderId"
    )
    assert (
        split("async.data.ok == event.data.ok && async.data.status == 'paid'").path == "data.status"
    )
    assert split("async.data.x == event.data.missing && async.data.y == event.id").path == "data.y"
    assert split("async.data.tags == event.data.tags && async.data.y == event.id").path == "data.y"
    assert split("async.data.a == event.id && async.data.b == event.name").path == "data.a"


def test_a_wait_carries_no_more_of_its_trigger_than_the_condition_reads() -> None:
    source = "event.data.orderId == async.data.orderId && async.data.amount > event.data.amount"
    first = split_condition(source, {"data": {"orderId": "1", "amount": 1, "other": "x" * 1000}})
    second = split_condition(source, {"data": {"orderId": "2"}})
    assert first.event == {"data": {"orderId": "1", "amount": 1}}
    assert second.event == {"data": {"orderId": "2", "amount": None}}


def test_a_condition_that_does_not_compile_is_refused() -> None:
    with pytest.raises(ExpressionError, match="ends too early"):
        split_condition("event.data.x == async.", TRIGGER)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async.data.x == 1", {}),
        ("event.data.orderId == async.x", {"data": {"orderId": "o-1"}}),
        ("event.data['weird key'] == async.x", {"data": {"weird key": "w"}}),
        ("event.data.u.v == async.x", {"data": {"u": {"v": None}}}),
        ("event.data.nil.v == async.x", {"data": {"nil": {"v": None}}}),
        ("event.data.nil == event.data.nil.v", {"data": {"nil": None}}),
        ("event.data.tags[0] == async.x", {"data": {"tags": ["a"]}}),
        ("event.data.tags.exists(t, t == async.x)", {"data": {"tags": ["a"]}}),
        ("[1].exists(event, event.data.x == 1)", {}),
        ("event.data.orderId.x == async.x", {"data": {"orderId": "o-1"}}),
        ("event.data.tags.x == async.x", {"data": {"tags": []}}),
        ("has(event.data.u)", {}),
        ("has(event.data.map)", {"data": {"map": {}}}),
        ("has(event.data.map) && event.data.map.a == 1", {"data": {"map": {"a": 1}}}),
        ("has(event.data.u) && event.data.u == async.x", {}),
        ("has(event.data.tags[0].x)", {"data": {"tags": ["a"]}}),
        ("'u' in event.data.map && event.data.map.u == async.x", {"data": {"map": {"a": 1}}}),
        ("event == async", TRIGGER),
    ],
)
def test_the_trigger_is_reduced_to_what_an_expression_reads(
    source: str, expected: dict[str, Any]
) -> None:
    before = copy.deepcopy(TRIGGER)
    assert reduce_event(source, TRIGGER) == expected
    assert before == TRIGGER


def test_an_absent_path_of_the_trigger_is_null() -> None:
    condition = split("event.data.u == async.data.u")
    for data, expected in (
        ({}, True),
        ({"u": None}, True),
        ({"u": 0}, False),
        ({"u": ""}, False),
        ({"u": []}, False),
    ):
        assert (value_at({"data": data}, condition.path) == (True, condition.value)) is expected


@pytest.mark.parametrize(
    ("event", "path", "expected"),
    [
        ({"data": {"a": "x"}}, "data.a", (True, "x")),
        ({"data": {"a": 5.0}}, "data.a", (True, 5)),
        ({"data": {"a": 5.5}}, "data.a", (True, 5.5)),
        ({"data": {"a": True}}, "data.a", (True, True)),
        ({"data": {"a": None}}, "data.a", (True, None)),
        ({"data": {}}, "data.a", (True, None)),
        ({}, "data.a.b", (True, None)),
        ({"data": None}, "data.a.b", (True, None)),
        ({"data": {"a": []}}, "data.a", (False, None)),
        ({"data": {"a": {}}}, "data.a", (False, None)),
        ({"data": "text"}, "data.a", (False, None)),
        ({"data": [1]}, "data.a", (False, None)),
        ({"data": {"a": float("nan")}}, "data.a", (False, None)),
    ],
)
def test_only_a_scalar_is_the_value_of_a_candidate(
    event: dict[str, Any], path: str, expected: tuple[bool, object]
) -> None:
    found = value_at(event, path)
    assert found == expected
    assert type(found[1]) is type(expected[1])


def test_equal_numbers_have_one_spelling() -> None:
    assert [json.dumps(canonical_scalar(v)[1]) for v in (5, 5.0, -0.0, 1e3, 2.5, True)] == [
        "5",
        "5",
        "0",
        "1000",
        "2.5",
        "true",
    ]


def test_scalars_share_a_mailbox_if_and_only_if_they_are_equal() -> None:
    equality = compile_expression("event.data.x == async.data.x")
    scalars = [*SCALARS, 2**53, float(2**53), 2**53 + 1, 1e300, int(1e300), "1", "true", "null"]
    for one in scalars:
        for other in scalars:
            condition = split_condition(equality.source, {"data": {"x": one}})
            found = value_at({"data": {"x": other}}, condition.path)
            shared = json.dumps(found) == json.dumps((True, condition.value))
            assert shared == equality.matches({"data": {"x": one}}, {"data": {"x": other}}), (
                one,
                other,
            )


def test_a_path_that_split_did_not_write_is_refused() -> None:
    with pytest.raises(ValueError, match=r"isn't a path as split_condition writes it"):
        value_at({}, "data[0]")


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5), min_size=1, max_size=4
    )
)
def test_any_key_survives_the_path(keys: list[str]) -> None:
    source = (
        "async"
        + "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in keys)
        + " == 'found'"
    )
    condition = split(source)
    event: Any = "found"
    for key in reversed(keys):
        event = {key: event}
    assert value_at(event, condition.path) == (True, "found")


# The contract

SCALARS: list[Any] = ["a", "b", "", 0, 1, 1.0, 2, 2.5, -1, True, False, None]
VALUES = st.one_of(
    st.sampled_from(SCALARS),
    st.sampled_from([[], ["a"], [1, "a"], {}, {"x": "a"}, {"x": None}, {"x": 1, "y": "b"}]),
)
KEYS = ["k", "l", "odd key", "m"]
PATHS = ["data.k", "data.l", 'data["odd key"]', "data.m.x", "data.m", "data.m.x.deep", "id"]
LITERALS = [
    "'a'",
    '"b"',
    "''",
    "0",
    "1",
    "1.0",
    "2u",
    "-1",
    "2.5",
    "true",
    "false",
    "null",
    "' && '",
    "[1]",
    "{'x': 1}",
]


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    data: Any = draw(
        st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=draw(st.integers(0, 4)))
    )
    event: dict[str, Any] = {"data": data}
    if draw(st.booleans()):
        event["id"] = draw(st.sampled_from(SCALARS))
    if draw(st.integers(0, 9)) == 0:
        event["data"] = draw(VALUES)
    return event


ASYNC = st.sampled_from(PATHS).map(lambda path: f"async.{path}")
EVENT = st.sampled_from(PATHS).map(lambda path: f"event.{path}")
OPERANDS = st.one_of(ASYNC, EVENT, st.sampled_from(LITERALS))
WHOLE = st.sampled_from(
    [
        "has(event.data.k)",
        "has(event.data.m.x)",
        "!has(event.data.k)",
        "has(async.data.k)",
        "'k' in event.data",
        "'x' in event.data.m",
        "size(event.data.l) == 0",
        "event.data.m == async.data.m",
        "event.data == async.data",
        "event == event",
        "async.data.m.exists(k, k == event.data.k)",
        "event.data.m.exists(v, v == async.data.k)",
        "event.data.m.map(v, v == 'a') == [true]",
        "event.data[async.data.k] == 'a'",
        "event.data.m[0] == async.data.k",
        "async.data.k == string(event.data.l)",
        "has(event.data.k) == async.data.l",
        "async.data.k.startsWith('a')",
        "lowercase(event.data.k) == 'a'",
        "(event.data.k ? event.data.l : async.data.l) == 'a'",
    ]
)
EQUALITIES = st.one_of(
    st.sampled_from(PATHS[:3]).map(lambda path: f"event.{path} == async.{path}"),
    st.tuples(ASYNC, EVENT).map(" == ".join),
    st.tuples(EVENT, ASYNC).map(" == ".join),
    st.tuples(ASYNC, st.sampled_from(LITERALS)).map(" == ".join),
)
COMPARISONS = st.tuples(
    OPERANDS, st.sampled_from([" == ", " != ", " < ", " >= ", " + "]), OPERANDS
).map("".join)
ATOMS = st.one_of(EQUALITIES, COMPARISONS, WHOLE, OPERANDS)


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(" && ".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}) && ({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} && {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} || {pair[1]}"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} || {pair[1]})"),
        inner.map(lambda one: f"!({one})"),
        inner.map(lambda one: f"({one} // x && y\n)"),
    )


CONDITIONS = st.one_of(
    st.recursive(ATOMS, combined, max_leaves=5),
    st.tuples(EQUALITIES, st.recursive(ATOMS, combined, max_leaves=4)).map(" && ".join),
    st.tuples(st.recursive(ATOMS, combined, max_leaves=4), EQUALITIES).map(" && ".join),
)


def respelled(value: Any) -> Any:
    """Numbers are spelled otherwise, and bools become the numbers that are equal to them in Python
    alone."""
    match value:
        case dict():
            return {key: respelled(inner) for key, inner in value.items()}
        case bool():
            return int(value)
        case float():
            return int(value) if value.is_integer() else value
        case int():
            return float(value)
        case _:
            return value


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trigger and a candidate, which often have something in common."""
    trigger = draw(events())
    return trigger, draw(st.one_of(events(), st.just(trigger), st.just(respelled(trigger))))


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CONDITIONS, pairs())
def test_split_matches_the_same_events_as_the_whole(
    source: str, pair: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    trigger, candidate = pair
    before = copy.deepcopy(trigger)
    whole = compile_expression(source).matches(reduce_event(source, trigger), candidate)

    condition = split_condition(source, json.loads(json.dumps(trigger)))
    # As it crosses to the mailbox.
    stored = WaitCondition(**json.loads(json.dumps(vars(condition))))
    at_path, value = value_at(candidate, stored.path) if stored.path else (True, None)
    in_mailbox = at_path and json.dumps(value) == json.dumps(stored.value)
    rest = stored.rest is None or compile_expression(stored.rest).matches(stored.event, candidate)

    assert whole == (in_mailbox and rest)
    assert trigger == before


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.one_of(EQUALITIES, COMPARISONS), min_size=1, max_size=3).map(" && ".join), pairs()
)
def test_reducing_a_trigger_makes_absent_paths_null(
    source: str, pair: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Compares the reduced trigger with one that is filled in differently: the whole trigger, with
    null wherever a path has nothing."""
    trigger, candidate = pair
    # Not a deep copy: places that share an object would go on sharing it.
    filled = json.loads(json.dumps(trigger))
    read = [
        path
        for path in PATHS
        if f"event.{path}" in source.replace("event.data.m.x.deep", "event.DEEP")
    ]
    read += ["data.m.x.deep"] * ("event.data.m.x.deep" in source)
    for path in sorted(read, key=len):
        keys = path.replace('["odd key"]', ".odd key").split(".")
        inner: Any = filled
        for key in keys[:-1]:
            if isinstance(inner, dict) and inner.get(key) is None:
                inner[key] = {}
            inner = inner[key] if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.setdefault(keys[-1], None)
    if any(other.startswith(path + ".") for path in read for other in read):
        return  # one path inside another: filling in the inner would change the outer
    expression = compile_expression(source)
    assert expression.matches(reduce_event(source, trigger), candidate) == expression.matches(
        filled, candidate
    )
