"""The registry: the version of every app, so that readers see at a glance which ones have changed.

Its memo is `{"apps": {app_id: version}}`. It never ends: it continues as new. Versions are times,
so they rise even if an operator terminates an entity and it begins anew.
"""

from dataclasses import dataclass, field
from typing import Any

from temporalio import workflow

from inngest_temporal.temporal import names

from .entity import is_long

MAX_MESSAGES = 1_000
"""Updates and signals before it continues as new: Temporal allows 2,000 updates in one
execution."""


@dataclass
class RegistryState:
    """What the registry's entity carries over when it continues as new."""

    apps: dict[str, int] = field(default_factory=dict)


@workflow.defn(name=names.REGISTRY_TYPE, sandboxed=False)
class Registry:
    """All apps."""

    @workflow.init
    def __init__(self, state: RegistryState | None = None) -> None:
        self._apps = state.apps if state else {}
        self._messages = 0

    @workflow.run
    async def run(self, state: RegistryState | None = None) -> None:
        await workflow.wait_condition(self._is_full)
        workflow.continue_as_new(RegistryState(self._apps), memo=self._memo())

    @workflow.update
    def put(self, app: tuple[str, int], at_ms: int) -> None:
        """An app (its id) has this version now; an older one than is known changes nothing."""
        self._messages += 1
        app_id, version = app
        if version > self._apps.get(app_id, 0):
            self._apps[app_id] = version
            workflow.upsert_memo(self._memo())

    @put.validator
    def _check_put(self, app: tuple[str, int], at_ms: int) -> None:
        _check(*app)

    @workflow.signal
    def changed(self, app: tuple[str, int], at_ms: int) -> None:
        """The same, for an app that is listed; told by its entity."""
        self._messages += 1
        app_id, version = app
        if 0 < self._apps.get(app_id, 0) < version:
            self._apps[app_id] = version
            workflow.upsert_memo(self._memo())

    @workflow.update
    def drop(self, app: tuple[str, int], at_ms: int) -> None:
        """An app is gone since this version; one that was published again meanwhile is not."""
        self._messages += 1
        app_id, version = app
        if self._apps.get(app_id, version + 1) <= version:
            del self._apps[app_id]
            workflow.upsert_memo(self._memo())

    @drop.validator
    def _check_drop(self, app: tuple[str, int], at_ms: int) -> None:
        _check(*app)

    def _is_full(self) -> bool:
        return (self._messages >= MAX_MESSAGES or is_long()) and workflow.all_handlers_finished()

    def _memo(self) -> dict[str, Any]:
        return {"apps": self._apps}


def _check(app_id: object, version: int) -> None:
    if not isinstance(app_id, str) or not app_id:
        raise ValueError(f"The id of an app must be a non-empty string, not {app_id!r}.")
    if version < 1:
        raise ValueError(f"App {app_id!r} can't have version {version}.")
