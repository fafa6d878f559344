"""The hub of one event name: the paths by which waits for it are kept. Its memo is the answer; it
only ever grows."""

from temporalio import workflow

from inngest_temporal.routing.waits import HubState
from inngest_temporal.temporal import names

MAX_PATHS = 1_000


@workflow.defn(name=names.HUB_TYPE, sandboxed=False)
class Hub:
    @workflow.init
    def __init__(self, state: HubState) -> None:
        self._paths = state.paths

    @workflow.run
    async def run(self, state: HubState) -> None:
        workflow.upsert_memo({"paths": self._paths})
        await workflow.wait_condition(
            lambda: (
                workflow.info().is_continue_as_new_suggested() and workflow.all_handlers_finished()
            )
        )
        workflow.continue_as_new(HubState(self._paths), memo={"paths": self._paths})

    @workflow.update
    def add_path(self, path: str) -> None:
        if path not in self._paths:
            self._paths.append(path)
            workflow.upsert_memo({"paths": self._paths})

    @add_path.validator
    def _check(self, path: str) -> None:
        if path and path not in self._paths and len(self._paths) >= MAX_PATHS:
            name = workflow.info().workflow_id.removeprefix(names.hub_id(""))
            raise ValueError(
                f"Waits for {name} use {MAX_PATHS} different paths already; compare a fixed path of"
                " the event instead."
            )
