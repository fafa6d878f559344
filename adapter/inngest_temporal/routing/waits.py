"""Waits for events, from the outside: registering one, deregistering it, and delivering an event to
all that match.

A wait's condition is split into one equality and the rest. The equality gives a *path* in the
incoming event and the value it must have there; event name, path and value name the *mailbox* that
keeps the wait. The *hub* of an event name lists the paths in use. Both are entity workflows
(`inngest_temporal_workers.entities.mailbox`, `inngest_temporal_workers.entities.hub`).

Registration puts the path into the hub and then the wait into the mailbox; only then has the wait
begun. Delivery reads the hub and signals the mailbox of each path; it does not wait for the hub to
signal those of paths that the hub had before. Every one of these calls is strongly consistent, so
an event that is sent after a registration returned can't miss it. But a process believes for a
moment what it has read of a hub. So the first wait by a path is registered only after that moment.
"""

import asyncio
import functools
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError

from inngest_temporal.expressions import (
    WaitCondition,
    split_condition,
    value_at,
    whole_condition,
)
from inngest_temporal.models import Cancel, milliseconds
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle

from . import events

CANCEL: Final = "cancel:"
"""Prefix of the id of a wait that cancels its run."""
NO_CONDITION = WaitCondition("", None, None, {})
KNOWN_SECONDS = 60.0
"""How long a process believes that a path is in its hub. An operator may terminate a hub, and a
later registration must put the path back."""
BELIEF_SECONDS = 0.25
"""How long a process believes what it has read of a hub, so that not every event reads it."""
SETTLING_SECONDS = 0.35
"""How long the first wait by a path is held back after the path is in the hub, until no process
believes what it read before."""
UNHEARD_SECONDS = 1.0
"""How long a run believes that nobody listens for its end. The first wait by a path for the ends of
runs is held back for as much longer."""
MAX_READ = 10_000
"""Maximum number of hubs that a process remembers."""
NAMING_SECONDS = 2.0
"""How long a reader waits to be told which runs an event resumed."""
CANCEL_LIFETIME_MS = 365 * 86_400_000
"""How long a `cancel` entry without a timeout is in force, as in Inngest."""


@dataclass(frozen=True)
class Wait:
    """One wait, as its mailbox keeps it."""

    run: str
    """Run id (workflow id) of the waiting run."""
    id: str
    """Hashed step id; or `cancel:<index>`, for an entry of the function's `cancel`."""
    expires_ms: int
    rest: str | None = None
    """What the condition says besides the equality; None: nothing is left to check."""
    event: dict[str, Any] = field(default_factory=dict)
    """The parts of the run's own event that `rest` needs."""
    own: list[str] = field(default_factory=list)
    """Internal ids of the run's own events, which it does not wait for."""


@dataclass(frozen=True)
class Delivery:
    """An event on its way to waits: the argument of the mailbox's and the run's signals."""

    id: str
    """Internal id (ULID)."""
    event: dict[str, Any]
    waits: list[str] = field(default_factory=list)
    """In a signal to a run: the ids of its waits that the event matches."""
    at_ms: int = 0
    """In a signal to a run: when its mailbox had the event, by Temporal's clock."""


@dataclass(frozen=True)
class Deregistration:
    """Removes a wait from its mailbox."""

    run: str
    wait: str
    """`Wait.id`."""


@dataclass(frozen=True)
class Resumed:
    """What an event did to a run that waited for it."""

    run: str
    cancelled: bool
    """Whether an entry of its function's `cancel` matched, so that the run was cancelled."""


def cancels(waits: Iterable[str]) -> bool:
    """Whether one of these waits (ids) cancels its run."""
    return any(wait.startswith(CANCEL) for wait in waits)


class Waits:
    """Hubs and mailboxes of one namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str], float] = {}
        self._adding: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._hubs = _HubReader(self._hub)

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def of(client: Client) -> "Waits":
        """The one that all users of a client share, so that they share what is known about hubs."""
        return Waits(client)

    async def register(
        self,
        *,
        run: str,
        wait: str,
        event_name: str,
        condition: str | None,
        event: dict[str, Any],
        own: Sequence[str],
        expires_ms: int,
    ) -> str:
        """Begin a wait of `run` (whose own event is `event`); returns the id of its mailbox.

        Raises `ExpressionError` if the condition does not compile, `RPCError` if Temporal can't be
        reached.
        """
        split = NO_CONDITION if condition is None else split_condition(condition, event)
        try:
            await self._add_path(event_name, split.path)
        except WorkflowUpdateFailedError:
            if condition is None or not split.path:
                raise
            # The hub is full of other paths. One mailbox for all values costs more with each event,
            # but no event is lost.
            split = whole_condition(condition, event)
            await self._add_path(event_name, split.path)
        mailbox = names.mailbox_id(event_name, split.path, split.value)
        await self._mailbox(mailbox).signal_with_start(
            "register", Wait(run, wait, expires_ms, split.rest, split.event, list(own))
        )
        return mailbox

    async def register_cancels(
        self, cancels: Sequence[Cancel], run: str, event: dict[str, Any], own: Sequence[str]
    ) -> dict[str, str]:
        """Register a run's `cancel` entries, before the run is started: wait id -> mailbox."""
        now_ms = round(time.time() * 1000)

        async def register(index: int, cancel: Cancel) -> tuple[str, str]:
            wait = f"{CANCEL}{index}"
            mailbox = await self.register(
                run=run,
                wait=wait,
                event_name=cancel.event,
                condition=cancel.if_exp,
                event=event,
                own=own,
                expires_ms=_cancel_expires_ms(cancel, now_ms),
            )
            return wait, mailbox

        lasting = [
            (index, cancel)
            for index, cancel in enumerate(cancels)
            if _cancel_expires_ms(cancel, now_ms) > now_ms
        ]
        return dict(await asyncio.gather(*(register(*each) for each in lasting)))

    async def deregister(self, mailbox: str, run: str, wait: str) -> None:
        """Deregister a wait; a no-op if it is not there."""
        await self._mailbox(mailbox).signal("deregister", Deregistration(run, wait))

    async def deliver(self, event: Mapping[str, Any], internal_id: str) -> bool:
        """Deliver an event to every wait that is registered for it; whether a mailbox took it.
        Raises `RPCError` if Temporal can't be reached."""
        name, delivery = event["name"], Delivery(internal_id, dict(event))
        hub = self._hubs.believed(name)
        if hub is not None:
            return await self._deliver(delivery, hub.paths)
        # A hub only grows, so the paths that it had before are still there. Only new paths have to
        # wait until it is read again.
        known = self._hubs.known(name)

        async def deliver_to_new() -> bool:
            hub = await self._hubs.read(name)
            return await self._deliver(delivery, hub.paths - known)

        return any(await asyncio.gather(self._deliver(delivery, known), deliver_to_new()))

    async def _deliver(self, delivery: Delivery, paths: Iterable[str]) -> bool:
        """Deliver an event to the mailboxes of these paths; whether one of them took it."""
        signals = [
            self._mailbox(mailbox).signal("deliver", delivery)
            for mailbox in _mailboxes(delivery.event, paths)
        ]
        return bool(signals) and any(await asyncio.gather(*signals))

    async def resumed(self, event: Mapping[str, Any], internal_id: str) -> list[Resumed]:
        """The runs that an event resumed or cancelled, as far as its mailboxes still know: they
        remember 20 runs for each of the last 100 events. Empty if Temporal or a worker does not
        answer.
        """
        try:
            async with asyncio.timeout(NAMING_SECONDS):
                paths = (await self._hubs.read(event["name"])).paths
                queries = (
                    self._client.get_workflow_handle(mailbox).query(
                        "resumed", internal_id, result_type=list[Resumed]
                    )
                    for mailbox in _mailboxes(event, paths)
                )
                answers = await asyncio.gather(*queries, return_exceptions=True)
        except (RPCError, TimeoutError):
            return []
        return [one for answer in answers if isinstance(answer, list) for one in answer]

    async def listens(self, event_name: str) -> bool:
        """Whether a run has ever waited for an event of that name. Raises `RPCError` if Temporal
        can't be reached."""
        return bool((await self._hubs.read(event_name)).paths)

    def _mailbox(self, mailbox: str) -> EntityHandle:
        return EntityHandle(self._client, names.MAILBOX_TYPE, mailbox)

    def _hub(self, event_name: str) -> EntityHandle:
        return EntityHandle(self._client, names.HUB_TYPE, names.hub_id(event_name))

    async def _add_path(self, event_name: str, path: str) -> None:
        """Make sure that a path is in the hub. Hubs never lose paths, so one that was there a
        moment ago needs no look.

        Many first waits for an event often come at once, and Temporal takes only 10 updates of a
        workflow at a time; so these waits share one update.
        """
        key = (event_name, path)
        if time.monotonic() < self._known.get(key, -math.inf) + KNOWN_SECONDS:
            return
        # Unlike an update, reading the hub needs no worker.
        if path in (await self._hubs.read(event_name, believed=0)).settled:
            self._known[key] = time.monotonic()
            return
        adding = self._adding.get(key)
        if adding is None:
            adding = self._adding[key] = asyncio.create_task(self._update_hub(event_name, path))
            adding.add_done_callback(lambda _: self._adding.pop(key))
        await asyncio.shield(adding)

    async def _update_hub(self, event_name: str, path: str) -> None:
        hub = self._hub(event_name)
        await hub.update_with_start("add_path", path, type(None))
        is_for_ends = event_name == events.FINISHED
        await asyncio.sleep(SETTLING_SECONDS + (UNHEARD_SECONDS if is_for_ends else 0))
        await hub.update_with_start("settle_path", path, type(None))
        self._known[event_name, path] = time.monotonic()


def _mailboxes(event: Mapping[str, Any], paths: Iterable[str]) -> set[str]:
    """Ids of the mailboxes where runs may wait for an event by these paths."""
    found = set()
    for path in paths:
        usable, value = value_at(dict(event), path) if path else (True, None)
        if usable:
            found.add(names.mailbox_id(event["name"], path, value))
    return found


def _cancel_expires_ms(cancel: Cancel, started_ms: int) -> int:
    """Until when an event cancels a run that was started at `started_ms`."""
    if cancel.until is not None:
        return round(cancel.until.timestamp() * 1000)
    if cancel.timeout is not None:
        return started_ms + milliseconds(cancel.timeout)
    return started_ms + CANCEL_LIFETIME_MS


@dataclass(frozen=True)
class _Hub:
    """What a hub said when it was read."""

    paths: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()
    """The paths that every reader of the hub knows."""


@dataclass(frozen=True)
class _Reading:
    asked_at: float
    """By `time.monotonic`."""
    hub: "asyncio.Task[_Hub]"
    before: frozenset[str]
    """Paths that the hub had when it was read before."""


class _HubReader:
    """Reads hubs. An answer serves all who ask within a moment after Temporal was asked. That
    is safe, because no wait relies on a path before it has been in its hub for longer."""

    def __init__(self, hub: Callable[[str], EntityHandle]) -> None:
        self._hub = hub
        self._readings: OrderedDict[str, _Reading] = OrderedDict()

    def known(self, event_name: str) -> frozenset[str]:
        """The paths that a hub had when it was last read, however long ago; it still has them."""
        reading = self._readings.get(event_name)
        if reading is None:
            return frozenset()
        return reading.hub.result().paths if _has_answered(reading.hub) else reading.before

    def believed(self, event_name: str) -> _Hub | None:
        """What a hub said so recently that it need not be asked again, or None."""
        reading = self._readings.get(event_name)
        if reading is None or not _has_answered(reading.hub):
            return None
        is_new = time.monotonic() - reading.asked_at < BELIEF_SECONDS
        return reading.hub.result() if is_new else None

    async def read(self, event_name: str, believed: float = BELIEF_SECONDS) -> _Hub:
        """What a hub says; `believed` is the maximum age in seconds. Raises `RPCError`."""
        oldest = time.monotonic() - believed
        while True:
            reading = self._readings.get(event_name)
            if reading is None or (reading.hub.done() and reading.asked_at <= oldest):
                return await asyncio.shield(self._ask(event_name).hub)
            if reading.asked_at > oldest:
                return await asyncio.shield(reading.hub)
            # This reading began too early. Hubs are read one reading at a time: wait for its end.
            await asyncio.wait([reading.hub])

    def _ask(self, event_name: str) -> _Reading:
        before, answer = self.known(event_name), asyncio.create_task(self._answer(event_name))
        reading = _Reading(time.monotonic(), answer, before)
        reading.hub.add_done_callback(functools.partial(self._forget_failed, event_name))
        self._readings[event_name] = reading
        self._readings.move_to_end(event_name)
        if len(self._readings) > MAX_READ:
            self._readings.popitem(last=False)
        return reading

    async def _answer(self, event_name: str) -> _Hub:
        memo = await self._hub(event_name).memo()
        return _Hub(frozenset(memo.get("paths", ())), frozenset(memo.get("settled", ())))

    def _forget_failed(self, event_name: str, task: "asyncio.Task[_Hub]") -> None:
        # All who asked may have given up before it fails, so nobody else would remove it.
        if not _has_answered(task):
            reading = self._readings.get(event_name)
            if reading is not None and reading.hub is task:
                del self._readings[event_name]


def _has_answered(task: "asyncio.Task[_Hub]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
