"""The processes of a chaos test, and what breaks them. Each is ended by its id."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from temporalio.client import Client

from tests.ports import free_port

from . import functions, http_app, notes

WORKERS = 2
CALLERS = 2
"""Workers that call the app that is served over HTTP."""
INGRESSES = 2
ROOT = Path(__file__).parents[2]
STALLS = (3, 12, 32)
"""Seconds for which a worker or the app is stopped: it goes unnoticed, is late, or misses its
heartbeats."""

# Run by a new interpreter, which then becomes the program: the kernel kills it with this process.
_LAUNCH = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def program(name: str) -> str:
    """A program of this environment."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"There is no program {name} here.")
    return found


class Part:
    """One process that is started again whenever it was ended: a worker, an ingress, Temporal."""

    def __init__(self, name: str, command: Sequence[str], output: Path, environ: dict[str, str]):
        self.name = name
        self._command = command
        self._output = output
        self.environ = environ
        self.busy = False
        """Whether a fault of this process is under way."""
        self.start()

    def start(self) -> None:
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, *self._command],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def kill(self) -> None:
        notes.note("killed", victim=self.process.pid, name=self.name)
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def terminate(self, patience: float = 40) -> None:
        """Send SIGTERM; if the process does not end in time, note that, and send SIGKILL."""
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, patience)
        except subprocess.TimeoutExpired:
            notes.note("did not stop", victim=self.process.pid, name=self.name)
            await self.kill()

    async def stall(self, seconds: float) -> None:
        notes.note("stalled", victim=self.process.pid, seconds=seconds, name=self.name)
        self.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()  # ends a stopped process, too
            self.process.wait()

    def ended_by_itself(self) -> bool:
        return not self.busy and self.process.poll() is not None

    def last_line(self) -> str:
        """The last line that it printed, of those that begin at the margin."""
        lines = self._output.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line[:1].strip()), "")[:200]


class World:
    """Temporal on a database file, ingresses, workers, and burners that take time from them all."""

    def __init__(
        self,
        directory: Path,
        chance: random.Random,
        burners: int,
        server: tuple[str, list[str]] | None = None,
    ) -> None:
        """`server`: address and command of a Temporal server in place of the embedded one."""
        self.faults: Counter[str] = Counter()
        self.surprises: list[str] = []
        """Processes that ended by themselves."""
        self._chance = chance
        self._directory = directory
        self._version = "1"
        self._address, command = server or _embedded_server(directory / "temporal.db")
        self._ports = [free_port() for _ in range(INGRESSES)]
        self._environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("INNGEST_", "TEMPORAL_"))
        } | {"TEMPORAL_ADDRESS": self._address, "INNGEST_DEV": "1", "NO_COLOR": "1"}
        self._environ["PYTHONPATH"] = str(ROOT)
        self._environ["CHAOS_JOURNAL"] = notes.JOURNAL
        self._burners = [Part(f"burner-{n}", _BURN, Path(os.devnull), {}) for n in range(burners)]
        self.temporal = self._part("temporal", *command)
        ours = program("inngest-temporal")
        self.ingresses = [
            self._part(f"ingress-{n}", ours, "ingress", "--port", str(port))
            for n, port in enumerate(self._ports)
        ]
        app = str(Path(functions.__file__))
        worker = (ours, "worker", app, "--retry-interval", "0.5", "--grace", "5")
        self.workers = [self._part(f"worker-{n}", *worker) for n in range(WORKERS)]
        # Longer pauses, because a call that an app does not answer is an attempt.
        caller = (ours, "worker", "--http", "--retry-interval", "2", "--grace", "5")
        self.callers = [self._part(f"caller-{n}", *caller) for n in range(CALLERS)]
        self._app_port = free_port()
        module = (sys.executable, "-m", http_app.__name__)
        self.app = self._part("app", *module, INNGEST_DEV=self.urls()[0], PORT=str(self._app_port))

    @property
    def parts(self) -> list[Part]:
        return [self.temporal, *self.ingresses, *self.workers, *self.callers, self.app]

    @property
    def app_url(self) -> str:
        return f"http://127.0.0.1:{self._app_port}{http_app.PATH}"

    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports]

    async def client(self) -> Client:
        return await Client.connect(self._address)

    def close(self) -> None:
        for part in (*reversed(self.parts), *self._burners):
            part.end()

    async def break_things(self, seconds: float, pause: float) -> None:
        """Faults at random, `pause` seconds apart on average, some at the same time. At the end
        all is mended, and all workers run version 2."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        under_way: set[asyncio.Task[None]] = set()
        parts = {
            "worker": self.workers,
            "caller": self.callers,
            "ingress": self.ingresses,
            "app": [self.app],
            "temporal": [self.temporal],
        }
        while loop.time() < end:
            await asyncio.sleep(min(self._chance.expovariate(1 / pause), 4 * pause))
            name, make = self._chance.choice(self._kinds())
            part = self._chance.choice(parts[name.split()[1]])
            if not part.busy:
                under_way.add(asyncio.create_task(self._fault(name, part, make)))
        await asyncio.gather(*under_way)
        await self._deploy("2")

    def _kinds(self) -> list[tuple[str, Callable[[Part], Coroutine[Any, Any, None]]]]:
        def pause(part: Part) -> Coroutine[Any, Any, None]:
            return part.stall(self._chance.choice(STALLS))

        def short(part: Part) -> Coroutine[Any, Any, None]:
            return part.stall(self._chance.uniform(1, 10))

        return [
            *[("kill worker", Part.kill)] * 4,
            *[("kill caller", Part.kill)] * 2,
            *[("kill app", Part.kill)] * 2,
            *[("kill ingress", Part.kill)] * 2,
            *[("kill temporal", Part.kill)],
            *[("terminate worker", Part.terminate)] * 2,
            *[("terminate caller", Part.terminate)],
            *[("terminate app", Part.terminate)],
            *[("terminate ingress", Part.terminate)],
            *[("terminate temporal", Part.terminate)],
            *[("stall worker", pause)] * 2,
            *[("stall caller", pause)],
            *[("stall app", pause)],
            *[("stall ingress", short)],
            *[("stall temporal", short)],
            *[("deploy worker", self._deploy_other)] * 2,
        ]

    async def _fault(self, name: str, part: Part, make: Any) -> None:
        self.faults[name.replace("deploy worker", "deploy")] += 1
        part.busy = True
        try:
            await make(part)
            if part.process.poll() is not None:
                await asyncio.sleep(self._chance.choice((0, 0, 1, 4, 12)))
                part.start()
        finally:
            part.busy = False

    async def _deploy_other(self, _: Part) -> None:
        await self._deploy("1" if self._version == "2" else "2")

    async def _deploy(self, version: str) -> None:
        """Restart the workers with another version of the app, one after the other."""
        self._version = version
        for worker in self.workers:
            worker.environ["CHAOS_VERSION"] = version
            if worker.process.poll() is None and not worker.busy:
                worker.busy = True
                await worker.terminate()
                worker.start()
                worker.busy = False
            await asyncio.sleep(2)

    async def supervise(self) -> None:
        """Start what ends by itself, as an operator would, and remember that it did."""
        while True:
            for part in self.parts:
                if part.ended_by_itself():
                    said = f"{part.name}, status {part.process.returncode}: {part.last_line()}"
                    self.surprises.append(said)
                    part.start()
            await asyncio.sleep(1)

    def _part(self, name: str, *command: str, **environ: str) -> Part:
        return Part(name, command, self._directory / f"{name}.log", self._environ | environ)


def _embedded_server(file: Path) -> tuple[str, list[str]]:
    port = str(free_port())
    return f"127.0.0.1:{port}", [
        *(program("temporal"), "server", "start-dev", "--headless", "--ip", "127.0.0.1"),
        *("--port", port, "--db-filename", str(file), "--log-level", "error"),
        *("--dynamic-config-value", "history.transferProcessorMaxPollRPS=1000"),
    ]


_BURN = (sys.executable, "-I", "-S", "-c", "while True: pass")


async def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for a condition, which may be async. Raises `RuntimeError` at the limit."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        with contextlib.suppress(OSError):
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
        await asyncio.sleep(0.5)
    raise RuntimeError(f"{what}: not within {seconds:g} s")
