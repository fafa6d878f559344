"""What became of an event, and a log line about it for people who develop functions: at level INFO
of the logger `inngest_temporal.events`, which is off in other processes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inngest_temporal.models import TriggerEvent

from . import events
from .events import Stamped
from .registry import Snapshot

logger = logging.getLogger("inngest_temporal.events")

MAX_KNOWN = 10
"""Maximum number of known event names that are listed when nothing listens for a name."""

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
    if not logger.isEnabledFor(logging.INFO):
        return
    name = stamped.event["name"]
    if any(outcome.kind != "unmatched" for outcome in outcomes):
        logger.info("%s %s", name, ", ".join(outcome.text for outcome in outcomes))
    elif not events.is_internal(name):
        logger.info("Nothing listens for %s; known: %s", name, _known(snapshot))


def resumed(event_name: str, run: str, *, cancelled: bool) -> None:
    """Log that a wait of a run matched."""
    logger.info("%s %s run %s", event_name, "cancels" if cancelled else "resumes", run)


def _known(snapshot: Snapshot) -> str:
    names = {
        trigger.event
        for app in snapshot.apps
        for function in app.functions
        for trigger in function.triggers
        if isinstance(trigger, TriggerEvent) and not events.is_internal(trigger.event)
    }
    more = ", ..." if len(names) > MAX_KNOWN else ""
    return ", ".join(sorted(names)[:MAX_KNOWN]) + more or "none"
