"""Logs failures of user code."""

import logging

from temporalio import activity

from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.logger import STACK, Logger, told_of


def log_failure(
    logger: Logger,
    step: str | None,
    function_id: str,
    error: ErrorInfo,
    attempt: int,
    retries: int,
    retry_ms: int | None,
) -> None:
    """Log a failure of user code once, with the user's stack. Only activities may call this.

    `step`: its name; None: the handler failed. `retry_ms`: the delay of the next attempt; None:
    there is none.
    """
    if error.quiet:
        return
    when = (
        "and is not tried again"
        if retry_ms is None
        else f"and is tried again in {retry_ms / 1000:.1f} s"
    )
    run_id = activity.info().workflow_id
    logger.log(
        logging.ERROR if retry_ms is None else logging.WARNING,
        "%s of %s failed in attempt %d of %d, %s (run %s): %s: %s%s",
        "The handler" if step is None else f'Step "{step}"',
        function_id,
        attempt + 1,
        retries + 1,
        when,
        run_id,
        error.name,
        error.message,
        f"\n{error.stack}" if error.stack else "",
        extra={STACK: error.stack, **told_of(function_id, run_id, step, attempt)},
    )
