"""A rate limit: admits or refuses events (`inngest_temporal.routing.gates` asks it). It ends when
its rate is unused again."""

from collections import OrderedDict
from typing import Any

import pydantic
from temporalio import workflow

from inngest_temporal.routing.gates import AdmitRequest
from inngest_temporal.temporal import names

from .entity import Entity, entity
from .gcra import Arrival, Rate, admit

SEEN = 6_000
"""Maximum number of answers that are remembered, so that a sender's retry counts no event twice:
more than one request has events."""

_REQUEST = pydantic.TypeAdapter(AdmitRequest)


@entity(names.RATE_LIMIT_TYPE)
class RateLimitWorkflow(Entity):
    def load(self, state: dict[str, Any]) -> None:
        self._arrival = Arrival(*state.get("arrival", ()))
        self._seen: OrderedDict[str, bool] = OrderedDict(state.get("seen", {}))

    def dump(self) -> dict[str, Any]:
        return {"arrival": [self._arrival.ticks, self._arrival.per_ms], "seen": dict(self._seen)}

    def due_ms(self) -> int | None:
        free_ms = self._arrival.ms()
        return free_ms if free_ms > self.now_ms else None

    @workflow.query
    def state(self, count: int) -> dict[str, Any]:
        """For people: when the rate is unused again (ms since 1970)."""
        return {"next_ms": self._arrival.ms()}

    @workflow.update
    def admit(self, request: dict[str, Any], sent_ms: int) -> list[bool]:
        """Whether each event of an `AdmitRequest` is admitted. An event that was asked about before
        gets the same answer."""
        self.asked(sent_ms)
        asked = _REQUEST.validate_python(request)
        rate = Rate.limiting(asked.limit, asked.period_ms)
        for key in asked.keys:
            if key not in self._seen:
                decision = admit(self._arrival, self.now_ms, rate)
                self._arrival = decision.arrival
                self._seen[key] = decision.admitted
        answers = [self._seen[key] for key in asked.keys]
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        return answers
