import json
import math
from typing import Any

import jcs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inngest_temporal.sdk.signatures import canonical, sign, verify

KEY = "signkey-prod-0123456789abcdef"
BARE = "0123456789abcdef"

JAVASCRIPT = [
    (9007199254740993, "9007199254740992"),
    (-9007199254740993, "-9007199254740992"),
    (9007199254740991, "9007199254740991"),
    (12345678901234567890, "12345678901234567000"),
    (10**20, "100000000000000000000"),
    (10**21, "1e+21"),
    (10**30, "1e+30"),
    (-(2**60), "-1152921504606847000"),
    (1234567890123456, "1234567890123456"),
    (1.0, "1"),
    (-0.0, "0"),
    (1.5, "1.5"),
    (1e21, "1e+21"),
    (0.000001, "0.000001"),
    (1e-7, "1e-7"),
    (5e-324, "5e-324"),
    (10**400, "null"),
    (math.inf, "null"),
    (math.nan, "null"),
    (True, "true"),
    ('\x00\x1f\b\f\n\r\t"\\/\x7f\u2028', '"\\u0000\\u001f\\b\\f\\n\\r\\t\\"\\\\/\x7f\u2028"'),
    ("\ud800", '"\ufffd"'),
    ({"b": [1, {}], "a": None, "é": "ü"}, '{"a":null,"b":[1,{}],"é":"ü"}'),
    ({"\ue000": 1, "😀": 2}, '{"😀":2,"\ue000":1}'),
    ({"10": 1, "9": 2, "": 3}, '{"":3,"10":1,"9":2}'),
    ({"at": "2026-01-01T00:00:00.000Z", "text": "a:1.5,"}, None),
    ([0.1, [2.5]], "[0.1,[2.5]]"),
]
"""Values and what the SDK of JavaScript makes of them, which was found by calling an app."""


@pytest.mark.parametrize(("value", "expected"), JAVASCRIPT, ids=lambda each: ascii(each)[:40])
def test_the_canonical_form_is_that_of_javascript(value: Any, expected: str | None) -> None:
    if expected is None:
        expected = json.dumps(value, separators=(",", ":"))
    assert canonical(value).decode() == expected
    # The SDK of Python finds the same form for the body that it gets.
    assert jcs.canonicalize(json.loads(expected)) == canonical(value)


any_text = st.text() | st.text(st.characters(exclude_categories=()))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**80), max_value=2**80)
    | st.floats()
    | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(json_values)
def test_the_sdk_of_python_finds_the_same_form_of_any_value(value: Any) -> None:
    assert jcs.canonicalize(json.loads(canonical(value))) == canonical(value)


@settings(deadline=None, max_examples=300)
@given(json_values)
def test_the_canonical_form_of_itself_is_itself(value: Any) -> None:
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_a_signature_is_as_openssl_computes_it() -> None:
    signature = sign(KEY, b'{"a":1}', 1_700_000_000)
    assert signature == (
        "t=1700000000&s=073ba089083d1b5825d78beec35b482862de474e016af50769c33fbb94fb962c"
    )


def test_the_prefix_of_a_key_does_not_count() -> None:
    assert sign(KEY, b"{}", 5) == sign(BARE, b"{}", 5) != sign("fedcba", b"{}", 5)


def test_an_empty_body_is_signed_with_its_time() -> None:
    assert sign(KEY, b"", 5) == sign(KEY, b"", 5) != sign(KEY, b"", 6)


@pytest.mark.parametrize("off", [0, 299, 300, -300])
def test_a_signature_is_valid_for_five_minutes(off: int) -> None:
    signature = sign(KEY, b"{}", 1_000)
    assert verify(["other", BARE], b"{}", signature, 1_000 + off)
    assert not verify(["other"], b"{}", signature, 1_000 + off)
    assert not verify([BARE], b"{} ", signature, 1_000 + off)


@pytest.mark.parametrize("off", [301, -301, 10**9])
def test_an_older_signature_is_not_valid(off: int) -> None:
    assert not verify([KEY], b"{}", sign(KEY, b"{}", 10**6), 10**6 + off)


@settings(deadline=None, max_examples=300)
@given(st.text() | st.from_regex(r"t=\d*&s=[0-9a-f]*", fullmatch=True), st.binary())
def test_no_made_up_signature_is_valid(signature: str, body: bytes) -> None:
    assert not verify([KEY, ""], body, signature, 5)


def test_no_keys_verify_nothing() -> None:
    assert not verify([], b"", sign("", b"", 5), 5)
