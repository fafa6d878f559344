"""What happens when processes are killed: workers, the ingress, Temporal itself. The processes are
real, and so are the SIGKILLs."""

import asyncio
import collections
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal_workers.commands.embedded import server_program
from tests.apps import chaos
from tests.harness import App, registered, until
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
CHAOS = ROOT / "tests" / "apps" / "chaos.py"


class Processes:
    """Workers and ingresses of one Temporal. Those that are left are killed at the end."""

    def __init__(self, address: str, namespace: str, directory: Path) -> None:
        self.log = directory / "chaos.log"
        self.log.touch()
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("INNGEST_", "TEMPORAL_"))
        }
        self._environ = inherited | {
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_NAMESPACE": namespace,
            "CHAOS_LOG": str(self.log),
            "INNGEST_DEV": "1",
            "PYTHONPATH": str(ROOT),
        }
        self._output = (directory / "processes.log").open("ab")
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", "inngest_temporal_workers.commands.cli", *arguments],
            env=self._environ,
            stdout=self._output,
            stderr=self._output,
            cwd=ROOT,
        )
        self.all.append(process)
        return process

    def worker(self) -> "subprocess.Popen[bytes]":
        return self.start("worker", str(CHAOS))

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()
        self.all.remove(process)

    def close(self) -> None:
        for process in list(self.all):
            self.kill(process)
        self._output.close()

    def lines(self, kind: str) -> list[list[str]]:
        """`[pid, run, step]` of each line of that kind."""
        return [
            line.split()[1:] for line in self.log.read_text().splitlines() if line.startswith(kind)
        ]


@pytest.fixture
def processes(temporal_address: str, namespace: str, tmp_path: Path) -> Any:
    processes = Processes(temporal_address, namespace, tmp_path)
    yield processes
    processes.close()


class Temporal:
    """A server that keeps its state in a file, and can be killed."""

    def __init__(self, directory: Path) -> None:
        self._port = free_port()
        self._file = directory / "temporal.db"
        self.address = f"127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [server_program(), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
        command += ["--port", str(self._port), "--db-filename", str(self._file)]
        command += ["--log-level", "never"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def connected(self) -> Client:
        async def connect() -> Client | None:
            try:
                return await Client.connect(self.address)
            except RuntimeError:
                return None

        client: Client = await until(connect)
        return client


@pytest.fixture
def temporal(tmp_path: Path) -> Iterator[Temporal]:
    temporal = Temporal(tmp_path)
    yield temporal
    temporal.kill()


@asynccontextmanager
async def app_of(client: Client) -> AsyncIterator[App]:
    """The app of workers that run elsewhere, once they have published it."""
    async with Follower(client) as follower:
        await until(
            lambda: follower.snapshot is not None and follower.snapshot.function("chaos-work"), 60
        )
        yield App(
            client,
            [chaos.work, chaos.chain, chaos.buffered, chaos.long, chaos.deadly, chaos.patient],
            Router(client, follower, Waits.of(client).deliver),
        )


@pytest.mark.timeout(180)
async def test_a_step_of_a_killed_worker_is_executed_by_another_and_finished_steps_are_not(
    client: Client, processes: Processes
) -> None:
    workers = [processes.worker(), processes.worker()]
    async with app_of(client) as app:
        run = app.run_of(chaos.long, await app.send("chaos/long"))
        [_, began] = await until(lambda: len(found := processes.lines("begin")) == 2 and found)
        victim = next(worker for worker in workers if worker.pid == int(began[0]))
        loop = asyncio.get_running_loop()
        killed = loop.time()
        processes.kill(victim)
        again = await until(lambda: (found := processes.lines("begin")[2:]) and found[0], 45)
        print(f"retried {loop.time() - killed:.1f} s after the kill")
        assert int(again[0]) != victim.pid
        assert await run.result() == ["first", "stuck"]
    assert [line[2] for line in processes.lines("begin")] == ["first", "stuck", "stuck"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("sleeps", [False, True], ids=["at once", "after a sleep"])
async def test_a_handler_that_kills_its_process_is_an_attempt(
    client: Client, processes: Processes, sleeps: bool
) -> None:
    workers = [processes.worker()]
    async with app_of(client) as app:
        run = app.run_of(chaos.deadly, await app.send("chaos/deadly", {"sleeps": sleeps}))
        result = asyncio.ensure_future(run.result())
        while not result.done():
            if workers[-1].poll() is not None:
                workers.append(processes.worker())
            await asyncio.sleep(0.2)
        assert result.result() == 1
    # The first one was in a workflow task, whose tries nobody counts.
    assert [line[2] for line in processes.lines("deadly")] == ["0", "0", "1"]
    assert [worker.returncode for worker in workers[:-1]] == [9, 9]


@pytest.mark.timeout(300)
async def test_runs_under_random_kills_are_neither_lost_nor_stuck(
    client: Client, processes: Processes, long: bool
) -> None:
    count, seed = 200 if long else 60, random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(3):
        processes.worker()
    async with app_of(client) as app:
        killing = asyncio.create_task(kill_at_random(processes, chance))
        runs = [
            app.run_of(chaos.work, await app.send("chaos/work", {"seconds": 0.5}))
            for _ in range(count)
        ]
        results = asyncio.gather(*(run.result() for run in runs))
        kills = await killing
        print(f"{kills} kills")
        assert await asyncio.wait_for(results, 180) == [["first", "left", "right", "last"]] * count
    ends = collections.Counter((run, step) for _, run, step in processes.lines("end"))
    assert len(ends) == 4 * count
    # A step ends twice only if its worker was killed before it had reported the first end.
    twice = [step for step, times in ends.items() if times > 1]
    print(
        f"{len(twice)} of {4 * count} steps ended twice: their worker was killed before it had"
        " reported them"
    )
    assert len(twice) <= 40


@pytest.mark.timeout(1_800)
async def test_a_kill_repeats_no_more_of_a_chain_than_it_may(
    temporal: Temporal, tmp_path: Path, long: bool
) -> None:
    """Workers and Temporal are killed in turn."""
    count, steps, kills = (12, 830, 10) if long else (4, 150, 2)
    repeated = {chaos.chain: 1, chaos.buffered: chaos.BUFFER}
    processes = Processes(temporal.address, "default", tmp_path)
    try:
        client = await temporal.connected()
        worker = processes.worker()
        async with app_of(client) as app:
            runs = {}
            for function in [*repeated] * (count // 2):
                event = await app.send(f"chaos/{function.local_id}", {"steps": steps})
                runs[app.run_of(function, event).id] = function
            for kill in range(1, kills + 1):
                ended = count * steps * kill // (kills + 1)
                await until(lambda ended=ended: len(processes.lines("end")) >= ended, 600)
                if kill % 2:
                    processes.kill(worker)
                    worker = processes.worker()
                else:
                    temporal.kill()
                    temporal.start()
        client = await temporal.connected()
        results = (client.get_workflow_handle(run).result() for run in runs)
        await asyncio.wait_for(asyncio.gather(*results), 600)
    finally:
        processes.close()
    begun: dict[str, list[int]] = collections.defaultdict(list)
    for _, run_id, step in processes.lines("begin"):
        begun[run_id].append(int(step))
    assert begun.keys() == runs.keys()
    twice: collections.Counter[str] = collections.Counter()
    for run, order in begun.items():
        most = repeated[runs[run]]
        assert sorted(set(order)) == list(range(steps))
        assert len(order) <= steps + kills * most
        # What was recorded stays: a kill leads back by no more than `most` steps.
        assert all(next > last - most for last, next in pairwise(order))
        twice[runs[run].id] += len(order) - steps
    print(f"of {count // 2 * steps} steps each, executed twice: {dict(twice)}")


@pytest.mark.timeout(120)
async def test_an_ingress_killed_between_an_event_and_its_retry_starts_one_run(
    client: Client, processes: Processes
) -> None:
    processes.worker()
    port = free_port()
    ingress = processes.start("ingress", "--port", str(port))
    seed = {"x-inngest-event-id-seed": "1700000000000,AAAAAAAAAAAAAA=="}
    async with app_of(client) as app, httpx.AsyncClient(verify=False) as http:

        async def post() -> list[str]:
            async def attempt() -> Any:
                try:
                    reply = await http.post(
                        f"http://127.0.0.1:{port}/e/key",
                        json={"name": "chaos/work", "data": {}},
                        headers=seed,
                    )
                except httpx.TransportError:
                    return None
                return reply.json()["ids"] if reply.status_code == 200 else None

            ids: list[str] = await until(attempt, 60)
            return ids

        first = await post()
        processes.kill(ingress)
        processes.start("ingress", "--port", str(port))
        assert await post() == first
        stamped = events.Stamped({"id": first[0]}, first[0])
        assert await app.run_of(chaos.work, stamped).result() == ["first", "left", "right", "last"]
        query = f"WorkflowId STARTS_WITH '{events.run_prefix(first[0])}'"
        assert len(await until(lambda: listed(client, query))) == 1
    assert len(processes.lines("end")) == 4


async def kill_at_random(processes: Processes, chance: random.Random, kills: int = 8) -> int:
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.2, 1.5))  # kills may come at any moment
        processes.kill(chance.choice(processes.all))
        processes.worker()
    return kills


async def listed(client: Client, query: str) -> list[str]:
    return [run.id async for run in client.list_workflows(query)]


@pytest.mark.timeout(180)
async def test_a_sleep_and_a_wait_survive_a_restart_of_temporal(
    temporal: Temporal, tmp_path: Path
) -> None:
    processes = Processes(temporal.address, "default", tmp_path)
    try:
        client = await temporal.connected()
        processes.worker()
        async with app_of(client) as app:
            sleeping = app.run_of(chaos.patient, await app.send("chaos/patient", {"sleep": True}))
            waits = app.run_of(chaos.patient, await app.send("chaos/patient", {"id": 7}))
            await registered(sleeping)
            await registered(waits)
        temporal.kill()
        temporal.start()
        client = await temporal.connected()
        async with app_of(client) as app:
            await app.send("chaos/go", {"id": 8})
            await app.send("chaos/go", {"id": 7})
            waits, sleeping = (
                client.get_workflow_handle(waits.id),
                client.get_workflow_handle(sleeping.id),
            )
            assert await asyncio.wait_for(waits.result(), 60) == [7]
            assert await asyncio.wait_for(sleeping.result(), 60) == ["slept"]
        assert len(processes.lines("begin")) == 2
    finally:
        processes.close()
