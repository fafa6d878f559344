"""The entity of an app: the functions that its workers have, which of its releases are up, and its
schedules.

Events are routed by its memo, `{"app": AppDocument JSON or null once removed, "version": n}`, which
is read by `describe` without a worker. The entity never ends: it continues as new. Only an entity
that was told of a removal and never of functions ends, after a day.

A *release* is one set of functions. Workers join the release that they publish and leave it when
they stop; a worker that was killed is noticed because it no longer renews. While workers of several
releases are up, for example during a rolling deploy, the functions of all of them are triggered.
The newest release is the one whose first publication was last, so a replica of an old release that
restarts changes nothing. A release without workers is dropped as soon as another one has some. The
last release stays, so that events are accepted while no worker is up.

An app that is served over HTTP has no workers that join: what it registers replaces what it had
registered before. It can't replace an app that has workers, but workers can replace it.
"""

import asyncio
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pydantic
from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

from inngest_temporal.config import FunctionConfig
from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.routing.locks import Change, changes
from inngest_temporal.routing.publishing import MAX_APP_BYTES, Publication, size
from inngest_temporal.routing.registry import AppDocument
from inngest_temporal.temporal import names

from .entity import NEVER_MS, Entity, entity
from .lock import announce
from .schedule import Schedules, cron_triggers

RENEW_SECONDS = 60
"""How often a worker renews while workers of several releases are up. While there is one release,
nothing depends on who is up, and nobody renews."""
MAX_MISSED = 3
"""How many renewals a worker may miss before it counts as gone."""
MAX_WORKERS = 100
"""Maximum number of workers that are remembered of a release, which is up as long as one of them
is."""
REMOVED_MS = 86_400_000
"""How long the removal of an unknown app is remembered."""
MAX_ORDERS = 200
"""Maximum number of releases that are remembered, so that one that was up before is not taken for a
new one."""


@dataclass(frozen=True)
class Member:
    """Argument of `App.join` and `App.leave`."""

    key: str
    """Key of the release."""
    worker: str
    """Id of the worker, another one each time that a worker is started."""


@dataclass(frozen=True)
class Pausing:
    """Argument of `App.set_paused`."""

    function: str
    """Full id."""
    paused: bool
    after: int
    """The last version of the app that the registry knows of."""


@dataclass
class AppState:
    """What an app's entity carries over when it continues as new."""

    app: AppDocument | None = None
    version: int = 0
    schedules: list[str] = field(default_factory=list)
    """Ids of the schedules that the entity made for cron triggers: `Schedules.remembered`."""
    workers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Release key -> worker -> the number of the round in which it last renewed. The worker ""
    stands for a release that nobody joined; it is up until something else is published."""
    orders: dict[str, int] = field(default_factory=dict)
    """Release key -> order of the release."""
    round: int = 0


_STATE = pydantic.TypeAdapter(AppState)


@entity(names.APP_TYPE)
class AppWorkflow(Entity):
    """One app's configuration."""

    messages: ClassVar = {
        "join": pydantic.TypeAdapter(Member),
        "leave": pydantic.TypeAdapter(Member),
    }

    def load(self, state: dict[str, Any]) -> None:
        self._state = _STATE.validate_python(state)
        self._schedules = Schedules(self._state.schedules, self.call)
        self._turn = asyncio.Lock()
        self._announcing: set[asyncio.Task[None]] = set()
        self._round_ends_ms: int | None = None

    def dump(self) -> dict[str, Any]:
        self._state.schedules = self._schedules.remembered
        return dataclasses.asdict(self._state)

    def memo(self) -> dict[str, Any]:
        app = self._state.app
        return {"app": app and dataclasses.asdict(app), "version": self._state.version}

    async def take(self, name: str, message: Any) -> None:
        if name == "join":
            self._join(message)
        else:
            self._forget([(message.key, message.worker)])

    async def act(self) -> None:
        """Count the rounds in which workers renew, and drop releases that no worker has any
        more."""
        if self._round_ends_ms is not None and self.now_ms >= self._round_ends_ms:
            self._next_round()
            self._round_ends_ms = None
        app = self._state.app
        if app is not None and self._living(app) != app:
            async with self._turn:
                if self._state.app is not None:
                    await self._replace(self._living(self._state.app), 0)
        if not self._is_contested():
            self._round_ends_ms = None
        elif self._round_ends_ms is None:
            self._round_ends_ms = self.now_ms + round(RENEW_SECONDS * 1000)

    def due_ms(self) -> int | None:
        if self._round_ends_ms is not None:
            return self._round_ends_ms
        if not self._is_removed or self._state.orders:
            return NEVER_MS
        ends_ms = self._state.version + REMOVED_MS
        return ends_ms if ends_ms > self.now_ms else None

    @workflow.update
    async def publish(self, publication: Publication, at_ms: int) -> int:
        """Add a release, or make it known again. Returns the configuration's version: the old one
        if nothing changed, and 0 if this is a renewal and the app was removed.

        Returns once the app's schedules are exactly those of its cron triggers. If Temporal refuses
        one of them, the update fails and everything is as before.
        """
        self.asked(at_ms)
        async with self._turn:
            if publication.renewal and self._is_removed:
                return 0
            if publication.app.get("http") and (refusal := self._refusal()):
                raise ApplicationError(refusal, type="FunctionConfigInvalidError")
            if not self._state.version:
                await self._schedules.adopt(_app_id())
            app = (self._state.app or AppDocument([], {})).with_release(
                publication.app, publication.key, self._order(publication.key), at_ms
            )
            self._mark_published(publication.key)
            least = max(publication.after + 1, at_ms)
            refusal = await self._replace(self._living(app), least)
            if refusal is not None:
                raise ApplicationError(refusal, type="FunctionConfigInvalidError")
            return self._state.version

    @publish.validator
    def _check(self, publication: Publication, at_ms: int) -> None:
        if publication.app.get("app_id") != _app_id():
            raise ValueError(
                f"The configuration of app {publication.app.get('app_id')!r} does not belong here."
            )
        if not all(isinstance(each["id"], str) for each in publication.app["functions"]):
            raise ValueError("A function has an id that is not a string.")

    @workflow.update
    async def remove(self, after: int, at_ms: int) -> int:
        """Forget the configuration; returns the version of its absence. `after` is the last version
        that the registry knows of."""
        self.asked(at_ms)
        async with self._turn:
            await self._replace(None, max(after + 1, at_ms))
            return self._state.version

    @workflow.update
    async def set_paused(self, pausing: Pausing, at_ms: int) -> int:
        """Pause or resume a function; deploys leave that as it is. Returns the configuration's
        version, the old one if nothing changed. Fails if no release has the function."""
        self.asked(at_ms)
        async with self._turn:
            app = self._state.app
            if app is None or not app.has(pausing.function):
                raise ApplicationError("There is no such function.", type="FunctionNotFoundError")
            changed = app.with_paused(pausing.function, pausing.paused)
            await self._replace(changed, max(pausing.after + 1, at_ms))
            return self._state.version

    @property
    def _is_removed(self) -> bool:
        return self._state.app is None and self._state.version > 0

    def _refusal(self) -> str | None:
        """Why the app can't be served over HTTP, if it can't."""
        releases = [] if self._state.app is None else self._state.app.releases
        if all(each.app.get("http") or self._is_free(each.key) for each in releases):
            return None
        return (
            f"App {_app_id()!r} has workers that execute its functions, so it can't be served over"
            " HTTP. Give one of the two another app id; or stop the workers, and if they were"
            f" killed, run: inngest-temporal remove {_app_id()}"
        )

    def _is_free(self, key: str) -> bool:
        """Whether a release has no workers: none has joined, or all have left."""
        return not any(self._state.workers.get(key, {}))

    def _join(self, member: Member) -> None:
        workers = self._state.workers.setdefault(member.key, {})
        workers.pop("", None)
        workers.pop(member.worker, None)
        workers[member.worker] = self._state.round
        if len(workers) > MAX_WORKERS:
            del workers[next(iter(workers))]

    def _order(self, key: str) -> int:
        orders = self._state.orders
        if key not in orders:
            orders[key] = max(orders.values(), default=0) + 1
        if len(orders) > MAX_ORDERS:
            del orders[min(orders, key=orders.__getitem__)]
        return orders.get(key, 0)

    def _mark_published(self, key: str) -> None:
        """A release is published: it is up, and other releases that nobody joined are not."""
        workers = self._state.workers
        self._forget([(each, "") for each in workers if each != key])
        if key not in workers:
            workers[key] = {"": self._state.round}
        # With one release, nobody has renewed so far: workers must not be missed for that.
        if not self._is_contested():
            for each in workers.values():
                each.update(dict.fromkeys(each, self._state.round))

    def _living(self, app: AppDocument) -> AppDocument:
        """The releases that have workers; if none has, only the newest. If they are too large
        together, the oldest ones are dropped."""
        keys = [each.key for each in app.releases if self._state.workers.get(each.key)]
        keys = keys or [each.key for each in app.releases[-1:]]
        while size(app.only(keys)) > MAX_APP_BYTES and len(keys) > 1:
            workflow.logger.warning(
                "The releases of app %r are too large to keep them all: the oldest is dropped",
                _app_id(),
            )
            del keys[0]
        return app.only(keys)

    async def _replace(self, app: AppDocument | None, least: int) -> str | None:
        """Replace the app's configuration, with a version of at least `least`. If Temporal refuses
        one of its schedules, returns why, and nothing has changed."""
        before = [] if self._state.app is None else self._state.app.merged()
        after = [] if app is None else app.merged()
        refusal = await self._schedules.sync(cron_triggers(after))
        if refusal is not None:
            await self._schedules.sync(cron_triggers(before))
            return refusal
        if app != self._state.app or not self._state.version:
            self._state.app = app
            self._state.version = max(self._state.version + 1, least)
            self._announce([*_changes(before, after, self._state.version)])
            workflow.upsert_memo(self.memo())
            await self._tell_registry()
        return None

    async def _tell_registry(self) -> None:
        """Tell the registry the version. A publisher does that itself; this is for later changes,
        such as the end of a release."""
        registry = workflow.get_external_workflow_handle(names.REGISTRY_ID)
        try:
            await registry.signal("changed", args=[[_app_id(), self._state.version], self.now_ms])
        except FailureError:
            workflow.logger.debug("there is no registry yet")

    def _is_contested(self) -> bool:
        """Whether several releases are up, so that it matters whose workers are there."""
        return self._state.app is not None and len(self._state.app.releases) > 1

    def _next_round(self) -> None:
        self._state.round += 1
        self._forget(
            (key, worker)
            for key, workers in self._state.workers.items()
            for worker, renewed in workers.items()
            if worker and self._state.round - renewed > MAX_MISSED
        )

    def _forget(self, gone: Iterable[tuple[str, str]]) -> None:
        for key, worker in [*gone]:
            workers = self._state.workers.get(key, {})
            workers.pop(worker, None)
            if not workers:
                self._state.workers.pop(key, None)

    def _announce(self, limits: list[Change]) -> None:
        if limits:
            task = asyncio.create_task(announce(limits))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

    @property
    def is_long(self) -> bool:
        return super().is_long and not self._announcing


def _app_id() -> str:
    return workflow.info().workflow_id.removeprefix(names.app_id(""))


def _changes(
    before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]], version: int
) -> Iterator[Change]:
    """The limits that have other settings in the later configuration, of functions that are in
    both."""
    known = {function["id"]: function for app in before for function in app["functions"]}
    for function in itertools.chain.from_iterable(app["functions"] for app in after):
        old = known.get(function["id"])
        if old is None or all(
            old.get(field) == function.get(field) for field in ("concurrency", "throttle", "paused")
        ):
            continue
        try:
            yield from changes(
                FunctionConfig.from_wire(old), FunctionConfig.from_wire(function), version
            )
        except FunctionConfigInvalidError:
            continue  # this version can't read it; locks learn of it with the next request
