"""What happened in a run, as people and the API are shown it. All times are ms since 1970."""

from dataclasses import dataclass
from typing import Any, Literal

from inngest_temporal.drivers.protocol import ErrorInfo

RunStatus = Literal["Scheduled", "Running", "Completed", "Failed", "Cancelled", "Skipped"]
"""Inngest's words. Scheduled: nothing was executed yet, as the run waits for its event's time, for
a lock, or for a worker."""

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
invoked run; or, after an attempt, for the next one. TimedOut: nothing came that a wait or an
invocation waited for. Cancelled: the run ended while the step was under way."""

AdmissionKind = Literal["pause", "singleton", "throttle", "run", "step"]
"""`pause`: the function was paused. `run`: concurrency of whole runs. `step`: concurrency of
executions."""


@dataclass(frozen=True)
class Attempt:
    """One execution of a step's body, or of the handler."""

    number: int
    """Zero-based."""
    started_ms: int | None
    """None: it is to begin, and no worker has it yet."""
    ended_ms: int | None = None
    """None: it is under way, or nobody knows when it ended."""
    error: ErrorInfo | None = None
    queued_ms: int | None = None
    """When it was given to Temporal; None if it followed in the same execution."""
    retry_at_ms: int | None = None
    """When the next one begins, after a failure that is not the last."""


@dataclass(frozen=True)
class TraceStep:
    """One step of a run."""

    id: str
    """Hashed step id."""
    name: str
    """The user's step id; what it is called, over HTTP."""
    kind: StepKind
    status: StepStatus
    started_ms: int
    """When it was first asked for, or begun."""
    ended_ms: int | None = None
    attempts: tuple[Attempt, ...] = ()
    """Only steps whose body is executed have attempts."""
    input: Any = None
    """What the step was given, as far as history tells: `{function_id, payload, ...}` of an
    invocation, `{events, if, timeout_ms}` and `{signal, ...}` of waits, `{duration_ms}` or
    `{until_ms}` of a sleep; the arguments (a list) with which a rerun replaced those of a body."""
    output: Any = None
    """What the handler was given: a body's result, the matching event or signal, the invoked run's
    result."""
    error: ErrorInfo | None = None
    """What it failed with for good; while it is tried again, the last attempt's."""
    deadline_ms: int | None = None
    """When a sleep ends, or a wait gives up."""
    event: dict[str, Any] | None = None
    """The event that a wait matched."""
    invoked_run: str | None = None
    """Id of the run that was invoked."""
    together: bool = False
    """Whether the body was executed with others in one execution, and not alone in an activity."""
    from_original: bool = False
    """Whether it was not executed, but taken from the run of which this one is a rerun."""
    position: int | None = None
    """Where it is in the order in which steps ended; None: it has not, or only when its run did, so
    that the run has no memo of it."""


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
    """None: the run waits for it; or it ended, or was skipped, before it was admitted."""
    waited_ms: int = 0
    """How long the run waited for it, all times together; `asked_ms` and `admitted_ms` are of the
    first."""


@dataclass(frozen=True)
class Trace:
    """One run, from its events to its end."""

    run_id: str
    function_id: str
    status: RunStatus
    events: tuple[dict[str, Any], ...]
    """As the ingress stamped them: `{id, name, data, ts, user?, v?}`."""
    event_ids: tuple[str, ...]
    """Their internal ids."""
    queued_ms: int
    """When the run was created."""
    started_ms: int | None = None
    """When its first execution began."""
    ended_ms: int | None = None
    admission: tuple[Lock, ...] = ()
    """In the order in which they are passed."""
    steps: tuple[TraceStep, ...] = ()
    """In the order in which they began."""
    attempts: tuple[Attempt, ...] = ()
    """The handler's own, outside steps: its failures and what followed. Empty: it never failed."""
    output: Any = None
    error: ErrorInfo | None = None
    retries: int = 0
    """Attempts after the first that each step, and the handler, may have."""
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
    """What could not be read, and why: whole sentences."""
