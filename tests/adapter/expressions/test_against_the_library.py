"""Our evaluator against the official runtime: where that has a value, ours has the same one.

The runtime has errors where Inngest has values (missing keys, `1 && 'a'`, `1u + 1`), so only what
it can evaluate is compared; every path of these expressions exists.
"""

import math
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inngest_temporal.errors import EvaluationError
from inngest_temporal.expressions import compile_expression
from inngest_temporal.expressions.syntax import LIBRARY

EVENT: dict[str, Any] = {
    "data": {
        "n": 3,
        "neg": -7,
        "half": 2.5,
        "text": "enterprise",
        "empty": "",
        "yes": True,
        "nil": None,
        "tags": ["a", "b", "a"],
        "nums": [3, 1.0, 2],
        "map": {"a": 1, "b": {"c": "x"}},
        "items": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 0}],
    }
}
NO_VALUE = object()


def by_the_library(source: str) -> Any:
    try:
        value = LIBRARY.compile(source, disable_check=True).eval(data={"event": EVENT})
    except RuntimeError:
        return NO_VALUE
    return NO_VALUE if value.type().name() == "ERROR" else value.plain_value()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


# Mostly expressions whose types fit, since the runtime has no value for others.
INTS = st.sampled_from(["0", "1", "-2", "7", "event.data.n", "event.data.neg", "size('abc')"])
NUMBERS = st.one_of(INTS, st.sampled_from(["3u", "2.5", "-0.5", "1e3", "event.data.half"]))
TEXTS = st.sampled_from(["''", "'a'", "'enter'", "event.data.text", "event.data.empty"])
BOOLS = st.sampled_from(["true", "false", "event.data.yes", "has(event.data.map)"])
LISTS = st.sampled_from(["[]", "[1, 2u, 3.0]", "['a', null]", "event.data.tags", "event.data.nums"])
OTHERS = st.sampled_from(
    ["null", "event.data.nil", "event.data.map", "event.data.map.b", "{'a': 1}", "{1: true}"]
)
ATOMS = st.one_of(NUMBERS, TEXTS, BOOLS, LISTS, OTHERS)


def joined(symbols: str, left: st.SearchStrategy[str], right: st.SearchStrategy[str]) -> Any:
    operators = st.sampled_from(symbols.split())
    return st.tuples(left, operators, right).map(lambda parts: f"({' '.join(parts)})")


def filled(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda found: template.format(*found))


def ints(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        joined("+ - * / %", inner, inner),
        filled("-({})", inner),
        filled("int({})", NUMBERS),
        filled("[{}, {}][{}]", inner, inner, INTS),
        filled("({} ? {} : {})", BOOLS, inner, inner),
    )


NUMERIC = st.one_of(
    st.recursive(INTS, ints, max_leaves=4),
    joined("+ - * /", *[filled("double({})", NUMBERS)] * 2),
    filled("size({})", st.one_of(LISTS, TEXTS)),
)
MACRO = st.sampled_from(["all", "exists", "exists_one"])


def bools(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.one_of(inner, st.sampled_from(["i.sku == 'a'", "i.qty > 1", "has(i.sku)"]))
    return st.one_of(
        joined("&& ||", inner, inner),
        filled("!({})", inner),
        filled("({} ? {} : {})", inner, inner, inner),
        filled("event.data.items.{}(i, {})", MACRO, joined("&& ||", item, item)),
        filled("size(event.data.items.filter(i, {})) > 1", item),
    )


COMPARISONS = st.one_of(
    joined("== != < <= > >=", NUMERIC, NUMERIC),
    joined("== != < <= > >=", TEXTS, TEXTS),
    joined("== !=", ATOMS, ATOMS),
    joined("in", ATOMS, LISTS),
    filled("{}.{}({})", TEXTS, st.sampled_from(["startsWith", "endsWith", "contains"]), TEXTS),
    filled("{}.{}(x, x {} {})", LISTS, MACRO, st.sampled_from(["==", "!=", "<", ">="]), ATOMS),
    filled("type({}) == type({})", ATOMS, ATOMS),
)
EXPRESSIONS = st.one_of(
    NUMERIC,
    st.recursive(st.one_of(BOOLS, COMPARISONS), bools, max_leaves=5),
    joined("+", LISTS, LISTS),
    joined("+", TEXTS, TEXTS),
    filled("string({})", st.one_of(INTS, BOOLS, TEXTS)),
    filled("event.data.nums.map(x, x {} {})", st.sampled_from(["==", "<", "!="]), NUMBERS),
    st.lists(NUMERIC, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EXPRESSIONS)
@example("7 / 2 + 7 % -2 - -7 / 2")
@example("[1, 2].map(x, x > 1, x * 10)")
@example("event.data.items.filter(i, i.qty > 1).size() == 1")
def test_where_the_library_has_a_value_ours_is_the_same(source: str) -> None:
    expected = by_the_library(source)
    if expected is NO_VALUE:
        return
    try:
        value = compile_expression(source).evaluate(EVENT)
    except EvaluationError as error:
        if "&&" in source:
            return  # in the runtime `error && false` is false; in Inngest the error decides
        value = error
    assert same(value, expected), (value, expected)
