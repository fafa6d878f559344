"""Locks on the embedded server: throttle, concurrency, singleton, priority."""

import asyncio
import contextlib
import functools
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

import inngest_temporal as inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing import events
from inngest_temporal.routing.locks import (
    GRANTED,
    LimitSettings,
    LockNeed,
    LockRequest,
    Locks,
    limits_of,
    settings_of,
)
from inngest_temporal.routing.registry import Follower
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.entities import entity as entities
from inngest_temporal_workers.entities import lock as locks
from inngest_temporal_workers.entities.queue import Decisions
from inngest_temporal_workers.plugin import system_worker
from inngest_temporal_workers.runs import admission, heartbeats
from tests.harness import TRIGGER, App, another, new_client, running, until


class Meter:
    """Counts how many are inside at once, by key."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[Any] = []

    @contextlib.asynccontextmanager
    async def inside(self, key: str = "", mark: Any = None, fill: int = 0) -> AsyncIterator[None]:
        """Nobody leaves before `fill` of the key were inside at once, or 5 seconds have passed."""
        self.now[key] += 1
        self.most[key] = max(self.most[key], self.now[key])
        self.order.append(mark)
        try:
            with contextlib.suppress(TimeoutError):
                await until(lambda: self.most[key] >= fill, 5)
            yield
        finally:
            self.now[key] -= 1


def holding(begun: list[Any], release: asyncio.Event, **options: Any) -> inngest.Function[Any]:
    """A function whose runs add their `n` to `begun`, and continue once they are released."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> None:
        async def work() -> None:
            begun.append(ctx.event.data["n"])
            async with asyncio.timeout(60):
                await release.wait()

        await ctx.step.run("work", work)

    return fn


def metered(meter: Meter, release: asyncio.Event, **options: Any) -> inngest.Function[Any]:
    """A function whose runs are inside `meter` until they are released, and return their `n`."""

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, **options)
    async def fn(ctx: inngest.Context) -> Any:
        async def work() -> Any:
            n = ctx.event.data.get("n")
            async with meter.inside(mark=n), asyncio.timeout(60):
                await release.wait()
            return n

        return await ctx.step.run("work", work)

    return fn


async def results(
    app: App, function: inngest.Function[Any], sent: list[events.Stamped]
) -> list[Any]:
    async with asyncio.timeout(90):
        return list(await asyncio.gather(*(app.run_of(function, one).result() for one in sent)))


async def send(app: App, *data: dict[str, Any]) -> list[events.Stamped]:
    return list(await asyncio.gather(*(app.send("test/event", each) for each in data)))


async def running_ids(client: Client, kind: str = "") -> list[str]:
    query = "ExecutionStatus = 'Running'" + (f" AND WorkflowType = '{kind}'" if kind else "")
    return [run.id async for run in client.list_workflows(query)]


async def summary(client: Client, lock: str) -> dict[str, Any]:
    found: dict[str, Any] = await client.get_workflow_handle(lock).query("queue", result_type=dict)
    return found


async def status(client: Client, run: str) -> str:
    """The status of a run, as the run API shows it."""
    async with Follower(client) as follower:
        await follower.ready(10)
        api = create_ingress(client, Settings(dev=True), follower=follower)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(api), base_url="http://api"
        ) as http:
            reply = await http.get(f"/v1/runs/{run}")
    return str(reply.json()["data"]["status"])


async def details(app: App, function: inngest.Function[Any], event: events.Stamped) -> str:
    metadata = await app.run_of(function, event).query(
        "__temporal_workflow_metadata", result_type=WorkflowMetadata
    )
    return str(metadata.current_details)


# Concurrency.


async def test_a_key_never_has_more_than_its_limit_and_all_runs_finish(client: Client) -> None:
    meter = Meter()

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        concurrency=[inngest.Concurrency(limit=2, key="event.data.user")],
    )
    async def fn(ctx: inngest.Context) -> str:
        user = str(ctx.event.data["user"])

        async def work() -> None:
            async with meter.inside(user, fill=2):
                await asyncio.sleep(0.02)

        await ctx.step.run("a", work)
        await ctx.step.run("b", work)
        return user

    async with running(client, fn) as app:
        sent = await send(app, *({"user": f"u{n % 3}"} for n in range(18)))
        assert Counter(await results(app, fn, sent)) == {"u0": 6, "u1": 6, "u2": 6}
    assert set(meter.most) == {"u0", "u1", "u2"}
    assert set(meter.most.values()) == {2}


async def test_a_lock_adds_little_to_the_history_of_a_run(
    client: Client,
) -> None:
    async def handler(ctx: inngest.Context) -> None:
        await ctx.step.run("a", lambda: None)
        await ctx.step.run("b", lambda: None)

    create = new_client().create_function
    plain = create(fn_id="plain", trigger=TRIGGER)(handler)
    locked = create(fn_id="locked", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=5)])(
        handler
    )

    async with running(client, plain, locked) as app:
        [sent] = await send(app, {})
        lengths = []
        for function in (plain, locked):
            await results(app, function, [sent])
            history = await app.run_of(function, sent).fetch_history()
            lengths.append(len(history.events))
    print(f"history events: {lengths[0]} without, {lengths[1]} with a concurrency limit")
    # Started, task (3), discovery, two steps (3 and a task of 3, each), finish, completed.
    assert lengths[0] <= 19
    # Asked, a timer and its end, the grant, a task (3), given back.
    assert lengths[1] - lengths[0] <= 9


@pytest.mark.parametrize("pause", ["sleep", "wait", "invoke"])
async def test_a_permit_is_not_held_through_a_sleep_wait_or_invoke(
    client: Client, pause: str
) -> None:
    meter = Meter()
    begun: set[str] = set()
    app_client = new_client()

    @app_client.create_function(fn_id="other", trigger=inngest.TriggerEvent(event="test/other"))
    async def other(ctx: inngest.Context) -> None:
        await ctx.step.wait_for_event("wait", event="test/go", timeout=60_000)

    @app_client.create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=1)]
    )
    async def fn(ctx: inngest.Context) -> None:
        async def work(name: str) -> None:
            begun.add(name)
            async with meter.inside():
                await asyncio.sleep(0.02)

        n = ctx.event.data["n"]
        await ctx.step.run("before", work, f"before {n}")
        if pause == "sleep":
            await ctx.step.sleep("sleep", timedelta(seconds=2))
        elif pause == "wait":
            await ctx.step.wait_for_event("wait", event="test/go", timeout=60_000)
        else:
            await ctx.step.invoke("invoke", function=other)
        await ctx.step.run("after", work, f"after {n}")

    async with running(client, fn, other) as app:
        sent = await send(app, {"n": 0}, {"n": 1}, {"n": 2})
        await until(lambda: len(begun) >= 3)
        if pause == "sleep":
            assert begun == {"before 0", "before 1", "before 2"}
        else:
            await until(lambda: _all_wait(client, 3))
            await app.send("test/go")
        await results(app, fn, sent)
    assert meter.most[""] == 1
    assert len(begun) == 6


async def _all_wait(client: Client, count: int) -> bool:
    mailbox = client.get_workflow_handle(names.mailbox_id("test/go", "", None))
    try:
        history = await mailbox.fetch_history()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False
    return (
        sum(
            event.workflow_execution_signaled_event_attributes.signal_name == "register"
            for event in history.events
        )
        == count
    )


async def test_each_parallel_step_needs_a_permit(client: Client) -> None:
    meter = Meter()

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=2)]
    )
    async def fn(ctx: inngest.Context) -> list[int]:
        async def work(n: int) -> int:
            async with meter.inside(fill=2):
                await asyncio.sleep(0.05)
            return n

        return list(
            await ctx.group.parallel(
                tuple(lambda n=n: ctx.step.run(f"{n}", work, n) for n in range(5))
            )
        )

    async with running(client, fn) as app:
        sent = await send(app, {}, {})
        assert await results(app, fn, sent) == [[0, 1, 2, 3, 4]] * 2
        assert (await summary(client, names.lock_id("step", fn.id)))["holding"] == 0
    assert meter.most[""] == 2


async def test_a_run_under_way_counts_through_its_sleep_at_level_fn(client: Client) -> None:
    meter = Meter()
    inside: set[int] = set()
    most = 0

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        concurrency=[inngest.Concurrency(limit=2, level="fn"), inngest.Concurrency(limit=1)],
    )
    async def fn(ctx: inngest.Context) -> None:
        async def enter(n: int) -> None:
            nonlocal most
            async with meter.inside():
                inside.add(n)
                most = max(most, len(inside))

        n = int(str(ctx.event.data["n"]))
        await ctx.step.run("enter", enter, n)
        await ctx.step.wait_for_event(
            "wait", event="test/leave", if_exp="event.data.n == async.data.n", timeout=60_000
        )
        await ctx.step.run("leave", inside.discard, n)

    async def leave(app: App, n: int) -> None:
        while n in inside:  # the wait may not have begun yet
            await app.send("test/leave", {"n": n})
            await asyncio.sleep(0.05)

    async with running(client, fn) as app:
        sent = await send(app, *({"n": n} for n in range(5)))
        for left in (5, 4, 3, 2, 1):
            await until(lambda left=left: len(inside) == min(left, 2))
            await leave(app, min(inside))
        await results(app, fn, sent)
    assert most == 2
    assert meter.most[""] == 1


async def test_a_step_keeps_to_both_of_two_limits(client: Client) -> None:
    meter = Meter()

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        concurrency=[
            inngest.Concurrency(limit=3),
            inngest.Concurrency(limit=1, key="event.data.user"),
        ],
    )
    async def fn(ctx: inngest.Context) -> None:
        async def work() -> None:
            async with meter.inside(str(ctx.event.data["user"])), meter.inside(fill=3):
                await asyncio.sleep(0.05)

        await ctx.step.run("a", work)
        await ctx.step.run("b", work)

    async with running(client, fn) as app:
        sent = await send(app, *({"user": f"u{n % 5}"} for n in range(15)))
        await results(app, fn, sent)
    assert meter.most.pop("") == 3
    assert set(meter.most.values()) == {1}


async def test_functions_share_a_limit_of_scope_env(client: Client) -> None:
    meter = Meter()
    shared = [inngest.Concurrency(limit=1, key="'the printer'", scope="env")]

    async def handler(ctx: inngest.Context) -> None:
        async def work() -> None:
            async with meter.inside():
                await asyncio.sleep(0.03)

        await ctx.step.run("print", work)

    create = new_client().create_function
    first = create(fn_id="first", trigger=TRIGGER, concurrency=shared)(handler)
    second = create(fn_id="second", trigger=TRIGGER, concurrency=shared)(handler)
    async with running(client, first, second) as app:
        sent = await send(app, {}, {}, {})
        await results(app, first, sent)
        await results(app, second, sent)
    assert meter.most[""] == 1


STRICT = inngest.Throttle(limit=1, period=timedelta(hours=1), burst=0, key="event.data.user")
DEPLOYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "concurrency": (
        {"concurrency": [inngest.Concurrency(limit=1)]},
        {"concurrency": [inngest.Concurrency(limit=6)]},
    ),
    "of a key": (
        {"concurrency": [inngest.Concurrency(limit=1, key="event.data.user")]},
        {"concurrency": [inngest.Concurrency(limit=3, key="event.data.user")]},
    ),
    "of an environment": (
        {"concurrency": [inngest.Concurrency(limit=1, key="event.data.user", scope="env")]},
        {"concurrency": [inngest.Concurrency(limit=3, key="event.data.user", scope="env")]},
    ),
    "of whole runs, removed": (
        {"concurrency": [inngest.Concurrency(limit=1, level="fn", key="event.data.user")]},
        {"concurrency": [inngest.Concurrency(limit=9)]},
    ),
    "throttle": (
        {"throttle": STRICT},
        {"throttle": STRICT.model_copy(update={"period": timedelta(seconds=1)})},
    ),
}


@pytest.mark.parametrize("limits", DEPLOYS)
async def test_limits_of_a_new_deploy_apply_at_once_to_waiting_runs(
    client: Client, limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No run asks again, and none ends: only the deploy can let waiting runs continue.
    monkeypatch.setattr(admission, "FIRST_RETRY", 3600.0)
    meter = Meter()
    release = asyncio.Event()
    before, after = DEPLOYS[limits]

    old, new = (metered(meter, release, retries=0, **config) for config in (before, after))
    [kind] = {names.LOCK_TYPES[limit.kind] for limit in limits_of(old.parts()[0].config)}
    async with running(client, old) as app:
        sent = await send(app, *({"user": n % 2} for n in range(6)))
        keys = 1 if limits == "concurrency" else 2

        async def stands() -> bool:
            listed = await running_ids(client, kind)
            waiting = [(await summary(client, lock))["waiting"] for lock in listed]
            return len(listed) == keys and sum(waiting) == 6 - keys and meter.now[""] == keys

        await until(stands)
        async with running(await another(client), new) as app:
            await until(lambda: meter.now[""] == 6)
            release.set()
            await results(app, new, sent)
    assert meter.most[""] == 6


async def test_runs_that_wait_give_their_lock_no_work_unless_it_has_lost_them(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FIRST_RETRY", 0.1)
    monkeypatch.setattr(admission, "LONGEST_RETRY", 0.3)
    monkeypatch.setattr("inngest_temporal.routing.locks.FRESH", 0.1)
    checks: list[bool] = []
    knows = Locks.knows

    async def recorded(self: Locks, lock: str, execution: str) -> bool:
        checks.append(await knows(self, lock, execution))
        return checks[-1]

    monkeypatch.setattr(Locks, "knows", recorded)
    begun: list[int] = []
    release = asyncio.Event()

    fn = holding(begun, release, concurrency=[inngest.Concurrency(limit=1)])

    async with running(client, fn) as app:
        sent = await send(app, {"n": 0})
        await until(lambda: begun == [0])
        sent += await send(app, {"n": 1}, {"n": 2})
        await until(lambda: len(checks) >= 8)
        assert all(checks)
        lock = client.get_workflow_handle(names.lock_id("step", fn.id))
        history = await lock.fetch_history()
        asked = [
            event.HasField("workflow_execution_signaled_event_attributes")
            for event in history.events
        ]
        assert sum(asked) <= 3
        await lock.terminate()
        await until(lambda: 1 in begun or 2 in begun)
        assert not all(checks)
        release.set()
        await results(app, fn, sent)


async def test_a_lock_that_an_announcement_misses_hears_of_new_limits_from_runs_that_wait(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FIRST_RETRY", 0.5)
    monkeypatch.setattr(admission, "LONGEST_RETRY", 1.0)

    async def none(self: locks.LockActivities, limit: Any) -> list[str]:
        return []

    monkeypatch.setattr(locks.LockActivities, "_open", none)
    meter = Meter()
    release = asyncio.Event()

    def deployed(limit: int) -> inngest.Function[Any]:
        concurrency = [inngest.Concurrency(limit=limit, key="event.data.user")]
        return metered(meter, release, concurrency=concurrency)

    async with running(client, deployed(1)) as app:
        sent = await send(app, *({"user": "ada"} for _ in range(4)))
        await until(lambda: meter.now[""] == 1)
        async with running(await another(client), deployed(4)) as app:
            await until(lambda: meter.now[""] == 4)
            release.set()
            await results(app, app.functions[0], sent)


class Runs:
    """A client whose signals to the run `run` fail with this status."""

    def __init__(self, status: RPCStatusCode) -> None:
        self.status = status
        self.signals: list[tuple[str, Any]] = []
        """Signals to other workflows: id and argument."""

    def get_workflow_handle(self, id: str) -> Any:
        return types.SimpleNamespace(signal=functools.partial(self._signal, id))

    async def _signal(self, id: str, name: str, *, args: list[Any], **_: Any) -> None:
        if id == "run":
            raise RPCError("", self.status, b"")
        self.signals.append((id, args[0]))


@pytest.mark.parametrize(
    ("status", "released"),
    [(RPCStatusCode.NOT_FOUND, [1]), (RPCStatusCode.INVALID_ARGUMENT, [])],
)
async def test_only_a_run_that_is_gone_loses_its_permit_not_one_with_too_many_signals(
    status: RPCStatusCode, released: list[int]
) -> None:
    runs: Any = Runs(status)
    decisions = Decisions(verdicts=[("run", 1, GRANTED)])
    await ActivityEnvironment().run(locks.LockActivities(runs).carry_out, "lock", decisions)
    assert runs.signals == ([("lock", [LockRequest("run", release=released)])] if released else [])


async def test_a_terminated_holder_frees_its_permit(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "CHECK_MS", 500)
    begun: list[int] = []
    release = asyncio.Event()

    fn = holding(begun, release, concurrency=[inngest.Concurrency(limit=1)])

    async with running(client, fn) as app:
        [first] = await send(app, {"n": 0})
        await until(lambda: begun == [0])
        [second] = await send(app, {"n": 1})
        [third] = await send(app, {"n": 2})
        await until(lambda: _waiting(client, fn.id, 2))
        await app.run_of(fn, second).terminate()  # a waiter that is gone is passed over
        await app.run_of(fn, first).terminate()
        await until(lambda: 2 in begun)
        assert begun == [0, 2]
        release.set()
        await results(app, fn, [third])


async def _waiting(client: Client, function_id: str, count: int) -> bool:
    return bool((await summary(client, names.lock_id("step", function_id)))["waiting"] == count)


def test_the_intervals_find_a_lost_holder_within_30_seconds() -> None:
    assert 2 * locks.CHECK_MS < 30_000


async def test_a_lock_that_cannot_be_replayed_is_healed_by_runs_that_wait_and_keeps_its_limit(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admission, "FIRST_RETRY", 1.0)
    monkeypatch.setattr(admission, "LONGEST_RETRY", 4.0)
    monkeypatch.setattr("inngest_temporal.routing.locks.FRESH", 0.5)
    meter = Meter()
    release = asyncio.Event()
    fn = metered(meter, release, concurrency=[inngest.Concurrency(limit=1)])

    # As code of another version would do: it has regular activities where ours has local ones.
    with monkeypatch.context() as patch:
        patch.setattr(locks, "LOCAL_SIZE", -1)
        async with running(client, fn, graceful_shutdown_timeout=timedelta(0)) as app:
            sent = await send(app, {"n": 0})
            await until(lambda: meter.now[""] == 1)
            sent += await send(app, {"n": 1}, {"n": 2})
            await until(lambda: _waiting(client, fn.id, 2))
    lock = client.get_workflow_handle(names.lock_id("step", fn.id))
    broken = (await lock.describe()).run_id
    async with running(client, fn) as app:
        sent += await send(app, {"n": 3})

        async def is_healed() -> bool:
            return (await lock.describe()).run_id != broken

        await until(is_healed)
        release.set()
        assert await results(app, fn, sent) == [0, 1, 2, 3]
    assert meter.most[""] == 1
    # Several may have noticed at the same time; it was reset once, and logged once.
    assert caplog.text.count(f"{lock.id} could not be replayed") == 1
    query = f"WorkflowId = '{lock.id}' AND ExecutionStatus = 'Terminated'"
    assert (await client.count_workflows(query)).count == 1


async def test_a_run_that_waits_says_so_and_can_be_cancelled(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FIRST_RETRY", 0.2)
    begun: list[int] = []
    release = asyncio.Event()

    fn = holding(begun, release, concurrency=[inngest.Concurrency(limit=1, key="event.data.user")])

    async with running(client, fn) as app:
        [first] = await send(app, {"n": 0, "user": "ada"})
        await until(lambda: begun == [0])
        [second] = await send(app, {"n": 1, "user": "ada"})
        [third] = await send(app, {"n": 2, "user": "ada"})

        async def says(event: events.Stamped) -> str:
            return await details(app, fn, event)

        await until(lambda: _says(app, fn, third, "Waits for a permit"))
        text = await says(third)
        lock = names.lock_id("step", fn.id, "event.data.user", "ada")
        assert text == f'Waits for a permit to execute for event.data.user = "ada". Lock: {lock}'
        await app.run_of(fn, second).cancel()
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run_of(fn, second).result()
        assert isinstance(raised.value.cause, CancelledError)
        release.set()
        await results(app, fn, [first, third])
        assert await says(third) == ""
    assert begun == [0, 2]


async def _says(
    app: App, function: inngest.Function[Any], event: events.Stamped, text: str
) -> bool:
    return text in await details(app, function, event)


async def test_waiting_counts_for_the_start_timeout(client: Client) -> None:
    release = asyncio.Event()
    begun: list[int] = []

    fn = holding(
        begun,
        release,
        concurrency=[inngest.Concurrency(limit=1)],
        # On a busy machine, too, a run that waits for nobody begins within that time.
        timeouts=inngest.Timeouts(start=timedelta(seconds=4)),
    )

    async with running(client, fn) as app:
        [first] = await send(app, {"n": 0})
        await until(lambda: begun == [0])
        [second] = await send(app, {"n": 1})
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run_of(fn, second).result()
        assert isinstance(raised.value.cause, CancelledError)
        release.set()
        await results(app, fn, [first])
    assert begun == [0]


async def test_a_step_that_waits_for_its_retry_holds_no_permit(client: Client) -> None:
    executed: list[str] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=1)], retries=2
    )
    async def fn(ctx: inngest.Context) -> str:
        name = str(ctx.event.data["name"])

        def work() -> str:
            executed.append(f"{name} {ctx.attempt}")
            if name == "flaky" and ctx.attempt < 2:
                raise inngest.RetryAfterError("later", timedelta(seconds=1 if ctx.attempt else 4))
            if name == "broken":
                raise ValueError("always")
            return name

        return await ctx.step.run("work", work)

    async with running(client, fn) as app:
        [flaky] = await send(app, {"name": "flaky"})
        await until(lambda: executed == ["flaky 0"])
        [quick, broken] = await send(app, {"name": "quick"}, {"name": "broken"})
        assert await results(app, fn, [quick]) == ["quick"]
        assert "flaky 1" not in executed
        assert await results(app, fn, [flaky]) == ["flaky"]
        with pytest.raises(WorkflowFailureError, match="Workflow execution failed"):
            await results(app, fn, [broken])
    assert [each for each in executed if "flaky" in each] == ["flaky 0", "flaky 1", "flaky 2"]
    assert [each for each in executed if "broken" in each] == ["broken 0", "broken 1", "broken 2"]


async def test_a_handler_without_steps_holds_its_permit_while_it_executes(client: Client) -> None:
    meter = Meter()

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=2)]
    )
    async def fn(ctx: inngest.Context) -> None:
        async with meter.inside(fill=2):
            await asyncio.sleep(0.05)

    async with running(client, fn) as app:
        await results(app, fn, await send(app, *({} for _ in range(9))))
    assert meter.most[""] == 2


@pytest.mark.parametrize("room", [entities.MAX_STATE, 0])
async def test_a_lock_continues_as_new_without_losing_anybody(
    client: Client, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """It does not if it had to carry over too much, as Temporal would then end it."""
    monkeypatch.setattr(entities, "MAX_COST", 30)
    monkeypatch.setattr(entities, "MAX_STATE", room)
    meter = Meter()

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, concurrency=[inngest.Concurrency(limit=2)]
    )
    async def fn(ctx: inngest.Context) -> None:
        async def work() -> None:
            async with meter.inside(fill=2):
                await asyncio.sleep(0.01)

        await ctx.step.run("work", work)

    async with running(client, fn) as app:
        await results(app, fn, await send(app, *({} for _ in range(40))))
        runs = [
            run.status
            async for run in client.list_workflows(f"WorkflowId = '{names.lock_id('step', fn.id)}'")
        ]
        lock = await client.get_workflow_handle(names.lock_id("step", fn.id)).describe()
        assert (lock.raw_info.first_run_id != lock.run_id) == bool(room), runs
    assert meter.most[""] == 2
    assert len(meter.order) == 40


async def test_many_runs_are_told_in_parts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One activity for all of them would take too long. These runs don't exist, so the lock takes
    their permits back."""
    monkeypatch.setattr(locks, "CHUNK", 20)
    monkeypatch.setattr(entities, "LINGER_MS", 1_000)
    lock = names.lock_id("step", "app-fn")
    requests = [
        LockRequest(f"run {n}", "app-fn", [1], settings=LimitSettings(limit=70)) for n in range(100)
    ]
    async with system_worker(client):
        await client.start_workflow(
            names.LOCK_TYPES["step"],
            {},
            id=lock,
            task_queue=names.SYSTEM_TASK_QUEUE,
            start_signal="ask",
            start_signal_args=[requests],
        )
        await client.get_workflow_handle(lock).result()
        history = await client.get_workflow_handle(lock).fetch_history()
    kinds = ("marker_recorded_event_attributes", "activity_task_scheduled_event_attributes")
    told = [event for event in history.events if any(map(event.HasField, kinds))]
    assert len(told) >= 100 / 20


async def test_no_lock_is_left_running(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entities, "LINGER_MS", 1_000)

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        concurrency=[inngest.Concurrency(limit=1, key="event.data.n")],
        throttle=inngest.Throttle(limit=50, period=timedelta(seconds=1)),
        singleton=inngest.Singleton(mode="skip", key="event.data.n"),
    )
    async def fn(ctx: inngest.Context) -> None:
        await ctx.step.run("work", lambda: None)

    async with running(client, fn) as app:
        await results(app, fn, await send(app, *({"n": n} for n in range(4))))

        async def idle() -> bool:
            ids = await running_ids(client)
            return not any(
                id.startswith(("inngest:concurrency", "inngest:throttle", "inngest:singleton"))
                for id in ids
            )

        await until(idle)


@pytest.mark.parametrize(("limits", "holds"), [([10, 1], 1), ([1, 10], 1), ([0, 2], 2)])
def test_of_two_limits_with_one_key_the_narrower_one_holds(limits: list[int], holds: int) -> None:
    concurrency = [inngest.Concurrency(limit=limit, key="event.data.k") for limit in limits]
    config = FunctionConfig(id="app-fn", name="fn", triggers=[TRIGGER], concurrency=concurrency)
    [limit] = limits_of(config)
    assert settings_of(config, limit, 1).limit == holds


@pytest.mark.parametrize("limit", ["step", "fn", "singleton"])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_cancelled_run_keeps_its_permit_until_its_step_has_ended(
    client: Client, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str
) -> None:
    """A thread can't be stopped, and async code hears of it with the next heartbeat."""
    monkeypatch.setattr(heartbeats, "INTERVAL", 0.5)
    log: list[str] = []
    begun, release = threading.Event(), threading.Event()

    def work(n: int) -> None:
        log.append(f"{n} begins")
        begun.set()
        release.wait(60 if n == 0 else 0)
        log.append(f"{n} ends")

    async def work_async(n: int) -> None:
        try:
            log.append(f"{n} begins")
            begun.set()
            await asyncio.sleep(60 if n == 0 else 0)
        finally:
            log.append(f"{n} ends")

    limits: dict[str, Any] = {
        "step": {"concurrency": [inngest.Concurrency(limit=1)]},
        "fn": {"concurrency": [inngest.Concurrency(limit=1, level="fn")]},
        "singleton": {"singleton": inngest.Singleton(mode="cancel")},
    }
    decorate = new_client().create_function(fn_id="fn", trigger=TRIGGER, **limits[limit])
    fn: inngest.Function[Any]
    if kind == "sync":

        def handler(ctx: inngest.ContextSync) -> None:
            ctx.step.run("work", work, int(str(ctx.event.data["n"])))

        fn = decorate(handler)
    else:

        async def async_handler(ctx: inngest.Context) -> None:
            await ctx.step.run("work", work_async, int(str(ctx.event.data["n"])))

        fn = decorate(async_handler)

    async with running(client, fn) as app:
        [first] = await send(app, {"n": 0})
        await until(begun.is_set)
        [second] = await send(app, {"n": 1})
        if limit != "singleton":
            await app.run_of(fn, first).cancel()
        await until(lambda: is_activity_cancel_requested(app.run_of(fn, first)))
        release.set()
        await app.run_of(fn, second).result()
        with pytest.raises(WorkflowFailureError) as raised:
            await app.run_of(fn, first).result()
        assert isinstance(raised.value.cause, CancelledError)
    assert log == ["0 begins", "0 ends", "1 begins", "1 ends"]


async def is_activity_cancel_requested(run: Any) -> bool:
    """Whether an activity of the run was asked to stop."""
    return any(
        [
            e.HasField("activity_task_cancel_requested_event_attributes")
            async for e in run.fetch_history_events()
        ]
    )


async def test_a_batch_is_queued_by_when_it_was_started_not_by_the_time_of_its_events(
    client: Client,
) -> None:
    begun: list[Any] = []
    release = asyncio.Event()

    fn = holding(
        begun,
        release,
        batch_events=inngest.Batch(max_size=2, timeout=60_000),
        concurrency=[inngest.Concurrency(limit=1)],
    )

    async with running(client, fn) as app:
        tomorrow_ms = round((time.time() + 86_400) * 1000)
        for n, ts in enumerate([{}, {"ts": tomorrow_ms}, {}, {}]):
            for _ in range(2):
                await app.send("test/event", {"n": n}, **ts)
            if n == 0:
                await until(lambda: begun == [0])
            else:
                await until(lambda n=n: _waiting(client, fn.id, n))
        release.set()
        await until(lambda: len(begun) == 4)
    assert begun == [0, 1, 2, 3]


async def test_runs_wait_in_the_order_of_their_creation_whoever_asks_first(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_in_order(monkeypatch, 4, newest_first=True)
    begun: list[Any] = []
    release = asyncio.Event()

    fn = holding(begun, release, concurrency=[inngest.Concurrency(limit=1)])

    async with running(client, fn) as app:
        for n in range(4):
            await app.send("test/event", {"n": n})
        await until(lambda: begun)
        await until(lambda: _waiting(client, fn.id, 3))
        release.set()
        await until(lambda: len(begun) == 4)
    assert begun == [3, 0, 1, 2]


# Throttle.


async def test_limit_2_burst_1_starts_three_at_once_and_spaces_the_others(client: Client) -> None:
    begun: dict[int, float] = {}
    after: list[int] = []

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        throttle=inngest.Throttle(limit=2, period=timedelta(seconds=12), burst=1),
    )
    async def fn(ctx: inngest.Context) -> None:
        n = int(str(ctx.event.data["n"]))
        begun.setdefault(n, time.monotonic())
        await ctx.step.sleep("sleep", timedelta(milliseconds=10))
        await ctx.step.run("after", after.append, n)

    async with running(client, fn) as app:
        sent = await send(app, *({"n": n} for n in range(3)))
        await until(lambda: len(after) == 3)
        for n in (3, 4):
            [late] = await send(app, {"n": n})
            await until(lambda late=late: _says(app, fn, late, "Waits for its start, throttled"))
            sent.append(late)
        assert len(begun) == 3  # steps of those that have started are not throttled
        await results(app, fn, sent)
    assert set(list(begun)[:3]) == {0, 1, 2}
    assert list(begun)[3:] == [3, 4]
    start = max(begun[n] for n in range(3))
    assert begun[3] - start >= 3
    assert begun[4] - start >= 9


async def test_a_throttle_counts_each_key_apart(client: Client) -> None:
    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        throttle=inngest.Throttle(
            limit=1, period=timedelta(hours=1), burst=0, key="event.data.user"
        ),
    )
    async def fn(ctx: inngest.Context) -> str:
        return "done"

    async with running(client, fn) as app:
        sent = await send(app, *({"user": n} for n in range(4)))
        assert await results(app, fn, sent) == ["done"] * 4
        [late] = await send(app, {"user": 2})
        await until(lambda: _says(app, fn, late, "throttled"))
        await app.run_of(fn, late).cancel()
        with pytest.raises(WorkflowFailureError):
            await app.run_of(fn, late).result()


# Singleton.


async def test_a_singleton_skips_while_another_run_of_the_key_is_there(client: Client) -> None:
    release = asyncio.Event()
    executed: list[tuple[str, int]] = []
    emitted: list[Any] = []
    app_client = new_client()

    @app_client.create_function(
        fn_id="watch", trigger=inngest.TriggerEvent(event="inngest/function.finished")
    )
    async def watch(ctx: inngest.Context) -> None:
        emitted.append(ctx.event.data["run_id"])

    @app_client.create_function(
        fn_id="fn", trigger=TRIGGER, singleton=inngest.Singleton(mode="skip", key="event.data.user")
    )
    async def fn(ctx: inngest.Context) -> int:
        n = int(str(ctx.event.data["n"]))

        async def work() -> int:
            executed.append((str(ctx.event.data["user"]), n))
            if n == 0:
                async with asyncio.timeout(60):
                    await release.wait()
            return n

        return await ctx.step.run("work", work)

    async with running(client, fn, watch) as app:
        [first] = await send(app, {"n": 0, "user": "ada"})
        await until(lambda: executed)
        second, other, none = await send(
            app, {"n": 1, "user": "ada"}, {"n": 2, "user": "bob"}, {"n": 3, "user": False}
        )
        [also_none] = await send(app, {"n": 0, "user": False})
        assert await results(app, fn, [second, other, none]) == [None, 2, 3]
        skipped = await app.run_of(fn, second).describe()
        assert skipped.status == WorkflowExecutionStatus.COMPLETED
        assert await skipped.memo_value(names.STATUS_MEMO) == "Skipped"
        assert await status(client, skipped.id) == "Skipped"
        release.set()
        assert await results(app, fn, [first, also_none]) == [0, 0]
        [again] = await send(app, {"n": 4, "user": "ada"})
        assert await results(app, fn, [again]) == [4]
        await until(lambda: app.run_of(fn, again).id in emitted)
    assert ("ada", 1) not in executed
    assert app.run_of(fn, second).id not in emitted


async def test_a_singleton_that_was_terminated_blocks_nobody(client: Client) -> None:
    executed: list[int] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, singleton=inngest.Singleton(mode="skip")
    )
    async def fn(ctx: inngest.Context) -> int:
        n = int(str(ctx.event.data["n"]))
        await ctx.step.run("begin", executed.append, n)
        if n == 0:
            await ctx.step.sleep("sleep", timedelta(hours=1))
        return n

    async with running(client, fn) as app:
        [first] = await send(app, {"n": 0})
        await until(lambda: executed == [0])
        await app.run_of(fn, first).terminate()
        [second] = await send(app, {"n": 1})
        assert await results(app, fn, [second]) == [1]


async def test_a_singleton_that_cancels_hands_over_to_the_newest(client: Client) -> None:
    executed: list[int] = []
    cancelled: list[Any] = []
    app_client = new_client()

    @app_client.create_function(
        fn_id="watch", trigger=inngest.TriggerEvent(event="inngest/function.cancelled")
    )
    async def watch(ctx: inngest.Context) -> None:
        cancelled.append(ctx.event.data["run_id"])

    @app_client.create_function(
        fn_id="fn", trigger=TRIGGER, singleton=inngest.Singleton(mode="cancel")
    )
    async def fn(ctx: inngest.Context) -> int:
        n = int(str(ctx.event.data["n"]))
        await ctx.step.run("begin", executed.append, n)
        if n < 2:
            await ctx.step.sleep("sleep", timedelta(hours=1))
        return n

    async with running(client, fn, watch) as app:
        sent = []
        for n in range(3):
            sent += await send(app, {"n": n})
            await until(lambda n=n: n in executed)
        assert await results(app, fn, sent[2:]) == [2]
        for one in sent[:2]:
            with pytest.raises(WorkflowFailureError) as raised:
                await app.run_of(fn, one).result()
            assert isinstance(raised.value.cause, CancelledError)
        await until(lambda: len(cancelled) == 2)
    assert executed == [0, 1, 2]
    assert set(cancelled) == {app.run_of(fn, one).id for one in sent[:2]}


def ask_in_order(monkeypatch: pytest.MonkeyPatch, count: int, *, newest_first: bool) -> None:
    """Each lock is asked by `count` runs in the order of their age, whatever else holds them up."""
    ask, came, told = Locks.ask, defaultdict[str, set[Any]](set), defaultdict[str, set[Any]](set)

    async def in_turn(self: Locks, need: LockNeed, request: LockRequest) -> str:
        age = (request.created_ms, request.run)
        if not request.acquire or age in told[need.lock]:
            return await ask(self, need, request)
        came[need.lock].add(age)

        def is_next() -> bool:
            left = sorted(came[need.lock] - told[need.lock], reverse=newest_first)
            return len(came[need.lock]) == count and left[0] == age

        await until(is_next)
        answer = await ask(self, need, request)
        told[need.lock].add(age)
        return answer

    monkeypatch.setattr(Locks, "ask", in_turn)


@pytest.mark.parametrize("mode", ["cancel", "skip"])
async def test_after_an_outage_a_singleton_goes_by_the_age_of_runs(
    client: Client, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """With `cancel` the newest run wins, with `skip` the oldest, whichever reaches the lock first.
    None of the others begins."""
    monkeypatch.setattr(admission, "LATE_MS", 0)
    monkeypatch.setattr(locks, "GATHER_MS", 4_000)
    keys, each = 2, 4
    ask_in_order(monkeypatch, each, newest_first=mode == "skip")
    winner = each - 1 if mode == "cancel" else 0
    release = asyncio.Event()
    begun: list[Any] = []

    @new_client().create_function(
        fn_id="fn",
        trigger=TRIGGER,
        singleton=inngest.Singleton(mode=mode, key="event.data.key"),
    )
    async def fn(ctx: inngest.Context) -> Any:
        begun.append(ctx.event.data["n"])
        if ctx.event.data["n"] == winner:
            async with asyncio.timeout(60):
                await release.wait()
        return ctx.event.data["n"]

    async with running(client, fn) as app:
        pass
    # The later a run is created, the earlier its id is in alphabetical order.
    named = [events.stamp({"name": "test/event", "id": f"{n}"}) for n in range(keys * each)]
    named.sort(key=lambda one: events.run_id(fn.id, one), reverse=True)
    sent = []
    for index, one in enumerate(named):  # there is no worker
        n, key = divmod(index, keys)
        sent.append(await app.send("test/event", {"key": key, "n": n}, id=one.event["id"]))
    winners = sent[winner * keys : (winner + 1) * keys]
    async with running(client, fn) as app, asyncio.timeout(90):
        others = [app.run_of(fn, one).result() for one in sent if one not in winners]
        ended = await asyncio.gather(*others, return_exceptions=True)
        release.set()
        assert await results(app, fn, winners) == [winner] * keys
    assert not any(isinstance(value, int) for value in ended)
    assert set(begun) == {winner}


# Priority.


async def test_five_late_runs_of_high_priority_go_before_the_low_ones(client: Client) -> None:
    meter = Meter()
    release = asyncio.Event()
    fn = metered(
        meter,
        release,
        concurrency=[inngest.Concurrency(limit=1)],
        priority=inngest.Priority(run="event.data.plan == 'pro' ? 120 : 0"),
    )

    async with running(client, fn) as app:
        sent = await send(app, {"n": 0, "plan": "free"})
        await until(lambda: meter.order == [0])
        for n in range(1, 6):
            sent += await send(app, {"n": n, "plan": "free"})
        for n in range(6, 11):
            sent += await send(app, {"n": n, "plan": "pro"})
        await until(lambda: _waiting(client, fn.id, 10))
        release.set()
        await results(app, fn, sent)
        high = await app.run_of(fn, sent[-1]).describe()
        assert high.raw_info.priority.priority_key == 2
        low = await app.run_of(fn, sent[0]).describe()
        assert low.raw_info.priority.priority_key == 0
    assert meter.order == [0, 6, 7, 8, 9, 10, 1, 2, 3, 4, 5]
