"""The hub of one event name: the paths by which waits for such events are kept, and which of these
paths every process knows by now. Both lists are in its memo, and only grow."""

from typing import Any

from temporalio import workflow

from inngest_temporal.temporal import names

from .entity import NEVER_MS, Entity, entity

MAX_PATHS = 1_000


@entity(names.HUB_TYPE)
class HubWorkflow(Entity):
    def load(self, state: dict[str, Any]) -> None:
        self._paths: list[str] = list(state.get("paths", ()))
        self._settled: list[str] = list(state.get("settled", ()))
        workflow.upsert_memo(self.memo())

    def dump(self) -> dict[str, Any]:
        return self.memo()

    def memo(self) -> dict[str, Any]:
        return {"paths": self._paths, "settled": self._settled}

    def due_ms(self) -> int:
        """Never: a hub does not end, because its readers rely on paths staying in it."""
        return NEVER_MS

    @workflow.update
    def add_path(self, path: str, sent_ms: int) -> None:
        self.asked(sent_ms)
        if path not in self._paths:
            self._paths.append(path)
            workflow.upsert_memo(self.memo())

    @workflow.update
    def settle_path(self, path: str, sent_ms: int) -> None:
        """Mark a path as settled: no process believes any more what it read before the path
        came."""
        self.asked(sent_ms)
        if path not in self._settled:
            self._settled.append(path)
            workflow.upsert_memo(self.memo())

    @add_path.validator
    def _check(self, path: str, sent_ms: int) -> None:
        if path and path not in self._paths and len(self._paths) >= MAX_PATHS:
            name = workflow.info().workflow_id.removeprefix(names.hub_id(""))
            raise ValueError(
                f"Waits for {name} use {MAX_PATHS} different paths already; compare a fixed path of"
                " the event instead."
            )
