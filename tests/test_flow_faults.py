"""Flow control is exact across replicas of workers and ingresses, also while processes are killed.
It leaves nothing behind."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from inngest_temporal.routing.registry import Follower
from tests.apps import flow
from tests.harness import until
from tests.ports import free_port
from tests.test_faults import Processes

EVENTS, LONG_EVENTS, KEYS = 80, 480, 5
SCRIPT = str(Path(flow.__file__))


class Replicas:
    """Two workers and two ingresses. Events are posted to the ingresses in turn, and again until
    they are accepted. Their `ts` are in the order of `n`, whenever they arrive."""

    def __init__(self, processes: Processes, http: httpx.AsyncClient) -> None:
        self.processes = processes
        self.workers = [processes.start("worker", SCRIPT) for _ in range(2)]
        self.ports = [free_port() for _ in range(2)]
        self._http = http
        self._posted = 0
        self._ts = time.time_ns() // 1_000_000

    async def post(self, name: str, batch: list[dict[str, Any]]) -> list[str]:
        self._posted += 1
        port = self.ports[self._posted % len(self.ports)]
        body = [
            {"name": name, "id": f"{name}-{data['n']}", "ts": self._ts + data["n"], "data": data}
            for data in batch
        ]

        async def attempt() -> Any:
            try:
                reply = await self._http.post(
                    f"http://127.0.0.1:{port}/e/key", json=body, timeout=30
                )
            except httpx.TransportError:
                return None
            return reply.json()["ids"] if reply.status_code == 200 else None

        ids: list[str] = await until(attempt, 90)
        return ids

    def kill_one(self) -> None:
        """SIGKILL a worker, and start another one in its place."""
        victim = self.workers.pop(0)
        self.processes.kill(victim)
        with self.processes.log.open("a") as log:
            log.write(f"killed {victim.pid}\n")
        self.workers.append(self.processes.start("worker", SCRIPT))


@contextlib.asynccontextmanager
async def replicas(client: Client, address: str, directory: Path) -> AsyncIterator[Replicas]:
    processes = Processes(address, client.namespace, directory)
    async with httpx.AsyncClient(verify=False) as http, Follower(client) as follower:
        try:
            running = Replicas(processes, http)
            # An event that is sent before the functions are published triggers none of them. An
            # ingress accepts none before it has read the registry, so one that starts now knows
            # the functions.
            await until(
                lambda: (
                    follower.snapshot is not None and follower.snapshot.function(flow.debounced.id)
                ),
                60,
            )
            for port in running.ports:
                processes.start("ingress", "--port", str(port))
            yield running
        finally:
            processes.close()


async def count(client: Client, workflow_type: str, *, at_least: int, closed: bool = False) -> bool:
    query = f"WorkflowType = '{workflow_type}'" + (
        " AND ExecutionStatus = 'Completed'" if closed else ""
    )
    return (await client.count_workflows(query)).count >= at_least


async def nothing_left(client: Client) -> bool:
    """Whether only registry, apps and hubs are left, and gates, which remember events for a day."""
    running = [
        run.workflow_type async for run in client.list_workflows("ExecutionStatus = 'Running'")
    ]
    lasting = {"InngestRegistry", "InngestApp", "InngestHub", "InngestBatch", "InngestDebounce"}
    return set(running) <= lasting


def most_at_once(log: str) -> dict[str, int]:
    """How many steps executed at once at most, by key. What a killed process was doing ended when
    it was killed."""
    inside: dict[tuple[str, str], str] = {}
    most: Counter[str] = Counter()
    for line in log.splitlines():
        what, pid, *step = line.split()
        if what == "begin":
            inside[pid, step[1]] = step[0]
            most[step[0]] = max(most[step[0]], list(inside.values()).count(step[0]))
        elif what == "end":
            inside.pop((pid, step[1]))
        elif what == "killed":
            inside = {each: key for each, key in inside.items() if each[0] != pid}
    return dict(most)


@pytest.mark.timeout(400)
async def test_no_key_has_more_than_its_limit_with_two_ingresses_and_a_killed_worker(
    client: Client, temporal_address: str, tmp_path: Path, long: bool
) -> None:
    number = LONG_EVENTS if long else EVENTS
    async with replicas(client, temporal_address, tmp_path) as running:
        batches = [
            [{"n": n, "key": f"k{n % KEYS}"} for n in range(first, first + 40)]
            for first in range(0, number, 40)
        ]
        await asyncio.gather(*(running.post("flow/limited", batch) for batch in batches))
        await until(lambda: len(running.processes.lines("end")) >= number // 3, 120)
        running.kill_one()
        await until(lambda: count(client, "flow-limited", at_least=number, closed=True), 240)
        most = most_at_once(running.processes.log.read_text())
        ends = Counter(step for _, _, step in running.processes.lines("end"))
        print(
            f"at most {most} at once, limit {flow.LIMIT}; {sum(ends.values()) - len(ends)} steps"
            " ended twice"
        )
        # Only steps that a killed worker had not yet reported ended twice.
        killed = {
            line.split()[1]
            for line in running.processes.log.read_text().splitlines()
            if line[:6] == "killed"
        }
        by_step: dict[str, list[str]] = {}
        for pid, _, step in running.processes.lines("end"):
            by_step.setdefault(step, []).append(pid)
        assert all(set(pids[:-1]) <= killed for pids in by_step.values())
        assert len(most) == KEYS
        assert max(most.values()) <= flow.LIMIT
        # On a busy machine, steps end before the third permit is handed on.
        assert max(most.values()) > 1
        assert len(ends) == number
        assert (await client.count_workflows("WorkflowType = 'flow-limited'")).count == number
        await until(lambda: nothing_left(client), 90)


@pytest.mark.timeout(300)
async def test_gates_count_each_event_once_though_it_is_posted_twice_and_a_worker_is_killed(
    client: Client, temporal_address: str, tmp_path: Path
) -> None:
    keys, each = 3, 25
    async with replicas(client, temporal_address, tmp_path) as running:
        posts = []
        for name in ("flow/batched", "flow/debounced", "flow/rated"):
            for first in range(0, keys * each, 15):
                batch = [{"n": n, "key": f"k{n % keys}"} for n in range(first, first + 15)]
                posts += [(name, batch), (name, batch)]  # one to each ingress
        posting = asyncio.gather(*(running.post(name, batch) for name, batch in posts))
        await until(lambda: count(client, "flow-batched", at_least=1), 60)
        running.kill_one()
        await posting

        async def batched() -> list[int] | None:
            numbers = [
                int(n) for _, _, batch in running.processes.lines("batch") for n in batch.split(",")
            ]
            return sorted(numbers) if len(numbers) >= keys * each else None

        assert await until(batched, 120) == list(range(keys * each))
        await until(lambda: count(client, "flow-debounced", at_least=keys, closed=True), 60)

        # Each key's debounce may have started a run while the worker was away, but its last event
        # wins.
        async def last_events_won() -> bool:
            query = "WorkflowType = 'flow-debounced' AND ExecutionStatus = 'Completed'"
            runs = [run.id async for run in client.list_workflows(query)]
            results = [await client.get_workflow_handle(run).result() for run in runs]
            last = {max((n for n in results if n % keys == key), default=-1) for key in range(keys)}
            return last == {72, 73, 74}

        await until(last_events_won, 120)
        assert (await client.count_workflows("WorkflowType = 'flow-rated'")).count == keys
