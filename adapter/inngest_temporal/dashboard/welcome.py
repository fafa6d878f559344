"""What the first page of an empty system says to do next."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from inngest_temporal.models import TriggerEvent
from inngest_temporal.routing.registry import Snapshot


@dataclass(frozen=True)
class Suggestion:
    """What to try."""

    function: str | None
    """Id of a function that an event triggers; None: there is none."""
    event: str
    """Name of such an event."""
    command: str
    """What sends it."""


def suggestion(snapshot: Snapshot | None, base_url: str, *, dev: bool) -> Suggestion:
    """The curl for the first function that was found."""
    function, trigger = next(triggered(snapshot), (None, "shop/order.created"))
    event = example_name(trigger)
    body = json.dumps({"name": event, "data": {}}, ensure_ascii=False).replace("'", r"'\''")
    key = "dev" if dev else "$INNGEST_EVENT_KEY"
    return Suggestion(function, event, f"curl {base_url.rstrip('/')}/e/{key} -d '{body}'")


def triggered(snapshot: Snapshot | None) -> Iterator[tuple[str, str]]:
    """Each function that users' events trigger, with the names of those."""
    for app in () if snapshot is None else snapshot.apps:
        for config in app.functions:
            for trigger in config.triggers:
                if isinstance(trigger, TriggerEvent) and not trigger.event.startswith("inngest/"):
                    yield config.id, trigger.event


def example_name(pattern: str) -> str:
    """A name that a trigger's name or prefix stands for."""
    return pattern[:-1] + "example" if pattern.endswith(("/*", ".*")) else pattern
