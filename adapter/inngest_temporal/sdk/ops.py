"""The operations in replies of official SDKs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.failures import bounded
from inngest_temporal.drivers.protocol import ErrorInfo, Op
from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.routing.events import check_id, deeper, parse
from inngest_temporal.temporal import names

from .durations import duration_ms, moment_ms, remaining_ms

MAX_DEPTH = 200
"""Maximum nesting of a reply."""
MAX_CAUSE_BYTES = 50_000
"""Maximum size of an error's cause, which is dropped if it is larger."""
_MAX_ID_BYTES = 200
_MAX_NAME = 1_000
_MAX_ERROR_NAME = 300

GatewayKind = Literal["fetch", "ai"]


@dataclass(frozen=True)
class GatewayCall:
    """An HTTP request that an app asks us to make."""

    kind: GatewayKind
    url: str
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    auth_key: str | None = field(default=None, repr=False)
    """Secret."""
    format: str = "openai-chat"
    """How `auth_key` is sent, in a call of `ai`."""


def parse_json(body: bytes) -> Any:
    """Decode what an app sent. Raises `BodyInvalidError`."""
    value = parse(body)
    # A body with few brackets can't be nested deeply, so most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and deeper(value, MAX_DEPTH):
        raise BodyInvalidError(f"The body is nested too deeply: Max {MAX_DEPTH} levels")
    return value


def step_of(wire: Mapping[str, Any]) -> Op:
    """The id and name of a step of any kind, as an op of kind RUN. Raises `BodyInvalidError`."""
    step, userland = wire.get("id"), wire.get("userland")
    if not isinstance(step, str) or not step:
        raise BodyInvalidError("an operation has no id")
    check_id("operation's id", step, _MAX_ID_BYTES)
    called = [wire.get("displayName"), wire.get("name")]
    if isinstance(userland, Mapping):
        called.insert(1, userland.get("id"))
    name = next((each for each in called if isinstance(each, str) and each), step)
    mode = _options(wire).get("parallelMode")
    race = isinstance(mode, str) and mode.lower() == "race"
    return Op(protocol.RUN, step, name[:_MAX_NAME], {"race": True} if race else {})


def sleep_of(wire: Mapping[str, Any]) -> Op:
    """Raises `BodyInvalidError`, like the functions below."""
    text = _text(wire, "duration", "name")
    until_ms = moment_ms(text)
    if until_ms is not None:
        return _waiting(wire, protocol.SLEEP, {"until_ms": until_ms})
    try:
        return _waiting(wire, protocol.SLEEP, {"duration_ms": duration_ms(text)})
    except ValueError:
        raise _invalid(wire, f"can't sleep {text[:100]!r}") from None


def wait_for_event_of(wire: Mapping[str, Any], now_ms: int) -> Op:
    name, condition = _text(wire, "event", "name"), _options(wire).get("if")
    if not name:
        raise _invalid(wire, "waits for an event without a name")
    check_id("event name", name, names.MAX_EVENT_NAME_BYTES)
    return _waiting(
        wire,
        protocol.WAIT_FOR_EVENT,
        {
            "events": [name],
            "if": condition if isinstance(condition, str) and condition else None,
            "timeout_ms": _timeout_ms(wire, now_ms) or 0,
        },
    )


def wait_for_signal_of(wire: Mapping[str, Any], now_ms: int) -> Op:
    signal = _text(wire, "signal", "name")
    if not signal:
        raise _invalid(wire, "waits for a signal without a name")
    check_id("signal", signal, names.MAX_SIGNAL_BYTES)
    options = {"signal": signal, "replace": _options(wire).get("conflict") == "replace"}
    return _waiting(wire, protocol.WAIT_FOR_SIGNAL, options | _timeout(wire, now_ms))


def invoke_of(wire: Mapping[str, Any], now_ms: int) -> Op:
    function_id, payload = _options(wire).get("function_id"), _options(wire).get("payload")
    if not isinstance(function_id, str) or not function_id:
        raise _invalid(wire, "invokes no function")
    check_id("function id", function_id, names.MAX_FUNCTION_ID_BYTES)
    given = payload if isinstance(payload, Mapping) else {}
    data, v = given.get("data"), given.get("v")
    if not isinstance(data, Mapping | None):
        raise _invalid(wire, "invokes with data that is not an object")
    sent: dict[str, Any] = {"data": data or {}}
    if isinstance(v, str) and v:
        sent["v"] = v
    options = {"function_id": function_id, "payload": sent}
    return _waiting(wire, protocol.INVOKE, options | _timeout(wire, now_ms))


def gateway_of(wire: Mapping[str, Any], kind: GatewayKind) -> tuple[Op, GatewayCall]:
    """The step, and the request, which is apart because it may hold a secret."""
    step, options = step_of(wire), _options(wire)
    url, key = options.get("url"), options.get("auth_key")
    if not isinstance(url, str) or not url:
        raise _invalid(wire, "asks for a request without a URL")
    body, headers = options.get("body"), options.get("headers")
    if body is not None and (kind == "ai" or not isinstance(body, str)):
        body = json.dumps(body, separators=(",", ":"))
    call = GatewayCall(
        kind,
        url,
        _or(options.get("method"), "POST") if kind == "fetch" else "POST",
        {name: str(value) for name, value in headers.items() if value is not None}
        if isinstance(headers, Mapping)
        else {},
        body,
        key if isinstance(key, str) and key else None,
        _or(options.get("format"), "openai-chat"),
    )
    return Op(step.kind, step.id, step.name, {**step.options, "gateway": kind}), call


def error_of(
    value: Any, otherwise: str, *, retriable: bool, retry_after_ms: int | None = None
) -> ErrorInfo:
    """An error as SDKs send it, in JSON: `{name, message, stack?, cause?}`, that as a text, or
    anything. `otherwise`: the message, if it has none."""
    value = _decoded(value)
    if not isinstance(value, Mapping):
        message = value if isinstance(value, str) else json.dumps(value)
        value = {"message": None if value is None else message}
    shown = [value.get("message"), value.get("error"), otherwise]
    message = next(each for each in shown if isinstance(each, str) and each)
    stack, cause = value.get("stack"), value.get("cause")
    if cause is not None and protocol.json_size(cause) > MAX_CAUSE_BYTES:
        cause = None
    return ErrorInfo(
        _or(value.get("name"), "Error")[:_MAX_ERROR_NAME],
        bounded(message),
        bounded(stack) if isinstance(stack, str) and stack else None,
        retriable,
        retry_after_ms,
        cause=cause,
    )


def _decoded(value: Any) -> Any:
    """Decode JSON in a JSON string, the form in which some SDKs send errors."""
    if isinstance(value, str) and value[:1] in ('"', "{"):
        try:
            inner = parse_json(value.encode())
        except BodyInvalidError:
            return value
        return _decoded(inner) if isinstance(inner, str) else inner
    return value


def _waiting(wire: Mapping[str, Any], kind: protocol.OpKind, options: dict[str, Any]) -> Op:
    step = step_of(wire)
    return Op(kind, step.id, step.name, {**options, **step.options})


def _timeout(wire: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """Without a timeout the default applies."""
    timeout_ms = _timeout_ms(wire, now_ms)
    return {} if timeout_ms is None else {"timeout_ms": timeout_ms}


def _timeout_ms(wire: Mapping[str, Any], now_ms: int) -> int | None:
    text = _options(wire).get("timeout")
    if text is None or text == "":
        return None
    try:
        return remaining_ms(text if isinstance(text, str) else "?", now_ms)
    except ValueError:
        raise _invalid(wire, f"can't have the timeout {str(text)[:100]!r}") from None


def _options(wire: Mapping[str, Any]) -> Mapping[str, Any]:
    options = wire.get("opts")
    return options if isinstance(options, Mapping) else {}


def _text(wire: Mapping[str, Any], option: str, otherwise: str) -> str:
    """An option, or where it is missing a field of the operation; empty if there is neither."""
    return _or(_options(wire).get(option), _or(wire.get(otherwise), ""))


def _or(value: Any, otherwise: str) -> str:
    return value if isinstance(value, str) and value else otherwise


def _invalid(wire: Mapping[str, Any], problem: str) -> BodyInvalidError:
    return BodyInvalidError(f'step "{step_of(wire).name}" {problem}')
