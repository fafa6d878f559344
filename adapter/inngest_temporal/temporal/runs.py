"""What Temporal knows of a run."""

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode


async def executes(client: Client, run: str) -> bool:
    """Whether a run is there and has not ended. Raises `RPCError`."""
    try:
        return (await client.get_workflow_handle(run).describe()).close_time is None
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False
