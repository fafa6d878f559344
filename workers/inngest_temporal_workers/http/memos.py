"""Results of steps as SDKs want them in `steps`. Source: http-protocol §7."""

import json
from typing import Any

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import Done


def memo_text(done: Done) -> str:
    """The memo of a step that has ended, JSON text."""
    return json.dumps(_memo(done), separators=(",", ":"))


def _memo(done: Done) -> Any:
    if done.error is not None:
        info = done.error
        error = {"name": info.name, "message": info.message, "stack": info.stack}
        return {"error": error if info.cause is None else {**error, "cause": info.cause}}
    if done.op.kind == protocol.SLEEP:
        return None
    if done.op.kind == protocol.WAIT_FOR_EVENT:
        return done.data
    if done.op.kind == protocol.WAIT_FOR_SIGNAL and done.data is None:
        return None
    return {"data": done.data}
