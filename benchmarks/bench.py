"""What the benchmarks share: the embedded server, worker processes, interleaved measuring, the
table with its bars.

The machine is never ours alone, so nothing is compared across time: ours and the hand-written take
turns, in one run, on one server, in an order that alternates; medians are over those turns.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal_workers.commands.embedded import POLL_SETTING, server_program

ROOT = Path(__file__).parent.parent
OURS = "ours"
HAND = "hand-written"


NO_PAUSE = POLL_SETTING
"""By default, the embedded server looks for workflow tasks 20 times a second, so one takes up to
50 ms, and most of any latency is that pause, on both sides. With this setting it is the work; a
larger cluster has many shards that look."""


PATIENCE = timedelta(seconds=30)
"""Limit of one call to a server that shares the machine with everything else."""


@contextlib.asynccontextmanager
async def embedded_server(*settings: str) -> AsyncIterator[Client]:
    """An embedded Temporal server on loopback and a free port; yields a client of it.

    `settings`: its dynamic configuration, `key=value`.
    """
    env = await WorkflowEnvironment.start_local(
        dev_server_existing_path=server_program(),
        dev_server_log_level="error",
        dev_server_extra_args=[
            part for each in settings for part in ("--dynamic-config-value", each)
        ],
    )
    try:
        yield env.client
    finally:
        await env.shutdown()


@dataclass(frozen=True)
class Child:
    """A process of ours that is ready."""

    pid: int
    line: str
    """What it printed when it was ready: `ready ...`."""


@contextlib.asynccontextmanager
async def process(module: str, *arguments: str) -> AsyncIterator[Child]:
    """`python -m module arguments`, once it is ready; it stops when its input ends."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdin=PIPE, stdout=PIPE, cwd=ROOT
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await child.stdout.readline()).decode()
        if not line.startswith("ready"):
            raise RuntimeError(f"{module} did not start: {line!r}")
        yield Child(child.pid, line)
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(30):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


@contextlib.asynccontextmanager
async def workers(client: Client) -> AsyncIterator[dict[str, Child]]:
    """A worker process for our functions and one for the hand-written workflows."""
    address = client.service_client.config.target_host
    async with (
        process("benchmarks.worker", "ours", address) as ours,
        process("benchmarks.worker", "hand", address) as hand,
    ):
        yield {OURS: ours, HAND: hand}


@contextlib.asynccontextmanager
async def routing(client: Client) -> AsyncIterator[Router]:
    """A router as in the ingress."""
    async with Follower(client) as follower:
        await follower.ready(30)
        yield Router(client, follower, Waits(client).deliver, rpc_timeout=PATIENCE)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Samples:
    """What one side measured, turn by turn."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


Turn = Callable[[], Awaitable[float]]


Start = Callable[[], Awaitable[object]]
"""Starts one run and waits for its end."""


def throughput(start: Start, at_once: int, result: object) -> Turn:
    """Runs per second, of `at_once` runs at a time, each of which must have this result."""

    async def turn() -> float:
        begun = time.perf_counter()
        results = await asyncio.gather(*(start() for _ in range(at_once)))
        elapsed = time.perf_counter() - begun
        assert results == [result] * at_once
        return at_once / elapsed

    return turn


def latency(start: Start) -> Turn:
    """Milliseconds of one run."""

    async def turn() -> float:
        begun = time.perf_counter()
        await start()
        return (time.perf_counter() - begun) * 1000

    return turn


async def take_turns(sides: dict[str, Turn], turns: int, *, warm_up: int = 1) -> dict[str, Samples]:
    """Measure all sides, `turns` times each, one after the other; the order is reversed every
    time."""
    samples = {name: Samples() for name in sides}
    order = list(sides)
    for turn in range(-warm_up, turns):
        for name in order:
            value = await sides[name]()
            if turn >= 0:
                samples[name].values.append(value)
        order.reverse()
    return samples


@dataclass
class Report:
    """Collects lines and whether every bar holds."""

    missed: list[str] = field(default_factory=list)

    def title(self, text: str, *notes: str) -> None:
        print(f"\n{text}")
        for note in notes:
            print(f"  {note}")

    def compare(
        self,
        what: str,
        ours: float | Samples,
        theirs: float | Samples,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        names: Sequence[str] = (OURS, HAND),
    ) -> None:
        """One line: both medians, their ratio, the bar, and whether it holds.

        The ratio of samples that were taken in turns is the median of the turns' ratios: what else
        the machine did in a turn, it did to both.
        """
        if isinstance(ours, Samples) and isinstance(theirs, Samples):
            ratio = statistics.median(
                a / b for a, b in zip(ours.values, theirs.values, strict=True)
            )
            ours, theirs = ours.median, theirs.median
        else:
            assert isinstance(ours, float)
            assert isinstance(theirs, float)
            ratio = ours / theirs if theirs else float("inf")
        holds = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
        bar = "" if at_least is None else f"bar >= {at_least:.2f}x"
        bar = bar if at_most is None else f"bar <= {at_most:.2f}x"
        verdict = "" if not bar else ("holds" if holds else "MISSED")
        left, right = f"{names[0]} {ours:.1f} {unit}", f"{names[1]} {theirs:.1f} {unit}"
        print(f"  {what:<26}{left:<30}{right:<30}{ratio:5.2f}x   {bar:<15}{verdict}", flush=True)
        if not holds:
            self.missed.append(what)

    def line(self, text: str) -> None:
        print(f"  {text}", flush=True)
