"""Records `tests/histories`: `python -m tests.record_histories` writes
`tests/histories/VERSION/*.json`, in half a minute, and replaces those that are there.

There is one set for each released version, and one of the version that is being made.
`test_replay.py` replays them all.
"""

import asyncio
import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from inngest_temporal.routing import events, pauses, replays, reruns, signals
from inngest_temporal.routing.intake import MIN_EVENTS, Intake
from inngest_temporal.routing.registry import Follower, RegisteredFunction
from inngest_temporal.temporal import names
from inngest_temporal_workers.commands.embedded import server_program
from tests.apps import recorded, recorded_http
from tests.harness import App, registered, running, until
from tests.http_world import http_world, served

HISTORIES = Path(__file__).parent / "histories"


async def play(app: App, client: Client) -> None:
    """Send the events that bring every function to its end."""
    ended = []
    for fn in (recorded.plain, recorded.steps, recorded.sync, recorded.fails, recorded.parent):
        ended.append(app.run_of(fn, await app.send(f"r/{fn.local_id}", {"n": 1})))
    for key in ("a", "a", "a", "b"):
        ended.append(app.run_of(recorded.limited, await app.send("r/limited", {"k": key})))
    for _ in range(3):
        await app.send("r/rated")
        await app.send("r/debounced")
    for _ in range(2):
        await app.send("r/batched")
    ended += await play_pause(app, client)
    many = [events.stamp({"name": "r/nobody", "data": {}}) for _ in range(MIN_EVENTS)]
    await Intake(client, app.router).take(many)

    waits = app.run_of(recorded.waits, await app.send("r/waits", {"id": 1}))
    await registered(waits)
    await app.send("r/go", {"id": 2})
    await app.send("r/other", {"id": 1})

    signalled = app.run_of(recorded.signalled, await app.send("r/signalled"))
    await registered(signalled)
    await signals.send(client, "recorded", {"x": 1})

    cancelled = app.run_of(recorded.cancelled, await app.send("r/cancelled", {"id": 1}))
    await registered(cancelled)
    await app.send("r/stop", {"id": 1})

    single = app.run_of(recorded.single, await app.send("r/single"))
    await registered(single)
    ended.append(app.run_of(recorded.single, await app.send("r/single")))
    await app.send("r/single-go")
    stopped = app.run_of(recorded.stopped, await app.send("r/stopped"))
    async for event in stopped.fetch_history_events(wait_new_event=True):
        if event.HasField("activity_task_scheduled_event_attributes"):
            break
    await stopped.cancel()  # while a step of it executes
    ended.append(stopped)
    schedule = names.schedule_id("recorded", recorded.yearly.id, "0 0 1 1 *")
    await client.get_schedule_handle(schedule).trigger()
    sleeper = app.run_of(recorded.sleeper, await app.send("r/sleeper"))
    await registered(sleeper)
    async with Follower(client) as follower:
        await follower.ready(10)
        await sleeper.cancel()
        ended.append(sleeper)
        for run in (*ended, waits, signalled, cancelled, single):
            try:
                await run.result()
            except Exception as error:
                print(f"{run.id}: {error.__cause__ or error}")
        await run_again(client, follower, ended)


async def run_again(
    client: Client, follower: Follower, ended: Sequence[WorkflowHandle[Any, Any]]
) -> None:
    """Run functions again: by a rerun from a step, and by a replay."""
    snapshot = await follower.refresh()
    _, steps, *_ = ended
    again = await reruns.rerun(client, snapshot, steps.id, from_step=reruns.FromStep("send"))
    await client.get_workflow_handle(again).result()
    request = replays.ReplayRequest(recorded.fails.id, rate=50)
    id = await replays.start(client, snapshot, request)
    await client.get_workflow_handle(names.replay_id(id)).result()


async def play_pause(app: App, client: Client) -> list[WorkflowHandle[Any, Any]]:
    """Pause a function, start runs of it and resume it. Returns the runs."""

    def known(paused: bool) -> RegisteredFunction | None:
        snapshot = app.router.snapshot
        function = snapshot and snapshot.function(recorded.pausable.id)
        return function if function and bool(function.config.paused) == paused else None

    await pauses.pause(client, await until(lambda: known(False)))
    paused = await until(lambda: known(True))
    runs = [app.run_of(recorded.pausable, await app.send("r/pausable")) for _ in range(2)]
    lock = client.get_workflow_handle(names.lock_id("pause", paused.id))

    async def both_wait() -> bool:
        try:
            return bool((await lock.query("queue", result_type=dict))["waiting"] == 2)
        except RPCError:
            return False

    await until(both_wait)
    await pauses.resume(client, paused)
    return runs


async def record() -> None:
    env = await WorkflowEnvironment.start_local(
        dev_server_existing_path=server_program(),
        dev_server_log_level="error",
    )
    target = HISTORIES / importlib.metadata.version("inngest-temporal")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    async with env:
        async with running(env.client, *recorded.FUNCTIONS) as app:
            await play(app, env.client)
        async with (
            http_world(env.client) as world,
            served(lambda _: recorded_http.make_app(world.url)) as url,
        ):
            await world.sync(url)
            for event in [await world.send(name) for name in recorded_http.EVENTS]:
                await world.runs(event)
        async with running(env.client, *recorded.DEPLOYED):
            await until(lambda: only_entities_run(env.client), 180)
        await write(env.client, target)


async def write(client: Client, target: Path) -> None:
    async for run in client.list_workflows():
        history = await client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
        label = re.sub(r"[^A-Za-z0-9]+", "-", f"{run.workflow_type}-{run.id}")[:120].strip("-")
        (target / f"{label}.json").write_text(history.to_json() + "\n")
        print(label, len(history.events))


STAY = ("registry", "app", "hub", "batch", "debounce", "ratelimit")
"""Entities that stay open: gates remember events for 24 hours."""


async def only_entities_run(client: Client) -> Any:
    running_now = [run.id async for run in client.list_workflows("ExecutionStatus = 'Running'")]
    return all(
        run_id.startswith(tuple(f"inngest:{each}" for each in STAY)) for run_id in running_now
    )


if __name__ == "__main__":
    asyncio.run(record())
    sys.stdout.flush()
    os._exit(0)  # temporalio's threads may call Python while it is being torn down
