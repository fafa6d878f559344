"""Apps of official SDKs while everything is killed: the apps, the workers that call them, the
ingress, Temporal. The processes are real, and so are the SIGKILLs."""

import asyncio
import json
import os
import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ulid import ULID

from tests import node
from tests.chaos.world import Part, program
from tests.harness import until
from tests.http_world import ENDED
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
RESULTS = {
    "py": ["a", "b", "c", "left", "right", "last"],
    "js": ["a", "b", "c", "d", "e", "f", "left", "right", "x", "y", "last"],
}
"""What a run of each app returns: the ids of its steps, in the order of the code."""


class Processes:
    """One process of each kind, and two workers. They are started again after they are killed."""

    def __init__(self, directory: Path) -> None:
        self.journal = directory / "journal.jsonl"
        self.journal.touch()
        self._directory = directory
        address, self.ingress_port = f"127.0.0.1:{free_port()}", free_port()
        self.url = f"http://127.0.0.1:{self.ingress_port}"
        self._environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("INNGEST_", "TEMPORAL_"))
        } | {"TEMPORAL_ADDRESS": address, "JOURNAL": str(self.journal), "PYTHONPATH": str(ROOT)}
        command = program("inngest-temporal")
        self.apps = {name: f"http://127.0.0.1:{free_port()}/api/inngest" for name in RESULTS}
        self.parts = [
            self._part(
                "temporal",
                *(program("temporal"), "server", "start-dev", "--headless", "--ip", "127.0.0.1"),
                *("--port", address.rpartition(":")[2], "--log-level", "error"),
                *("--db-filename", str(directory / "temporal.db")),
            ),
            self._part("ingress", command, "ingress", "--port", str(self.ingress_port)),
            *(self._worker(f"worker-{n}", command) for n in range(2)),
            self._app("py", sys.executable, str(ROOT / "tests" / "apps" / "faults.py")),
            self._app("js", shutil.which("node") or "node", str(node.FOLDER / "faults.mjs")),
        ]

    def close(self) -> None:
        for part in reversed(self.parts):
            part.end()

    async def kill(self, part: Part, pause: float) -> None:
        part.busy = True
        part.process.kill()
        await asyncio.to_thread(part.process.wait)
        await asyncio.sleep(pause)
        part.start()
        part.busy = False

    async def supervise(self) -> None:
        """Start what ends by itself, as an operator would: its port may have been taken."""
        while True:
            for part in self.parts:
                if part.ended_by_itself():
                    print(f"{part.name} ended: {part.last_line()}")
                    part.start()
            await asyncio.sleep(1)

    def _worker(self, name: str, command: str) -> Part:
        listen = f"127.0.0.1:{free_port()}"
        return self._part(
            name, command, "worker", "--http", "--listen", listen, "--retry-interval", "2"
        )

    def _app(self, name: str, *command: str) -> Part:
        return self._part(name, *command, PORT=self.apps[name].split(":")[2].split("/")[0])

    def _part(self, name: str, *command: str, **environ: str) -> Part:
        dev = "1" if name.startswith(("ingress", "worker")) else self.url
        environ = {**self._environ, "INNGEST_DEV": dev, **environ}
        return Part(name, command, self._directory / f"{name}.log", environ)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    node.install()
    processes = Processes(tmp_path)
    yield processes
    processes.close()


async def answered(http: httpx.AsyncClient, method: str, url: str, **options: Any) -> Any:
    """The JSON of a reply, once there is one that says that all is well."""

    async def attempt() -> Any:
        try:
            reply = await http.request(method, url, **options)
            return reply.json() if reply.is_success else None
        except (httpx.HTTPError, ValueError):
            return None

    return await until(attempt, 120)


async def sync(http: httpx.AsyncClient, processes: Processes) -> None:
    """Have the apps register, as `dev -u` does."""
    for url in processes.apps.values():

        async def is_registered(url: str = url) -> bool:
            answer = await answered(http, "PUT", url, json={"url": url})
            return bool(answer.get("ok") or "success" in str(answer.get("message")).lower())

        await until(is_registered, 120)

    async def are_known() -> bool:
        known = await answered(http, "GET", f"{processes.url}/dev")
        return len(known["handlers"]) == len(processes.apps)

    await until(are_known, 120)


async def send(http: httpx.AsyncClient, processes: Processes, app: str) -> str:
    """Send an event, which starts one run however often it has to be sent, and return its id."""
    event = {"id": str(ULID()), "name": f"{app}/work", "data": {}}
    answer = await answered(http, "POST", f"{processes.url}/e/dev", json=event)
    [id] = answer["ids"]
    return str(id)


async def run_of(http: httpx.AsyncClient, processes: Processes, event: str) -> dict[str, Any]:
    """The run of an event, once it has ended."""
    run: dict[str, Any] = {}

    async def has_ended() -> bool:
        nonlocal run
        answer = await answered(http, "GET", f"{processes.url}/v1/events/{event}/runs")
        [run] = answer["data"] or [{}]
        return run.get("status") in ENDED

    await until(has_ended, 400)
    return run


def executed_again(lines: list[dict[str, Any]]) -> list[str]:
    """Steps that began after an app had been told that they had ended, or had been answered that
    they were stored."""
    finished: defaultdict[str, set[str]] = defaultdict(set)
    found = []
    for line in lines:
        run, steps = line["run"], line["steps"]
        if line["what"] in ("told", "reported"):
            finished[run].update(steps)
        elif line["what"] == "begin" and finished[run].intersection(steps):
            found.append(f"{run} {steps}")
    return found


@pytest.mark.timeout(900)
async def test_kills_lose_no_run_and_repeat_no_step_that_was_reported(
    processes: Processes, long: bool
) -> None:
    count, kills = (500, 60) if long else (40, 6)
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with httpx.AsyncClient(timeout=20, verify=False) as http:
        supervising = asyncio.create_task(processes.supervise())
        await sync(http, processes)
        apps = [chance.choice(["py", "js"]) for _ in range(count)]
        sending = asyncio.create_task(sent(http, processes, apps))
        victims: Counter[str] = Counter()
        for part in chance.sample(processes.parts * kills, kills):
            await asyncio.sleep(chance.uniform(0.2, 2))  # kills may come at any moment
            victims[part.name] += 1
            await processes.kill(part, chance.choice((0, 0, 1)))
        events = await sending
        # One after the other: asking for all of them at once would keep the ingress busy.
        ended = [await run_of(http, processes, event) for _, event in events]
        supervising.cancel()
    lines = [json.loads(line) for line in processes.journal.read_text().splitlines()]
    begun = Counter((line["run"], *line["steps"]) for line in lines if line["what"] == "begin")
    repeated = sum(times > 1 for times in begun.values())
    print(f"{dict(victims)}: {repeated} of {len(begun)} steps were executed more than once")
    wrong = [
        run
        for (app, _), run in zip(events, ended, strict=True)
        if (run["status"], run["output"]) != ("Completed", RESULTS[app])
    ]
    assert not wrong
    assert len({run["run_id"] for run in ended}) == count
    assert not executed_again(lines)
    assert len(begun) == sum(len(RESULTS[app]) for app, _ in events)


async def sent(
    http: httpx.AsyncClient, processes: Processes, apps: list[str]
) -> list[tuple[str, str]]:
    """Send one event after the other. Returns each app with the id of its event."""
    found = []
    for app in apps:
        found.append((app, await send(http, processes, app)))
        await asyncio.sleep(0.2)  # the kills come meanwhile
    return found
