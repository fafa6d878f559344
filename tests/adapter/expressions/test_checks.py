"""What is refused before an expression is used."""

import pytest

from inngest_temporal.errors import ExpressionError
from inngest_temporal.expressions import check_condition, check_expression, split_condition


@pytest.mark.parametrize(
    "source",
    [
        "event.data.x == 1",
        "event.data['x'] && has(event.user.id)",
        "'static'",
        "event.data.tags.exists(t, t == 'x' && event.data.ys.all(y, y != t))",
        "type(event.data.x) == string || type(event.ts) == google.protobuf.Timestamp",
        "vars.x == null",
        "now() > date('2024-01-01')",
    ],
)
def test_what_reads_the_event_is_accepted(source: str) -> None:
    assert check_expression(source).source == source
    assert check_condition(source).source == source


TEXT = "a path must begin with {}, and a text needs quotes"


@pytest.mark.parametrize(
    ("source", "problem", "position"),
    [
        ("evnt.data.x", "unknown variable 'evnt'", 0),
        ("customer", "unknown variable 'customer'", 0),
        ("event.data.x == y.z && true", "unknown variable 'y'", 16),
        ("has(evnt.data.x)", "unknown variable 'evnt'", 4),
        ("[evnt['data']]", "unknown variable 'evnt'", 1),
        ("{'a': order}", "unknown variable 'order'", 6),
        ("event.data.xs.exists(x, x == y)", "unknown variable 'y'", 29),
        ("event.data.xs.exists(x, true) && x == 1", "unknown variable 'x'", 33),
        ("x.exists(x, true)", "unknown variable 'x'", 0),
        ("google.protobuf.Stamp", "unknown variable 'google'", 0),
        ("lowercase(data.email)", "unknown variable 'data'", 10),
        ("order.startsWith('a')", "unknown variable 'order'", 0),
    ],
)
def test_an_unknown_variable_is_refused_with_its_place(
    source: str, problem: str, position: int
) -> None:
    for check, begins in ((check_expression, "event."), (check_condition, "event. or async.")):
        with pytest.raises(ExpressionError) as caught:
            check(source)
        assert caught.value.message == f"{problem}; {TEXT.format(begins)}"
        assert caught.value.position == position
    with pytest.raises(ExpressionError) as caught:
        split_condition(source, {})
    assert caught.value.message == f"{problem}; {TEXT.format('event. or async.')}"


def test_only_conditions_read_async() -> None:
    check_condition("event.data.x == async.data.x")
    with pytest.raises(ExpressionError) as caught:
        check_expression("event.data.x == async.data.x")
    assert caught.value.message == (
        f"only the conditions of waits and cancellations read 'async'; {TEXT.format('event.')}"
    )
    assert caught.value.position == 16


@pytest.mark.parametrize(
    "source",
    [
        "event.data.orderId == async.data.orderId && async.data.amount > 10",
        "!(async.data.x in ['a', event.data.b]) || async.data['k'] != null",
        "int(async.data.n) >= 5 && double(event.data.x) < 1.5 && uint(async.data.u) == 3u",
        "async.data.n == -5",
    ],
)
def test_cancellations_may_compare(source: str) -> None:
    check_condition(source, cancels=True)
    check_condition(source)


@pytest.mark.parametrize(
    ("source", "refused", "position"),
    [
        ("async.data.tags.exists(t, t == 'x')", "the macro exists()", 22),
        ("async.data.ok && has(async.data.x)", "the macro has()", 20),
        ("async.data.a + 1 == 2", "the operator +", 13),
        ("-async.data.a == 2", "the operator -", 0),
        ("async.data.a ? true : false", "the operator ?:", 13),
        ("async.data.a.startsWith('x')", "startsWith()", 23),
        ("string(async.data.a) == 'x'", "string()", 6),
        ("async.ts > now()", "now()", 14),
    ],
)
def test_cancellations_may_do_nothing_else(source: str, refused: str, position: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        check_condition(source, cancels=True)
    assert caught.value.message.startswith(
        f"{refused} isn't allowed in the condition of a cancellation; use only"
    )
    assert caught.value.position == position
