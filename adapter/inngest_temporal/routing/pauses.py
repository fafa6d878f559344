"""Pausing a function: its new runs wait, durably and in order, until it is resumed. Runs that were
started before continue.

The app's entity keeps pauses apart from what workers publish, so a deploy does not change them.
Each new run gets one more lock to pass, which admits none (`inngest_temporal.routing.locks`). Every
process knows of a pause within about a second. Once the function is resumed, that lock lets the
runs go on a few at a time.

Ours: Inngest's server records the runs of a paused function as skipped (semantics §8).
"""

from temporalio.client import Client, WorkflowUpdateFailedError

from inngest_temporal.errors import FunctionNotFoundError, WorkerMissingError

from .publishing import PUBLISH_TIMEOUT, app_entity, list_version, listed_version
from .registry import RegisteredFunction


async def pause(client: Client, function: RegisteredFunction) -> None:
    """Pause a function; a no-op if it is paused.

    Raises `FunctionNotFoundError` if its app no longer has it, `TimeoutError` if no worker answers,
    `WorkerMissingError` if only workers of an older version do, `RPCError` if Temporal can't be
    reached.
    """
    await _set(client, function, True)


async def resume(client: Client, function: RegisteredFunction) -> None:
    """Let a function's runs start again, first those that waited. Raises the same as `pause`."""
    await _set(client, function, False)


async def _set(client: Client, function: RegisteredFunction, paused: bool) -> None:
    pausing = {
        "function": function.id,
        "paused": paused,
        "after": await listed_version(client, function.app_id),
    }
    missing = FunctionNotFoundError(f"App {function.app_id!r} has no function {function.id!r}.")
    entity = app_entity(client, function.app_id)
    try:
        version = await entity.update("set_paused", pausing, int, timeout=PUBLISH_TIMEOUT)
    except WorkflowUpdateFailedError as error:
        if getattr(error.cause, "type", None) == "FunctionNotFoundError":
            raise missing from error
        raise WorkerMissingError(
            "The workers that answered can't pause functions: upgrade them."
        ) from error
    if version is None:
        raise missing
    await list_version(client, function.app_id, version)
