"""Cron triggers: their exact schedules, and what a tick starts."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import (
    Client,
    ScheduleActionStartWorkflow,
    ScheduleDescription,
    ScheduleOverlapPolicy,
    WorkflowHandle,
)
from temporalio.service import RPCError, RPCStatusCode

import inngest_temporal as inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.cron import parse_cron
from inngest_temporal.errors import FunctionConfigInvalidError
from inngest_temporal.models import TriggerCron
from inngest_temporal.routing import events, publishing
from inngest_temporal.routing.registry import AppConfig, AppDocument, Follower
from inngest_temporal.temporal import names
from inngest_temporal.temporal.runs import started_by
from inngest_temporal_workers.entities import schedule as schedules
from inngest_temporal_workers.entities.schedule import ScheduleActivities, cron_triggers
from inngest_temporal_workers.plugin import system_worker
from tests.harness import another, new_client, running, until


@pytest.fixture(scope="session")
def temporal_address(scheduling_address: str) -> str:
    """A server that executes schedules."""
    return scheduling_address


HOURS = [f"0 {hour} * * *" for hour in range(24)]


def app(*crons: str, app_id: str = "app", jitter: str | None = None) -> AppConfig:
    """An app with one function of these cron triggers."""
    triggers = [TriggerCron(cron=cron, jitter=jitter) for cron in crons]
    config = FunctionConfig(id=f"{app_id}-fn", name="fn", triggers=[*triggers])
    return AppConfig(app_id=app_id, task_queue=names.task_queue(app_id), functions=[config])


def schedule_id(cron: str, app_id: str = "app") -> str:
    return names.schedule_id(app_id, f"{app_id}-fn", cron)


async def describe(client: Client, schedule: str) -> ScheduleDescription | None:
    """The schedule, or None. Unlike a listing, this is strongly consistent."""
    try:
        return await client.get_schedule_handle(schedule).describe()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return None


async def assert_scheduled(client: Client, *crons: str, of: list[str] = HOURS) -> None:
    """These crons of app `app` have a schedule, and the others of `of` have none."""
    candidates = sorted({*crons, *of})

    async def are() -> bool:
        found = await asyncio.gather(*(describe(client, schedule_id(cron)) for cron in candidates))
        there = {cron for cron, one in zip(candidates, found, strict=True) if one is not None}
        return there == set(crons)

    await until(are)


async def assert_listed(client: Client, *ids: str) -> None:
    """The namespace has these schedules and no others."""

    async def exact() -> bool:
        return sorted([one.id async for one in await client.list_schedules()]) == sorted(ids)

    await until(exact)


@pytest_asyncio.fixture
async def system(client: Client) -> AsyncIterator[None]:
    async with system_worker(client):
        yield


# What a schedule looks like


async def next_times(client: Client, cron: str) -> list[datetime]:
    await publishing.publish(client, app(cron))
    found = await describe(client, schedule_id(cron))
    assert found is not None
    times = list(found.info.next_action_times)
    assert times
    return times


@pytest.mark.usefixtures("system")
async def test_a_restricted_day_of_month_and_a_day_of_week_are_alternatives(client: Client) -> None:
    both = await next_times(client, "30 9 13 * 5")
    assert all((one.hour, one.minute, one.second) == (9, 30, 0) for one in both)
    assert all(one.day == 13 or one.isoweekday() == 5 for one in both)
    assert {one.isoweekday() == 5 for one in both} == {True, False}
    assert all(later - sooner <= timedelta(days=7) for sooner, later in itertools.pairwise(both))

    # As robfig/cron: a step restricts, a list with a star does not.
    assert any(
        one.day % 2 == 0 and one.isoweekday() == 1
        for one in await next_times(client, "0 9 */2 * 1")
    )
    assert all(one.isoweekday() == 1 for one in await next_times(client, "0 9 *,13 * 1"))
    assert all(one.day == 13 for one in await next_times(client, "0 9 13 * ?"))


ZONES = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Jerusalem",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Moscow",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "UTC",
]

NAIVE: dict[str, Callable[[datetime], bool]] = {
    "30 2 * * *": lambda at: (at.hour, at.minute) == (2, 30),
    "59 1 * * *": lambda at: (at.hour, at.minute) == (1, 59),
    "*/5 * * * *": lambda at: at.minute % 5 == 0,
    "0,45 0-3 * * SUN,1": lambda at: (
        at.minute in (0, 45) and at.hour <= 3 and at.isoweekday() in (7, 1)
    ),
    "15 0,23 1,31 * 6": lambda at: (
        at.minute == 15 and at.hour in (0, 23) and (at.day in (1, 31) or at.isoweekday() == 6)
    ),
    "0 */6 28-31 2,10 *": lambda at: (
        at.minute == 0 and at.hour % 6 == 0 and at.day >= 28 and at.month in (2, 10)
    ),
}
"""Expressions, and whether they match a time of the clock on the wall."""


def changes_of_clocks(zone: ZoneInfo, year: int) -> list[datetime]:
    """Days during which the zone's offset changes, as their beginning in UTC."""
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(365)]
    pairs = itertools.pairwise(days)
    return [day for day, after in pairs if offset(day, zone) != offset(after, zone)]


def offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


async def ticks(client: Client, cron: str, begin: datetime, end: datetime) -> list[datetime]:
    """The times at which the server says that a schedule ticks, without those that do not count."""
    [trigger] = cron_triggers([app(cron).to_json()]).values()
    schedule = await client.create_schedule(f"{cron} {begin}", schedules.schedule_of(trigger))
    moments: list[datetime] = []
    for day in range((end - begin).days):  # the server lists 1,000 at most
        request = ListScheduleMatchingTimesRequest(
            namespace=client.namespace, schedule_id=schedule.id
        )
        request.start_time.FromDatetime(begin + timedelta(days=day, seconds=-1))
        request.end_time.FromDatetime(begin + timedelta(days=day + 1, seconds=-1))
        listed = await client.workflow_service.list_schedule_matching_times(request)
        moments += [one.ToDatetime(UTC) for one in listed.start_time]
    return [moment for moment in moments if parse_cron(cron).is_due(moment)]


@pytest.mark.parametrize("zone", ZONES)
async def test_every_minute_whose_wall_clock_matches_is_a_tick_whatever_the_clocks_do(
    client: Client, zone: str
) -> None:
    known = ZoneInfo(zone)
    days = changes_of_clocks(known, 2027) or [datetime(2027, 10, 30, tzinfo=UTC)]
    for day, (times, naive) in itertools.product(days, NAIVE.items()):
        begin, end = day - timedelta(days=2), day + timedelta(days=3)
        minutes = (begin + timedelta(minutes=minute) for minute in range(5 * 24 * 60))
        expected = [minute for minute in minutes if naive(minute.astimezone(known))]
        assert await ticks(client, f"TZ={zone} {times}", begin, end) == expected, (day, times)


def test_a_tick_that_somebody_asks_for_counts_at_any_time() -> None:
    cron = parse_cron("TZ=Europe/Berlin 0 9 * * *")
    summer = datetime(2027, 7, 1, 7, 0, tzinfo=UTC)
    assert cron.is_due(summer)
    assert not cron.is_due(summer + timedelta(hours=1))  # it is 9:00 in winter time
    assert cron.is_due(summer + timedelta(hours=1, seconds=1))
    assert cron.is_due(summer + timedelta(hours=3))


@pytest.mark.parametrize(
    ("word", "times"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
    ],
)
def test_a_word_stands_for_five_fields(word: str, times: str) -> None:
    assert parse_cron(word) == parse_cron(times)
    for prefix in ("TZ", "CRON_TZ"):
        zoned = parse_cron(f"{prefix}=America/New_York {times}")
        assert zoned == parse_cron(f"TZ=America/New_York {word}")
        assert zoned.zone == "America/New_York"
    assert parse_cron("@yearly") == parse_cron("0 0 1 jan ?")


@pytest.mark.usefixtures("system")
async def test_a_schedule_neither_catches_up_nor_waits_for_the_run_before(client: Client) -> None:
    await publishing.publish(client, app("@every 90m", jitter="1m30s"))
    found = await describe(client, schedule_id("@every 90m"))
    assert found is not None
    assert found.schedule.spec.intervals[0].every == timedelta(minutes=90)
    assert found.schedule.spec.jitter == timedelta(seconds=90)
    assert found.schedule.policy.catchup_window == timedelta(seconds=10)
    assert found.schedule.policy.overlap == ScheduleOverlapPolicy.ALLOW_ALL
    assert isinstance(found.schedule.action, ScheduleActionStartWorkflow)
    assert found.schedule.action.task_queue == names.SYSTEM_TASK_QUEUE


def test_ids_of_schedules_differ_by_app_function_and_times_alone() -> None:
    def ids(config: AppConfig) -> list[str]:
        return list(cron_triggers([config.to_json()]))

    assert (
        ids(app("0  9 * * *")) == ids(app("0 9 * * *", jitter="5s")) == [schedule_id("0 9 * * *")]
    )
    assert len({schedule_id("@daily"), schedule_id("@daily", "other"), schedule_id("@hourly")}) == 3
    assert cron_triggers([]) == cron_triggers([{"functions": [{"id": 5}]}]) == {}


# The list of schedules


@pytest.mark.usefixtures("system")
async def test_schedules_follow_the_configuration(client: Client) -> None:
    await publishing.publish(client, app(*HOURS[:3]))
    await assert_scheduled(client, *HOURS[:3])
    await publishing.publish(client, app(*HOURS[1:4]))
    await assert_scheduled(client, *HOURS[1:4])
    await publishing.publish(client, app())
    await assert_scheduled(client)
    await publishing.publish(client, app(*HOURS[:2]))
    await publishing.publish(client, app("@daily", app_id="other"))
    await assert_scheduled(client, *HOURS[:2])
    await assert_listed(client, *map(schedule_id, HOURS[:2]), schedule_id("@daily", "other"))
    await publishing.remove(client, "app")
    await assert_scheduled(client)
    await assert_listed(client, schedule_id("@daily", "other"))


@pytest.mark.usefixtures("system")
async def test_a_changed_jitter_changes_the_schedule_and_leaves_it_paused(client: Client) -> None:
    await publishing.publish(client, app("@daily", "@hourly", jitter="5s"))
    await client.get_schedule_handle(schedule_id("@daily")).pause(note="by the operator")
    before = await describe(client, schedule_id("@hourly"))
    await publishing.publish(client, app("@daily", "@hourly", jitter="5s"))
    assert await describe(client, schedule_id("@hourly")) == before  # nothing was written

    await publishing.publish(client, app("@daily", "@hourly", jitter="10s"))
    changed = await describe(client, schedule_id("@daily"))
    assert changed is not None
    assert changed.schedule.spec.jitter == timedelta(seconds=10)
    assert changed.schedule.state.paused
    await assert_listed(client, schedule_id("@daily"), schedule_id("@hourly"))


@pytest.mark.usefixtures("system")
async def test_a_worker_that_starts_restores_a_schedule_that_someone_deleted(
    client: Client,
) -> None:
    version = await publishing.publish(client, app("@daily", "@hourly"))
    await client.get_schedule_handle(schedule_id("@daily")).delete()
    assert await publishing.publish(client, app("@daily", "@hourly")) == version
    await assert_scheduled(client, "@daily", "@hourly")


async def test_publishing_by_several_workers_at_once_leaves_the_schedules_of_one_of_them(
    client: Client,
) -> None:
    configs = [app(*HOURS[start : start + 6]) for start in range(0, 18, 3)]
    async with system_worker(client), system_worker(await another(client)):
        for _ in range(3):
            await asyncio.gather(*(publishing.publish(client, config) for config in configs))
            memo = await (await client.get_workflow_handle(names.app_id("app")).describe()).memo()
            won = cron_triggers(AppDocument.from_json(memo["app"]).merged())
            await assert_scheduled(client, *(trigger.cron for trigger in won.values()))
        await assert_listed(client, *won)


async def test_two_workers_that_start_at_once_make_one_schedule_for_each_trigger(
    client: Client,
) -> None:
    inngest_client = new_client()

    def function(*hours: str) -> inngest.Function[Any]:
        @inngest_client.create_function(
            fn_id="fn", trigger=[inngest.TriggerCron(cron=hour) for hour in hours]
        )
        async def fn(ctx: inngest.Context) -> None:
            pass

        return fn

    async def work(config: inngest.Function[Any], stop: asyncio.Event, up: asyncio.Barrier) -> None:
        async with running(await another(client), config):
            await up.wait()
            await stop.wait()

    for hours in (HOURS[:4], HOURS[2:6], HOURS[:4]):
        stop, up = asyncio.Event(), asyncio.Barrier(3)
        workers = [asyncio.create_task(work(function(*hours), stop, up)) for _ in range(2)]
        async with asyncio.timeout(60):
            await up.wait()
        await assert_scheduled(client, *hours)
        await assert_listed(client, *map(schedule_id, hours))
        stop.set()
        await asyncio.gather(*workers)


@pytest.mark.usefixtures("system")
async def test_replicas_that_start_at_once_share_a_check_of_the_schedules(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more of them than the 10 updates that Temporal takes of one workflow at a time."""
    monkeypatch.setattr(publishing, "SHARED_SECONDS", 3600)
    version = await publishing.publish(client, app(*HOURS[:2]))
    put, calls = ScheduleActivities._put, itertools.count()

    async def counted(self: ScheduleActivities, trigger: schedules.CronTrigger) -> str | None:
        next(calls)
        return await put(self, trigger)

    monkeypatch.setattr(ScheduleActivities, "_put", counted)
    assert (
        await asyncio.gather(*(publishing.publish(client, app(*HOURS[:2])) for _ in range(30)))
        == [version] * 30
    )
    assert next(calls) < 10  # not 60; a check may be repeated


HANGING_WORKER = """
import asyncio, sys
from temporalio.client import Client
from inngest_temporal_workers.plugin import system_worker
from inngest_temporal_workers.entities.schedule import ScheduleActivities

address, namespace, method, working = sys.argv[1:]
real = getattr(ScheduleActivities, method)

async def hangs(self, schedule, **options):
    if getattr(schedule, "schedule_id", schedule) in working.split():
        return await real(self, schedule, **options)
    print("hangs", flush=True)
    await asyncio.sleep(3600)

async def main():
    await system_worker(await Client.connect(address, namespace=namespace)).run()

setattr(ScheduleActivities, method, hangs)
asyncio.run(main())
"""
"""A system worker that makes or deletes some of the schedules and then hangs."""


@pytest.mark.parametrize(
    ("method", "before", "after"), [("_put", 0, 4), ("_delete", 4, 0), ("_delete", 4, 4)]
)
async def test_a_worker_killed_halfway_leaves_nothing_behind(
    client: Client, method: str, before: int, after: int
) -> None:
    old, new = app(*HOURS[:before]), app(*HOURS[4 : 4 + after])
    async with system_worker(client):
        await publishing.publish(client, old)
    address = client.service_client.config.target_host
    working = " ".join(map(schedule_id, HOURS[::2]))
    arguments = ["-c", HANGING_WORKER, address, client.namespace, method, working]
    worker = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    patience = timedelta(seconds=120)  # a regular activity whose worker is gone takes 60
    task = asyncio.create_task(publishing.publish(await another(client), new, patience))
    assert worker.stdout is not None
    async with asyncio.timeout(60):
        while await worker.stdout.readline() != b"hangs\n":
            assert not worker.stdout.at_eof()  # Temporal's core may log something first
    worker.kill()
    await worker.wait()
    async with system_worker(await another(client)):
        await task
    await assert_scheduled(client, *HOURS[4 : 4 + after])


@pytest.mark.usefixtures("system")
async def test_failing_calls_are_repeated_until_they_work(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ScheduleActivities._put
    failures = iter(range(5))

    async def flaky(self: ScheduleActivities, trigger: schedules.CronTrigger) -> str | None:
        refusal = await put(self, trigger)
        if next(failures, None) is not None:
            raise RuntimeError("The reply was lost.")
        return refusal

    monkeypatch.setattr(ScheduleActivities, "_put", flaky)
    await publishing.publish(client, app(*HOURS[:3]))
    await assert_scheduled(client, *HOURS[:3])


@pytest.mark.usefixtures("system")
async def test_schedules_are_found_again_after_an_entity_was_terminated(client: Client) -> None:
    await publishing.publish(client, app(*HOURS[:3]))
    await publishing.publish(client, app("@daily", app_id="app-2"))
    await assert_listed(client, *map(schedule_id, HOURS[:3]), schedule_id("@daily", "app-2"))
    await client.get_workflow_handle(names.app_id("app")).terminate()
    await publishing.publish(client, app(HOURS[2], HOURS[3]))
    await assert_scheduled(client, HOURS[2], HOURS[3])
    await assert_listed(client, *map(schedule_id, HOURS[2:4]), schedule_id("@daily", "app-2"))


@pytest.mark.usefixtures("system")
async def test_a_schedule_that_temporal_refuses_changes_nothing(client: Client) -> None:
    await publishing.publish(client, app(HOURS[0], "@every 5m"))
    with pytest.raises(
        FunctionConfigInvalidError,
        match="Function 'app-fn' can't have the cron 'TZ=Mars/Olympus @dai",
    ):
        await publishing.publish(client, app(HOURS[1], "TZ=Mars/Olympus @daily"))
    await assert_scheduled(client, HOURS[0], "@every 5m")
    snapshot = await Follower(client).refresh()
    assert snapshot.apps[0].to_json() == app(HOURS[0], "@every 5m").to_json()


# Ticks


def ticking(seen: list[inngest.Event], *triggers: TriggerCron) -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=[*triggers])
    async def fn(ctx: inngest.Context) -> str:
        seen.append(ctx.event)
        return "ticked"

    return fn


async def runs_of(client: Client, function_id: str) -> list[WorkflowHandle[Any, Any]]:
    found = client.list_workflows(f"WorkflowType = '{function_id}'")
    return [client.get_workflow_handle(one.id) async for one in found]


async def test_a_tick_starts_one_run_of_that_function_alone(client: Client) -> None:
    seen: list[inngest.Event] = []

    @new_client().create_function(fn_id="other", trigger=inngest.TriggerEvent(event="inngest/*"))
    async def other(ctx: inngest.Context) -> None:
        if ctx.event.name == events.TIMER:
            seen.append(ctx.event)

    cron = "TZ=Europe/Paris 0 9 * * *"
    async with running(
        client, ticking(seen, TriggerCron(cron=cron), TriggerCron(cron="@yearly")), other
    ):
        begun = datetime.now(UTC).replace(microsecond=0)
        await client.get_schedule_handle(schedule_id(cron)).trigger()
        [run] = await until(lambda: runs_of(client, "app-fn"))
        assert await run.result() == "ticked"
        [event] = seen
        at = datetime.strptime(event.id, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert begun <= at <= datetime.now(UTC)
        assert event.name == "inngest/scheduled.timer"
        assert event.data == {"cron": cron, "scheduledAt": event.id, "fireAt": event.id}
        assert event.ts == at.timestamp() * 1000
        stamped = events.scheduled("app-fn", cron, at, at)
        run_id = events.run_id("app-fn", stamped)
        assert run.id == run_id
        assert await started_by(await run.describe()) == [stamped.internal_id]

        # The tick again, as after a lost reply.
        tick = ScheduleActivities(client, Follower(client)).tick
        [trigger] = cron_triggers([app(cron).to_json()]).values()
        assert await tick(trigger, at.timestamp(), at.timestamp()) == {"run": run_id}
        assert len(await runs_of(client, "app-fn")) == 1


async def test_real_ticks_come_on_time_each_with_its_run(client: Client) -> None:
    seen: list[inngest.Event] = []
    fn = ticking(seen, TriggerCron(cron="@every 2s"), TriggerCron(cron="@every 3s", jitter="1s"))

    async def enough() -> bool:
        return len({one.id for one in seen if one.data["cron"] == "@every 2s"}) >= 3

    async with running(client, fn):
        await until(enough)
    runs = {}
    for one in seen:
        at, fired = (
            datetime.fromisoformat(str(one.data[key])) for key in ("scheduledAt", "fireAt")
        )
        assert one.ts == int(fired.timestamp() * 1000)
        if one.data["cron"] == "@every 2s":
            assert at.timestamp() % 2 == 0
            assert fired == at
        else:
            assert at.timestamp() % 3 == 0
            assert timedelta() <= fired - at < timedelta(seconds=5)
        stamped = events.scheduled(fn.id, str(one.data["cron"]), at.astimezone(UTC), fired)
        runs[one.data["cron"], one.id] = events.run_id(fn.id, stamped)

    async def listed() -> bool:
        return {run.id for run in await runs_of(client, fn.id)} >= set(runs.values())

    await until(listed)
    assert len(set(runs.values())) == len(runs)


@pytest.mark.usefixtures("system")
async def test_a_tick_for_a_trigger_that_is_gone_starts_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "MISSING_DELAYS", (0.1,))
    await publishing.publish(client, app("@daily"))
    [trigger] = cron_triggers([app("@hourly").to_json()]).values()
    start = schedules.CronTick.run
    result = await client.execute_workflow(
        start, trigger, id="tick", task_queue=names.SYSTEM_TASK_QUEUE
    )
    assert result is None
    assert await runs_of(client, "app-fn") == []


@pytest.mark.usefixtures("system")
async def test_a_tick_before_its_function_is_in_the_registry_waits_for_it(client: Client) -> None:
    [trigger] = cron_triggers([app("@daily").to_json()]).values()
    tick = await client.start_workflow(
        schedules.CronTick.run, trigger, id="tick", task_queue=names.SYSTEM_TASK_QUEUE
    )
    await publishing.publish(client, app("@daily"))
    assert await tick.result() in [run.id for run in await until(lambda: runs_of(client, "app-fn"))]


async def test_a_tick_at_which_the_wall_clock_shows_another_time_starts_nothing(
    client: Client,
) -> None:
    """A schedule has the times of summer and of winter, and only one of them counts."""
    cron = "TZ=Europe/Berlin 0 9 * * *"
    async with running(client, ticking([], TriggerCron(cron=cron))):
        tick = ScheduleActivities(client, Follower(client)).tick
        [trigger] = cron_triggers([app(cron).to_json()]).values()
        started = []
        for month, hour in itertools.product((1, 7), (7, 8)):
            at = datetime(2027, month, 1, hour, tzinfo=UTC).timestamp()
            if (await tick(trigger, at, at))["run"] is not None:
                started.append((month, hour))
    assert started == [(1, 8), (7, 7)]


async def test_a_tick_passes_the_gates(client: Client) -> None:
    @new_client().create_function(
        fn_id="fn",
        trigger=TriggerCron(cron="@daily"),
        rate_limit=inngest.RateLimit(limit=1, period=timedelta(hours=1)),
    )
    async def fn(ctx: inngest.Context) -> None:
        pass

    async with running(client, fn):
        activities = ScheduleActivities(client, Follower(client))
        [trigger] = cron_triggers([app("@daily").to_json()]).values()

        async def tick(moment: float) -> Any:
            async with asyncio.timeout(60):
                while True:  # as Temporal repeats an activity
                    with contextlib.suppress(TimeoutError):
                        return await activities.tick(trigger, moment, moment)

        routed = [await tick(moment) for moment in (1.8e9, 1.8e9, 1.8e9 + 60)]
        assert routed[0] == routed[1] != {"run": None}  # the same tick
        assert routed[2] == {"run": None}
