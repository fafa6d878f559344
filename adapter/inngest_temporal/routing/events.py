"""Events: what a sender may post, how it is normalised and stamped, and the events that the system
itself emits.

A stamped event is a plain JSON object `{id, name, data, ts, user, v?}`: `data` and `user`
are objects, `ts` is in milliseconds since 1970, `id` is the sender's or else the internal id.
Source: Inngest's event API (semantics §1.3-1.6) and its lifecycle events (§5.7, §5.10). An event
that breaks a rule raises `BodyInvalidError`, whose message is for the sender.
"""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ulid import ULID

from inngest_temporal.drivers.failures import standard_error
from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.temporal import names

MAX_EVENTS = 5_000
"""Maximum number of events in one POST, as in Inngest."""
MAX_EVENT_BYTES = 1_800_000
"""Maximum size of one event, as Temporal's default converter writes it (compact, ASCII). Inngest
allows 3 MiB, but a Temporal payload is limited to 2 MiB, and ids travel with an event."""
RUN_PREFIX = 18
"""How many characters at the beginning of a run's id are those of its event's id."""
MAX_DEPTH = 100
"""Maximum nesting of one event."""

INVOKED = "inngest/function.invoked"
FINISHED = "inngest/function.finished"
FAILED = "inngest/function.failed"
CANCELLED = "inngest/function.cancelled"
TIMER = "inngest/scheduled.timer"

Status = Literal["Completed", "Failed", "Cancelled"]
_LIFECYCLE: dict[Status, str] = {"Failed": FAILED, "Cancelled": CANCELLED}
"""The second event that the end of a run emits, after `FINISHED`."""

_MIN_TS = 315_532_800_000  # 1980-01-01
_MAX_TS = 4_102_444_800_000  # 2100-01-01


@dataclass(frozen=True)
class Stamped:
    """An accepted event."""

    event: dict[str, Any]
    internal_id: str
    """ULID that the sender is told, and that finds the event's runs. It derives from the event's
    own id, if the sender gave one."""


@dataclass(frozen=True)
class Seed:
    """The sender's seed for internal ids, so that a retry of its request gets the same ones
    (§1.6)."""

    ms: int
    entropy: bytes
    """10 bytes."""

    @classmethod
    def parse(cls, header: str | None) -> "Seed | None":
        """From `x-inngest-event-id-seed`, `<unix ms>,<base64 of 10 bytes>`; None if it is absent or
        malformed."""
        ms, comma, text = (header or "").partition(",")
        if not comma or not (ms.isascii() and ms.isdigit()) or len(ms) > 15:
            return None
        try:
            entropy = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(entropy) != 10 or int(ms) >= 2**48:
            return None
        return cls(int(ms), entropy)

    def internal_id(self, index: int) -> str:
        """Id of the event at `index`, which counts from 1 in a POST of events and is 0 for an
        invocation."""
        last = (int.from_bytes(self.entropy[6:]) + index) % 2**32
        return str(ULID(self.ms.to_bytes(6) + self.entropy[:6] + last.to_bytes(4)))


def is_internal(name: str) -> bool:
    """Whether an event name is reserved for the system."""
    return name[:8].lower() == "inngest/"


def parse(body: bytes) -> Any:
    """Decode a JSON body strictly: UTF-8, no NaN or infinities, no deeper than the interpreter can
    decode (`stamp` checks `MAX_DEPTH`). Raises `BodyInvalidError`."""
    try:
        value = _DECODER.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BodyInvalidError(
            f"Request body is not valid UTF-8: {error.reason} at byte {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise BodyInvalidError(
            f"Request body is not valid JSON: {error.msg} at character {error.pos}"
        ) from None
    except RecursionError:
        raise BodyInvalidError(
            f"Request body is nested too deeply: Max {MAX_DEPTH} levels"
        ) from None
    except BodyInvalidError:
        raise
    except ValueError as error:  # integers of more digits than Python converts
        raise BodyInvalidError("Request body has a number that is too long") from error
    if b"\\u" in body:
        value = _without_lone_surrogates(value)
    return value


def check_id(field: str, text: str, max_bytes: int) -> None:
    """Refuse a text that can't be part of an id or a query in Temporal, whose database would fail
    at it each time. Raises `BodyInvalidError`, which names the field."""
    if "\0" in text:
        raise BodyInvalidError(f"{field} must not contain a NUL character")
    if (size := len(text.encode("utf-8", "replace"))) > max_bytes:
        raise BodyInvalidError(
            f"{field} is over the max length: Max {max_bytes} bytes / Size {size} bytes"
        )


def stamp(raw: object, internal_id: str | None = None) -> Stamped:
    """Validate and normalise one event that a sender posted (decoded JSON). Raises
    `BodyInvalidError`."""
    event = _fields(raw)
    name = event["name"]
    if is_internal(name):
        raise BodyInvalidError(f"event name is reserved for internal use: {_short(name)}")
    return _stamped(event, internal_id)


def stamp_invocation(raw: object, function_id: str, internal_id: str | None = None) -> Stamped:
    """The event that invokes `function_id` with what a sender posted to `/invoke` (`{data?, user?,
    id?, ...}`, §1.7).

    Raises `BodyInvalidError`.
    """
    if not isinstance(raw, Mapping):
        raise BodyInvalidError("Request body must contain an event object")
    event = _fields({**raw, "name": INVOKED})
    event["data"]["_inngest"] = {"fn_id": function_id}
    return _stamped(event, internal_id)


def run_id(function_id: str, event: Stamped) -> str:
    """The id of a function's run for an event. It is always the same, so Temporal refuses a second
    start."""
    return _run_id(event.internal_id, "run", function_id)


def batch_run_id(function_id: str, first_id: str) -> str:
    """The id of a function's run for a batch; `first_id` is the internal id of its first event."""
    return _run_id(first_id, "batch", function_id)


def rerun_id(function_id: str, first_id: str, original: str, key: str) -> str:
    """The id of a function's run that repeats the run `original`; `first_id` is the internal id of
    its first event. The same key always gives the same id."""
    return _run_id(first_id, "rerun", function_id, original, key)


def run_prefix(internal_id: str) -> str:
    """What the ids of an event's runs begin with: the time in its id and half of what follows. Few
    other events have the same."""
    return internal_id[:RUN_PREFIX]


def _run_id(internal_id: str, *parts: str) -> str:
    """A ULID with the prefix of the event's id. The rest derives from all of that id, and from
    `parts`."""
    return run_prefix(internal_id) + _ulid(0, internal_id, *parts)[RUN_PREFIX:]


def correlation_id(event: Mapping[str, Any]) -> str | None:
    """`<run id>.<hashed step id>` of the step that waits for the run of this event, if there is
    one."""
    data = event.get("data")
    reserved = data.get("_inngest") if isinstance(data, Mapping) else None
    found = reserved.get("correlation_id") if isinstance(reserved, Mapping) else None
    return found if isinstance(found, str) else None


def invoked(
    function_id: str,
    data: Mapping[str, Any] | None,
    *,
    run_id: str,
    step: str,
    source_function_id: str,
    source_app_id: str,
    ts: int,
    v: str | None = None,
) -> Stamped:
    """The event by which a step (hashed id `step` of run `run_id`) invokes another function (§5.7).

    The same step always gives the same ids. `ts` is in milliseconds since 1970 and
    must be the same when the step is repeated. Raises `BodyInvalidError` if the data is too large.
    """
    correlation = f"{run_id}.{step}"
    reserved: dict[str, Any] = {
        "fn_id": function_id,
        "correlation_id": correlation,
        "source_app_id": source_app_id,
        "source_fn_id": source_function_id,
    }
    event: dict[str, Any] = {
        "id": invocation_id(run_id, step),
        "name": INVOKED,
        "data": {**(data or {}), "_inngest": reserved},
        "ts": ts,
        "user": {},
    }
    if v is not None:
        event["v"] = v
    _check_limits(event)
    return Stamped(event, event["id"])


def invocation_id(run_id: str, step: str) -> str:
    """The internal id of the event by which a step (by hashed id) invokes another function."""
    return str(ULID(_digest(INVOKED, f"{run_id}.{step}")[:16]))


def scheduled(function_id: str, cron: str, scheduled_at: datetime, fire_at: datetime) -> Stamped:
    """The event of one tick of a function's cron; a tick always gives the same event (§4.12).

    `scheduled_at` is what the expression says, in whole seconds; `fire_at` adds the jitter to it.
    """
    at = _rfc3339(scheduled_at)
    ms = int(scheduled_at.timestamp() * 1000)
    event = {
        "id": at,
        "name": TIMER,
        "data": {"cron": cron, "scheduledAt": at, "fireAt": _rfc3339(fire_at)},
        "ts": int(fire_at.timestamp() * 1000),
        "user": {},
    }
    return Stamped(event, _ulid(ms, TIMER, function_id, cron, at))


def ended(
    function_id: str,
    run_id: str,
    events: Sequence[Mapping[str, Any]],
    status: Status,
    *,
    ts: int,
    result: object = None,
    error: ErrorInfo | None = None,
) -> list[Stamped]:
    """The events that the end of a run emits, in order; none if the run was itself started by such
    an event (§5.10).

    In a batch, each event that invokes the function has its own `finished`; the first event always
    has one. `events` are those that started the run. `result` is used for Completed, `error` for
    the other statuses. `ts` (milliseconds) must be the same when the end is reported again.
    """
    if events and events[0].get("name") in (FAILED, FINISHED):
        return []

    def lifecycle(name: str, event_id: str, event: Mapping[str, Any] | None = None) -> Stamped:
        return _lifecycle(
            name, event_id, function_id, run_id, events, status, ts, result, error, event
        )

    out = [lifecycle(FINISHED, str(ULID(_digest(FINISHED, run_id)[:16])))]
    for event in events[1:]:
        if correlation := correlation_id(event):
            out.append(
                lifecycle(FINISHED, str(ULID(_digest(FINISHED, run_id, correlation)[:16])), event)
            )
    if status in _LIFECYCLE:
        out.append(lifecycle(_LIFECYCLE[status], run_id))  # the event has the run's id (Inngest)
    return out


def _lifecycle(
    name: str,
    event_id: str,
    function_id: str,
    run_id: str,
    events: Sequence[Mapping[str, Any]],
    status: Status,
    ts: int,
    result: object,
    error: ErrorInfo | None,
    trigger: Mapping[str, Any] | None = None,
) -> Stamped:
    """`trigger`: the event of the run that this end is reported for; the first one by default."""
    first = dict(trigger or (events[0] if events else {}))
    data: dict[str, Any] = {
        "function_id": function_id,
        "run_id": run_id,
        "event": first,
        "events": list(events),
    }
    if error is not None:
        data["error"] = standard_error(error)
    elif status == "Completed":
        data["result"] = result
    correlation = correlation_id(first)
    if correlation is not None:
        data["correlation_id"] = correlation
    data["_inngest"] = {"status": status}
    event: dict[str, Any] = {"id": event_id, "name": name, "data": data, "ts": ts, "user": {}}
    _fit(event)
    return Stamped(event, event_id)


def _fit(event: dict[str, Any]) -> None:
    """Drop fields of a lifecycle event that is too large, the least important first;
    `_inngest.omitted` lists what was dropped.

    It holds the run's event twice and the result, and each of these may be near the limit.
    """
    data = event["data"]
    without: list[tuple[str, object]] = [
        ("events", []),
        ("result", None),
        ("event", {**data["event"], "data": {}, "user": {}}),
        ("error", {**data.get("error", {}), "message": "", "stack": ""}),
    ]
    omitted = []
    for field, replacement in without:
        if len(_compact(event)) <= MAX_EVENT_BYTES:
            break
        if field in data:
            data[field] = replacement
            omitted.append(field)
    if omitted:
        data["_inngest"]["omitted"] = omitted


def _fields(raw: object) -> dict[str, Any]:
    """The known fields of a posted event, checked and completed; unknown ones are dropped, as in
    Inngest."""
    if not isinstance(raw, Mapping):
        raise BodyInvalidError(f"event must be an object, not {_kind(raw)}")
    name = _typed(raw, "name", str, "a string") or ""
    if not name:
        raise BodyInvalidError("event name is empty")
    check_id("event name", name, names.MAX_EVENT_NAME_BYTES)
    data: dict[str, Any] = dict(_typed(raw, "data", dict, "an object") or {})
    data.pop("_inngest", None)
    ts = (
        _typed(raw, "ts", int, "an integer (milliseconds since 1970)")
        or time.time_ns() // 1_000_000
    )
    if not _MIN_TS <= ts <= _MAX_TS:
        raise BodyInvalidError(
            f"event ts must be milliseconds between 1980-01-01 and 2100-01-01, not {str(ts)[:30]}"
        )
    event: dict[str, Any] = {
        "id": _typed(raw, "id", str, "a string") or "",
        "name": name,
        "data": data,
        "ts": ts,
        "user": _typed(raw, "user", dict, "an object") or {},
    }
    if v := _typed(raw, "v", str, "a string"):
        event["v"] = v
    return event


def _stamped(event: dict[str, Any], internal_id: str | None) -> Stamped:
    """An event with an id of its own gets the same internal id each time that it is sent. So does
    an event that is sent again with the internal id that it was given."""
    given = event["id"]
    internal_id = _internal_id(given) if given else internal_id or str(ULID())
    event["id"] = given or internal_id
    _check_limits(event)
    return Stamped(event, internal_id)


def _internal_id(given: str) -> str:
    try:
        if str(ULID.from_str(given)) == given:
            return given
    except ValueError:
        pass
    return str(ULID(_digest("event", given)[:16]))


def _typed(raw: Mapping[str, Any], field: str, kind: type, expected: str) -> Any:
    value = raw.get(field)
    if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    raise BodyInvalidError(f"event {field} must be {expected}, not {_kind(value)}")


def _check_limits(event: Mapping[str, Any]) -> None:
    try:
        text = _compact(event)
    except RecursionError:
        raise BodyInvalidError(f"event is nested too deeply: Max {MAX_DEPTH} levels") from None
    if len(text) > MAX_EVENT_BYTES:
        raise BodyInvalidError(
            f"Event is over the max size: Max {MAX_EVENT_BYTES} bytes / Size {len(text)} bytes"
        )
    # An event with few brackets can't be nested deeply, so most events need no walk.
    if text.count("{") + text.count("[") > MAX_DEPTH and deeper(event, MAX_DEPTH):
        raise BodyInvalidError(f"event is nested too deeply: Max {MAX_DEPTH} levels")


def _compact(event: Mapping[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))


def deeper(value: object, levels: int) -> bool:
    """Whether a JSON value has more than `levels` objects and arrays inside each other."""
    layer: list[Any] = [value]
    for _ in range(levels):
        containers = [item for item in layer if isinstance(item, dict | list)]
        layer = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in layer)


def _without_lone_surrogates(value: Any) -> Any:
    """JSON can escape half a character, which no later stage can encode. Such a half becomes
    U+FFFD, as in Go."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


def _not_json(constant: str) -> Any:
    raise BodyInvalidError(f"Request body is not valid JSON: {constant} is not a JSON value")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BodyInvalidError(f"Request body has a number out of range: {_short(text)}")
    return value


_DECODER = json.JSONDecoder(parse_constant=_not_json, parse_float=_float)


def _ulid(ms: int, *parts: str) -> str:
    """A ULID of this time, whose other 80 bits derive from `parts`."""
    return str(ULID(ms.to_bytes(6) + _digest(*parts)[:10]))


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _digest(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _kind(value: object) -> str:
    kinds = {
        bool: "a boolean",
        str: "a string",
        int: "a number",
        float: "a float",
        list: "an array",
    }
    kinds |= {dict: "an object", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."
