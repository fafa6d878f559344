import dataclasses
import datetime
from typing import Annotated, Any

import pydantic
import pytest

from inngest_temporal.errors import OutputUnserializableError
from inngest_temporal.serialization import (
    EmptySentinel,
    PydanticSerializer,
    deserialize,
    serialize,
    to_json,
)


class User(pydantic.BaseModel):
    name: str
    born: datetime.date


@dataclasses.dataclass
class Point:
    x: int
    y: int


USER = User(name="Ada", born=datetime.date(1815, 12, 10))


def test_tuples_become_lists_and_keys_text() -> None:
    assert to_json({"pair": (1, (2,)), 3: None, True: 1.5}) == {
        "pair": [1, [2]],
        "3": None,
        "true": 1.5,
    }


def test_the_result_shares_nothing_with_the_value() -> None:
    value = {"list": [1]}
    result = to_json(value)
    value["list"].append(2)
    assert result == {"list": [1]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_nan_and_infinity_are_refused(value: object) -> None:
    with pytest.raises(
        OutputUnserializableError, match=r"Unserializable data: .*not JSON compliant"
    ):
        to_json(value)


def test_a_refusal_names_who_returned_it_and_the_remedy() -> None:
    with pytest.raises(OutputUnserializableError) as caught:
        to_json({"user": USER}, "get-user")
    assert caught.value.message.startswith(
        '"get-user" returned unserializable data: Object of type User is not JSON serializable'
    )
    assert "output_type" in caught.value.message


def test_circular_and_bottomless_values_are_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(OutputUnserializableError, match="Circular reference"):
        to_json(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(OutputUnserializableError):
        to_json(deep)


@pytest.mark.parametrize(
    ("value", "typ", "json"),
    [
        (USER, User, {"name": "Ada", "born": "1815-12-10"}),
        ([USER], list[User], [{"name": "Ada", "born": "1815-12-10"}]),
        (None, User | None, None),
        (Point(1, 2), Point, {"x": 1, "y": 2}),
        ((1, "a"), tuple[int, str], [1, "a"]),
        ({datetime.date(2026, 1, 1): {1}}, dict[datetime.date, set[int]], {"2026-01-01": [1]}),
    ],
)
def test_pydantic_serializer_returns_the_declared_type(
    value: object, typ: object, json: object
) -> None:
    serializer = PydanticSerializer()
    assert serializer.serialize(value, typ) == json
    assert serializer.deserialize(json, typ) == value


def test_pydantic_serializer_dumps_as_the_declared_type() -> None:
    class Admin(User):
        password: str

    admin = Admin(name="Ada", born=USER.born, password="x")
    assert PydanticSerializer().serialize(admin, User) == {"name": "Ada", "born": "1815-12-10"}


def test_pydantic_serializer_takes_types_that_have_no_hash() -> None:
    assert PydanticSerializer().deserialize("5", Annotated[int, []]) == 5


def test_without_a_serializer_or_a_type_values_only_go_through_json() -> None:
    assert serialize(None, (1,), User) == [1]
    assert serialize(PydanticSerializer(), (1,), EmptySentinel) == [1]
    assert deserialize(None, {"name": "Ada"}, User) == {"name": "Ada"}
    assert deserialize(PydanticSerializer(), {"name": "Ada"}, EmptySentinel) == {"name": "Ada"}


def test_with_both_the_serializer_is_used() -> None:
    serializer = PydanticSerializer()
    assert deserialize(serializer, serialize(serializer, USER, User), User) == USER


def test_what_a_serializer_returns_must_be_json_too() -> None:
    class Lazy:
        def serialize(self, obj: object, typ: object) -> object:
            return obj

        def deserialize(self, obj: object, typ: object) -> object:
            return obj

    with pytest.raises(OutputUnserializableError, match="get-user"):
        serialize(Lazy(), USER, User, "get-user")


def test_a_serializer_that_raises_gives_our_error() -> None:
    with pytest.raises(
        OutputUnserializableError, match=r'"get-user" returned unserializable data, as .*Point'
    ):
        serialize(PydanticSerializer(), object(), Point, "get-user")
