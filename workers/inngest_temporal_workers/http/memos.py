"""Results of steps as SDKs want them in `steps`. Source: http-protocol §7."""

import json
from typing import Any

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import Done, ErrorInfo


def memo_text(done: Done) -> str:
    """The memo of a step that has ended, JSON text."""
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
    """No field is null: JavaScript's SDK makes an unknown error of one without a stack. Nor is the
    message empty, for the same reason."""
    fields = {"name": error.name, "message": error.message or error.name}
    if error.stack is not None:
        fields["stack"] = error.stack
    return fields if error.cause is None else {**fields, "cause": error.cause}
