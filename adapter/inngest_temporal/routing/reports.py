"""One line for each event and what came of it, at level INFO of the logger
`inngest_temporal.events`: for people who develop functions. Other processes leave it off."""

import logging
from collections.abc import Iterable

from inngest_temporal.models import TriggerEvent

from . import events
from .events import Stamped
from .registry import Snapshot

logger = logging.getLogger("inngest_temporal.events")

MAX_KNOWN = 10
"""Event names that are listed when nothing listens for one."""


def routed(stamped: Stamped, snapshot: Snapshot, runs: Iterable[str], delivered: bool) -> None:
    """What an event started. `delivered`: there are waits for events of its name."""
    if not logger.isEnabledFor(logging.INFO):
        return
    event, ids = stamped.event, set(runs)
    matched = snapshot.match(event)
    if event["name"] == events.INVOKED:
        target = snapshot.function(event["data"]["_inngest"]["fn_id"])
        matched += [] if target is None or target in matched else [target]
    effects = []
    for function in matched:
        run = events.run_id(function.id, stamped)
        done = f"starts {function.id} (run {run})" if run in ids else f"is held for {function.id}"
        effects.append(done)
    if delivered:
        effects.append("is given to the runs that wait for it")
    if effects:
        logger.info("%s %s", event["name"], ", ".join(effects))
    elif not events.is_internal(event["name"]):
        logger.info("Nothing listens for %s; known: %s", event["name"], _known(snapshot))


def resumed(event_name: str, run: str, *, cancelled: bool) -> None:
    """A wait of a run matched."""
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
