"""A debounce: keeps the newest event and starts a run with it when no event came for a period
(`inngest_temporal.routing.gates` is the other side).

All invokers of the function are answered by that run, even if it has the event of another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pydantic
from temporalio import workflow

from inngest_temporal.routing.gates import (
    DebounceOffer,
    Entry,
    StartRequest,
    Target,
)
from inngest_temporal.routing.run_input import Invoker
from inngest_temporal.temporal import names

from .entity import Entity, entity
from .seen import SeenToday


@dataclass(frozen=True)
class Held:
    """What a debounce holds."""

    last: Entry
    """The event with which it will start a run."""
    target: Target
    first_ms: int
    """When the first of the debounced events came."""
    deadline_ms: int
    invokers: list[Invoker] = field(default_factory=list)
    """The invokers of all debounced events."""


_HELD = pydantic.TypeAdapter(Held | None)


@entity(names.DEBOUNCE_TYPE)
class DebounceWorkflow(Entity):
    messages: ClassVar = {"offer": pydantic.TypeAdapter(DebounceOffer)}

    def load(self, state: dict[str, Any]) -> None:
        self._held: Held | None = _HELD.validate_python(state.get("held"))
        self._seen = SeenToday(state.get("seen", ()))

    def dump(self) -> dict[str, Any]:
        return {"held": _HELD.dump_python(self._held, mode="json"), "seen": self._seen.dump()}

    @workflow.query
    def state(self, count: int) -> dict[str, Any]:
        """For people: whether it holds an event, and when that starts a run (ms since 1970)."""
        held = self._held
        return {"waiting": int(held is not None), "next_ms": held and held.deadline_ms}

    def due_ms(self) -> int | None:
        return self._seen.until_ms if self._held is None else self._held.deadline_ms

    async def take(self, name: str, message: DebounceOffer) -> None:
        entries = (*message.others, message.newest)
        new = [entry for entry in entries if self._seen.add(entry.key, self.now_ms)]
        if new:
            self._held = debounced(self._held, message, new, self.now_ms)

    async def act(self) -> None:
        held = self._held
        if held is not None and self.now_ms >= held.deadline_ms:
            request = StartRequest(held.target, held.last.key, [held.last], held.invokers)
            self._held = None
            await self.call("inngest.start", [request], list[str])
        self._seen.forget(self.now_ms)


def debounced(held: Held | None, offer: DebounceOffer, new: Sequence[Entry], now_ms: int) -> Held:
    """What a debounce holds after the new events (at least one) of an offer. The newest by `ts`,
    and the later one of equals, is kept and moves the deadline (§4.6). `timeout_ms` counts from the
    first event."""
    newest = max(reversed(new), key=lambda entry: int(entry.event["ts"]))
    invokers = [entry.invoker for entry in new if entry.invoker is not None]
    if held is not None:
        invokers = [*held.invokers, *invokers]
        if newest.event["ts"] < held.last.event["ts"]:
            return replace(held, invokers=invokers)
    first_ms = now_ms if held is None else held.first_ms
    deadline_ms = now_ms + offer.period_ms
    if offer.timeout_ms is not None:
        deadline_ms = min(deadline_ms, first_ms + offer.timeout_ms)
    return Held(newest, offer.target, first_ms, deadline_ms, invokers)
