"""What is logged of user code that failed."""

import logging

from temporalio import activity

from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.logger import STACK, Logger


def log_failure(
    logger: Logger,
    what: str,
    function_id: str,
    error: ErrorInfo,
    attempt: int,
    retries: int,
    retry_ms: int | None,
) -> None:
    """Log what failed in user code, once, with the user's stack. Activities alone may call it.

    `what`: the step, or the handler. `retry_ms`: when it is tried again; None: never.
    """
    if error.quiet:
        return
    when = (
        "and is not tried again"
        if retry_ms is None
        else f"and is tried again in {retry_ms / 1000:.1f} s"
    )
    logger.log(
        logging.ERROR if retry_ms is None else logging.WARNING,
        "%s of %s failed in attempt %d of %d, %s (run %s): %s: %s%s",
        what,
        function_id,
        attempt + 1,
        retries + 1,
        when,
        activity.info().workflow_id,
        error.name,
        error.message,
        f"\n{error.stack}" if error.stack else "",
        extra={STACK: error.stack},
    )
