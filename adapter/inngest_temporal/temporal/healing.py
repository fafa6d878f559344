"""Healing of entities that can't be replayed any more.

A workflow whose code does not fit its history fails each of its tasks, for ever. But an entity can
get a new history: Temporal resets it to its first task, so that it begins with the state that it
carried over and takes all messages since then once more, in order. It then repeats what it did
before, which is safe for all that entities do.
"""

import logging

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, ResetReapplyType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import (
    GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest,
    ResetWorkflowExecutionRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError

from .shared import Shared

logger = logging.getLogger(__name__)

MIN_ATTEMPTS = 3
"""Number of attempts of one workflow task from which on a workflow may count as broken."""
_NONDETERMINISM = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR


async def heal(client: Client, workflow_id: str) -> bool:
    """Give a workflow a new history if it can't be replayed; returns whether that was necessary.

    Harmless and cheap (one call) for a workflow that is well, slow or without a worker. Errors of
    Temporal are only logged: callers that need the workflow try again anyway. Callers that notice
    at the same time share one check, so a process says once that a workflow was broken.
    """
    try:
        return await _checks.get((client, workflow_id))
    except RPCError as error:
        logger.debug("Could not check whether %s is well: %s", workflow_id, error)
        return False


async def _heal(key: tuple[Client, str]) -> bool:
    client, workflow_id = key
    found = await client.get_workflow_handle(workflow_id).describe()
    if found.raw_description.pending_workflow_task.attempt < MIN_ATTEMPTS:
        return False
    execution = WorkflowExecution(workflow_id=workflow_id, run_id=found.run_id)
    failure = await _last_failure(client, execution)
    if failure is None or failure.workflow_task_failed_event_attributes.cause != _NONDETERMINISM:
        return False  # timeouts of a busy machine, or an error that a new history does not cure
    await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=execution,
            reason="It could not be replayed.",
            workflow_task_finish_event_id=await _first_task(client, execution) + 1,
            # If two processes notice at the same time, only one of them resets.
            request_id=f"heal-{found.run_id}",
            reset_reapply_type=ResetReapplyType.RESET_REAPPLY_TYPE_ALL_ELIGIBLE,
        )
    )
    logger.error(
        "%s could not be replayed, and begins again with all messages that it got: %s",
        workflow_id,
        failure.workflow_task_failed_event_attributes.failure.message,
    )
    return True


_checks = Shared(_heal, fresh=lambda _: 0.0)


async def _last_failure(client: Client, execution: WorkflowExecution) -> HistoryEvent | None:
    """The failure after which the pending task was first repeated; later ones are not recorded."""
    page = await client.workflow_service.get_workflow_execution_history_reverse(
        GetWorkflowExecutionHistoryReverseRequest(
            namespace=client.namespace, execution=execution, maximum_page_size=50
        )
    )
    for event in page.history.events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            return event
        if event.event_type in (
            EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
            EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
        ):
            return None
    return None


async def _first_task(client: Client, execution: WorkflowExecution) -> int:
    """Id of the event by which the first workflow task started."""
    token = b""
    while True:
        page = await client.workflow_service.get_workflow_execution_history(
            GetWorkflowExecutionHistoryRequest(
                namespace=client.namespace, execution=execution, next_page_token=token
            )
        )
        for event in page.history.events:
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                return event.event_id
        token = page.next_page_token
        if not token:
            raise ValueError(f"{execution.workflow_id} never had a workflow task.")
