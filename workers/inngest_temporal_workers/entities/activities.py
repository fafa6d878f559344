"""Activities of gates, mailboxes and signals. All of them are harmless to repeat."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError

from inngest_temporal.routing import reports, signals
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.gates import StartRequest
from inngest_temporal.routing.registry import Follower, RegisteredFunction
from inngest_temporal.routing.router import refuses, start_run
from inngest_temporal.routing.waits import Delivery, cancels
from inngest_temporal.temporal import runs

from .fan_out import CONCURRENCY, fails_as_gone, map_concurrently


@dataclass(frozen=True)
class SystemActivities:
    """Activities of gates, mailboxes and signals."""

    client: Client
    registry: Follower

    def all(self) -> list[Callable[..., Any]]:
        return [self.resume, self.gone, self.send_signal, self.start, self.pause]

    @activity.defn(name="inngest.resume")
    async def resume(self, matching: dict[str, list[str]], delivery: Delivery) -> list[str]:
        """Tell runs which of their waits an event matches, and cancel those whose `cancel` entries
        it matches. Returns the runs that are gone."""

        async def resume(run: str) -> bool:
            handle, waits = self.client.get_workflow_handle(run), matching[run]
            if cancels(waits):
                return await fails_as_gone(handle.cancel())
            return await fails_as_gone(handle.signal("event", vars(replace(delivery, waits=waits))))

        gone = await map_concurrently(matching, resume, CONCURRENCY)
        for run, is_lost in zip(matching, gone, strict=True):
            if not is_lost:
                reports.resumed(delivery.event["name"], run, cancelled=cancels(matching[run]))
        return [run for run, is_lost in zip(matching, gone, strict=True) if is_lost]

    @activity.defn(name="inngest.gone")
    async def gone(self, ids: list[str]) -> list[str]:
        """The runs among these that have ended or do not exist."""
        running = await map_concurrently(
            ids, functools.partial(runs.is_running, self.client), CONCURRENCY
        )
        return [run for run, is_running in zip(ids, running, strict=True) if not is_running]

    @activity.defn(name="inngest.start")
    async def start(self, request: StartRequest) -> list[str]:
        """Start a run for the events of a gate. If a run with that id exists already, returns the
        internal ids of its events."""
        entries = request.entries
        stamped = [Stamped(entry.event, entry.id) for entry in entries]
        function = self._as_paused(request.target.function())
        try:
            batched = function.config.batch_events is not None
            is_new = await start_run(
                self.client,
                function,
                stamped,
                request.run_id,
                invokers=request.invokers,
                batched=batched,
            )
            if is_new or len(entries) == 1:
                return []
        except RPCError as error:
            if not refuses(error):
                raise
            # Repeating it would hold up all runs that come after it.
            activity.logger.error(
                "Temporal refuses run %s of %s: %s", request.run_id, function.id, error.message
            )
            return []
        existing = await runs.input_of(self.client, request.run_id)
        return [] if existing is None else existing.event_ids

    def _as_paused(self, function: RegisteredFunction) -> RegisteredFunction:
        """The function as a gate knows it, but paused if it is paused now."""
        snapshot = self.registry.snapshot
        published = None if snapshot is None else snapshot.function(function.id)
        paused = None if published is None else published.config.paused
        return replace(function, config=function.config.model_copy(update={"paused": paused}))

    @activity.defn(name="inngest.pause")
    async def pause(self) -> None:
        """Do nothing. Calling a regular activity ends the workflow task."""

    @activity.defn(name="inngest.send_signal")
    async def send_signal(self, holder: signals.Claim, signal: str, data: Any, at_ms: int) -> bool:
        """Send a signal to the run that waits for it; False if that run is gone."""
        handle = self.client.get_workflow_handle(holder.run)
        return not await fails_as_gone(
            handle.signal("signal", args=[holder.step, signal, data, at_ms])
        )
