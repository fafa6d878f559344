"""Apps in JavaScript: installs their packages once, and runs them."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).with_name("apps") / "js"
"""The folder of the apps that only tests use."""
INSTALL_SECONDS = 300


def install(folder: Path = FOLDER) -> None:
    """Make sure that the packages of a `package-lock.json` are there. Several processes may call it
    at once. Fails if npm is missing, or can't get them."""
    npm = shutil.which("npm")
    assert npm, "npm is missing: tests of JavaScript apps need Node 20 or newer (apt install npm)"
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    with open(Path(tempfile.gettempdir()) / f"{wanted[:16]}-npm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
        assert done.returncode == 0, f"npm ci failed in {folder}:\n{done.stdout}{done.stderr}"
        stamp.write_text(wanted)


@contextlib.contextmanager
def process(
    *command: str, log: Path, cwd: Path | None = None, **environ: str
) -> Iterator[subprocess.Popen[str]]:
    """A program that runs while the context lasts. Of the variables of Inngest and Temporal it has
    only those that are given; what it prints is in `log`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("INNGEST_", "TEMPORAL_"))
    }
    with log.open("a") as output:
        running = subprocess.Popen(
            command,
            cwd=cwd,
            env={**inherited, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
