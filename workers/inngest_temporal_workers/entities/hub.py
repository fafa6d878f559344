"""The hub of one event name: the paths by which waits for it are kept. Its memo is the answer; it
only ever grows."""

from typing import Any

from temporalio import workflow

from inngest_temporal.temporal import names

from .entity import NEVER_MS, Entity, entity

MAX_PATHS = 1_000


@entity(names.HUB_TYPE)
class HubWorkflow(Entity):
    def load(self, state: dict[str, Any]) -> None:
        self._paths: list[str] = list(state.get("paths", ()))
        workflow.upsert_memo(self.memo())

    def dump(self) -> dict[str, Any]:
        return {"paths": self._paths}

    def memo(self) -> dict[str, Any]:
        return {"paths": self._paths}

    def due_ms(self) -> int:
        """It never ends: whoever reads it must not find that a path is gone."""
        return NEVER_MS

    @workflow.update
    def add_path(self, path: str, sent_ms: int) -> None:
        self.asked(sent_ms)
        if path not in self._paths:
            self._paths.append(path)
            workflow.upsert_memo(self.memo())

    @add_path.validator
    def _check(self, path: str, sent_ms: int) -> None:
        if path and path not in self._paths and len(self._paths) >= MAX_PATHS:
            name = workflow.info().workflow_id.removeprefix(names.hub_id(""))
            raise ValueError(
                f"Waits for {name} use {MAX_PATHS} different paths already; compare a fixed path of"
                " the event instead."
            )
