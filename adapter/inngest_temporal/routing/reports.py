"""What became of an event, and a log line about it for people who develop functions: at level INFO
of the logger `inngest_temporal.events`, which is off in other processes. What nothing listens for
has a logger of its own below that, which is on in all; `Seldom` keeps it quiet."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from inngest_temporal.models import TriggerEvent

from . import events
from .events import Stamped
from .registry import Snapshot

logger = logging.getLogger("inngest_temporal.events")

unmatched = logging.getLogger("inngest_temporal.events.unmatched")

MAX_KNOWN = 10
"""Maximum number of known event names that are listed when nothing listens for a name."""

MAX_NAME = 100
"""Maximum number of characters of a name that nothing listens for, in the log."""
SELDOM_SECONDS = 3600.0
"""Seconds in which `Seldom` lets a name through once."""
MAX_NAMES = 1_000
"""Maximum number of names that `Seldom` remembers, and lets through, in that time."""

Kind = Literal[
    "started",
    "existed",
    "debounced",
    "batched",
    "rate_limited",
    "refused",
    "delivered",
    "resumed",
    "cancelled",
    "missing",
    "unmatched",
    "queued",
    "failed",
]


@dataclass(frozen=True)
class Outcome:
    """One effect of an event."""

    kind: Kind
    function: str | None = None
    """Full id of the function that the event had an effect on, if there is one."""
    run: str | None = None
    """The run that the event started, now or when it came before; or resumed or cancelled."""
    reason: str | None = None
    """Why a function refused the event, or why it was not accepted."""

    @property
    def text(self) -> str:
        """The effect, as the end of a sentence that begins with the event."""
        return _TEXTS[self.kind].format(function=self.function, run=self.run, reason=self.reason)


_TEXTS: dict[Kind, str] = {
    "started": "starts {function} (run {run})",
    "existed": "has started {function} before (run {run})",
    "debounced": "is debounced for {function}",
    "batched": "is batched for {function}",
    "rate_limited": "is rate limited by {function}",
    "refused": "starts no run of {function}: {reason}",
    "delivered": "is given to the runs that wait for it",
    "resumed": "resumes run {run}",
    "cancelled": "cancels run {run}",
    "missing": "invokes {function}, which is not there",
    "unmatched": "starts nothing, since nothing listens for it",
    "queued": "is handed over to the workers with its whole request",
    "failed": "was not accepted: {reason}",
}


def routed(stamped: Stamped, snapshot: Snapshot, outcomes: Sequence[Outcome]) -> None:
    """Log what an event did."""
    name = stamped.event["name"]
    if any(outcome.kind != "unmatched" for outcome in outcomes):
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s", name, ", ".join(outcome.text for outcome in outcomes))
    elif not events.is_internal(name):
        short = name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."
        unmatched.info("Nothing listens for %s; known: %s", short, _KnownNames(snapshot))


class Seldom(logging.Filter):
    """For the logger `unmatched` in production: the first line about a name in an hour stays at
    level INFO, further ones become DEBUG. So do all about further names once there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._since: dict[str, float] = {}
        """When each name was let through, the oldest first."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged at its level, which this may lower."""
        name, now = str(record.args[0]) if isinstance(record.args, tuple) else "", self._clock()
        while self._since and now - next(iter(self._since.values())) >= SELDOM_SECONDS:
            del self._since[next(iter(self._since))]
        if name not in self._since and len(self._since) < MAX_NAMES:
            self._since[name] = now
            return True
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return unmatched.isEnabledFor(logging.DEBUG)


def resumed(event_name: str, run: str, *, cancelled: bool) -> None:
    """Log that a wait of a run matched."""
    logger.info("%s %s run %s", event_name, "cancels" if cancelled else "resumes", run)


@dataclass(frozen=True)
class _KnownNames:
    """The names that functions listen for, put together only when a line is written."""

    snapshot: Snapshot

    def __str__(self) -> str:
        names = {
            trigger.event
            for app in self.snapshot.apps
            for function in app.functions
            for trigger in function.triggers
            if isinstance(trigger, TriggerEvent) and not events.is_internal(trigger.event)
        }
        more = ", ..." if len(names) > MAX_KNOWN else ""
        return ", ".join(sorted(names)[:MAX_KNOWN]) + more or "none"
