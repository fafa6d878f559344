"""Apps of the official SDK for Python on FastAPI, Flask and Django, unmodified, each a process."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.harness import until
from tests.http_world import HttpWorld, http_world

APP = Path(__file__).parents[2] / "apps" / "frameworks.py"


@contextlib.asynccontextmanager
async def app(world: HttpWorld, framework: str) -> AsyncIterator[str]:
    """The app's URL, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("INNGEST_")
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(APP),
        framework,
        env=inherited | {"PORT": str(port), "INNGEST_DEV": world.url},
    )

    def answers() -> bool:
        assert process.returncode is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        await until(answers)
        yield f"http://127.0.0.1:{port}/api/inngest"
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("framework", ["fast_api", "flask", "django"])
async def test_an_app_runs_on_each_framework(client: Client, framework: str) -> None:
    async with http_world(client) as world, app(world, framework) as url:
        await world.sync(url)
        run = await world.run(f"{framework}/steps", {"n": 1})
        assert run["status"] == "Completed", run
        assert run["output"] == [1, "l", "r", "boom", 0]
        run = await world.run(f"{framework}/parent")
        assert run["output"] == 7
