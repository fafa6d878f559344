"""Reads payloads, times and failures in a history. Nothing here trusts its input."""

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure

from inngest_temporal.drivers.protocol import ErrorInfo

_JSON = b"json/plain"
_EMPTY = b"binary/null"


def is_plain(payload: Payload) -> bool:
    """Whether a payload can be read without a codec."""
    return payload.metadata.get("encoding", b"") in (_JSON, _EMPTY)


def value_of(payload: Payload) -> Any:
    """The value of a payload of our workers. NaN, which Python writes and JSON does not have,
    becomes None. Raises `ValueError`."""
    encoding = payload.metadata.get("encoding", b"")
    if encoding == _EMPTY:
        return None
    if encoding != _JSON:
        name = encoding.decode(errors="replace") or "none"
        raise ValueError(f"a payload has encoding {name}, not json/plain")
    try:
        return json.loads(payload.data, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("a payload is nested too deeply") from None


def values_of(payloads: Sequence[Payload]) -> list[Any]:
    """The values of several payloads. Raises `ValueError`."""
    return [value_of(each) for each in payloads]


def first_of(payloads: Sequence[Payload]) -> Any:
    """The value of the only payload; None if there is none. Raises `ValueError`."""
    return value_of(payloads[0]) if payloads else None


def ms_of(moment: Timestamp) -> int:
    """Milliseconds since 1970, rounded."""
    return moment.seconds * 1000 + round(moment.nanos / 1_000_000)


def error_in(failure: Failure) -> ErrorInfo:
    """The error of user code in a failure, or what Temporal says instead."""
    kind = failure.WhichOneof("failure_info")
    if kind == "application_failure_info":
        info = failure.application_failure_info
        name = info.type or "Error"
        # A run is never retried as a whole: its failure does not tell whether user code forbade it.
        return ErrorInfo(
            name, failure.message, failure.stack_trace or None, name != "NonRetriableError"
        )
    if failure.HasField("cause"):
        return error_in(failure.cause)
    name = (kind or "error").removesuffix("_info").title().replace("_", "")
    return ErrorInfo(name, failure.message or "Temporal gives no reason.")
