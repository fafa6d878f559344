"""Entities, from the outside: whoever has something to tell one, or to ask.

An entity is a workflow with a name of its own (`inngest_temporal_workers.entities.entity` is the
other side). Each message goes with the time at which it was sent, which is the entity's clock. That
an entity is not there is an answer here, never an error.
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
from .healing import heal

logger = logging.getLogger(__name__)

ANSWER = timedelta(seconds=30)
"""How long an answer is waited for, unless one says otherwise."""
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
        """Tell it something; False if it is not there."""
        handle = self.client.get_workflow_handle(self.id)
        try:
            await handle.signal(name, args=_stamped(message), rpc_timeout=self.timeout)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return False
        return True

    async def signal_with_start(self, name: str, message: Any) -> str:
        """Tell it something, and start it if it is not there; which execution of it was told."""
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
        """What it answers; None if it is not there.

        Raises `TimeoutError` if no worker answers in time, `WorkflowUpdateFailedError` if it
        refuses.
        """
        handle = self.client.get_workflow_handle(self.id)
        try:
            async with self._answering(timeout):
                answer: T = await handle.execute_update(
                    name, args=_stamped(message), id=update_id, result_type=result_type
                )
                return answer
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
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
        """What it answers; it is started if it is not there.

        Asks again while the entity is full (Temporal allows 10 updates in flight), ends or
        continues as new. Raises `TimeoutError` if no worker answers in time,
        `WorkflowUpdateFailedError` if it refuses.
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
                    if error.status not in _PASSING:
                        raise
                except WorkflowUpdateFailedError as error:
                    if not _ended_meanwhile(error):
                        raise
                await asyncio.sleep(random.uniform(0.02, 0.1))

    async def query(self, name: str, result_type: type[T], *args: object) -> T | None:
        """What it answers; None if it is not there. Fails under load: for what people look at."""
        try:
            answer: T = await self.client.get_workflow_handle(self.id).query(
                name, args=args, result_type=result_type, rpc_timeout=self.timeout
            )
            return answer
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None

    async def describe(self) -> WorkflowExecutionDescription | None:
        """What Temporal knows of it; None if it is not there. Needs no worker."""
        try:
            return await self.client.get_workflow_handle(self.id).describe(rpc_timeout=self.timeout)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None

    async def has_task(self) -> bool:
        """Whether a worker has yet to deal with something that it was told. Needs no worker."""
        found = await self.describe()
        return found is not None and found.raw_description.HasField("pending_workflow_task")

    async def memo(self) -> Mapping[str, Any]:
        """Its memo, empty if it was never there. Needs no worker, and is never out of date.

        One that has ended, or was terminated, leaves its memo for as long as Temporal keeps it.
        """
        memo, _ = await self.read()
        return memo

    async def read(self) -> tuple[Mapping[str, Any], bool]:
        """As `memo`, and whether it is there."""
        found = await self.describe()
        if found is None:
            return {}, False
        return await found.memo(), found.status is WorkflowExecutionStatus.RUNNING

    @contextlib.asynccontextmanager
    async def _answering(self, timeout: timedelta) -> AsyncIterator[None]:
        """For a call that a worker must answer."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                yield
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # temporalio hides that it was cancelled
                raise asyncio.CancelledError from None
            await heal(self.client, self.id)
            raise TimeoutError(
                f"{self.id} did not answer within {timeout.total_seconds():g} s: a worker must"
                f" poll task queue {names.SYSTEM_TASK_QUEUE!r} of namespace"
                f" {self.client.namespace!r}."
            ) from None


def _stamped(message: Any) -> list[Any]:
    """A message and when it is sent. A dataclass goes as its fields: encoding it otherwise would
    copy the events in it first."""
    is_record = dataclasses.is_dataclass(message) and not isinstance(message, type)
    return [vars(message) if is_record else message, now_ms()]


def now_ms() -> int:
    """The time of this process, in ms since 1970."""
    return time.time_ns() // 1_000_000


def _ended_meanwhile(error: WorkflowUpdateFailedError) -> bool:
    """The entity ended, or continued as new, before it answered."""
    cause = error.cause
    return isinstance(cause, ApplicationError) and cause.type == "AcceptedUpdateCompletedWorkflow"


async def _forget(start: WithStartWorkflowOperation[Any, Any]) -> None:
    """The operation keeps its error a second time, which asyncio reports unless someone looks at
    it."""
    with contextlib.suppress(RPCError, TimeoutError):
        async with asyncio.timeout(0.1):
            await start.workflow_handle()


_PASSING = {
    RPCStatusCode.ABORTED,
    RPCStatusCode.ALREADY_EXISTS,
    RPCStatusCode.FAILED_PRECONDITION,
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.RESOURCE_EXHAUSTED,
}
