"""The suggestion on the first page of an empty system."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from inngest_temporal.models import TriggerEvent
from inngest_temporal.routing.registry import Snapshot


@dataclass(frozen=True)
class Suggestion:
    """Something to try."""

    function: str | None
    """Id of a function that an event triggers; None if there is none."""
    event: str
    """Name of such an event."""
    command: str
    """A command that sends the event."""


def suggestion(snapshot: Snapshot | None, base_url: str, *, dev: bool) -> Suggestion:
    """A curl command for the first function that an event triggers."""
    function, trigger = next(triggered(snapshot), (None, "shop/order.created"))
    event = example_name(trigger)
    body = json.dumps({"name": event, "data": {}}, ensure_ascii=False).replace("'", r"'\''")
    key = "dev" if dev else "$INNGEST_EVENT_KEY"
    return Suggestion(function, event, f"curl {base_url.rstrip('/')}/e/{key} -d '{body}'")


def triggered(snapshot: Snapshot | None) -> Iterator[tuple[str, str]]:
    """Each function that users' events trigger, with the names of these events."""
    for app in () if snapshot is None else snapshot.apps:
        for config in app.functions:
            for trigger in config.triggers:
                if isinstance(trigger, TriggerEvent) and not trigger.event.startswith("inngest/"):
                    yield config.id, trigger.event


def example_name(pattern: str) -> str:
    """A name that matches a trigger's name or prefix."""
    return pattern[:-1] + "example" if pattern.endswith(("/*", ".*")) else pattern
