"""The run workflow of a function that an app serves over HTTP.

It differs from a native run in three things: when the app is called again (Inngest's rules for
parallel steps), the form of memos, and what a lost worker means, because user code is not in the
worker. Source: semantics §3.7, §3.8; http-protocol §7, §10.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue

from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.drivers.protocol import (
    Done,
    ErrorInfo,
    ExecutionRequest,
    Op,
    Ops,
    Outcome,
    Progress,
)
from inngest_temporal_workers.runs.executions import RunSettings
from inngest_temporal_workers.runs.workflow import RunWorkflow

from .memos import memo_text

MAX_EMPTY = 10
"""How many times in a row an app may answer that it needs nothing, while nothing is under way."""
SEQUENTIAL_VERSION = 1
"""Version of the protocol in which the app is called after each of several parallel steps."""


class HttpRun(RunWorkflow):
    """Temporal's dynamic workflow of a worker that calls apps: it runs any function."""

    @workflow.init
    def __init__(self, args: Sequence[RawValue]) -> None:
        super().__init__(workflow.payload_converter().from_payload(args[0].payload))
        self._version = -1
        """Version of the protocol in the app's first reply; -1: not known."""
        self._plans = False
        """Whether the app planned several steps, so that it must not execute one by itself."""
        self._empty = 0

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> Any:  # type: ignore[override]
        return await RunWorkflow.run(self, {})

    def _request(self, target: Op | None, attempt: int) -> ExecutionRequest:
        if not self._tasks and self._version != SEQUENTIAL_VERSION:
            self._plans = False  # the last of the parallel steps has ended
        return replace(
            super()._request(target, attempt),
            url=self._input.url,
            version=self._version,
            # An app takes the input of a step only in a call for that step.
            plan_only=self._plans or bool(self._inputs),
            gateway=target is not None and "gateway" in target.options,
        )

    async def _apply(
        self, progress: Progress, target: Op | None = None, attempt: int = 0
    ) -> tuple[Outcome | None, bool]:
        if progress.version is not None and self._version < 0:
            self._version = progress.version
        self._plans = self._plans or len(progress.ops or []) > 1
        has_news = any(map(self._is_news, progress.done))
        following, planned = await super()._apply(progress, target, attempt)
        is_empty = isinstance(following, Ops) and not following.ops and not self._tasks
        self._empty = self._empty + 1 if is_empty and not has_news else 0
        if self._empty > MAX_EMPTY:
            message = f"The app answered {MAX_EMPTY} times that there is nothing to do."
            raise RunFailure(ErrorInfo("Error", message))
        return (None if is_empty else following), planned

    def _holds(self, progress: Progress) -> bool:
        # As in Inngest, a function that has failed for good has ended, whatever steps have ended
        # meanwhile.
        is_final = progress.failed is not None and progress.failed.retry_ms is None
        return is_final or super()._holds(progress)

    def _looks_beside(self, ended: Op) -> bool:
        # If only steps of a race are under way, the winner is known, and nothing is waited for.
        others = [self._ops[step] for step in self._tasks]
        return (
            self._version == SEQUENTIAL_VERSION
            or _races(ended)
            or all(_races(other) for other in others)
        )

    async def _after_loss(self, progress: Progress, target: Op | None, attempt: int) -> bool:
        """Repeat the call. It does not count as an attempt, because the worker was lost, not the
        app."""
        pause = self._losses.add()
        if target is not None and all(done.op.id != target.id for done in progress.done):
            self._plan(target, attempt, pause * 1000)
            return True
        await workflow.sleep(pause, summary="a worker was lost")
        self._calls.new_task()
        return False

    def _text_of(self, done: Done) -> str:
        return memo_text(done)


def _races(op: Op) -> bool:
    """Whether the app may continue before the other steps of the same answer have ended."""
    return bool(op.options.get("race"))


def http_run_workflow(settings: RunSettings) -> type:
    """The workflow class of all functions that apps serve over HTTP."""
    members = {"settings": settings, "run": HttpRun.run, "__module__": __name__}
    made = type(HttpRun.__name__, (HttpRun,), members)
    return workflow.defn(dynamic=True, sandboxed=False)(made)
