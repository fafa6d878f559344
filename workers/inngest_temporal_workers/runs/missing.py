"""Runs whose function this worker lacks, for example during a deploy. Workflow code.

The workflow of a run is the same for all functions, so any worker of the app may have it. Only
executions need a worker that has the function; a worker that lacks it answers so at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from .executions import RunSettings
from .workflow import RunWorkflow


class DynamicRun(RunWorkflow):
    """The workflow of runs whose function this worker lacks. It does the same as that of other
    runs: each execution may be by another worker, which has the function. If a deploy has removed
    the function, no worker has it, and the run fails; until then it can be cancelled."""

    is_ours: ClassVar[Callable[[str], bool]]
    """Whether a workflow type may be a function of this app."""

    @workflow.init
    def __init__(self, args: Sequence[RawValue]) -> None:
        super().__init__(workflow.payload_converter().from_payload(args[0].payload))

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> Any:  # type: ignore[override]
        workflow_type = workflow.info().workflow_type
        if not type(self).is_ours(workflow_type):
            # This fails the workflow task, and another worker may take it.
            raise RuntimeError(f"Workflow class {workflow_type} is not registered on this worker.")
        return await RunWorkflow.run(self, {})


def dynamic_run_workflow(settings: RunSettings, is_ours: Callable[[str], bool]) -> type:
    """The workflow class of functions that this worker lacks."""
    members = {
        "settings": settings,
        "is_ours": staticmethod(is_ours),
        "run": DynamicRun.run,
        "__module__": __name__,
    }
    made = type(DynamicRun.__name__, (DynamicRun,), members)
    return workflow.defn(dynamic=True, sandboxed=False)(made)


class LeavesActivities(Interceptor):
    """Lets any worker take the activities of a `DynamicRun`. By default Temporal hands them to the
    worker that requested them, which is the one that lacks the function, again and again."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor]:
        return _Inbound


class _Inbound(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_Outbound(outbound))


class _Outbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        if isinstance(workflow.instance(), DynamicRun):
            input = replace(input, disable_eager_execution=True)
        return super().start_activity(input)
