"""Results of steps in the form that SDKs expect in `steps`. Source: http-protocol §7."""

import json
from typing import Any

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import Done, ErrorInfo


def memo_text(done: Done) -> str:
    """The memo of a step that has ended, as JSON text."""
    return json.dumps(_memo(done), separators=(",", ":"))


def _memo(done: Done) -> Any:
    if done.error is not None:
        return {"error": _error(done.error)}
    if done.op.kind == protocol.SLEEP:
        return None
    if done.op.kind == protocol.WAIT_FOR_EVENT:
        return done.data
    if done.op.kind == protocol.WAIT_FOR_SIGNAL and done.data is None:
        return None
    return {"data": done.data}


def _error(error: ErrorInfo) -> dict[str, Any]:
    """An error without null fields or an empty message, because the JavaScript SDK would turn such
    an error into an unknown one."""
    fields = {"name": error.name, "message": error.message or error.name}
    if error.stack is not None:
        fields["stack"] = error.stack
    return fields if error.cause is None else {**fields, "cause": error.cause}
