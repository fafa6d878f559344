"""The run's side of executions: how the handler is executed, and what happens if an execution does
not answer."""

import asyncio
from dataclasses import replace
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    FailureError,
    TimeoutError,
    TimeoutType,
    is_cancelled_exception,
)

from inngest_temporal.drivers.failures import RunFailure
from inngest_temporal.drivers.losses import (
    HEARTBEAT_TIMEOUT,
    STEP_TIMEOUT,
    overdue,
    silent,
    timed_out,
)
from inngest_temporal.drivers.protocol import (
    ErrorInfo,
    ExecutionRequest,
    Op,
    Progress,
)
from inngest_temporal.temporal import names
from inngest_temporal.wire import from_wire, to_wire
from inngest_temporal_workers.calls import Calls

from .memory import RunMemory
from .retries import retry_ms
from .times import now_ms

MAX_CARRIED_BYTES = 1_500_000
"""Maximum size of events and memos that travel in the input of an execution."""
MISSING_SECONDS = 300
"""Seconds for which a run waits for a function that no worker has: a deploy may be taken back."""
ASKED_AT_ONCE = 6
"""How many times an execution is requested without a pause if another worker has the function."""
FIRST_TASK_LENGTH = 3
"""Length of history in the first workflow task, unless an earlier try of that task was lost."""
LONGEST_PAUSE = 60
"""Longest pause in seconds. The first one is 1, and each further one is as long as all before it
(an eighth of that if another worker has the function)."""


class Executing:
    """The executions of one run. Workflow code."""

    def __init__(self, memory: RunMemory, calls: Calls) -> None:
        self._memory = memory
        self._calls = calls
        self._looked = False
        """Whether the first execution has taken place."""
        self._woken_ms: int | None = None
        self.under_way: set[asyncio.Task[Any]] = set()
        """Activities with user code that a lock counts."""

    def woke(self, at_ms: int) -> None:
        """Say that the run goes on because of something that happened then, by Temporal's clock. So
        the next execution may be local."""
        self._woken_ms = at_ms if self._woken_ms is None else min(self._woken_ms, at_ms)

    async def execute(self, request: ExecutionRequest, target: Op | None) -> Progress:
        """Execute the handler once. An execution that did not reach user code is repeated, and does
        not count as an attempt.

        Raises `RunFailure` if no worker has the function.
        """
        waited = asked = 0
        while True:
            progress = await self._executed(request, target)
            if progress.unstarted is None:
                return progress
            if progress.begun is not None:
                request = replace(request, begun=progress.begun)
            if progress.missing and not progress.elsewhere and waited >= MISSING_SECONDS:
                raise RunFailure(_function_not_found())
            if progress.elsewhere:
                asked += 1
                if asked % ASKED_AT_ONCE:  # another worker may take the next request
                    continue
            is_carried = request.events is not None
            if progress.missing or progress.busy or (progress.forgotten and is_carried):
                so_far = waited // 8 if progress.elsewhere else waited
                pause = min(LONGEST_PAUSE, max(1, so_far))
                waited += pause
                await workflow.sleep(pause, summary=progress.unstarted)
                self._calls.new_task()
            elif progress.forgotten:
                request = self._carrying(request)

    def _carrying(self, request: ExecutionRequest) -> ExecutionRequest:
        """The request with the run's events and memos, unless these are too large."""
        memory = self._memory
        if memory.size + memory.event_bytes > MAX_CARRIED_BYTES:
            return request
        return replace(request, events=memory.events, memos=list(memory.memos))

    async def _executed(self, request: ExecutionRequest, target: Op | None) -> Progress:
        woken_ms, self._woken_ms = self._woken_ms, None
        if self._may_be_local(request, woken_ms):
            try:
                asked = to_wire(replace(request, task_ms=now_ms(), woken_ms=woken_ms))
                return from_wire(
                    Progress, await self._calls.call_locally("inngest.execute", [asked], dict)
                )
            except FailureError as error:
                if is_cancelled_exception(error):
                    raise
                # The handler blocks its worker. A regular activity does not hold up this workflow
                # task.
        try:
            return from_wire(Progress, await self._execute_regularly(request, target))
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            return _unanswered(error, request, target)
        finally:
            self._calls.new_task()

    def _may_be_local(self, request: ExecutionRequest, woken_ms: int | None) -> bool:
        """Whether an execution may be local: only the one with which a workflow task begins, and
        only in the first try of that task. Nothing counts the tries of a workflow task, so a
        handler that kills its worker would do so for ever. A run's first task is known by its
        history. For a later one the activity judges by the clock, and its answer is in history."""
        if request.target is not None or request.until_over or request.url or not request.alone:
            return False
        is_first, self._looked = not self._looked, True
        if is_first:
            is_first_try = workflow.info().get_current_history_length() <= FIRST_TASK_LENGTH
        else:
            is_first_try = woken_ms is not None
        return is_first_try and self._calls.may_be_local

    async def _execute_regularly(
        self, request: ExecutionRequest, target: Op | None
    ) -> dict[str, Any]:
        """Execute by a regular activity. If a lock counts executions, a cancelled run waits until
        this one has ended."""
        counted = request.until_over
        kind = workflow.ActivityCancellationType
        work: asyncio.Task[dict[str, Any]] = workflow.start_activity(
            "inngest.execute",
            to_wire(request),
            summary="handler" if target is None else names.summary_of(target.name),
            start_to_close_timeout=STEP_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
            cancellation_type=kind.WAIT_CANCELLATION_COMPLETED if counted else kind.TRY_CANCEL,
            result_type=dict,
        )
        if not counted:
            return await work
        self.under_way.add(work)
        work.add_done_callback(self.under_way.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.cancel()
            raise


def _unanswered(error: ActivityError, request: ExecutionRequest, target: Op | None) -> Progress:
    """The progress of an execution that did not answer, from the details of its heartbeats."""
    cause = error.cause
    if not isinstance(cause, TimeoutError):
        return Progress(request.base, lost=str(cause or error))
    details = cause.last_heartbeat_details
    if cause.type != TimeoutType.START_TO_CLOSE:
        return silent(request.base, details)
    info = timed_out()
    delay_ms = retry_ms(info, request.attempt, request.retries, None, workflow.random())
    return overdue(request.base, details, target, info, delay_ms)


def _function_not_found() -> ErrorInfo:
    message = (
        f"Function {workflow.info().workflow_type} is not in its app any more: no worker can"
        " continue its runs."
    )
    return ErrorInfo("FunctionNotFoundError", message, retriable=False)
