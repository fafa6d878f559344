"""Routing an event that matches one of 1,000 registered functions, beside the same with 10. This
needs no server: what Temporal is asked is the same for both."""

import asyncio
import time
from typing import Any

from inngest_temporal.config import FunctionConfig
from inngest_temporal.models import TriggerEvent
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import AppConfig, Snapshot

from .bench import Report, take_turns

FEW, MANY = 10, 1_000
EVENTS = 2_000
TURNS = 7


def registered(count: int) -> Snapshot:
    """Functions on as many names, a third of them wildcards, a third with an expression."""

    def trigger(number: int) -> TriggerEvent:
        if number % 3 == 0:
            return TriggerEvent(event=f"area-{number}/*")
        if number % 3 == 1:
            return TriggerEvent(
                event=f"area-{number}/thing.done", expression="event.data.amount > 10"
            )
        return TriggerEvent(event=f"area-{number}/thing.done")

    functions = [
        FunctionConfig(id=f"app-{number}", name=f"{number}", triggers=[trigger(number)])
        for number in range(count)
    ]
    return Snapshot([AppConfig(app_id="app", task_queue="queue", functions=functions)])


async def main(report: Report) -> None:
    report.title(f"registry: matching an event against {FEW} and {MANY} functions, us each")
    for what, number in (("wildcard", 3), ("name and expression", 4), ("name", 5)):
        event: dict[str, Any] = events.stamp(
            {"name": f"area-{number}/thing.done", "data": {"amount": 11}}
        ).event

        async def turn(snapshot: Snapshot, event: dict[str, Any] = event) -> float:
            begun = time.perf_counter()
            for _ in range(EVENTS):
                [_] = snapshot.match(event)
            return (time.perf_counter() - begun) / EVENTS * 1e6

        few, many = registered(FEW), registered(MANY)
        samples = await take_turns(
            {"many": lambda s=many: turn(s), "few": lambda s=few: turn(s)}, TURNS
        )  # type: ignore[misc]
        report.compare(
            what,
            samples["many"].median,
            samples["few"].median,
            "us",
            at_most=2.0,
            names=(f"{MANY:,} functions", f"{FEW} functions"),
        )
        await asyncio.sleep(0)
