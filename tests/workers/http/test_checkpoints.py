"""Steps that apps report during a call, by an app that speaks the protocol by hand: what is durable
when, who may report, and what is executed again."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.http.app import create_ingress
from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.commands.processes import listen, serving
from inngest_temporal_workers.http import dispatches
from inngest_temporal_workers.http.dispatches import Reports
from inngest_temporal_workers.runs import checkpoints, executing, heartbeats
from tests.conftest import Proxy
from tests.hand_app import (
    Answered,
    Call,
    HandApp,
    complete,
    hand_app,
    hashed,
    ops,
    planned,
    report,
    step_run,
)
from tests.harness import until
from tests.http_world import HttpWorld, http_world

KEY = "signkey-test-0123456789abcdef"
CLOUD = Settings(event_keys=("event-key",), signing_keys=(KEY,))


async def called(app: HandApp, count: int = 1, seconds: float = 60) -> Call:
    """Call number `count`, once the app has got it."""
    await until(lambda: len(app.calls) >= count, seconds)
    return app.calls[count - 1]


@pytest.fixture
def soon_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is not heard of counts as lost within seconds."""
    monkeypatch.setattr(executing, "HEARTBEAT_TIMEOUT", timedelta(seconds=6))
    monkeypatch.setattr(heartbeats, "INTERVAL", 1.0)


@contextlib.asynccontextmanager
async def another_ingress(client: Client, settings: Settings) -> AsyncIterator[str]:
    """An ingress that calls no apps, as in a process of its own; yields its URL."""
    listener = listen("127.0.0.1", 0, "port")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(create_ingress(client, settings), listener):
        async with httpx.AsyncClient(verify=False) as http:

            async def is_ready() -> bool:
                return (await http.get(f"{url}/ready")).status_code == 200

            await until(is_ready)
        yield url


async def test_steps_that_were_reported_are_in_the_result_and_in_one_activity(
    client: Client,
) -> None:
    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            statuses = [
                await report(world.url, call, step_run(step, step.upper()))
                for step in ("a", "b", "c")
            ]
            return ops(complete([statuses, call.ctx["attempt"]]))

        async with hand_app(world, behaviour) as app:
            run = await world.run("hand/fn")
    assert run["output"] == [[200, 200, 200], 0]
    [call] = app.calls
    assert call.ctx["fn_id"]
    assert call.ctx["qi_id"] == call.headers["x-request-id"]


async def test_temporal_has_a_step_before_its_report_is_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds whatever other heartbeats are sent meanwhile."""
    monkeypatch.setattr(heartbeats, "INTERVAL", 1.2)  # the SDK sends one a second at most

    async def known(run: str) -> int:
        description = await client.get_workflow_handle(run).describe()
        [activity] = description.raw_description.pending_activities
        [done, _] = activity.heartbeat_details.payloads
        return len(json.loads(done.data))

    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            found = []
            for n in range(80):
                assert await report(world.url, call, step_run(f"s{n}", n)) == 200
                found.append(await known(call.run))
            return ops(complete(found))

        async with hand_app(world, behaviour):
            [run] = await world.runs(await world.send("hand/fn"), 120)
    assert run["output"] == [n + 1 for n in range(80)]


async def test_a_lost_worker_loses_no_reported_step_and_its_call_is_over(
    client: Client, proxy: Proxy, soon_lost: None
) -> None:
    """The first worker is cut off from Temporal while its call is open: another one calls with what
    was reported, and the first call can change nothing any more."""
    late, go = asyncio.Event(), asyncio.Event()
    cut_off = await Client.connect(proxy.address, namespace=client.namespace)
    async with http_world(cut_off) as first, contextlib.AsyncExitStack() as stack:
        statuses: list[int] = []

        async def behaviour(call: Call) -> Answered:
            if app.calls[0] is call:
                statuses.append(await report(first.url, call, step_run("a", 1)))
                await late.wait()
                return ops(step_run("b", "late"), complete("late"))
            await go.wait()
            return ops(step_run("b", 2), complete(sorted(map(str, call.steps.items()))))

        app = await stack.enter_async_context(hand_app(first, behaviour))
        event = await first.send("hand/fn")
        await until(lambda: statuses)
        await proxy.stop()
        second = await stack.enter_async_context(http_world(client))
        again = await called(app, 2, 100)
        assert again.steps == {hashed("a"): {"data": 1}}
        assert again.ctx["attempt"] == 0
        old = app.calls[0]
        # Temporal can't be asked: the app is to try again.
        assert await report(first.url, old, step_run("b", "late")) == 503
        await proxy.start()

        async def is_refused() -> bool:
            return await report(first.url, old, step_run("b", "late")) == 409

        await until(is_refused)
        assert await report(second.url, old, step_run("b", "late")) == 409
        late.set()
        go.set()
        [run] = await second.runs(event)
    assert statuses == [200]
    assert run["status"] == "Completed", run
    assert run["output"] == [str((hashed("a"), {"data": 1}))]


@pytest.mark.parametrize("settings", [Settings(dev=True), CLOUD], ids=["dev", "production"])
async def test_any_ingress_hands_reports_to_the_worker_that_has_the_call(
    client: Client, settings: Settings
) -> None:
    key = KEY if settings is CLOUD else None
    async with (
        http_world(client, settings=settings) as world,
        # Its worker may have the call as well: then the first ingress has to relay.
        http_world(client, settings=settings) as other,
        another_ingress(client, settings) as third,
    ):

        async def behaviour(call: Call) -> Answered:
            places = [third, world.url, other.url, third]
            return ops(
                complete(
                    [
                        await report(place, call, step_run(f"s{n}", n), key=key)
                        for n, place in enumerate(places)
                    ]
                )
            )

        async with hand_app(world, behaviour, key=key) as app:
            await other.refresh()
            runs = [await world.run("hand/fn", {"n": n}) for n in range(4)]
    assert [run["output"] for run in runs] == [[200] * 4] * 4
    assert len(app.calls) == 4


async def test_a_report_needs_the_signing_key_and_the_id_of_the_call(client: Client) -> None:
    async with (
        http_world(client, settings=CLOUD) as world,
        another_ingress(client, CLOUD) as other,
    ):
        others_run: list[str] = []

        async def behaviour(call: Call) -> Answered:
            if call.body["event"]["data"].get("waits"):
                others_run.append(call.run)
                await until(lambda: done)
                return ops(complete(sorted(call.steps)))
            step = step_run("a", 1)
            found = [
                await report(place, call, step, **odd)
                for place in (world.url, other)
                for odd in (
                    {},
                    {"key": "signkey-test-ffffffffffffffff"},
                    {"key": KEY, "qi_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"},
                    # A step for another run, with the id of this call.
                    {"key": KEY, "run": others_run[0]},
                )
            ]
            done.append(True)
            return ops(complete(found))

        done: list[bool] = []
        async with hand_app(world, behaviour, key=KEY):
            waits = await world.send("hand/fn", {"waits": True})
            await until(lambda: others_run)
            run = await world.run("hand/fn")
            [other_run] = await world.runs(waits)
    assert run["output"] == [401, 401, 409, 409] * 2
    assert other_run["output"] == []


@pytest.mark.parametrize(
    ("settings", "status"), [(CLOUD, 401), (Settings(), 503)], ids=["with keys", "without"]
)
async def test_in_production_nothing_of_a_run_is_read_or_written_without_a_signing_key(
    client: Client, settings: Settings, status: int
) -> None:
    run = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    async with (
        another_ingress(client, settings) as url,
        httpx.AsyncClient(base_url=url, verify=False) as http,
    ):
        for key in (
            {},
            {"authorization": "Bearer event-key"},
            {"authorization": "Bearer undefined"},
        ):
            for method, path in (
                ("POST", f"/v1/checkpoint/{run}/async"),
                ("GET", f"/v0/runs/{run}/batch"),
                ("GET", f"/v0/runs/{run}/actions"),
                ("POST", "/fn/register"),
                ("DELETE", "/fn/remove?url=http://x/"),
            ):
                answer = await http.request(method, path, headers=key)
                assert answer.status_code == status, path


async def test_without_an_address_of_the_worker_apps_do_not_report(client: Client) -> None:
    async def behaviour(call: Call) -> Answered:
        return ops(complete([call.ctx.get("fn_id"), call.ctx.get("qi_id")]))

    async with http_world(client, listens=False) as world, hand_app(world, behaviour):
        run = await world.run("hand/fn")
    assert run["output"] == [None, None]


async def test_large_reports_are_handed_to_the_run_again_and_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHAIN_BYTES", 20_000)
    steps = [step_run(f"s{n}", "x" * 6_000) for n in range(20)]
    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            if not call.steps:
                for n, step in enumerate(steps):
                    # Steps that were reported before change nothing, whoever has them now.
                    assert await report(world.url, call, *steps[max(0, n - 5) : n], step) == 200
                return ops({"op": "Sleep", "id": hashed("nap"), "name": "1s", "opts": {}})
            return ops(complete([len(call.steps), call.ctx["stack"]["stack"]]))

        async with hand_app(world, behaviour) as app:
            run = await world.run("hand/fn")
            history = await client.get_workflow_handle(run["run_id"]).fetch_history()
    signals = [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in history.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert len(app.calls) == 2
    assert signals.count("checkpoint") >= 3
    assert run["output"] == [21, [step["id"] for step in steps] + [hashed("nap")]]


async def test_a_worker_lost_after_it_handed_steps_over_repeats_none_and_keeps_each_once(
    client: Client, proxy: Proxy, soon_lost: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last heartbeat still has steps that the run has got since."""
    monkeypatch.setattr(checkpoints, "MAX_CHAIN_BYTES", 1_000)
    cut_off = await Client.connect(proxy.address, namespace=client.namespace)
    handed_over = asyncio.Event()
    hand_over = dispatches.Reports.hand_over

    async def and_is_lost(self: dispatches.Reports) -> None:
        await hand_over(self)
        await proxy.stop()
        handed_over.set()

    async with http_world(cut_off) as first, contextlib.AsyncExitStack() as stack:

        async def behaviour(call: Call) -> Answered:
            if app.calls[0] is call:
                assert await report(first.url, call, step_run("a", "x" * 2_000)) == 200
                monkeypatch.setattr(dispatches.Reports, "hand_over", and_is_lost)
                assert await report(first.url, call, step_run("b", "y")) != 200
                await until(lambda: len(app.calls) > 1, 100)
            return ops(step_run("b", "y"), complete(call.ctx["stack"]["stack"]))

        app = await stack.enter_async_context(hand_app(first, behaviour))
        event = await first.send("hand/fn")
        await asyncio.wait_for(handed_over.wait(), 60)
        monkeypatch.setattr(dispatches.Reports, "hand_over", hand_over)
        second = await stack.enter_async_context(http_world(client))
        await called(app, 2, 100)
        await proxy.start()
        [run] = await second.runs(event)
    assert run["output"] == [hashed("a")]


@pytest.mark.parametrize("step", ["a", "b"])
async def test_a_step_that_is_reported_and_in_the_reply_counts_once(
    client: Client, step: str
) -> None:
    """Step `b` was reported in the call before."""
    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            if not call.steps:
                assert await report(world.url, call, step_run("b", 1)) == 200
                return ops({"op": "Sleep", "id": hashed("nap"), "name": "1s", "opts": {}})
            if hashed("a") not in call.steps:
                assert await report(world.url, call, step_run("a", 1)) == 200
                return ops(step_run(step, "again"), planned("c"))
            if call.query["stepId"] == hashed("c"):
                return ops(step_run("c", 3))
            return ops(complete([call.ctx["stack"]["stack"], [*call.steps.values()]]))

        async with hand_app(world, behaviour):
            run = await world.run("hand/fn")
    ids = [hashed(each) for each in ("b", "nap", "a", "c")]
    assert run["output"] == [ids, [{"data": 1}, None, {"data": 1}, {"data": 3}]]


async def test_a_step_of_a_reply_is_not_repeated_because_temporal_is_away(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat, refused = Reports.heartbeat, []

    async def away(self: Reports, retry: bool = True) -> bool:
        if self.done and not refused:
            refused.append(retry)
            raise RPCError("tcp connect error", RPCStatusCode.UNAVAILABLE, b"")
        return await heartbeat(self, retry)

    monkeypatch.setattr(Reports, "heartbeat", away)
    executed = []

    async def behaviour(call: Call) -> Answered:
        for step in "abc":
            if hashed(step) not in call.steps:
                executed.append((step, call.ctx["attempt"]))
                return ops(step_run(step))
        return ops(complete("done"))

    async with http_world(client) as world, hand_app(world, behaviour, retries=0):
        assert (await world.run("hand/fn"))["output"] == "done"
    assert len(refused) == 1
    assert executed == [("a", 0), ("b", 0), ("c", 0)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"qi_id":"D"}',
        b'{"qi_id":"D","steps":{}}',
        b'{"qi_id":"D","steps":[null]}',
        b'{"qi_id":"D","steps":[{"op":"StepRun"}]}',
        b'{"qi_id":"D","steps":[{"op":"Sleep","id":"x","name":"1s"}]}',
        b'{"qi_id":"D","steps":[{"op":"StepError","id":"x"}]}',
        b'{"qi_id":7,"steps":[]}',
        b"[" * 100_000,
        b'{"qi_id":"D","steps":[{"op":"StepRun","id":"x","data":"' + b"x" * 2_000_000 + b'"}]}',
    ],
    ids=lambda body: body[:40].decode(),
)
async def test_a_report_that_cannot_be_read_is_refused_and_does_no_harm(
    client: Client, body: bytes
) -> None:
    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            dispatch = call.ctx["qi_id"].encode()
            async with httpx.AsyncClient(timeout=30, verify=False) as http:
                url = f"{world.url}/v1/checkpoint/{call.run}/async"
                answer = await http.post(url, content=body.replace(b"D", dispatch))
            return ops(complete([answer.status_code, answer.json().get("error")]))

        async with hand_app(world, behaviour):
            run = await world.run("hand/fn")
    status, problem = run["output"]
    assert status == 400
    assert problem


async def test_a_report_for_a_run_that_does_not_exist_or_has_ended_is_refused(
    client: Client,
) -> None:
    async with http_world(client) as world, another_ingress(client, Settings(dev=True)) as other:

        async def behaviour(call: Call) -> Answered:
            run = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            step = step_run("a")
            return ops(
                complete([await report(each, call, step, run=run) for each in (world.url, other)])
            )

        async with hand_app(world, behaviour):
            run = await world.run("hand/fn")
        ended = Call({}, {}, {"ctx": {"run_id": run["run_id"], "qi_id": "x"}, "steps": {}})
        assert await report(other, ended, step_run("a")) == 409
    assert run["output"] == [404, 404]


async def cancel(world: HttpWorld, run: str) -> None:
    async with httpx.AsyncClient(base_url=world.url, verify=False) as http:
        assert (await http.delete(f"/v1/runs/{run}")).status_code in (200, 204)


async def test_a_cancelled_run_ends_at_once_and_its_call_is_over(client: Client) -> None:
    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            assert await report(world.url, call, step_run("a")) == 200

            async def is_refused() -> bool:
                return await report(world.url, call, step_run("b")) == 409

            await until(is_refused)
            refused.append(call)
            return ops(complete())

        refused: list[Call] = []
        async with hand_app(world, behaviour) as app:
            event = await world.send("hand/fn")
            await cancel(world, (await called(app)).run)
            [run] = await world.runs(event)
            await until(lambda: refused)
    assert run["status"] == "Cancelled"


async def test_a_cancelled_run_that_holds_a_permit_waits_for_its_call(client: Client) -> None:
    go = asyncio.Event()

    async with http_world(client) as world:

        async def behaviour(call: Call) -> Answered:
            assert await report(world.url, call, step_run("a")) == 200
            await go.wait()
            left.append(call)
            return ops(complete("late" if call is app.calls[0] else "next"))

        left: list[Call] = []
        async with hand_app(world, behaviour, concurrency=[{"limit": 1}]) as app:
            event = await world.send("hand/fn")
            first = await called(app)
            following = await world.send("hand/fn")
            await cancel(world, first.run)

            async def refused() -> bool:
                return await report(world.url, first, step_run("b")) != 200

            await until(refused)
            assert len(app.calls) == 1
            go.set()
            [run] = await world.runs(event)
            [after] = await world.runs(following)
    assert run["status"] == "Cancelled"
    assert after["output"] == "next"
    assert [call.run for call in left] == [run["run_id"], after["run_id"]]


async def test_the_finish_timeout_ends_a_run_whose_app_is_silent(client: Client) -> None:
    go = asyncio.Event()

    async def behaviour(call: Call) -> Answered:
        await go.wait()
        return ops(complete())

    async with (
        http_world(client) as world,
        hand_app(world, behaviour, timeouts={"finish": "1s"}) as app,
    ):
        run = await world.run("hand/fn")
        assert await report(world.url, app.calls[0], step_run("a")) == 409
        go.set()
    assert run["status"] == "Cancelled"


@pytest.mark.parametrize("reported", [False, True])
async def test_steps_that_are_large_together_are_kept_and_not_executed_again(
    client: Client, reported: bool
) -> None:
    """Temporal takes 2 MB of heartbeat details, or of an activity's result. The app executes a step
    in each call, or reports one and answers with two."""
    large = "x" * 1_100_000

    async def behaviour(call: Call) -> Answered:
        done = len(call.steps)
        if done == 3:
            return ops(complete([*call.steps.values()] == [{"data": large}] * 3))
        if not reported:
            return ops(step_run(f"s{done}", large))
        assert await report(world.url, call, step_run("s0", large)) == 200
        return ops(step_run("s1", large), step_run("s2", large))

    async with http_world(client) as world, hand_app(world, behaviour) as app:
        run = await world.run("hand/fn")
    assert run["output"] is True
    assert [len(call.steps) for call in app.calls] == ([0, 3] if reported else [0, 1, 2, 3])


async def test_a_worker_that_stops_keeps_the_steps_and_counts_no_attempt(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(http_world(client))
        statuses: list[int] = []

        async def behaviour(call: Call) -> Answered:
            if app.calls[0] is call:
                statuses.append(await report(first.url, call, step_run("a", 1)))
                await until(lambda: len(app.calls) > 1)
                statuses.append(await report(second.url, call, step_run("b", 1)))
            return ops(complete([call.steps, call.ctx["attempt"]]))

        app = await stack.enter_async_context(hand_app(first, behaviour))
        event = await first.send("hand/fn")
        await until(lambda: statuses)
        second = await stack.enter_async_context(http_world(client))
        await first.worker.shutdown()
        [run] = await second.runs(event)
        await until(lambda: len(statuses) == 2)
    assert statuses == [200, 409]
    assert run["output"] == [{hashed("a"): {"data": 1}}, 0]
    [said] = [each for each in caplog.messages if "The worker stopped" in each]
    assert said == (
        "hand-fn: The worker stopped during the call; another one repeats it."
        f" (run {run['run_id']})"
    )


async def test_a_worker_that_is_about_to_stop_lets_a_call_end(client: Client) -> None:
    """Steps that the app can't report any more are in its reply."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(http_world(client, grace=timedelta(seconds=60)))
        found: list[Any] = []

        async def behaviour(call: Call) -> Answered:
            if app.calls[0] is not call:
                return ops(complete([found, call.steps]))
            found.append(await report(first.url, call, step_run("a", 1)))

            async def is_refused() -> bool:
                return await report(first.url, call, step_run("b", 2)) == 503

            await until(is_refused)
            return ops(step_run("c", 3))

        app = await stack.enter_async_context(hand_app(first, behaviour))
        event = await first.send("hand/fn")
        await until(lambda: found)
        second = await stack.enter_async_context(http_world(client))
        await first.worker.shutdown()
        [run] = await second.runs(event)
    [_, steps] = run["output"]
    assert steps[hashed("a")] == {"data": 1}
    assert steps[hashed("c")] == {"data": 3}
