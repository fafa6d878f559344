"""What Temporal knows of a run."""

from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.drivers.protocol import ErrorInfo


async def executes(client: Client, run: str) -> bool:
    """Whether a run is there and has not ended. Raises `RPCError`."""
    try:
        return (await client.get_workflow_handle(run).describe()).close_time is None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False


def error_of(error: ApplicationError) -> ErrorInfo:
    """The error of user code that a failed run or step holds."""
    failure = error.failure
    # An empty message is another one in the exception.
    message, stack = (
        (error.message, None) if failure is None else (failure.message, failure.stack_trace)
    )
    return ErrorInfo(
        error.type or "Error", message, stack or None, retriable=not error.non_retryable
    )
