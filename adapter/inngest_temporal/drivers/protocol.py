"""What a driver and the run workflow say to each other: needs (ops) one way, results (memos) the
other.

A *driver* re-executes a handler with the memos of its finished steps and answers with what the
handler needs next. The one in `inngest_temporal.drivers.local` calls a Python function in this
process; another could call an app over HTTP. The run workflow knows only this module.

These types cross to Temporal, so their fields are only ever added, never renamed or removed: old
histories must replay.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

RUN: Final = "run"
SLEEP: Final = "sleep"
WAIT_FOR_EVENT: Final = "wait_for_event"
WAIT_FOR_SIGNAL: Final = "wait_for_signal"
INVOKE: Final = "invoke"

MAX_STEPS = 1_000
MAX_WAIT = timedelta(days=366)
"""Inngest's limits of a run's steps, and of a sleep or a wait."""
INVALID_EXPRESSION = "InvalidExpression"
INVOKE_TIMEOUT_NAME = "InngestInvokeTimeoutError"
INVOKE_TIMEOUT_MESSAGE = "Timed out waiting for invoked function to complete"

OpKind = Literal["run", "sleep", "wait_for_event", "wait_for_signal", "invoke"]


@dataclass(frozen=True)
class Op:
    """One thing a handler needs before it can go on."""

    kind: OpKind
    id: str
    """Hashed step id: SHA-1 of the user's id, or of `id:1`, `id:2`, ... for repeats."""
    name: str
    """The user's step id, for people."""
    options: dict[str, Any] = field(default_factory=dict)
    """By kind. sleep: `{duration_ms}` or `{until_ms}`. wait_for_event: `{events, if, timeout_ms}`.
    wait_for_signal: `{signal, timeout_ms?, replace}`. invoke: `{function_id, data, timeout_ms, v}`.
    """


@dataclass(frozen=True)
class ErrorInfo:
    """An exception of user code, as it is stored and shown."""

    name: str
    message: str
    stack: str | None = None
    retriable: bool = True
    retry_after_ms: int | None = None
    quiet: bool = False


STEPS_EXCEEDED = ErrorInfo(
    "InngestErrFunctionOverflowed",
    f"The function run exceeded the step limit of {MAX_STEPS} steps.",
)
"""Ends a run that asks for one step more."""


def too_long(op: "Op", ms: float) -> ErrorInfo | None:
    """Ends a run that asks for a sleep or a wait of more than `MAX_WAIT`; None if it is not."""
    if ms <= MAX_WAIT / timedelta(milliseconds=1):
        return None
    message = f'Step "{op.name}" waits longer than the limit of {MAX_WAIT.days} days.'
    return ErrorInfo("InngestErrTimeoutTooLong", message)


def invalid_condition(error: Exception) -> ErrorInfo:
    """Ends a run that asks for a wait whose `if_exp` does not compile."""
    message = f"Wait for event If expression failed to compile: {error}"
    return ErrorInfo(INVALID_EXPRESSION, message, retriable=False)


@dataclass(frozen=True)
class Memo:
    """The result of one finished step: data, or the error it ended with."""

    data: Any = None
    error: ErrorInfo | None = None


@dataclass(frozen=True)
class Ops:
    """The handler waits for these; one that is already pending may be named again."""

    ops: list[Op]


@dataclass(frozen=True)
class Returned:
    """The handler returned."""

    value: Any = None
    unheard: bool = False
    """Nobody listens for the end of runs: no function, no wait. Then there is nothing to report."""


@dataclass(frozen=True)
class Failed:
    """The handler raised."""

    error: ErrorInfo
    retry_ms: int | None = None
    """When it is to be tried again; None: never. Decided where it was executed, so that history
    says it: a deploy may change a function's retries."""


Outcome: TypeAlias = Ops | Returned | Failed


def memo_to_json(memo: Memo) -> dict[str, Any]:
    """`{"data": ...}`, or `{"error": {name, message, stack?, retriable?}}`."""
    if memo.error is None:
        return {"data": memo.data}
    error: dict[str, Any] = {"name": memo.error.name, "message": memo.error.message}
    if memo.error.stack is not None:
        error["stack"] = memo.error.stack
    if not memo.error.retriable:
        error["retriable"] = False
    return {"error": error}


def memo_from_json(memo: Mapping[str, Any]) -> Memo:
    error = memo.get("error")
    if error is None:
        return Memo(data=memo.get("data"))
    return Memo(
        error=ErrorInfo(
            error["name"],
            error["message"],
            error.get("stack"),
            retriable=error.get("retriable", True),
        )
    )


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """`{"ops": [...]}`, `{"returned": value, "unheard"?}` or `{"failed": {...}, "retry_ms"}`."""
    if isinstance(outcome, Ops):
        return {
            "ops": [
                {"kind": op.kind, "id": op.id, "name": op.name, "options": op.options}
                for op in outcome.ops
            ]
        }
    if isinstance(outcome, Returned):
        return {"returned": outcome.value} | ({"unheard": True} if outcome.unheard else {})
    return {"failed": asdict(outcome.error), "retry_ms": outcome.retry_ms}


def outcome_from_json(outcome: Mapping[str, Any]) -> Outcome:
    if "ops" in outcome:
        return Ops(
            [Op(op["kind"], op["id"], op["name"], op.get("options", {})) for op in outcome["ops"]]
        )
    if "returned" in outcome:
        return Returned(outcome["returned"], outcome.get("unheard", False))
    return Failed(ErrorInfo(**outcome["failed"]), outcome["retry_ms"])
