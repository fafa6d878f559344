"""One embedded Temporal server for the whole session, a fresh namespace for every test.

Our ids (of the registry, hubs, mailboxes) are fixed within a namespace, so each test has one of its
own, which takes about 20 ms to register. Task queues belong to a namespace too, so a test may use
`names.SYSTEM_TASK_QUEUE` without meeting another test's workers.
"""

import asyncio
import contextlib
import faulthandler
import functools
import gc
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from ulid import ULID

from inngest_temporal.temporal.connection import find_namespace
from inngest_temporal_workers.commands.embedded import (
    PARTITION_SETTINGS,
    POLL_SETTING,
    server_program,
)

SHUTDOWN_SECONDS = 30
"""The part of a test's time in which its workers stop when it has taken too long."""
TEARDOWN_SECONDS = 90
_status = pytest.StashKey[int]()
_stderr = pytest.StashKey[int]()

SLOW_FILES = {
    "test_apps.py": 280,
    "test_cli.py": 240,
    "test_browser.py": 200,
    "test_faults.py": 190,
    "test_locks.py": 170,
    "test_cron.py": 160,
    "test_checkpoints.py": 110,
    "test_replays.py": 110,
    "test_run.py": 100,
    "test_javascript_app.py": 100,
    "test_bad_apps.py": 90,
    "test_http_faults.py": 90,
    "test_flow_faults.py": 90,
    "test_waits.py": 80,
    "test_gates.py": 80,
    "test_pauses.py": 80,
    "test_cancellations.py": 80,
    "test_replay_safety.py": 80,
    "test_typescript_example.py": 70,
    "test_reading.py": 60,
    "test_openapi.py": 60,
    "test_conditions.py": 60,
    "test_reruns.py": 60,
    "test_noise.py": 50,
    "test_deploy.py": 50,
    "test_installed.py": 20,
    "test_typing.py": 20,
}
"""Files that take long, with their seconds on two cores that do much else at the same time."""
GO = {"GOGC": "800", "GOMEMLIMIT": "1GiB", "GOMAXPROCS": "1"}
"""Temporal's servers, which are written in Go, collect their garbage less often, and use one core
each: as there is one for each process of tests, that takes a fifth less CPU time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="random tests for longer, large ones at full size"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name, value in GO.items():
        os.environ.setdefault(name, value)
    config.stash[_stderr] = os.dup(2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests that take long, so that nothing has to wait for them at the end.

    And let tests that take too long end in order, so that their workers stop. pytest-timeout would
    cancel all tasks of a test's loop at once, those inside Temporal's workers too, and the workers
    would never end.
    """
    items[:] = _dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            seconds = float(marker.args[0] if marker else item.config.getini("timeout"))
            item.obj = _limited(item.obj, max(seconds - SHUTDOWN_SECONDS, seconds / 2))


def _dealt(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Order tests so that each process begins with files that take long, about equally long in
    each. pytest-xdist gives each process the same number of tests, in order; one that is ready
    takes tests from the end of another's."""
    slow: dict[Path, list[pytest.Item]] = {}
    quick = []
    for item in items:
        kept = slow.setdefault(item.path, []) if item.path.name in SLOW_FILES else quick
        kept.append(item)
    parts: list[list[pytest.Item]] = [[] for _ in range(processes)]
    seconds = [0] * processes
    for path in sorted(slow, key=lambda path: (-SLOW_FILES[path.name], path)):
        least = seconds.index(min(seconds))
        parts[least] += slow[path]
        seconds[least] += SLOW_FILES[path.name]
    left = len(items)
    for number, part in enumerate(parts):
        missing = max(0, left // (processes - number) - len(part))
        part += quick[:missing]
        del quick[:missing]
        left -= len(part)
    return [item for part in [*parts, quick] for item in part]


def _limited(
    test: Callable[..., Coroutine[Any, Any, None]], seconds: float
) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def limited(*args: Any, **options: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **options)

    return limited


def pytest_collection_finish() -> None:
    tidy()


def tidy() -> None:
    """Let garbage collection leave out what exists now. To look at it takes long on a busy machine,
    and that counts as time of a workflow task, which has two seconds."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End the process if a teardown does not end: pytest-xdist continues with another process."""
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        if nextitem is None or nextitem.path != item.path:
            tidy()


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether a test is to be as long, or as large, as it can be."""
    return bool(request.config.getoption("--long"))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process here. While Python is torn down, temporalio's threads may call it, which
    aborts the process after all tests have passed (seen twice in a few dozen scripts)."""
    status = config.stash.get(_status, None)
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


SETTINGS = (
    "frontend.rps.namespaceReplicationInducingAPIs=1000",  # a namespace per test: 20/s by default
    # A workflow is marked as failing at the second failed task, not at the fifth.
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=2",
    *PARTITION_SETTINGS,
    POLL_SETTING,
)


@contextlib.asynccontextmanager
async def embedded_server(*settings: str) -> AsyncIterator[str]:
    """`host:port` of an embedded server on a free loopback port."""
    env = await WorkflowEnvironment.start_local(
        dev_server_existing_path=server_program(),
        dev_server_log_level="error",
        dev_server_extra_args=[
            part for each in (*SETTINGS, *settings) for part in ("--dynamic-config-value", each)
        ],
    )
    yield env.client.service_client.config.target_host
    await env.shutdown()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal_address() -> AsyncIterator[str]:
    """`host:port` of the embedded server. It executes no schedules and no batch operations: that
    would cost 10 ms for each namespace, and some CPU time for as long as the server runs."""
    async with embedded_server("worker.perNamespaceWorkerCount=0") as address:
        yield address


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scheduling_address() -> AsyncIterator[str]:
    """`host:port` of an embedded server that executes schedules and batch operations, for files
    that let their `temporal_address` be this one."""
    async with embedded_server() as address:
        yield address


@pytest_asyncio.fixture
async def namespace(temporal_address: str) -> str:
    """A new namespace."""
    return await new_namespace(temporal_address)


async def new_namespace(temporal_address: str) -> str:
    """Register a namespace, and return its name."""
    name = f"test-{ULID()}".lower()
    client = await Client.connect(temporal_address, namespace=name)
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    await client.workflow_service.register_namespace(request)
    for attempt in range(50):  # the server learns of a new namespace within a moment
        try:
            await find_namespace(client)
            break
        except RPCError:
            if attempt == 49:
                raise
            await asyncio.sleep(0.1)
    return name


@pytest_asyncio.fixture
async def client(temporal_address: str, namespace: str) -> Client:
    """A client of the test's own namespace."""
    return await Client.connect(temporal_address, namespace=namespace)


class Proxy:
    """A TCP proxy to the embedded server that a test can break (`stop`) and mend (`start`)."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.partition(":")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._left: int | None = None
        self.port = 0

    def break_after(self, chunks: int) -> None:
        """Stop by itself once `chunks` pieces of data were sent to the server."""
        self._left = chunks

    @property
    def is_broken(self) -> bool:
        return self._server is None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._host, int(self._port))
        if self.is_broken:  # it was stopped meanwhile
            writer.close()
            there[1].close()
            return
        self._writers |= {writer, there[1]}
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pump(reader, there[1], counted=True), self._pump(there[0], writer)
            )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool = False
    ) -> None:
        while data := await reader.read(65536):
            if counted and self._left is not None:
                self._left -= 1
                if self._left < 0:
                    self._left = None
                    await self.stop()
                    return
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest_asyncio.fixture
async def proxy(temporal_address: str) -> AsyncIterator[Proxy]:
    """A started proxy to the embedded server, for tests of outages."""
    proxy = Proxy(temporal_address)
    await proxy.start()
    yield proxy
    await proxy.stop()
