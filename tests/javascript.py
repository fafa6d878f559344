"""Apps in JavaScript (`tests/apps/js`), as tests speak to them."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests import node
from tests.harness import until
from tests.http_world import HttpWorld
from tests.ports import free_port


@dataclass
class Js:
    """An app, and what it tells of itself."""

    world: HttpWorld
    http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"{self.http.base_url}/api/inngest"

    async def run(self, name: str, **data: Any) -> dict[str, Any]:
        """Send `js/NAME`, and wait for its only run."""
        return await self.world.run(f"js/{name}", data)

    async def output(self, name: str, **data: Any) -> Any:
        """Send `js/NAME`, and return the output of its only run, which must succeed."""
        run = await self.run(name, **data)
        assert run["status"] == "Completed", run
        return run["output"]

    async def calls(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The requests for executions that the app got, in order."""
        return list(await self._told("calls", run))

    async def bodies(self, run: dict[str, Any]) -> list[tuple[str, int]]:
        """The bodies of steps that were executed, with their attempt, in order."""
        return [(each["name"], each["attempt"]) for each in await self._told("bodies", run)]

    async def _told(self, what: str, run: dict[str, Any]) -> Any:
        answer = await self.http.get(f"/{what}", params={"run": run["run_id"]})
        return answer.json()

    async def history(self, run: dict[str, Any]) -> Any:
        handle = self.world.client.get_workflow_handle(run["run_id"])
        return await handle.fetch_history()

    async def activities(self, run: dict[str, Any]) -> Counter[str]:
        """How many activities of each type the run has."""
        return Counter(
            event.activity_task_scheduled_event_attributes.activity_type.name
            for event in (await self.history(run)).events
            if event.HasField("activity_task_scheduled_event_attributes")
        )


@contextlib.asynccontextmanager
async def js_app(world: HttpWorld, module: str, log: Path, **environ: str) -> AsyncIterator[Js]:
    """A module of `tests/apps/js` while it runs, in dev mode unless it is told otherwise."""
    node.install()
    port = free_port()
    environ = {"PORT": str(port), **(environ or {"INNGEST_DEV": world.url})}
    command = ("node", str(node.FOLDER / module))
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False
    ) as http:
        with node.process(*command, log=log, **environ) as process:
            await until(lambda: process.poll() is not None or _answers(http))
            assert process.poll() is None, log.read_text()
            yield Js(world, http)


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        await http.get("/api/inngest")
    except httpx.HTTPError:
        return False
    return True
