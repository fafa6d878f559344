"""What happened in a run, in the form that people and the API get. All times are ms since 1970."""

from dataclasses import dataclass
from typing import Any, Literal

from inngest_temporal.drivers.protocol import ErrorInfo

RunStatus = Literal["Scheduled", "Running", "Completed", "Failed", "Cancelled", "Skipped"]
"""Inngest's words. Scheduled: nothing was executed yet, because the run waits for its event's time,
for a lock, or for a worker."""

StepKind = Literal["run", "sleep", "wait_for_event", "wait_for_signal", "invoke", "fetch", "ai"]
"""`fetch` and `ai`: a request that an app over HTTP leaves to us."""

StepStatus = Literal[
    "Queued",
    "Running",
    "Waiting",
    "Sleeping",
    "Completed",
    "Failed",
    "Cancelled",
    "TimedOut",
]
"""Queued: it is to be executed, and no worker has begun. Waiting: for an event, a signal or an
invoked run, or for the next attempt. TimedOut: a wait or an invocation got no answer in time.
Cancelled: the run ended while the step was under way."""

AdmissionKind = Literal["pause", "singleton", "throttle", "run", "step"]
"""`pause`: the function was paused. `run`: concurrency of whole runs. `step`: concurrency of
executions."""


@dataclass(frozen=True)
class Attempt:
    """One execution of a step's body, or of the handler."""

    number: int
    """Zero-based."""
    started_ms: int | None
    """None: no worker has begun it yet."""
    ended_ms: int | None = None
    """None: it is under way, or its end is not known."""
    error: ErrorInfo | None = None
    queued_ms: int | None = None
    """When it was scheduled in Temporal; None if it followed in the same execution."""
    retry_at_ms: int | None = None
    """When the next attempt begins, after a failure that is not the last."""


@dataclass(frozen=True)
class TraceStep:
    """One step of a run."""

    id: str
    """Hashed step id."""
    name: str
    """The user's step id; over HTTP the step's display name."""
    kind: StepKind
    status: StepStatus
    started_ms: int
    """When it was first asked for, or begun."""
    ended_ms: int | None = None
    attempts: tuple[Attempt, ...] = ()
    """Only steps whose body is executed have attempts."""
    input: Any = None
    """The step's input, as far as history has it: `{function_id, payload, ...}` of an invocation,
    `{events, if, timeout_ms}` and `{signal, ...}` of waits, `{duration_ms}` or `{until_ms}` of a
    sleep; or the arguments (a list) by which a rerun replaced those of a body."""
    output: Any = None
    """What the handler got: a body's result, the matching event or signal, or the invoked run's
    result."""
    error: ErrorInfo | None = None
    """The error of the step or, while it is tried again, of its last attempt."""
    deadline_ms: int | None = None
    """When a sleep ends, or a wait gives up."""
    event: dict[str, Any] | None = None
    """The event that a wait matched."""
    invoked_run: str | None = None
    """Id of the run that was invoked."""
    together: bool = False
    """Whether the body was executed with others in one execution, not alone in an activity."""
    from_original: bool = False
    """Whether it was not executed, but taken from the original run of this rerun."""
    position: int | None = None
    """Its position in the order in which steps ended. None: it has not ended, or only together with
    its run, which therefore has no memo of it."""


@dataclass(frozen=True)
class Lock:
    """A limit that a run waited for."""

    kind: AdmissionKind
    lock: str
    """Workflow id of the lock."""
    key: str | None = None
    """The key expression."""
    value: str = ""
    """The key's value, for people."""
    asked_ms: int | None = None
    """None: it was not asked yet."""
    admitted_ms: int | None = None
    """None: the run waits for it, or ended or was skipped before it was admitted."""
    waited_ms: int = 0
    """How long the run has waited for it in total; `asked_ms` and `admitted_ms` are those of the
    first time."""


@dataclass(frozen=True)
class Trace:
    """One run, from its events to its end."""

    run_id: str
    function_id: str
    status: RunStatus
    events: tuple[dict[str, Any], ...]
    """The stamped events: `{id, name, data, ts, user?, v?}`."""
    event_ids: tuple[str, ...]
    """Their internal ids."""
    queued_ms: int
    """When the run was created."""
    started_ms: int | None = None
    """When its first execution began."""
    ended_ms: int | None = None
    admission: tuple[Lock, ...] = ()
    """The limits, in the order in which they are passed."""
    steps: tuple[TraceStep, ...] = ()
    """The steps, in the order in which they began."""
    attempts: tuple[Attempt, ...] = ()
    """Attempts of the handler itself, outside steps. Empty if it never failed."""
    output: Any = None
    error: ErrorInfo | None = None
    retries: int = 0
    """How many more attempts, after the first, each step and the handler may have."""
    original_run: str | None = None
    """Id of the run whose events a rerun has."""
    from_step: str | None = None
    """Hashed id of the step from which a rerun began."""
    is_cron: bool = False
    is_batch: bool = False
    invoked_by: str | None = None
    """Id of the run that waits for this one."""
    served_at: str | None = None
    """Where the app serves the function over HTTP; None: it is native."""
    temporal_run_id: str = ""
    """Temporal's id of the execution, for links to its Web UI."""
    complete: bool = True
    """Whether all of the history was read."""
    notes: tuple[str, ...] = ()
    """Sentences that say what could not be read, and why."""
