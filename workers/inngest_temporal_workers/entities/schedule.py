"""Cron: one Temporal schedule for each cron trigger of an app, and what a tick does.

When an app's entity (`inngest_temporal_workers.entities.app`) takes a new configuration, it makes
the schedules exactly those of the cron triggers. For that it remembers every schedule that it may
have made, and handles one configuration at a time. A tick starts a small workflow on the system
queue, which starts a run of the schedule's function. Ticks that Temporal misses are not made up
for, and a tick does not wait for the run before. Source: Inngest's semantics, §4.12.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.cron import parse_cron
from inngest_temporal.models import TriggerCron, parse_duration
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Follower, RegisteredFunction, Snapshot
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names
from inngest_temporal_workers.calls import Calls

CATCHUP_WINDOW = timedelta(seconds=10)
"""How late Temporal may start a tick. The smallest value that it allows, because ticks that were
missed are not made up for."""
CHUNK = 100
"""Maximum number of schedules that one activity changes."""
CONCURRENCY = 10
"""Maximum number of calls that one activity makes at once."""
MISSING_DELAYS = (1, 4, 10, 45)
"""Seconds between looks for a function that is not in the registry: its schedules are made just
before it is published."""

SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""Set by the server on workflows that a schedule starts: the time of the tick without jitter, in
whole seconds."""


@dataclass(frozen=True)
class CronTrigger:
    """One cron trigger; also the argument of the workflow that a tick starts."""

    app_id: str
    function_id: str
    cron: str
    jitter: str | None = None

    @property
    def schedule_id(self) -> str:
        return names.schedule_id(self.app_id, self.function_id, self.cron)

    @property
    def max_jitter(self) -> timedelta | None:
        return timedelta(milliseconds=parse_duration(self.jitter or "0")) or None


@dataclass
class ScheduleChanges:
    """Argument of `inngest.sync_schedules`."""

    put: list[CronTrigger] = field(default_factory=list)
    """Schedules to make. One with the same id is replaced if it differs."""
    delete: list[str] = field(default_factory=list)


def cron_triggers(apps: Iterable[Mapping[str, Any]]) -> dict[str, CronTrigger]:
    """The cron triggers of `AppConfig` JSONs, by schedule id; what can't be read is left out."""
    found = [
        CronTrigger(app["app_id"], function["id"], trigger["cron"], trigger.get("jitter"))
        for app in apps
        for function in app.get("functions", ())
        for trigger in _list(function.get("triggers"))
        if isinstance(trigger, Mapping) and trigger.get("cron")
    ]
    return {trigger.schedule_id: trigger for trigger in found}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


class Schedules:
    """Part of an app's entity (workflow code): the schedules that it made."""

    def __init__(self, remembered: Iterable[str], call: Callable[..., Awaitable[Any]]) -> None:
        """`call` calls an activity (`Entity.call`)."""
        self.remembered = [*remembered]
        """Ids of all schedules that the entity may have made."""
        self._call = call

    async def adopt(self, app_id: str) -> None:
        """Find schedules of an entity that was terminated, so that they are not left behind."""
        self._remember(await self._call("inngest.find_schedules", [app_id], list[str]))

    async def sync(self, wanted: Mapping[str, CronTrigger]) -> str | None:
        """Make, change and delete schedules until they are the wanted ones. If Temporal refuses
        one, returns why."""
        delete = [id for id in self.remembered if id not in wanted]
        for ids in _chunks([*wanted]):
            self._remember(ids)  # before they are made, so that none can be forgotten
            refusal = await self._change(ScheduleChanges(put=[wanted[id] for id in ids]))
            if refusal is not None:
                return refusal
        for ids in _chunks(delete):
            await self._change(ScheduleChanges(delete=ids))
            self.remembered = [id for id in self.remembered if id not in ids]
        return None

    def _remember(self, ids: Iterable[str]) -> None:
        self.remembered = [*dict.fromkeys([*self.remembered, *ids])]

    async def _change(self, changes: ScheduleChanges) -> str | None:
        refusals = await self._call("inngest.sync_schedules", [changes], list[str])
        return refusals[0] if refusals else None


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]


@workflow.defn(name=names.CRON_TYPE, sandboxed=False)
class CronTick:
    """One tick of a schedule. Its result is the run's id; None if a gate held the event back, or if
    the trigger was removed."""

    @workflow.run
    async def run(self, trigger: CronTrigger) -> str | None:
        info = workflow.info()
        fire_at = info.workflow_start_time
        scheduled_at = info.typed_search_attributes.get(SCHEDULED_AT) or fire_at.replace(
            microsecond=0
        )
        times = [scheduled_at, fire_at if trigger.max_jitter else scheduled_at]
        arguments = [trigger, *(time.timestamp() for time in times)]
        calls = Calls()
        for delay in (*MISSING_DELAYS, None):
            calls.new_task()
            routed: dict[str, str | None] = await calls.call("inngest.tick", arguments, dict)
            if routed or delay is None:
                break
            await workflow.sleep(delay, summary="not in the registry yet")
        return routed.get("run")


@dataclass(frozen=True)
class ScheduleActivities:
    """The activities of app entities and ticks."""

    client: Client
    follower: Follower
    """Reads the registry; need not be started."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_router", Router(self.client, self.follower))

    _router: Router = field(init=False)

    def all(self) -> list[Callable[..., Any]]:
        return [self.find_schedules, self.sync_schedules, self.tick]

    @activity.defn(name="inngest.find_schedules")
    async def find_schedules(self, app_id: str) -> list[str]:
        """Ids of an app's schedules, as visibility knows them."""
        query = f"ScheduleId STARTS_WITH '{names.SCHEDULE_PREFIX}'"
        found = [schedule async for schedule in await self.client.list_schedules(query)]
        return [
            schedule.id for schedule in found if await schedule.memo_value("app_id", None) == app_id
        ]

    @activity.defn(name="inngest.sync_schedules")
    async def sync_schedules(self, changes: ScheduleChanges) -> list[str]:
        """Change schedules; returns why Temporal refused some of them. May be repeated."""
        limit = asyncio.Semaphore(CONCURRENCY)

        async def limited(change: Coroutine[Any, Any, str | None]) -> str | None:
            async with limit:
                return await change

        # All changes come to an end before an error is reported. Otherwise some might still be in
        # progress during the next attempt.
        results = await asyncio.gather(
            *(limited(self._delete(schedule)) for schedule in changes.delete),
            *(limited(self._put(trigger)) for trigger in changes.put),
            return_exceptions=True,
        )
        refusals = [result for result in results if isinstance(result, str)]
        for result in results:
            if isinstance(result, BaseException) and not refusals:
                raise result
        return refusals

    async def _put(self, trigger: CronTrigger) -> str | None:
        """Make or change a schedule, which also depends on this machine's time zone data. If it is
        refused, returns why."""
        try:
            made = schedule_of(trigger)
        except ValueError as error:
            return _refusal(trigger, str(error))
        memo = {"app_id": trigger.app_id, "function_id": trigger.function_id, "cron": trigger.cron}

        def update(known: ScheduleUpdateInput) -> ScheduleUpdate | None:
            if known.description.schedule.spec == made.spec:
                return None
            made.state = known.description.schedule.state  # it may be paused
            return ScheduleUpdate(made)

        try:
            try:
                await self.client.create_schedule(trigger.schedule_id, made, memo=memo)
            except ScheduleAlreadyRunningError:
                await self.client.get_schedule_handle(trigger.schedule_id).update(update)
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT:
                raise
            return _refusal(trigger, error.message)
        return None

    async def _delete(self, schedule: str) -> None:
        try:
            await self.client.get_schedule_handle(schedule).delete()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise

    @activity.defn(name="inngest.tick")
    async def tick(
        self, trigger: CronTrigger, scheduled_at: float, fire_at: float
    ) -> dict[str, str | None]:
        """Start the run of a tick (times: seconds since 1970). Returns `{"run": id}`; the id is
        None if a gate decides, or if the expression does not include that time. Returns `{}` if
        there is no such trigger."""
        at, fired = (datetime.fromtimestamp(moment, UTC) for moment in (scheduled_at, fire_at))
        if not parse_cron(trigger.cron).is_due(at):
            return {"run": None}
        known = self.follower.snapshot
        function = (known and _function(known, trigger)) or _function(
            await self.follower.refresh(), trigger
        )
        if function is None:
            return {}
        stamped = events.scheduled(trigger.function_id, trigger.cron, at, fired)
        return {"run": await self._router.start(function, stamped)}


def _refusal(trigger: CronTrigger, reason: str) -> str:
    return f"Function {trigger.function_id!r} can't have the cron {trigger.cron!r}: {reason}"


def _function(snapshot: Snapshot, trigger: CronTrigger) -> RegisteredFunction | None:
    """The function of a trigger, if it still has that cron."""
    function = snapshot.function(trigger.function_id)
    if function is None or function.app_id != trigger.app_id:
        return None
    crons = [known.cron for known in function.config.triggers if isinstance(known, TriggerCron)]
    return function if trigger.cron in crons else None


def schedule_of(trigger: CronTrigger) -> Schedule:
    """The schedule of a trigger. Raises `ValueError` for an invalid cron expression."""
    action = ScheduleActionStartWorkflow(
        names.CRON_TYPE,
        trigger,
        id=trigger.schedule_id,  # the server adds the time
        task_queue=names.SYSTEM_TASK_QUEUE,
    )
    policy = SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL, catchup_window=CATCHUP_WINDOW)
    state = ScheduleState(note=f"Cron {trigger.cron!r} of function {trigger.function_id!r}")
    return Schedule(action=action, spec=_spec(trigger), policy=policy, state=state)


def _spec(trigger: CronTrigger) -> ScheduleSpec:
    """The times of a schedule, in the form that Temporal returns, so that the two can be
    compared."""
    cron = parse_cron(trigger.cron)
    spec = ScheduleSpec(jitter=trigger.max_jitter)
    if cron.every is not None:
        spec.intervals = [ScheduleIntervalSpec(timedelta(seconds=cron.every))]
    spec.calendars = [
        ScheduleCalendarSpec(
            second=_ranges(frozenset({0})),
            minute=_ranges(times.minutes),
            hour=_ranges(times.hours),
            day_of_month=_ranges(times.days),
            month=_ranges(times.months),
            day_of_week=_ranges(times.weekdays),
            comment=trigger.cron,
        )
        for times in cron.in_utc()
    ]
    return spec


def _ranges(values: frozenset[int]) -> tuple[ScheduleRange, ...]:
    """The values as ranges of consecutive numbers."""
    starts = sorted(value for value in values if value - 1 not in values)
    ends = sorted(value for value in values if value + 1 not in values)
    return tuple(ScheduleRange(start, end, 1) for start, end in zip(starts, ends, strict=True))
