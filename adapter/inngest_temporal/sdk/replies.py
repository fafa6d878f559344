"""Reads what an app replies to the request for an execution, and what it sends in a checkpoint.

An SDK answers 206 with operations, 200 with what the function returned, 201 with an envelope around
either, and anything else if the function failed. Whether that is tried again depends on the header
`x-inngest-no-retry`, never on the status.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from inngest_temporal.drivers.failures import bounded, error_info
from inngest_temporal.drivers.protocol import (
    MAX_OUTPUT_BYTES,
    MAX_STEPS,
    STEPS_EXCEEDED,
    Done,
    ErrorInfo,
    Op,
    Returned,
    json_size,
)
from inngest_temporal.errors import BodyInvalidError, OutputTooLargeError

from .durations import retry_after_ms
from .ops import (
    GatewayCall,
    error_of,
    gateway_of,
    invoke_of,
    parse_json,
    sleep_of,
    step_of,
    wait_for_event_of,
    wait_for_signal_of,
)

MAX_REPLY_BYTES = 8 * 1024 * 1024
"""Maximum size of a reply, as in Inngest. A reader may stop after one more byte."""

HANDLER_ID: Final = hashlib.sha1(b"complete").hexdigest()
"""Id of an operation that is about the function itself."""

_MOST_ESCAPED = 3
"""How many times longer a text may be with escapes than in UTF-8."""
_SHOWN_BYTES = 2_000
"""How many bytes are shown of a reply that can't be read."""
_TOO_LARGE = ErrorInfo(
    "output_too_large",
    "output_too_large: Your function's response body exceeds the maximum size limit",
)


@dataclass(frozen=True)
class Reply:
    """What an app replied."""

    status: int
    headers: Mapping[str, str]
    """The headers, with names in lower case."""
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a reply means."""

    done: list[Done] = field(default_factory=list)
    """Steps that were executed, in order, each with its result or error."""
    retry: Done | None = None
    """The failed attempt of a step that may be tried again."""
    ops: list[Op] | None = None
    """What the handler needs next; None if the reply does not say that."""
    returned: Returned | None = None
    failed: ErrorInfo | None = None
    """Why this attempt of the function failed."""
    gateways: dict[str, GatewayCall] = field(default_factory=dict)
    """By step: requests that are to be made. The step is in `ops`, of kind RUN, with the option
    `gateway`."""
    version: int | None = None
    """Version of the protocol in the reply."""
    ignored: list[str] = field(default_factory=list)
    """Operations that were accepted and have no effect, such as `DeferAdd later`."""
    is_foreign: bool = False
    """Whether no SDK would reply like this: something else answered, or the SDK has a bug."""

    @property
    def has_only_executed(self) -> bool:
        """Whether steps were executed successfully, and what is needed next is not known."""
        others = (self.retry, self.ops, self.returned, self.failed)
        return (
            bool(self.done)
            and all(each is None for each in others)
            and all(step.error is None for step in self.done)
        )


def read_reply(reply: Reply, now_ms: int | None = None) -> Answer:
    """What a reply means; garbage is a failure of the attempt. Raises nothing.

    `now_ms`: the time, for moments that the reply names; None: this machine's.
    """
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    version = _version(reply)
    try:
        if reply.status == 201:
            reply = _unwrapped(reply)
            version = version or _version(reply)
        answer = _Reader(reply, now_ms).read()
    except BodyInvalidError as error:
        problem = error.message.replace("Request body", "The reply", 1)
        answer = Answer(failed=_garbage(problem, reply), is_foreign=True)
    return replace(answer, version=version)


def read_checkpoint(body: bytes) -> tuple[str, list[Done]]:
    """The id of a checkpoint's dispatch, and the steps that are done.

    Raises `BodyInvalidError`.
    """
    checkpoint = parse_json(body)
    if not isinstance(checkpoint, Mapping):
        raise BodyInvalidError("a checkpoint must be an object")
    dispatch, steps = checkpoint.get("qi_id"), checkpoint.get("steps")
    if not isinstance(dispatch, str) or not dispatch:
        raise BodyInvalidError("a checkpoint must have a qi_id")
    if not isinstance(steps, list):
        raise BodyInvalidError("a checkpoint must have a list of steps")
    done = []
    for wire in steps:
        opcode = _opcode(wire)
        if opcode in ("steprun", "step"):
            done.append(_done(wire, body))
            if done[-1].error is not None:
                raise BodyInvalidError(done[-1].error.message)
        elif opcode not in ("stepplanned", "deferadd", "deferabort"):
            raise BodyInvalidError(f"cannot checkpoint opcode {str(wire.get('op'))[:100]}")
    return dispatch, done


class _Reader:
    """Reads one reply."""

    def __init__(self, reply: Reply, now_ms: int) -> None:
        self._reply = reply
        self._now_ms = now_ms
        self._never_again = _never_again(reply)
        self._retry_after_ms = retry_after_ms(reply.headers.get("retry-after"), now_ms)
        self._done: list[Done] = []
        self._retry: Done | None = None
        self._ops: list[Op] | None = None
        self._returned: Returned | None = None
        self._failed: ErrorInfo | None = None
        self._gateways: dict[str, GatewayCall] = {}
        self._ignored: list[str] = []

    def read(self) -> Answer:
        """Raises `BodyInvalidError`."""
        reply = self._reply
        if len(reply.body) > MAX_REPLY_BYTES:
            failed = replace(_TOO_LARGE, retriable=not self._never_again)
            return Answer(failed=failed, is_foreign=True)
        is_foreign = not reply.headers.get("x-inngest-sdk")
        if not 200 <= reply.status < 300:
            return Answer(failed=self._failure(), is_foreign=is_foreign)
        if is_foreign:
            message = "The reply is not from an SDK: it has no header x-inngest-sdk."
            return Answer(failed=_garbage(message, reply), is_foreign=True)
        if reply.status != 206:
            if self._never_again:
                return Answer(failed=self._failure())
            self._return(_json_or_text(reply.body))
        else:
            self._operations()
        return self._answer()

    def _answer(self) -> Answer:
        ends = self._returned is not None or self._failed is not None
        return Answer(
            self._done,
            None if ends else self._retry,
            None if ends else self._ops,
            None if self._failed is not None else self._returned,
            self._failed,
            {} if ends else self._gateways,
            ignored=self._ignored,
        )

    def _operations(self) -> None:
        wires = parse_json(self._reply.body) if self._reply.body.strip() else None
        if isinstance(wires, Mapping):
            wires = [wires]
        if not isinstance(wires, list):
            raise BodyInvalidError("The reply is not a list of operations.")
        if len(wires) > MAX_STEPS:
            self._failed = replace(STEPS_EXCEEDED, retriable=False)
            return
        for wire in wires:
            opcode = _opcode(wire)
            take = _OPCODES.get(opcode)
            if take is None:
                raise BodyInvalidError(f"The reply has an unknown operation: {opcode[:100]}")
            take(self, wire)
        if not (self._done or self._retry or self._returned or self._failed or self._ops):
            self._ops = []

    def step_run(self, wire: Mapping[str, Any]) -> None:
        self._done.append(_done(wire, self._reply.body))

    def step_error(self, wire: Mapping[str, Any]) -> None:
        error = self._error(wire, retriable=not (self._never_again or _says_never_again(wire)))
        if wire.get("id") == HANDLER_ID:
            self._failed = error
        elif not error.retriable:
            self._done.append(_done(wire, self._reply.body, error))
        elif self._retry is None:
            self._retry = _done(wire, self._reply.body, error)

    def step_failed(self, wire: Mapping[str, Any]) -> None:
        error = self._error(wire, retriable=False)
        if wire.get("id") == HANDLER_ID:
            self._failed = error
        else:
            self._done.append(_done(wire, self._reply.body, error))

    def planned(self, wire: Mapping[str, Any]) -> None:
        self._need(step_of(wire))

    def sleep(self, wire: Mapping[str, Any]) -> None:
        self._need(sleep_of(wire))

    def wait_for_event(self, wire: Mapping[str, Any]) -> None:
        self._need(wait_for_event_of(wire, self._now_ms))

    def wait_for_signal(self, wire: Mapping[str, Any]) -> None:
        self._need(wait_for_signal_of(wire, self._now_ms))

    def invoke(self, wire: Mapping[str, Any]) -> None:
        self._need(invoke_of(wire, self._now_ms))

    def fetch(self, wire: Mapping[str, Any]) -> None:
        op, self._gateways[step_of(wire).id] = gateway_of(wire, "fetch")
        self._need(op)

    def infer(self, wire: Mapping[str, Any]) -> None:
        op, self._gateways[step_of(wire).id] = gateway_of(wire, "ai")
        self._need(op)

    def complete(self, wire: Mapping[str, Any]) -> None:
        self._return(wire.get("data"))

    def nothing(self, wire: Mapping[str, Any]) -> None:
        """The app has to be asked again what it needs, which an empty list means as well."""

    def lazy(self, wire: Mapping[str, Any]) -> None:
        self._ignored.append(f"{wire['op']} {step_of(wire).name}")

    def _need(self, op: Op) -> None:
        ops = self._ops or []
        if all(op.id != each.id for each in ops):
            self._ops = [*ops, op]

    def _return(self, value: Any) -> None:
        error = _too_large(value, self._reply.body, "The function's output")
        self._failed, self._returned = error, None if error else Returned(value)

    def _error(self, wire: Mapping[str, Any], *, retriable: bool) -> ErrorInfo:
        given = wire.get("error")
        return error_of(
            wire.get("data") if given is None else given,
            "Unknown error",
            retriable=retriable,
            retry_after_ms=self._retry_after_ms if retriable else None,
        )

    def _failure(self) -> ErrorInfo:
        """The function failed, or something between it and us."""
        reply, retriable = self._reply, not self._never_again
        after_ms = self._retry_after_ms if retriable else None
        if not reply.headers.get("x-inngest-sdk"):
            return ErrorInfo(
                "Server returned a fatal error",
                f"Your server returned HTTP {reply.status} before the SDK responded.",
                bounded(_text(reply.body)) or None,
                retriable,
                after_ms,
            )
        return error_of(
            _json_or_text(reply.body),
            f"invalid status code: {reply.status}",
            retriable=retriable,
            retry_after_ms=after_ms,
        )


_OPCODES: dict[str, Callable[[_Reader, Mapping[str, Any]], None]] = {
    "none": _Reader.nothing,
    "discoveryrequest": _Reader.nothing,
    "step": _Reader.step_run,
    "steprun": _Reader.step_run,
    "steperror": _Reader.step_error,
    "stepfailed": _Reader.step_failed,
    "stepplanned": _Reader.planned,
    "sleep": _Reader.sleep,
    "waitforevent": _Reader.wait_for_event,
    "waitforsignal": _Reader.wait_for_signal,
    "invokefunction": _Reader.invoke,
    "gateway": _Reader.fetch,
    "aigateway": _Reader.infer,
    "runcomplete": _Reader.complete,
    "deferadd": _Reader.lazy,
    "deferabort": _Reader.lazy,
}


def _unwrapped(reply: Reply) -> Reply:
    """The reply in the envelope of one that was streamed. Raises `BodyInvalidError`.

    The names of its fields and their case vary by SDK; Go's has no headers.
    """
    if len(reply.body) > MAX_REPLY_BYTES:
        return reply
    envelope = parse_json(reply.body)
    if not isinstance(envelope, Mapping):
        raise BodyInvalidError("The streamed reply has no envelope.")
    fields = {key.lower().replace("_", ""): value for key, value in envelope.items()}
    status = fields.get("status", fields.get("statuscode"))
    if not isinstance(status, int) or isinstance(status, bool):
        raise BodyInvalidError("The streamed reply has no status.")
    if isinstance(problem := fields.get("error"), str) and problem:
        raise BodyInvalidError(problem)
    headers = dict(reply.headers)
    inner = fields.get("headers")
    if isinstance(inner, Mapping):
        headers |= {name.lower(): str(value) for name, value in inner.items() if value is not None}
    if fields.get("noretry") is True:
        headers["x-inngest-no-retry"] = "true"
    if isinstance(after := fields.get("retryat"), str) and after:
        headers["retry-after"] = after
    if isinstance(version := fields.get("version"), int):
        headers.setdefault("x-inngest-req-version", str(version))
    body = fields.get("body")
    if body is None:
        body = ""
    text = body if isinstance(body, str) else json.dumps(body)
    return Reply(status, headers, text.encode())


def _version(reply: Reply) -> int | None:
    """The protocol's version; None for anything that is not a version of an SDK."""
    text = reply.headers.get("x-inngest-req-version", "")
    return int(text) if text in ("1", "2") else None


def _opcode(wire: Any) -> str:
    """The operation's name in lower case. Raises `BodyInvalidError`."""
    opcode = wire.get("op") if isinstance(wire, Mapping) else None
    if not isinstance(opcode, str):
        raise BodyInvalidError("The reply has an item that is not an operation.")
    return opcode.lower()


def _done(wire: Mapping[str, Any], body: bytes, error: ErrorInfo | None = None) -> Done:
    """The step of an operation in `body`. Raises `BodyInvalidError`."""
    error = error or _too_large(wire.get("data"), body, "The step's output")
    timing = wire.get("timing")
    given = timing if isinstance(timing, Mapping) else {}
    began_ns, took_ns = _ns(given.get("a")), _ns(given.get("b"))
    return Done(
        step_of(wire),
        None if error is not None else wire.get("data"),
        error,
        began_ms=began_ns // 1_000_000,
        ended_ms=(began_ns + took_ns) // 1_000_000,
    )


def _ns(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**62 else 0


def _too_large(value: Any, body: bytes, output: str) -> ErrorInfo | None:
    """The error of a value in `body` that is too large to be stored; None if it is not."""
    if len(body) * _MOST_ESCAPED <= MAX_OUTPUT_BYTES:
        return None
    size = json_size(value)
    if size <= MAX_OUTPUT_BYTES:
        return None
    return error_info(OutputTooLargeError(output, size, MAX_OUTPUT_BYTES))


def _never_again(reply: Reply) -> bool:
    return reply.headers.get("x-inngest-no-retry", "").strip().lower() == "true"


def _says_never_again(wire: Mapping[str, Any]) -> bool:
    error = wire.get("error")
    return isinstance(error, Mapping) and error.get("noRetry") is True


def _json_or_text(body: bytes) -> Any:
    """The value of a body as JSON or text; None if it is empty."""
    if not body.strip():
        return None
    try:
        return parse_json(body)
    except BodyInvalidError:
        return _text(body)


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


def _garbage(message: str, reply: Reply) -> ErrorInfo:
    """What no SDK would send. Another attempt may get what one does. What may be operations is not
    shown: a request that is left to us has secrets."""
    shown = b"" if b"opts" in reply.body else reply.body[:_SHOWN_BYTES]
    return ErrorInfo(
        "InvalidReply",
        bounded(message),
        _text(shown) or None,
        not _never_again(reply),
    )
