"""Values that are not JSON, in the data of events and invocations, become what the official SDK
makes of them, whichever way they are sent."""

import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from typing import Any

import inngest as official
import pydantic
import pytest
from inngest._internal.step_lib import base

import inngest_temporal as inngest
from inngest_temporal.errors import OutputUnserializableError
from inngest_temporal.serialization import data_to_json
from inngest_temporal.testing import Status, trigger

CLIENT = inngest.Inngest(app_id="app", is_production=False)
AT = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Row:
    when: datetime.datetime


class Model(pydantic.BaseModel):
    when: datetime.datetime = pydantic.Field(serialization_alias="at")


VALUES: dict[str, tuple[Any, Any]] = {
    "aware": (AT, "2026-03-01T12:00:00Z"),
    "naive": (AT.replace(tzinfo=None), "2026-03-01T12:00:00"),
    "date": (AT.date(), "2026-03-01"),
    "time": (AT.time(), "12:00:00"),
    "timedelta": (datetime.timedelta(seconds=90), "PT1M30S"),
    "decimal": (decimal.Decimal("0.10"), "0.10"),
    "uuid": (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    "enum": (Colour.RED, "red"),
    "dataclass": (Row(AT), {"when": "2026-03-01T12:00:00Z"}),
    "model": (Model(when=AT), {"at": "2026-03-01T12:00:00Z"}),
    "set": ({1}, [1]),
    "tuple": ((1, None), [1, None]),
    "keys": ({AT.date(): 1, 2: 3}, {"2026-03-01": 1, "2": 3}),
    "bytes": (b"abc", "abc"),
}


def data(value: Any) -> Any:
    return {"in": {"v": value}}


def official_event(value: Any) -> Any:
    written = official.Event(name="a", data=data(value)).to_dict()
    assert isinstance(written, dict)
    return written["data"]


def official_invocation(value: Any) -> Any:
    payload = base.InvokeOptsPayload(data=data(value), v=None)
    written = base.InvokeOpts(function_id="f", payload=payload, timeout=None).to_dict()
    assert isinstance(written, dict)
    options: Any = written["payload"]
    return options["data"]


@pytest.mark.parametrize("kind", VALUES)
def test_values_become_what_the_official_sdk_makes_of_them(kind: str) -> None:
    value, written = VALUES[kind]
    assert data_to_json(data(value), "x") == data(written)
    assert official_event(value) == data(written)
    assert official_invocation(value) == data(written)
    assert inngest.Event(name="a", data=data(value)).to_dict() == {
        "data": data(written),
        "id": "",
        "name": "a",
        "ts": 0,
    }


@pytest.mark.parametrize("kind", VALUES)
def test_a_test_sees_what_production_would_have_made_of_values(kind: str) -> None:
    value, written = VALUES[kind]

    @CLIENT.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="a"))
    async def fn(ctx: inngest.Context) -> Any:
        await ctx.step.send_event("send", inngest.Event(name="b", data=data(value)))
        arrived = await ctx.step.wait_for_event("wait", event="c", timeout=1000)
        assert arrived is not None
        return [ctx.event.data, arrived.data]

    event = inngest.Event(name="a", data=data(value))
    result = trigger(fn, event, step_stubs={"wait": inngest.Event(name="c", data=data(value))})
    assert result.status is Status.COMPLETED, result.error
    assert result.output == [data(written), data(written)]
    [sent] = result.sent
    assert sent.data == data(written)


@pytest.mark.parametrize("kind", VALUES)
def test_an_invocation_makes_the_same_of_values(kind: str) -> None:
    value, written = VALUES[kind]
    seen = []

    class Look(inngest.MiddlewareSync):
        def transform_output(self, result: inngest.TransformOutputResult) -> None:
            if result.step is not None and result.step.opts is not None:
                seen.append(result.step.opts)

    @CLIENT.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="a"), middleware=[Look])
    def fn(ctx: inngest.ContextSync) -> Any:
        return ctx.step.invoke_by_id("i", function_id="other", data={"top": value, **data(value)})

    result = trigger(fn, inngest.Event(name="a"), step_stubs={"i": 1})
    assert result.status is Status.COMPLETED, result.error
    assert [json.loads(json.dumps(each["payload"])) for each in seen] == [
        {"data": {"top": written, **data(written)}}
    ]


@pytest.mark.parametrize("value", [object(), float("nan"), b"\xff"])
def test_a_value_that_cannot_be_sent_is_named_and_not_tried_again(value: Any) -> None:
    attempts = []

    @CLIENT.create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="a"))
    async def fn(ctx: inngest.Context) -> None:
        attempts.append(ctx.attempt)
        await ctx.step.send_event("send", inngest.Event(name="b", data=data(value)))

    result = trigger(fn, inngest.Event(name="a"))
    assert result.error is not None
    assert result.error.message.startswith("Step \"send\", event 'b': its data can't be JSON: ")
    assert set(attempts) == {0}
    with pytest.raises(OutputUnserializableError, match=r'^Step "i": its data can\'t be JSON: '):
        data_to_json(data(value), 'Step "i"')
