"""Replays rerun all runs of a function that ended with some status, each of them once."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

import inngest_temporal as inngest
from inngest_temporal.errors import FunctionNotFoundError, RerunRefusedError
from inngest_temporal.routing import replays
from inngest_temporal.routing.publishing import remove
from inngest_temporal.routing.registry import Follower, Snapshot
from inngest_temporal.routing.replays import ReplayRecord, ReplayRequest
from inngest_temporal.temporal import names
from inngest_temporal.temporal.runs import RunFilter, RunRecord, list_runs
from inngest_temporal_workers.entities import replay as entity
from inngest_temporal_workers.plugin import system_worker
from tests.harness import TRIGGER, App, new_client, running, until


async def all_runs(client: Client, function_id: str) -> list[RunRecord]:
    runs: list[RunRecord] = []
    cursor = None
    while True:
        page = await list_runs(client, RunFilter(function=function_id), cursor, 500)
        runs += page.runs
        cursor = page.next_cursor
        if cursor is None:
            return runs


async def has_listed(client: Client, function_id: str, status: str, count: int) -> list[RunRecord]:
    """The runs with that status, once visibility lists `count` of them."""

    async def listed() -> list[RunRecord] | None:
        found = [run for run in await all_runs(client, function_id) if run.status == status]
        return found if len(found) >= count else None

    runs: list[RunRecord] = await until(listed)
    return runs


async def replayed(client: Client, id: str) -> ReplayRecord:
    """The replay, once it has ended."""

    async def ended() -> ReplayRecord | None:
        found = await replays.load(client, id)
        assert found is not None
        return found if found.ended_ms is not None else None

    replay: ReplayRecord = await until(ended, 90)
    return replay


def snapshot_of(app: App) -> Snapshot:
    assert app.router.snapshot is not None
    return app.router.snapshot


class Flaky:
    """A function that fails until it is mended, and counts its runs by their event."""

    def __init__(self) -> None:
        self.mended = False
        self.seen: Counter[int] = Counter()

    def function(self, **options: Any) -> inngest.Function[Any]:
        @new_client().create_function(fn_id="fn", trigger=TRIGGER, retries=0, **options)
        async def fn(ctx: inngest.Context) -> Any:
            if not self.mended and not ctx.event.data.get("fine"):
                raise ValueError("broken")
            self.seen[int(str(ctx.event.data["n"]))] += 1
            return ctx.event.data["n"]

        return fn


async def test_fifty_failed_runs_are_run_again_once_each(client: Client) -> None:
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        await asyncio.gather(*(app.send("test/event", {"n": n}) for n in range(50)))
        await asyncio.gather(*(app.send("test/event", {"n": n, "fine": 1}) for n in range(50, 55)))
        failed = await has_listed(client, fn.id, "Failed", 50)
        flaky.mended = True
        flaky.seen.clear()
        request = ReplayRequest(fn.id, rate=50)
        id = await replays.start(client, snapshot_of(app), request)
        replay = await replayed(client, id)
        progress = replay.progress
        assert progress.status == "Completed"
        assert (progress.total, progress.found, progress.started) == (50, 50, 50)
        assert (progress.refused, progress.remaining, progress.problem) == (0, 0, None)
        runs = await has_listed(client, fn.id, "Completed", 55)
        assert flaky.seen == Counter(range(50))
        originals = Counter(run.original for run in runs if run.original is not None)
        assert originals == Counter(run.id for run in failed)
        assert [each.id for each in await replays.latest(client)] == [id]


async def test_a_replay_that_fails_again_does_not_run_its_own_runs_again(client: Client) -> None:
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        await asyncio.gather(*(app.send("test/event", {"n": n}) for n in range(5)))
        await has_listed(client, fn.id, "Failed", 5)
        # As by a clock that is ahead: the runs that the replay starts are in its span of time.
        request = ReplayRequest(fn.id, rate=50, until_ms=time.time_ns() // 1_000_000 + 60_000)
        first = await replayed(client, await replays.start(client, snapshot_of(app), request))
        assert first.progress.started == 5
        assert len(await has_listed(client, fn.id, "Failed", 10)) == 10
        # Another replay does run them again.
        second = await replayed(client, await replays.start(client, snapshot_of(app), request))
        assert second.progress.started == 10


async def test_a_replay_reruns_only_runs_of_its_span_of_time_and_status(client: Client) -> None:
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        for n in range(2):
            await app.send("test/event", {"n": n})
        [*old] = await has_listed(client, fn.id, "Failed", 2)
        at_ms = max(round(run.started_at.timestamp() * 1000) for run in old) + 1
        for n in range(2, 5):
            await app.send("test/event", {"n": n})
        await app.send("test/event", {"n": 9, "fine": 1})
        await has_listed(client, fn.id, "Failed", 5)
        await has_listed(client, fn.id, "Completed", 1)
        flaky.mended = True
        flaky.seen.clear()
        for request, expected in (
            (ReplayRequest(fn.id, until_ms=at_ms), [0, 1]),
            (ReplayRequest(fn.id, since_ms=at_ms), [2, 3, 4]),
        ):
            id = await replays.start(client, snapshot_of(app), request)
            assert (await replayed(client, id)).progress.started == len(expected)
            await until(lambda expected=expected: flaky.seen == Counter(expected))
            flaky.seen.clear()
        request = ReplayRequest(fn.id, "Completed", until_ms=at_ms)
        replay = await replayed(client, await replays.start(client, snapshot_of(app), request))
        assert replay.progress.found == 0


async def test_a_replay_keeps_to_its_rate_until_it_is_cancelled(client: Client) -> None:
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        await asyncio.gather(*(app.send("test/event", {"n": n}) for n in range(20)))
        await has_listed(client, fn.id, "Failed", 20)
        flaky.mended = True
        id = await replays.start(client, snapshot_of(app), ReplayRequest(fn.id, rate=2))

        async def has_started() -> ReplayRecord | None:
            found = await replays.load(client, id)
            return found if found is not None and found.progress.started else None

        replay: ReplayRecord = await until(has_started)
        assert replay.progress.status == "Running"
        assert replay.progress.total == 20
        assert 0 < replay.progress.remaining < 20
        assert await replays.cancel(client, id)
        replay = await replayed(client, id)
        assert replay.progress.status == "Cancelled"
        assert replay.progress.started < 20
        await until(lambda: sum(flaky.seen.values()) == replay.progress.started)
        assert await replays.cancel(client, id)  # it stays as it is
        again = await replays.load(client, id)
        assert again is not None
        assert again.progress.status == "Cancelled"


async def test_replays_with_the_same_key_are_one_replay(client: Client) -> None:
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        request = ReplayRequest(fn.id)
        ids = {await replays.start(client, snapshot_of(app), request, key="k") for _ in range(3)}
        assert len(ids) == 1
        assert (await replayed(client, ids.pop())).progress.found == 0


async def test_a_replay_that_makes_no_sense_is_refused(client: Client) -> None:
    fn = Flaky().function()
    async with running(client, fn) as app:
        for request in (
            ReplayRequest(fn.id, "Running"),
            ReplayRequest(fn.id, "Bad"),
            ReplayRequest(fn.id, rate=0),
            ReplayRequest(fn.id, rate=float("nan")),
            ReplayRequest(fn.id, rate=1_000),
            ReplayRequest(fn.id, since_ms=2_000, until_ms=1_000),
            ReplayRequest(fn.id, since_ms=10**15),
            ReplayRequest(fn.id, since_ms=-(10**18)),
        ):
            with pytest.raises(RerunRefusedError):
                await replays.start(client, snapshot_of(app), request)
        with pytest.raises(FunctionNotFoundError):
            await replays.start(client, snapshot_of(app), ReplayRequest("app-nobody"))
        assert await replays.load(client, "nobody") is None
        assert await replays.load(client, "") is None
        assert not await replays.cancel(client, "nobody")


async def test_a_replay_continues_as_new_and_tells_which_runs_it_could_not_start(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entity, "MAX_PARTS", 2)
    monkeypatch.setattr(entity, "PAGE", 4)
    monkeypatch.setattr(entity, "MAX_PART", 3)
    flaky = Flaky()
    fn = flaky.function()
    rerun = entity.rerun

    async def refuses_some(*args: Any, **options: Any) -> str:
        if args[2] == refused:
            raise RerunRefusedError("not this one")
        return await rerun(*args, **options)

    monkeypatch.setattr(entity, "rerun", refuses_some)
    async with running(client, fn) as app:
        await asyncio.gather(*(app.send("test/event", {"n": n}) for n in range(10)))
        refused = (await has_listed(client, fn.id, "Failed", 10))[0].id
        flaky.mended = True
        flaky.seen.clear()
        request = ReplayRequest(fn.id, rate=50)
        id = await replays.start(client, snapshot_of(app), request)
        replay = await replayed(client, id)
        progress = replay.progress
        assert (progress.total, progress.found, progress.started, progress.refused) == (
            10,
            10,
            9,
            1,
        )
        assert progress.refusals == {refused: "not this one"}
        await until(lambda: len(flaky.seen) == 9)
        assert set(flaky.seen.values()) == {1}
        first = client.get_workflow_handle(names.replay_id(id))
        executions = [
            each.run_id async for each in client.list_workflows(f"WorkflowId = '{first.id}'")
        ]
        assert len(executions) > 1


async def test_a_replay_waits_for_a_function_that_is_gone(client: Client) -> None:
    flaky = Flaky()
    fn = flaky.function()

    @new_client("other").create_function(fn_id="fn", trigger=inngest.TriggerEvent(event="test/x"))
    async def other(ctx: inngest.Context) -> None: ...

    async with running(client, fn) as app:
        await app.send("test/event", {"n": 1})
        await has_listed(client, fn.id, "Failed", 1)
        snapshot = snapshot_of(app)
    async with system_worker(client):  # otherwise its release stays published
        await remove(client, "app")
    id = await replays.start(client, snapshot, ReplayRequest(fn.id, rate=50))
    async with running(client, other):

        async def has_problem() -> bool:
            found = await replays.load(client, id)
            return found is not None and found.progress.problem is not None

        await until(has_problem)
    flaky.mended = True
    async with running(client, fn):
        replay = await replayed(client, id)
    assert (replay.progress.status, replay.progress.started) == ("Completed", 1)
    assert replay.progress.problem is None


WORKER = """
import asyncio, sys
from temporalio.client import Client
from inngest_temporal_workers.plugin import system_worker

async def main():
    client = await Client.connect(sys.argv[1], namespace=sys.argv[2])
    async with system_worker(client):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def system_process(client: Client, folder: Path) -> asyncio.subprocess.Process:
    """A worker process for entities alone."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        client.service_client.config.target_host,
        client.namespace,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"ready"
    return process


@pytest.mark.timeout(180)
async def test_a_replay_whose_workers_are_killed_reruns_each_run_once(
    client: Client, tmp_path: Path
) -> None:
    """Three of them are killed with `kill -9`."""
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        await asyncio.gather(*(app.send("test/event", {"n": n}) for n in range(50)))
        failed = await has_listed(client, fn.id, "Failed", 50)
        snapshot = snapshot_of(app)
    flaky.mended = True
    flaky.seen.clear()
    id = await replays.start(client, snapshot, ReplayRequest(fn.id, rate=15))
    reached = 0
    for _ in range(3):
        process = await system_process(client, tmp_path)

        async def goes_on(reached: int = reached) -> bool:
            found = await replays.load(client, id)
            assert found is not None
            return found.progress.found > reached or found.ended_ms is not None

        await until(goes_on)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        found = await replays.load(client, id)
        assert found is not None
        reached = found.progress.found
    async with running(client, fn):
        replay = await replayed(client, id)
        assert replay.progress.status == "Completed"
        assert (replay.progress.found, replay.progress.started) == (50, 50)
        runs = await has_listed(client, fn.id, "Completed", 50)
    assert flaky.seen == Counter(range(50))
    originals = Counter(run.original for run in runs if run.original is not None)
    assert originals == Counter(run.id for run in failed)


async def test_a_replay_needs_no_follower(client: Client) -> None:
    """A worker whose follower was never started knows the functions."""
    flaky = Flaky()
    fn = flaky.function()
    async with running(client, fn) as app:
        await app.send("test/event", {"n": 1})
        [run] = await has_listed(client, fn.id, "Failed", 1)
        activities = entity.ReplayActivities(client, Follower(client))
        snapshot = await activities.follower.refresh()
        assert await activities._refusal(snapshot, "r", run.id) is None
        assert await activities._refusal(snapshot, "r", "nobody") is not None
