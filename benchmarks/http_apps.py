"""The same functions as in `runs`, in apps of the official SDKs that are called over HTTP, beside
native ones and a workflow written by hand.

All are started by their event, through a router as in the ingress. The apps and `worker --http` are
processes of their own; the worker is also the ingress to which the apps report their steps.
"""

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import httpx
from temporalio.client import Client

from inngest_temporal.routing.router import Router

from . import functions
from .bench import (
    HAND,
    NO_PAUSE,
    OURS,
    ROOT,
    Report,
    Start,
    embedded_server,
    latency,
    process,
    routing,
    take_turns,
    throughput,
    workers,
)
from .starters import by_event, by_hand

JAVASCRIPT, PYTHON = "JavaScript SDK", "Python SDK"
AT_ONCE = {0: 40, 1: 30, 5: 16, 20: 8}
TURNS = 7
THROUGHPUT_BARS = {JAVASCRIPT: 2.0, PYTHON: 0.8}
"""These hold for 20 steps."""
LATENCY_BARS = {(JAVASCRIPT, 0): 4.0, (PYTHON, 0): 4.0, (PYTHON, 20): 3.0}


def starters(client: Client, router: Router, size: int) -> dict[str, Start]:
    """The ways to run a function of that many steps."""
    return {
        JAVASCRIPT: by_event(client, router, f"bench-js-steps-{size}", f"bench-js/steps-{size}"),
        PYTHON: by_event(client, router, f"bench-py-steps-{size}", f"bench-py/steps-{size}"),
        OURS: by_event(
            client, router, f"bench-steps-{size}", functions.STEPS_EVENT.format(size=size)
        ),
        HAND: by_hand(client, functions.HandSteps.run, size),
    }


async def main(report: Report) -> None:
    """Print throughput and latency, on a server that does not pause between workflow tasks."""
    async with (
        embedded_server(NO_PAUSE) as client,
        workers(client),
        http_worker(client) as ingress,
        apps(ingress),
        routing(client) as router,
    ):
        report.title(f"http: throughput, median of {TURNS} turns")
        for size, at_once in AT_ONCE.items():
            sides = {
                name: throughput(start, at_once, sum(range(size)))
                for name, start in starters(client, router, size).items()
            }
            samples = await take_turns(sides, TURNS)
            for name in (JAVASCRIPT, PYTHON, OURS):
                bar = THROUGHPUT_BARS.get(name) if size == 20 else None
                what = f"{size} steps, {at_once} at once"
                report.compare(
                    what, samples[name], samples[HAND], "runs/s", at_least=bar, names=(name, HAND)
                )
        report.title(f"http: latency of one at a time, median of {TURNS} turns")
        for size in AT_ONCE:
            sides = {name: latency(start) for name, start in starters(client, router, size).items()}
            samples = await take_turns(sides, TURNS)
            for name in (JAVASCRIPT, PYTHON, OURS):
                bar = LATENCY_BARS.get((name, size))
                report.compare(
                    f"{size} steps",
                    samples[name],
                    samples[HAND],
                    "ms",
                    at_most=bar,
                    names=(name, HAND),
                )


@contextlib.asynccontextmanager
async def http_worker(client: Client) -> AsyncIterator[str]:
    """`worker --http`, which is the ingress, too; yields its URL."""
    url = f"http://127.0.0.1:{_free_port()}"
    environment = {
        **os.environ,
        "TEMPORAL_ADDRESS": client.service_client.config.target_host,
        "INNGEST_DEV": "1",
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inngest_temporal_workers",
        "worker",
        "--http",
        "--grace",
        "0",
        "--listen",
        url.removeprefix("http://"),
        "--log-level",
        "error",
        cwd=ROOT,
        env=environment,
        stdout=PIPE,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            await child.stdout.readline()
        yield url
    finally:
        child.terminate()
        await child.wait()


@contextlib.asynccontextmanager
async def apps(ingress: str) -> AsyncIterator[None]:
    """Both apps, registered."""
    javascript, python = _free_port(), _free_port()
    async with (
        _javascript(javascript, ingress),
        process("benchmarks.python_app", str(python), ingress),
        httpx.AsyncClient(timeout=60) as http,
    ):
        for port in (javascript, python):
            url = f"http://127.0.0.1:{port}/api/inngest"
            answer = await http.put(url, json={"url": url})
            answer.raise_for_status()
        yield


@contextlib.asynccontextmanager
async def _javascript(port: int, ingress: str) -> AsyncIterator[None]:
    environment = {**os.environ, "INNGEST_DEV": ingress}
    child = await asyncio.create_subprocess_exec(
        "node",
        "bench.mjs",
        str(port),
        cwd=ROOT / "tests" / "apps" / "js",
        env=environment,
        stdin=PIPE,
        stdout=PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = await child.stdout.readline()
        if not line.startswith(b"ready"):
            raise RuntimeError("The app did not start. Install its packages: npm ci")
        yield
    finally:
        child.stdin.close()
        await child.wait()


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port: int = free.getsockname()[1]
        return port
