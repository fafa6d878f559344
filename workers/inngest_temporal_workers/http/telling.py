"""Turns the answer of an app into progress of its run: counts attempts, decides retries, and checks
limits."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio import activity

from inngest_temporal.drivers.protocol import (
    MAX_OUTPUT_BYTES,
    RUN,
    Done,
    ErrorInfo,
    Failed,
    Op,
    Ops,
    Outcome,
    Progress,
    json_size,
)
from inngest_temporal.logger import told_of
from inngest_temporal.sdk.replies import Answer
from inngest_temporal.wire import to_wire
from inngest_temporal_workers.runs.failing import log_failure
from inngest_temporal_workers.runs.limits import within_limits
from inngest_temporal_workers.runs.retries import retry_ms

from .dispatches import Reports

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Telling:
    """The answered execution of a function over HTTP. Code of the activity."""

    function_id: str
    memos: Sequence[tuple[str, str]]
    """The memos with which the execution began."""
    reports: Reports
    interval: timedelta | None
    """Replaces Inngest's delays between attempts."""

    def progress(self, answer: Answer) -> Progress:
        """The steps of the whole execution, and what is needed next."""
        reports = self.reports
        # Of several results of one step, the first counts.
        answered = {step.op.id: step for step in reversed(answer.done)}
        executed = [step for id, step in reversed(answered.items()) if not reports.has(id)]
        for step in executed:
            if step.error is not None:
                self._log(step.op, step.error, reports.request.attempt, None)
        done = [*reports.steps, *executed]
        if answer.ignored:
            self._log_ignored(answer.ignored)
        # As in Inngest, counting starts again after a step that was executed.
        has_executed = reports.handed_over or any(step.error is None for step in done)
        attempt = 0 if has_executed else reports.request.attempt
        outcome: Outcome | None = answer.returned
        if answer.ops is not None:
            outcome = Ops(answer.ops)
        if answer.retry is not None:
            outcome = self._failed_step(answer.retry, attempt, done)
        elif answer.failed is not None:
            outcome = self._failed_function(answer.failed, attempt, done)
        if outcome is None and not done:
            outcome = Ops([])  # it only repeated what is known
        version = answer.version if reports.request.version < 0 else None
        progress = Progress.of(reports.base, done, within_limits(outcome))
        if json_size(to_wire(progress)) > MAX_OUTPUT_BYTES:
            progress = Progress(reports.base, done)  # the next call asks again what is needed
        return replace(progress, version=version)

    def _failed_step(self, failed: Done, attempt: int, done: list[Done]) -> Failed | None:
        """Handle a failed attempt of a step. As in Inngest, a step that was not planned is tried
        again by another call of the same kind."""
        error = failed.error
        assert error is not None
        delay_ms = self._retry_ms(error, attempt)
        self._log(failed.op, error, attempt, delay_ms)
        if self.reports.request.target is None and delay_ms is not None:
            return Failed(error, delay_ms, failed.op, failed.began_ms)
        done.append(replace(failed, retry_ms=delay_ms))
        return None

    def _failed_function(self, error: ErrorInfo, attempt: int, done: list[Done]) -> Failed | None:
        """Handle a failure of the function or the call. With a target, it is an attempt of that
        step."""
        target, delay_ms = self.reports.request.target, self._retry_ms(error, attempt)
        if not (delay_ms is None and self._is_of_a_step(error, done)):
            self._log(None, error, attempt, delay_ms)
        if target is None or delay_ms is None:
            return Failed(error, delay_ms)
        done.append(Done(Op(RUN, target, target), error=error, retry_ms=delay_ms))
        return None

    def _is_of_a_step(self, error: ErrorInfo, done: Sequence[Done]) -> bool:
        """Whether the function failed with the error of one of its steps, which was logged already.
        Memos of errors without a stack are not of user code."""
        known = [json.loads(text)["error"] for _, text in self.memos if '{"error":' in text[:9]]
        known = [each for each in known if each.get("stack")]
        errors = [(each["name"], each["message"]) for each in known]
        errors += [(step.error.name, step.error.message) for step in done if step.error]
        return (error.name, error.message) in errors

    def _retry_ms(self, error: ErrorInfo, attempt: int) -> int | None:
        return retry_ms(error, attempt, self.reports.request.retries, self.interval)

    def _log(self, op: Op | None, error: ErrorInfo, attempt: int, delay_ms: int | None) -> None:
        step = None if op is None else op.name
        retries = self.reports.request.retries
        log_failure(logger, step, self.function_id, error, attempt, retries, delay_ms)

    def _log_ignored(self, names: Sequence[str]) -> None:
        run_id = activity.info().workflow_id
        logger.info(
            "Function %s uses features that have no effect here yet: %s (run %s)",
            self.function_id,
            ", ".join(names),
            run_id,
            extra=told_of(self.function_id, run_id),
        )
