"""`inngest-temporal` in a process of its own, for tests; and what its ingress answers."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import pause
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
LIMIT = 60.0
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)


def until(
    condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = LIMIT
) -> Any:
    """Wait for a condition, with a limit. `what`: for the error; called when it is raised."""
    began = time.monotonic()
    while not (value := condition()):
        if time.monotonic() >= began + seconds:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"{text}: not within {seconds:g} s")
        time.sleep(pause(began, least=0.05))
    return value


class Command:
    """A running `inngest-temporal`."""

    def __init__(self, *arguments: str, cwd: Path, **environ: str) -> None:
        self._mark = f"INNGEST_TEST_MARK={uuid.uuid4()}"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("INNGEST_", "TEMPORAL_"))
        }
        name, _, value = self._mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inngest_temporal_workers", *arguments],
            cwd=cwd,
            env={**inherited, "PYTHONPATH": str(ROOT), name: value, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def says(self, text: str, times: int = 1) -> None:
        """Wait until the command has printed `text`, `times` times."""
        until(
            lambda: self.output.count(text) >= times or self.process.poll() is not None,
            lambda: f"{text!r} in the output so far:\n{self.output}",
        )
        assert self.output.count(text) >= times, f"{text!r} is not in:\n{self.output}"

    def ends(self, seconds: float = LIMIT) -> int:
        """Wait for its end, and return its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ends()

    def left(self) -> list[int]:
        """Ids of its processes that are alive, children included."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in environ.read_bytes():
                    found.append(int(environ.parent.name))
            except OSError:  # gone, or not ours
                continue
        return found

    def close(self) -> None:
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self._reader.join(LIMIT)


@contextlib.contextmanager
def starter(directory: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands in a directory. Those that are left are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **environ: str) -> Command:
            command = Command(*arguments, cwd=directory, **environ)
            stack.callback(command.close)
            return command

        yield start


class Dev:
    """A running `inngest-temporal dev`."""

    def __init__(self, start: Callable[..., Command], *arguments: str, **environ: str) -> None:
        self.port, self.temporal_port, self.ui_port = free_port(), free_port(), free_port()
        self.command = start(
            "dev",
            *arguments,
            *("--port", str(self.port)),
            *("--temporal-port", str(self.temporal_port)),
            *("--ui-port", str(self.ui_port)),
            **environ,
        )
        self.says = self.command.says
        self.temporal = f"127.0.0.1:{self.temporal_port}"


class Http:
    """Speaks to an ingress."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def send(self, name: str, /, **data: Any) -> str:
        """Send an event, and return its id."""
        reply = httpx.post(
            f"{self.url}/e/dev", json={"name": name, "data": data}, timeout=15, verify=False
        )
        assert reply.status_code == 200, reply.text
        [event_id] = reply.json()["ids"]
        return str(event_id)

    def result(self, event_id: str, seconds: float = LIMIT) -> Any:
        """Wait for the end of the run that an event started, and return its output."""

        def ended() -> Any:
            runs = (
                httpx.get(f"{self.url}/v1/events/{event_id}/runs", timeout=15, verify=False)
                .json()
                .get("data")
                or []
            )
            return next((run for run in runs if run["status"] not in ("Running", "Queued")), None)

        run = until(ended, f"the run of event {event_id}", seconds)
        assert run["status"] == "Completed", run
        return run["output"]


def send_until_ready(http: Http, name: str, /, **data: Any) -> str:
    """Send an event until it starts a run, and return its id. The ingress takes a moment to reach
    Temporal and to follow the registry."""

    def started() -> str | None:
        try:
            event_id = http.send(name, **data)
        except AssertionError:  # 503
            return None
        for _ in range(10):
            if (
                httpx.get(f"{http.url}/v1/events/{event_id}/runs", timeout=15, verify=False)
                .json()
                .get("data")
            ):
                return event_id
            time.sleep(0.1)
        return None

    return str(until(started, "an ingress that knows the function"))
