"""What Temporal's SDK logs of our own workflows and activities on a machine that is too busy.

Our calls are made to be cut off and repeated (`inngest_temporal_workers.calls`), so nothing is lost
by it and nobody has to do anything. What says so is for level DEBUG, and what goes on for long, or
what a user can cure, is one line without a traceback of ours. Errors of user code are logged by
`inngest_temporal_workers.runs.failing`; all else is left as it is.
"""

import logging
import traceback
import warnings
from collections import deque

from temporalio import activity
from temporalio.exceptions import is_cancelled_exception

from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.errors import text_of
from inngest_temporal.temporal.connection import passes

TOLD_ATTEMPTS = 5
"""Attempts of an activity after which a log tells that it fails; then after twice as many, and so
on."""
_HARMLESS = (
    # Answers that came too late: what they belong to was given again, or has ended.
    "Tried to complete untracked local activity",
    "Activity not found on completion",
    "Task not found when completing",
    # A workflow task of over 5 seconds: ours last that long if local activities take all their
    # time.
    "[TMPRL1104]",
)
_DEADLOCK = "[TMPRL1101]"
_NOT_EVICTED = ("Failed running eviction job", "Timed out running eviction job")
_PACKAGE = __package__.partition(".")[0]


def quieten() -> None:
    """Have the SDK's Python side say no more than that, in this process."""
    logging.getLogger("temporalio.activity").addFilter(_is_shown)
    logging.getLogger("temporalio.worker._workflow").addFilter(_deadlocks)
    # A local activity that ends at the moment at which it is cut off.
    warnings.filterwarnings("ignore", "Cannot find activity to cancel for token", UserWarning)


def is_core_shown(record: logging.LogRecord) -> bool:
    """A filter for what the SDK's core logs."""
    text = record.getMessage()
    is_told = text.startswith("Failing workflow task") and _DEADLOCK in text
    return _demoted(record) if is_told or text.startswith(_HARMLESS) else True


def _is_shown(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RunFailure):
        return False  # our activities have logged it, with the user's stack
    if error is None or not activity.in_activity():
        return True
    info = activity.info()
    if not info.activity_type.startswith("inngest."):
        return True
    if not _all_pass(error):
        return True
    if activity.is_cancelled() or info.is_local or not _is_told(info):
        return _demoted(record)
    record.msg = "%s of %s failed in attempt %d: %s"
    record.args = (
        info.activity_type,
        info.workflow_id,
        info.attempt,
        text_of(error),
    )
    record.exc_info = None
    return True


def _is_told(info: activity.Info) -> bool:
    if info.retry_policy is not None and info.retry_policy.maximum_attempts == 1:
        return True
    times, rest = divmod(info.attempt, TOLD_ATTEMPTS)
    return not rest and times & (times - 1) == 0


def _all_pass(error: BaseException) -> bool:
    """Whether it failed for nothing but that Temporal was away or busy, or was cut off."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_all_pass, error.exceptions))
    return passes(error) or is_cancelled_exception(error)


class _Deadlocks(logging.Filter):
    """The SDK takes a workflow that was given no processor for two seconds for one that blocks.

    It removes the workflow at once, although the thread that it interrupted may not have ended
    yet. Then that fails too, and is tried again every two seconds (docs/UPSTREAM.md).
    """

    def __init__(self) -> None:
        super().__init__()
        self._run_ids: deque[object] = deque(maxlen=100)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg.startswith(_NOT_EVICTED) and isinstance(record.args, tuple):
            return _demoted(record) if record.args[0] in self._run_ids else True
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not str(error).startswith(_DEADLOCK) or not _is_ours(error):
            return True
        if isinstance(record.args, tuple):
            self._run_ids.extend(record.args)
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.msg = (
            "A workflow task had no result within 2 s, and is repeated. The machine is too busy, or"
            " code that is not async blocks the worker's process (run id %s)"
        )
        record.exc_info = None
        return True


_deadlocks = _Deadlocks()


def _is_ours(error: BaseException) -> bool:
    """Whether the code that was executed is that of our workflows, not of a team's own."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith(_PACKAGE) for frame, _ in frames)


def _demoted(record: logging.LogRecord) -> bool:
    """Give a record level DEBUG; whether it is logged then."""
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
