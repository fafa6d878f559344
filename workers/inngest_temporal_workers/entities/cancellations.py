"""A bulk cancellation: pages through the runs that visibility lists, and cancels them.

What a page holds is in the history before it is acted on, so a worker may be lost at any time: the
next one goes on where that one was, and each run is counted once. Visibility lags behind: the
listing is repeated until it finds nothing new. The runs clean up and report
`inngest/function.cancelled` themselves.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.common import RetryPolicy
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.expressions import compile_expression
from inngest_temporal.http.cancellations import Cancellation, CancellationState, memo_of
from inngest_temporal.temporal import names
from inngest_temporal.temporal.runs import input_of

from .fan_out import HEARTBEAT_TIMEOUT, heartbeats, map_concurrently

PAGE_SIZE = 200
CONCURRENCY = 20
"""Calls that one page has in hand at once: runs that go on must get their turn."""
PAUSE = timedelta(seconds=2)
"""Between two listings."""
SETTLED = timedelta(seconds=5)
"""After which visibility should know of each run that was started: a listing that finds nothing new
counts then."""
PAGE_TIMEOUT = timedelta(minutes=10)
RETRIES = RetryPolicy(maximum_interval=timedelta(seconds=10))
"""Without an end: Temporal allows some ten listings per second and namespace."""


@workflow.defn(name=names.CANCELLATION_TYPE, sandboxed=False)
class BulkCancellation:
    """Memo: `{"cancellation": JSON, "cancelled": n}`; result: `{"cancelled": n}`. Cancelling it
    stops it."""

    @workflow.run
    async def run(self, state: CancellationState) -> dict[str, int]:
        settled = max(state.cancellation.created_ms, state.cancellation.started_before_ms) / 1000
        settled += SETTLED.total_seconds()
        begun = workflow.time()
        while True:
            await self._page(state)
            if state.page is None:
                state.round += 1
                if not state.found and begun >= settled:
                    return {"cancelled": state.cancelled}
                pause = (
                    PAUSE.total_seconds() if state.found else max(0.0, settled - workflow.time())
                )
                await workflow.sleep(max(pause, 0.1))
                state.found = 0
                begun = workflow.time()
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(state, memo=memo_of(state))

    async def _page(self, state: CancellationState) -> None:
        page = await _call(
            "inngest.list_runs", [state.cancellation, state.page, state.round > 0], dict
        )
        runs = page["runs"]
        if runs:
            state.found += len(runs)
            state.cancelled += await _call("inngest.cancel_runs", [runs], int)
            workflow.upsert_memo(memo_of(state))
        state.page = page["next"]


async def _call(name: str, args: list[Any], result_type: type) -> Any:
    return await workflow.execute_activity(
        name,
        args=args,
        start_to_close_timeout=PAGE_TIMEOUT,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RETRIES,
        result_type=result_type,
    )


@dataclass(frozen=True)
class CancellationActivities:
    """What cancellations need of Temporal."""

    client: Client

    def all(self) -> list[Callable[..., Any]]:
        return [self.list_runs, self.cancel_runs]

    @activity.defn(name="inngest.list_runs")
    async def list_runs(
        self, wanted: Cancellation, page: str | None, again: bool
    ) -> dict[str, Any]:
        """One page of the runs to cancel: `{"runs": [id], "next": page or None}`.

        With `again`, those of which the cancellation was requested before are left out.
        """
        found = self.client.list_workflows(
            wanted.query,
            page_size=PAGE_SIZE,
            next_page_token=None if page is None else base64.b64decode(page),
        )
        async with heartbeats():
            await found.fetch_next_page()
            runs = [run.id for run in found.current_page or ()]
            if again or wanted.condition is not None:
                keep = await map_concurrently(
                    runs, lambda run: self._is_wanted(run, wanted, again), CONCURRENCY
                )
                runs = [run for run, kept in zip(runs, keep, strict=True) if kept]
        token = found.next_page_token
        return {"runs": runs, "next": base64.b64encode(token).decode() if token else None}

    @activity.defn(name="inngest.cancel_runs")
    async def cancel_runs(self, runs: list[str]) -> int:
        """Cancel runs; how many of them are cancelled, by this attempt or one before. The others
        ended before."""
        async with heartbeats():
            return sum(await map_concurrently(runs, self._cancel, CONCURRENCY))

    async def _is_wanted(self, run: str, wanted: Cancellation, again: bool) -> bool:
        if again:
            known = await self._describe(run)
            if known is None or known.status != WorkflowExecutionStatus.RUNNING:
                return False
            if known.raw_description.workflow_extended_info.cancel_requested:
                return False
        return wanted.condition is None or await self._matches(run, wanted.condition)

    async def _matches(self, run: str, condition: str) -> bool:
        """Whether the run's own event, which is in the first event of its history, matches."""
        given = await input_of(self.client, run)
        if given is None or not given.events:
            return False  # somebody started it by hand, without an event
        return compile_expression(condition).matches(given.events[0])

    async def _cancel(self, run: str) -> bool:
        try:
            await self.client.get_workflow_handle(run).cancel()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return False
        # Temporal also accepts to cancel what has ended, so only this tells.
        known = await self._describe(run)
        return known is not None and known.status in (
            WorkflowExecutionStatus.RUNNING,
            WorkflowExecutionStatus.CANCELED,
        )

    async def _describe(self, run: str) -> WorkflowExecutionDescription | None:
        try:
            return await self.client.get_workflow_handle(run).describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None
