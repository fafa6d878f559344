"""The registry: the versions of all apps, so that readers see at a glance which apps have changed.

Its memo is `{"apps": {app_id: version}}`. It never ends: it continues as new. Versions are times,
so they increase even if an operator terminates an entity and it starts from nothing.
"""

from typing import Any, ClassVar

import pydantic
from temporalio import workflow

from inngest_temporal.temporal import names

from .entity import NEVER_MS, Entity, entity


@entity(names.REGISTRY_TYPE)
class RegistryWorkflow(Entity):
    """All apps."""

    messages: ClassVar = {"changed": pydantic.TypeAdapter(tuple[str, int])}

    def load(self, state: dict[str, Any]) -> None:
        self._apps: dict[str, int] = dict(state.get("apps", {}))

    def dump(self) -> dict[str, Any]:
        return {"apps": self._apps}

    def memo(self) -> dict[str, Any]:
        return {"apps": self._apps}

    def due_ms(self) -> int:
        return NEVER_MS

    async def take(self, name: str, message: Any) -> None:
        """Take the new version of a listed app from its entity."""
        app_id, version = message
        if app_id in self._apps:
            self._put(app_id, version)

    @workflow.update
    def put(self, app: tuple[str, int], at_ms: int) -> int:
        """List an app (id and version), unless a later version is listed; returns the version that
        is listed."""
        self.asked(at_ms)
        self._put(*app)
        return self._apps[app[0]]

    @put.validator
    def _check_put(self, app: tuple[str, int], at_ms: int) -> None:
        _check(*app)

    @workflow.update
    def restore(self, apps: dict[str, int], at_ms: int) -> int:
        """List the apps of a registry that was terminated; returns how many are listed now."""
        self.asked(at_ms)
        for app in apps.items():
            self._put(*app)
        return len(self._apps)

    @restore.validator
    def _check_restore(self, apps: dict[str, int], at_ms: int) -> None:
        for app in apps.items():
            _check(*app)

    @workflow.update
    def drop(self, app: tuple[str, int], at_ms: int) -> int:
        """Remove an app that has been gone since this version, unless it was published again later;
        returns the version that is listed, 0 for none."""
        self.asked(at_ms)
        app_id, version = app
        if self._apps.get(app_id, version + 1) <= version:
            del self._apps[app_id]
            workflow.upsert_memo(self.memo())
        return self._apps.get(app_id, 0)

    @drop.validator
    def _check_drop(self, app: tuple[str, int], at_ms: int) -> None:
        _check(*app)

    def _put(self, app_id: str, version: int) -> None:
        if version > self._apps.get(app_id, 0):
            self._apps[app_id] = version
            workflow.upsert_memo(self.memo())


def _check(app_id: object, version: int) -> None:
    if not isinstance(app_id, str) or not app_id:
        raise ValueError(f"The id of an app must be a non-empty string, not {app_id!r}.")
    if version < 1:
        raise ValueError(f"App {app_id!r} can't have version {version}.")
