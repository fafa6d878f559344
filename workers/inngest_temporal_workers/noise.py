"""Quietens what Temporal's SDK logs about our own workflows and activities on a busy machine.

Our calls may be cut off and are repeated (`inngest_temporal_workers.calls`), so nothing is lost and
nobody has to do anything. Such messages get level DEBUG. A failure that lasts, or that a user can
cure, is one line without a traceback of ours. Errors of user code are logged by
`inngest_temporal_workers.runs.failing`; all other messages stay as they are.
"""

import logging
import traceback
import warnings
from collections import deque

from temporalio import activity
from temporalio.exceptions import is_cancelled_exception

from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.errors import text_of
from inngest_temporal.temporal.connection import is_temporary

TOLD_ATTEMPTS = 5
"""Number of attempts of an activity after which its failure is logged; then after twice as many,
and so on."""
_HARMLESS = (
    # Answers that came too late: the task was given to another worker, or has ended.
    "Tried to complete untracked local activity",
    "Activity not found on completion",
    "Task not found when completing",
    # A workflow task of more than 5 seconds: ours take that long if local activities use all of
    # their time.
    "[TMPRL1104]",
)
_DEADLOCK = "[TMPRL1101]"
_NOT_EVICTED = ("Failed running eviction job", "Timed out running eviction job")
_PACKAGE = __package__.partition(".")[0]


def quieten() -> None:
    """Install the filters for the Python part of the SDK, in this process."""
    logging.getLogger("temporalio.activity").addFilter(_is_shown)
    logging.getLogger("temporalio.worker._workflow").addFilter(_deadlocks)
    # This happens if a local activity ends just when it is cut off.
    warnings.filterwarnings("ignore", "Cannot find activity to cancel for token", UserWarning)


def is_core_shown(record: logging.LogRecord) -> bool:
    """The filter for the SDK's core: whether a record is logged."""
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
    if not _is_temporary(error):
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


def _is_temporary(error: BaseException) -> bool:
    """Whether the only cause is that Temporal was away or busy, or that the call was cut off."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_temporary, error.exceptions))
    return is_temporary(error) or is_cancelled_exception(error)


class _Deadlocks(logging.Filter):
    """Rewords the SDK's messages about deadlocks of our workflows.

    The SDK takes a workflow that got no processor for two seconds for one that blocks, and removes
    it at once, although the thread that it interrupted may not have ended yet. Then the removal
    fails too, and is tried again every two seconds (docs/UPSTREAM.md).
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
            "A workflow task did not end within 2 s, and is repeated. The machine is too busy, or"
            " blocking code holds up the worker's process (run id %s)"
        )
        record.exc_info = None
        return True


_deadlocks = _Deadlocks()


def _is_ours(error: BaseException) -> bool:
    """Whether the error comes from our workflows, not from a team's own."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").startswith(_PACKAGE) for frame, _ in frames)


def _demoted(record: logging.LogRecord) -> bool:
    """Give a record level DEBUG; returns whether it is still logged."""
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
