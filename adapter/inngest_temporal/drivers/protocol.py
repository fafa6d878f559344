"""The protocol between a driver and the run workflow.

A *driver* advances a handler once; that is an *execution*. It gets an `ExecutionRequest` and
answers with `Progress`: the steps that it executed, in order, and what the handler needs next.
These two serve every kind of execution: finding the first step, one planned step, a chain of steps.
The driver in `local.py` calls a Python function in this process; another one calls apps over HTTP.

These types cross to Temporal through `inngest_temporal.wire`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from inngest_temporal.wire import from_wire, to_wire

RUN: Final = "run"
SLEEP: Final = "sleep"
WAIT_FOR_EVENT: Final = "wait_for_event"
WAIT_FOR_SIGNAL: Final = "wait_for_signal"
INVOKE: Final = "invoke"

MAX_STEPS = 1_000
"""Maximum number of steps of a run, as in Inngest."""
MAX_WAIT = timedelta(days=366)
"""Longest sleep or wait, as in Inngest."""
MAX_OUTPUT_BYTES = 1_800_000
"""Maximum size of the output of a step, and of a function: a Temporal payload is limited to 2
MB."""
INVALID_EXPRESSION = "InvalidExpression"
INVOKE_TIMEOUT_NAME = "InngestInvokeTimeoutError"
INVOKE_TIMEOUT_MESSAGE = "Timed out waiting for invoked function to complete"

OpKind = Literal["run", "sleep", "wait_for_event", "wait_for_signal", "invoke"]


@dataclass(frozen=True)
class Op:
    """One thing that a handler needs before it can continue."""

    kind: OpKind
    id: str
    """Hashed step id: SHA-1 of the user's id, or of `id:1`, `id:2`, ... for repeats."""
    name: str
    """The user's step id, for people."""
    options: dict[str, Any] = field(default_factory=dict)
    """By kind. sleep: `{duration_ms}` or `{until_ms}`. wait_for_event: `{events, if, timeout_ms}`.
    wait_for_signal: `{signal, timeout_ms?, replace}`. invoke: `{function_id, payload,
    timeout_ms?}`. run, over HTTP: `{gateway?: "fetch" or "ai"}`. All, over HTTP: `{race?: true}`,
    if the handler may continue before the other ops of that answer have ended."""


@dataclass(frozen=True)
class ErrorInfo:
    """An exception of user code, in the form in which it is stored and shown."""

    name: str
    message: str
    stack: str | None = None
    retriable: bool = True
    retry_after_ms: int | None = None
    quiet: bool = False
    cause: Any = None
    """Sent by an app over HTTP, and given back to it with the memo."""


STEPS_EXCEEDED = ErrorInfo(
    "InngestErrFunctionOverflowed",
    f"The function run exceeded the step limit of {MAX_STEPS} steps.",
)
"""The error of a run that asks for more steps."""


def too_long(op: Op, ms: float) -> ErrorInfo | None:
    """The error of a run that asks for a sleep or wait of more than `MAX_WAIT`; None if it is
    not."""
    if ms <= MAX_WAIT / timedelta(milliseconds=1):
        return None
    message = f'Step "{op.name}" waits longer than the limit of {MAX_WAIT.days} days.'
    return ErrorInfo("InngestErrTimeoutTooLong", message)


def invalid_condition(error: Exception) -> ErrorInfo:
    """The error of a run that asks for a wait whose `if_exp` does not compile."""
    message = f"Wait for event If expression failed to compile: {error}"
    return ErrorInfo(INVALID_EXPRESSION, message, retriable=False)


@dataclass(frozen=True)
class Memo:
    """The result of one finished step: data, or the error it ended with."""

    data: Any = None
    error: ErrorInfo | None = None


@dataclass(frozen=True)
class Done:
    """One attempt of a step that an execution has made."""

    op: Op
    data: Any = None
    error: ErrorInfo | None = None
    retry_ms: int | None = None
    """With an error: after how long the step is tried again; None: never. The driver decides this,
    and it is in history, because a deploy may change a function's retries."""
    began_ms: int = 0
    ended_ms: int = 0

    @property
    def memo(self) -> Memo | None:
        """What the handler gets; None if the step is to be tried again."""
        return None if self.retry_ms is not None else Memo(self.data, self.error)


@dataclass(frozen=True)
class Ops:
    """The handler waits for these ops. An op that is already pending may be named again."""

    ops: list[Op]


@dataclass(frozen=True)
class Returned:
    """The handler returned."""

    value: Any = None


@dataclass(frozen=True)
class Failed:
    """The handler raised."""

    error: ErrorInfo
    retry_ms: int | None = None
    """After how long it is tried again; None: never."""
    step: Op | None = None
    """Over HTTP: the step whose failed attempt this is, if the call was not for that step. The
    handler is executed again for it."""
    began_ms: int = 0
    """When the attempt of `step` began; 0: not known."""


Outcome: TypeAlias = Ops | Returned | Failed


@dataclass(frozen=True)
class ExecutionRequest:
    """What an execution has to do."""

    base: int = 0
    """Number of memos in the run's history."""
    target: str | None = None
    """Hashed id of the step to execute; None: find out what the handler needs next."""
    attempt: int = 0
    """Zero-based number of the attempt of the target or, without one, of the handler."""
    losses: int = 0
    """Without a target: how often the first step was lost with its worker, as far as that is known.
    Losses count as attempts of the step."""
    retries: int = 0
    started_ms: int = 0
    """When the run was created. The ids of events that its steps send derive from it."""
    url: str | None = None
    """Where the function was served over HTTP when the run was created; None: it is native."""
    version: int = -1
    """Over HTTP: the version of the protocol in the app's first answer; -1: not known."""
    plan_only: bool = False
    """Over HTTP: whether only the target may be executed, because several steps are planned."""
    gateway: bool = False
    """Over HTTP: whether the target is a request that the app leaves to us. An app can't be asked
    to execute that. It is asked what it needs instead, and answers with the request."""
    task_ms: int = 0
    """Inside a workflow task: when that began, by Temporal's clock."""
    woken_ms: int | None = None
    """Inside a workflow task other than a run's first: when that happened because of which the run
    goes on, by Temporal's clock."""
    alone: bool = True
    """Whether nothing else of the run is under way, so that a chain of steps may be executed."""
    begun: Op | None = None
    """Without a target: the step whose body is under way in the worker process that had the run's
    first workflow task. Only that process can continue the execution; elsewhere it is lost."""
    inputs: dict[str, list[Any]] = field(default_factory=dict)
    """Hashed id of a step -> the arguments that its body gets instead of the handler's."""
    until_over: bool = False
    """Whether a cancelled execution ends only when user code does, because it holds permits."""
    events: list[dict[str, Any]] | None = None
    memos: list[tuple[str, str]] = field(default_factory=list)
    """With `events`: all memos, for a worker that can't get them in another way."""


@dataclass(frozen=True)
class Progress:
    """What an execution has done, and what is needed next: one of `ops`, `returned` and `failed`,
    or none of them if that is not known."""

    base: int = 0
    """Number of memos on which the execution was based."""
    done: list[Done] = field(default_factory=list)
    """The steps that were executed, in order."""
    ops: list[Op] | None = None
    returned: Returned | None = None
    failed: Failed | None = None
    unstarted: str | None = None
    """Why no user code was executed at all; the execution is repeated, and does not count."""
    forgotten: bool = False
    """With `unstarted`: whether the request must carry the run's events and memos."""
    missing: bool = False
    """With `unstarted`: whether the worker lacks the function."""
    elsewhere: bool = False
    """With `missing`: whether another worker has the function, for example during a deploy."""
    busy: bool = False
    """With `unstarted`: whether the app has too many calls already."""
    lost: str | None = None
    """Why the execution ended in the middle of user code, through no fault of that code."""
    begun: Op | None = None
    """With `lost` or `unstarted`: the step whose body was or is under way, if that is known."""
    unheard: bool = False
    """With `returned`, in a workflow task: no function or wait listens for the ends of runs."""
    unheard_ms: int | None = None
    """With `returned`, by an activity: a time (Temporal's clock) when none listened for them."""
    version: int | None = None
    """Over HTTP: the version of the protocol in the app's answer."""

    @property
    def next(self) -> Outcome | None:
        return Ops(self.ops) if self.ops is not None else self.returned or self.failed

    @staticmethod
    def of(base: int, done: list[Done], outcome: Outcome | None) -> "Progress":
        """Progress with what is needed next."""
        return Progress(
            base,
            done,
            ops=outcome.ops if isinstance(outcome, Ops) else None,
            returned=outcome if isinstance(outcome, Returned) else None,
            failed=outcome if isinstance(outcome, Failed) else None,
        )


def json_size(value: Any) -> int:
    """Size in bytes of a value, as Temporal's JSON converter writes it."""
    return len(json.dumps(value, separators=(",", ":")))


def memo_to_json(memo: Memo) -> dict[str, Any]:
    """`{"data"?: ...}`, or `{"error": {name, message, stack?, retriable?}}`."""
    wire: dict[str, Any] = to_wire(memo)
    if memo.error is not None:
        wire["error"].pop("retry_after_ms", None)
        wire["error"].pop("quiet", None)
    return wire


def memo_from_json(memo: Mapping[str, Any]) -> Memo:
    """The inverse of `memo_to_json`."""
    error = memo.get("error")
    return Memo(memo.get("data"), None if error is None else from_wire(ErrorInfo, error))
