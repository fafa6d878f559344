"""Entities, from the outside: how to send them messages, and ask them.

An entity is a workflow with a fixed id (`inngest_temporal_workers.entities.entity` is the other
side). Each message carries the time at which it was sent, which moves the entity's clock. If an
entity does not exist, that is an answer here, never an error.
"""

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from . import names
from .connection import is_not_found
from .healing import heal

logger = logging.getLogger(__name__)

ANSWER = timedelta(seconds=30)
"""How long a caller waits for an answer by default."""
T = TypeVar("T")


@dataclass(frozen=True)
class EntityHandle:
    """One entity. Every method raises `RPCError` if Temporal can't be reached."""

    client: Client
    workflow_type: str
    id: str
    timeout: timedelta | None = None
    """Limit of one call to Temporal."""

    async def signal(self, name: str, message: Any) -> bool:
        """Send a message; False if the entity does not exist."""
        handle = self.client.get_workflow_handle(self.id)
        try:
            await handle.signal(name, args=_stamped(message), rpc_timeout=self.timeout)
        except RPCError as error:
            if not is_not_found(error):
                raise
            return False
        return True

    async def signal_with_start(self, name: str, message: Any) -> str:
        """Send a message, and start the entity if it does not exist. Returns the run id of the
        execution that got the message."""
        handle = await self.client.start_workflow(
            self.workflow_type,
            id=self.id,
            task_queue=names.SYSTEM_TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal=name,
            start_signal_args=_stamped(message),
            rpc_timeout=self.timeout,
        )
        return handle.result_run_id or ""

    async def update(
        self,
        name: str,
        message: Any,
        result_type: type[T],
        *,
        timeout: timedelta = ANSWER,
        update_id: str | None = None,
    ) -> T | None:
        """The answer to an update; None if the entity does not exist.

        Raises `TimeoutError` if no worker answers in time, `WorkflowUpdateFailedError` if the
        entity refuses.
        """
        handle = self.client.get_workflow_handle(self.id)
        try:
            async with self._answering(timeout):
                answer: T = await handle.execute_update(
                    name, args=_stamped(message), id=update_id, result_type=result_type
                )
                return answer
        except RPCError as error:
            if not is_not_found(error):
                raise
        except WorkflowUpdateFailedError as error:
            if not _ended_meanwhile(error):
                raise
        return None

    async def update_with_start(
        self,
        name: str,
        message: Any,
        result_type: type[T],
        *,
        timeout: timedelta = ANSWER,
        update_id: str | None = None,
    ) -> T:
        """The answer to an update. The entity is started if it does not exist.

        Tries again while the entity is full (Temporal allows 10 updates in flight), ends or
        continues as new. Raises `TimeoutError` if no worker answers in time,
        `WorkflowUpdateFailedError` if the entity refuses.
        """
        args = _stamped(message)
        async with self._answering(timeout):
            while True:
                start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
                    self.workflow_type,
                    id=self.id,
                    task_queue=names.SYSTEM_TASK_QUEUE,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                )
                try:
                    answer: T = await self.client.execute_update_with_start_workflow(
                        name,
                        args=args,
                        id=update_id,
                        start_workflow_operation=start,
                        result_type=result_type,
                        rpc_timeout=timeout,
                    )
                    return answer
                except WorkflowUpdateRPCTimeoutOrCancelledError:
                    await _forget(start)
                    raise
                except RPCError as error:
                    await _forget(start)
                    if error.status not in _TEMPORARY:
                        raise
                except WorkflowUpdateFailedError as error:
                    if not _ended_meanwhile(error):
                        raise
                await asyncio.sleep(random.uniform(0.02, 0.1))

    async def query(self, name: str, result_type: type[T], *args: object) -> T | None:
        """The answer to a query; None if the entity does not exist. Queries may fail under load, so
        they are only for people."""
        try:
            answer: T = await self.client.get_workflow_handle(self.id).query(
                name, args=args, result_type=result_type, rpc_timeout=self.timeout
            )
            return answer
        except RPCError as error:
            if not is_not_found(error):
                raise
            return None

    async def describe(self) -> WorkflowExecutionDescription | None:
        """What Temporal knows about the entity; None if it does not exist. Needs no worker."""
        try:
            return await self.client.get_workflow_handle(self.id).describe(rpc_timeout=self.timeout)
        except RPCError as error:
            if not is_not_found(error):
                raise
            return None

    async def has_task(self) -> bool:
        """Whether the entity has messages that it has not handled yet. Needs no worker."""
        found = await self.describe()
        return found is not None and found.raw_description.HasField("pending_workflow_task")

    async def memo(self) -> Mapping[str, Any]:
        """The entity's memo, empty if it never existed. Needs no worker, and is never out of date.

        The memo of an entity that has ended stays for as long as Temporal keeps the workflow.
        """
        memo, _ = await self.read()
        return memo

    async def read(self) -> tuple[Mapping[str, Any], bool]:
        """The entity's memo (see `memo`), and whether the entity is running."""
        found = await self.describe()
        if found is None:
            return {}, False
        return await found.memo(), found.status is WorkflowExecutionStatus.RUNNING

    @contextlib.asynccontextmanager
    async def _answering(self, timeout: timedelta) -> AsyncIterator[None]:
        """Limits the time of a call that a worker must answer, and heals an entity that does
        not."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                yield
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # temporalio hides the cancellation
                raise asyncio.CancelledError from None
            await heal(self.client, self.id)
            raise TimeoutError(
                f"{self.id} did not answer within {timeout.total_seconds():g} s: a worker must"
                f" poll task queue {names.SYSTEM_TASK_QUEUE!r} of namespace"
                f" {self.client.namespace!r}."
            ) from None


def _stamped(message: Any) -> list[Any]:
    """A message, and the current time. A dataclass becomes a dict of its fields, because its own
    encoding would copy the events in it first."""
    is_record = dataclasses.is_dataclass(message) and not isinstance(message, type)
    return [vars(message) if is_record else message, now_ms()]


def now_ms() -> int:
    """The current time of this process, in ms since 1970."""
    return time.time_ns() // 1_000_000


def _ended_meanwhile(error: WorkflowUpdateFailedError) -> bool:
    """Whether the entity ended, or continued as new, before it answered."""
    cause = error.cause
    return isinstance(cause, ApplicationError) and cause.type == "AcceptedUpdateCompletedWorkflow"


async def _forget(start: WithStartWorkflowOperation[Any, Any]) -> None:
    """Read the second copy of the error that the operation keeps, because asyncio would report it
    as never retrieved."""
    with contextlib.suppress(RPCError, TimeoutError):
        async with asyncio.timeout(0.1):
            await start.workflow_handle()


_TEMPORARY = {
    RPCStatusCode.ABORTED,
    RPCStatusCode.ALREADY_EXISTS,
    RPCStatusCode.FAILED_PRECONDITION,
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.RESOURCE_EXHAUSTED,
}
