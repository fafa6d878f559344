"""No history of ours fails to replay, however long the calls in it took.

While a local activity is under way for more than about 8 seconds, the worker heartbeats its
workflow task, and on replay Temporal's core merges that task with the next one: what was decided by
the task's clock or by the length of history is then decided differently, for ever.

The test sends events for 25 seconds, with `--long` for ten minutes.
"""

import asyncio
import contextlib
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    Replayer,
    WorkerConfig,
)

import inngest_temporal as inngest
from inngest_temporal.temporal import names
from inngest_temporal_workers.plugin import InngestPlugin
from tests.apps import recorded
from tests.harness import App, running, until


@pytest.fixture(scope="session")
def temporal_address(scheduling_address: str) -> str:
    """A server that executes schedules: `recorded.yearly` has one, and a repeated call that
    makes it looks at it."""
    return scheduling_address


SECONDS = 25
LONG_SECONDS = 600
DELAYS = (0, 0, 0, 0, 4, 9.5, 12)
"""Seconds that a local activity takes: mostly none, sometimes more than the worker's patience."""
FAILURES = 0.08
CACHED = 20
"""How many workflows a worker keeps: others are evicted, and replayed when something happens."""
GRACE = timedelta(seconds=1)


@recorded.client.create_function(
    fn_id="holder",
    trigger=recorded.on("r/holder"),
    concurrency=[inngest.Concurrency(limit=1, key="event.data.k")],
)
async def holder(ctx: inngest.Context) -> None:
    await ctx.step.run("hold", asyncio.sleep, float(str(ctx.event.data["seconds"])))


@recorded.client.create_function(
    fn_id="newest",
    trigger=recorded.on("r/newest"),
    singleton=inngest.Singleton(mode="cancel"),
    throttle=inngest.Throttle(limit=1, period=5_000),
    timeouts=inngest.Timeouts(start=15_000, finish=20_000),
)
async def newest(ctx: inngest.Context) -> None:
    await ctx.step.sleep("nap", 3_000)


FUNCTIONS = [*recorded.FUNCTIONS, holder, newest]


class Trouble(SimplePlugin, Interceptor):
    """A plugin of a client: activities of its workers are late or fail at random, and its workers
    forget most of their workflows."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__("trouble")
        self.late: Counter[float] = Counter()
        """How many calls took that many seconds."""
        self._chance = chance

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        config["max_cached_workflows"] = CACHED
        config["interceptors"] = [*config.get("interceptors", []), self]
        return config

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Late(next, self)

    def delay(self) -> float:
        delay = self._chance.choice(DELAYS) if activity.info().is_local else 0.0
        self.late[delay] += 1
        return delay

    def fail(self) -> None:
        if self._chance.random() < FAILURES:
            raise ApplicationError("at random")


class _Late(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, trouble: Trouble) -> None:
        super().__init__(next)
        self._trouble = trouble

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        self._trouble.fail()  # before it has done anything, or after
        result = await super().execute_activity(input)
        await asyncio.sleep(self._trouble.delay())
        self._trouble.fail()
        return result


async def play(app: App, chance: random.Random, seconds: float) -> None:
    """Send events that use every entity, some of them again and again."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    each = [f"r/{function.local_id}" for function in FUNCTIONS if function is not recorded.yearly]
    followers = ["r/go", "r/other", "r/stop", "r/single-go"]
    while loop.time() < end:
        name = chance.choice([*each, *["r/holder"] * 12, *["r/newest"] * 3, *followers])
        data = {"id": chance.randrange(3), "k": chance.choice("abcdef")}
        with contextlib.suppress(Exception):  # what is refused now is sent again later
            await app.send(name, data | {"seconds": chance.choice((1, 8, 20))})
        await asyncio.sleep(chance.expovariate(4))


async def histories(client: Client) -> list[WorkflowHistory]:
    return [
        await client.get_workflow_handle(each.id, run_id=each.run_id).fetch_history()
        async for each in client.list_workflows()
    ]


@pytest.mark.timeout(LONG_SECONDS + 300)
async def test_every_history_replays_though_calls_are_slow_and_fail_and_caches_are_small(
    temporal_address: str, namespace: str, long: bool
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    trouble = Trouble(random.Random(seed))
    client = await Client.connect(temporal_address, namespace=namespace, plugins=[trouble])
    seconds = LONG_SECONDS if long else SECONDS
    async with running(client, *FUNCTIONS, graceful_shutdown_timeout=GRACE) as app:
        await play(app, random.Random(seed + 1), seconds)
        found = await histories(client)

    print(f"{len(found)} histories, activities by delay: {dict(trouble.late)}")
    assert sum(count for delay, count in trouble.late.items() if delay > 8) > 3
    assert await failures(found) == {}


class OneSlowCall(Trouble):
    """One call of a lock takes longer than the worker's patience, once it is `armed`."""

    armed = False

    def delay(self) -> float:
        if self.armed and activity.info().workflow_type == names.LOCK_TYPES["step"]:
            self.armed = False
            self.late[9.5] += 1
            return 9.5
        return 0.0

    def fail(self) -> None:
        pass


@pytest.mark.timeout(240)
async def test_a_lock_replays_after_a_slow_call_that_passes_a_permit_on(
    temporal_address: str, namespace: str
) -> None:
    """The second run is admitted by a call of 9.5 s, during which it reaches the age at which a
    lock looks for a holder; the third one waits, which makes the lock look."""
    trouble = OneSlowCall(random.Random(0))
    client = await Client.connect(temporal_address, namespace=namespace, plugins=[trouble])
    async with running(client, *FUNCTIONS, graceful_shutdown_timeout=GRACE) as app:
        await app.send("r/holder", {"k": "a", "seconds": 8})
        await asyncio.sleep(1)
        await app.send("r/holder", {"k": "a", "seconds": 20})
        await asyncio.sleep(3)
        trouble.armed = True
        await asyncio.sleep(3)
        await app.send("r/holder", {"k": "a", "seconds": 1})
        await until(lambda: trouble.late)
        await asyncio.sleep(14)
        found = await histories(client)
    assert await failures(found) == {}


async def failures(histories: list[WorkflowHistory]) -> dict[str, str]:
    """Why histories do not replay, or could not be replayed by live workers, by workflow id."""
    replayer = Replayer(workflows=[], plugins=[InngestPlugin(FUNCTIONS)])
    found = {each.workflow_id: "failed live" for each in histories if failed_for_ever(each)}
    for history in histories:
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        if result.replay_failure is not None:
            found[history.workflow_id] = str(result.replay_failure)[:300]
    return found


def failed_for_ever(history: WorkflowHistory) -> bool:
    nondeterministic = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
    return any(
        event.workflow_task_failed_event_attributes.cause == nondeterministic
        for event in history.events
    )
