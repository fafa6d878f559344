"""20,000 runs wait for permits of one key: whether they all run, about in order, and how large the
lock's state gets.

Takes about twenty minutes on two cores: `python -m benchmarks queue`; `QUEUE_RUNS=2000` makes it
smaller.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from temporalio.client import Client, WorkflowHandle

from inngest_temporal.routing import events

from . import flow_functions as functions
from .bench import Report, embedded_server, process, routing

RUNS = int(os.environ.get("QUEUE_RUNS", "20000"))
LIMIT = max(functions.HOT_LIMITS)
SAMPLE = 500
PLACES = 4 * LIMIT
"""How far a run may begin from its place: those that are let in at once, or that asked at about the
same time, may begin in any order."""
PATIENCE_SECONDS = 1_800


async def main(report: Report) -> None:
    function = functions.HOT[LIMIT]
    report.title(f"queue: {RUNS:,} runs for {LIMIT} permits")
    async with embedded_server() as client:
        address = client.service_client.config.target_host
        async with process("benchmarks.flow_functions", address):
            pass  # it has published the functions; the runs are to wait for the next one
        async with routing(client) as router:
            name = f"flow-bench/{function.local_id}"
            stamped = [events.stamp({"name": name, "data": {"n": n}}) for n in range(RUNS)]
            begun = time.monotonic()
            for first in range(0, RUNS, 500):
                await router.route(stamped[first : first + 500])
            report.line(f"started in {time.monotonic() - begun:.0f} s, before there is a worker")
        hold = Path(tempfile.mkdtemp()) / "hold"
        hold.touch()
        os.environ["FLOW_BENCH_HOLD"] = str(hold)
        async with process("benchmarks.flow_functions", address):
            begun = time.monotonic()
            lock = await the_lock(client)
            waiting = 0
            while waiting < RUNS - LIMIT and time.monotonic() < begun + PATIENCE_SECONDS:
                await asyncio.sleep(2)
                waiting = (await lock.query("queue", result_type=dict))["waiting"]
            report.line(
                f"{waiting:,} wait after {time.monotonic() - begun:.0f} s; then the first {LIMIT}"
                " go on"
            )
            hold.unlink()
            begun = time.monotonic()
            largest, states = 0, set()
            done = 0
            while done < RUNS and time.monotonic() < begun + PATIENCE_SECONDS:
                await asyncio.sleep(5)
                done = (
                    await client.count_workflows(
                        f"WorkflowType = '{function.id}' AND ExecutionStatus != 'Running'"
                    )
                ).count
                async for lock in client.list_workflows(
                    "WorkflowType = 'InngestConcurrency'", limit=5
                ):
                    handle = client.get_workflow_handle(lock.id, run_id=lock.run_id)
                    states.add(lock.run_id)
                    largest = max(largest, await state_bytes(handle))
            took = time.monotonic() - begun
            ended = (
                await client.count_workflows(
                    f"WorkflowType = '{function.id}' AND ExecutionStatus = 'Completed'"
                )
            ).count
            report.line(f"{ended:,} completed in {took:.0f} s ({ended / took:.0f}/s)")
            report.line(
                f"the lock continued as new {len(states) - 1} times or more; largest state"
                f" {largest / 1000:.0f} KB"
            )
            displaced = await displacement(
                client, [events.run_id(function.id, one) for one in stamped]
            )
            report.line(
                f"of {SAMPLE} runs, one started at most {displaced:,} places from where it came"
            )
            if ended < RUNS or largest > 1_000_000 or len(states) < 2:
                report.missed.append(
                    "queue: all runs, and a state under 1 MB that continues as new"
                )
            if displaced > PLACES:
                report.missed.append(f"queue: in order, within {PLACES} places")


async def the_lock(client: Client) -> WorkflowHandle[object, object]:
    """The lock, whichever execution of it is the current one."""
    while True:
        async for lock in client.list_workflows("WorkflowType = 'InngestConcurrency'", limit=1):
            return client.get_workflow_handle(lock.id)
        await asyncio.sleep(1)


async def state_bytes(handle: WorkflowHandle[object, object]) -> int:
    """Size of the argument with which the lock was started or has continued as new."""
    async for event in handle.fetch_history_events(page_size=1):
        return event.workflow_execution_started_event_attributes.input.ByteSize()
    return 0


async def displacement(client: Client, run_ids: list[str]) -> int:
    """How far from its place, at most, a run of a sample began its step. Places are in the order in
    which the runs were created."""
    step = max(1, len(run_ids) // SAMPLE)
    began: list[tuple[float, int]] = []
    for index in range(0, len(run_ids), step):
        async for event in client.get_workflow_handle(run_ids[index]).fetch_history_events():
            if event.HasField("activity_task_started_event_attributes"):
                began.append((event.event_time.ToMicroseconds(), index))
                break
    places = sorted(index for _, index in began)
    return max(
        (abs(index - place) for (_, index), place in zip(sorted(began), places, strict=True)),
        default=0,
    )
