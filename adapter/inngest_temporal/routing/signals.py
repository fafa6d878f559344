"""Signals, from the outside: a run waits for one by name, anybody sends one by name.

A signal's name is unique in the namespace: one run waits for it at a time. Each name that is waited
for has an entity workflow (`inngest_temporal_workers.entities.signal`) that knows who waits. A
signal that nobody waits for is not kept. Source: Inngest's `waitForSignal` (semantics §5.6), which
its Python SDK lacks.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.temporal import names
from inngest_temporal.temporal.runs import executes

MAX_DATA_BYTES = 1_800_000
"""Of what a signal carries, as Temporal's default converter writes it: a payload is limited to 2
MiB, and the entity of a signal can neither refuse nor pass on an update that is larger."""


ANSWER_SECONDS = 10.0
"""In which the entity of a signal says who waited."""


@dataclass(frozen=True)
class Claim:
    """A run's wait for a signal."""

    run: str
    """Run id (workflow id)."""
    step: str
    """Hashed step id."""
    expires_ms: int
    replace: bool = False
    """Whether it takes the place of another run's wait, which then times out."""


@dataclass
class SignalState:
    """Argument of a signal's entity workflow; carried over when it continues as new."""

    holder: Claim | None = None


async def claim(client: Client, signal: str, wait: Claim) -> bool:
    """Begin a wait; False if another run waits for that signal already. Raises `RPCError`."""
    if await _claim(client, signal, wait):
        return True
    entity = client.get_workflow_handle(names.signal_id(signal))
    holder: Claim | None = await entity.query("holder", result_type=Claim)
    if holder is not None:
        if await executes(client, holder.run):
            return False
        # It was terminated: a run that ends otherwise takes its waits back.
        await release(client, signal, holder.run, holder.step)
    return await _claim(client, signal, wait)


async def _claim(client: Client, signal: str, wait: Claim) -> bool:
    start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        names.SIGNAL_TYPE,
        SignalState(),
        id=names.signal_id(signal),
        task_queue=names.SYSTEM_TASK_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    claimed: bool = await client.execute_update_with_start_workflow(
        "claim", wait, start_workflow_operation=start, result_type=bool
    )
    return claimed


async def release(client: Client, signal: str, run: str, step: str) -> None:
    """Take a wait back; fine if it is not there. Raises `RPCError`."""
    with contextlib.suppress(_NobodyError), _nobody():
        await client.get_workflow_handle(names.signal_id(signal)).signal(
            "release", args=[run, step]
        )


async def send(client: Client, signal: str, data: Any, *, send_id: str | None = None) -> str | None:
    """Send a signal; the id of the run that waited for it, or None if nobody did.

    The same `send_id` has the same effect and answer, for as long as the signal's entity remembers
    it.

    Raises `RPCError`, `TimeoutError` if no worker answers for the entity, and `BodyInvalidError`
    for data that is too large.
    """
    size = len(json.dumps(data, separators=(",", ":")))
    if size > MAX_DATA_BYTES:
        raise BodyInvalidError(
            f"Signal is over the max size: Max {MAX_DATA_BYTES} bytes / Size {size} bytes"
        )
    entity = client.get_workflow_handle(names.signal_id(signal))
    try:
        with _nobody():
            async with asyncio.timeout(ANSWER_SECONDS):
                run: str | None = await entity.execute_update(
                    "send", data, id=send_id, result_type=str
                )
            return run
    except _NobodyError:
        return None
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        message = (
            f"Signal {signal!r} was not answered: a worker must poll task queue"
            f" {names.SYSTEM_TASK_QUEUE!r}."
        )
        raise TimeoutError(message) from None


class _NobodyError(Exception):
    """No entity of that signal: nobody waits."""


@contextlib.contextmanager
def _nobody() -> Any:
    try:
        yield
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise _NobodyError from None
        raise
    except WorkflowUpdateFailedError as error:
        if "AcceptedUpdateCompletedWorkflow" in str(error.cause):
            raise _NobodyError from None
        raise
