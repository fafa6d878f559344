"""Where the worker's CPU time in Python goes for a step, ours and by hand: functions of 20 steps
under cProfile.

The profiler makes every call slower, so take the shares from here, and the CPU time from `runs`.
"""

import asyncio
import pstats
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, cast

from .bench import HAND, OURS, Report, embedded_server, process, routing
from .runs import starters

SIZE = 20
AT_ONCE = 10
ROUNDS = 3
PARTS = {
    "adapter/inngest_temporal/drivers/local.py": "driver (a pass over the handler)",
    "adapter/inngest_temporal/steps.py": "driver (a pass over the handler)",
    "adapter/": "adapter, other",
    "workers/inngest_temporal_workers/runs/workflow.py": "run workflow",
    "workers/": "workers, other",
    "benchmarks/": "the functions themselves",
    "temporalio/": "temporalio",
    "google/protobuf": "protobuf",
    "asyncio/": "asyncio",
    "concurrent/": "threads",
    "threading.py": "threads",
    "json/": "json",
    "pydantic": "pydantic",
    "dataclasses.py": "dataclasses",
}
IDLE = "SimpleQueue"
"""A thread that waits for work as the profile ends is given another thread's clock."""
OTHER = "other Python and C functions"
TOP = 14


def part_of(file: str) -> str:
    return next((part for path, part in PARTS.items() if path in file), OTHER)


def shares(file: Path) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds of CPU by part of the program, and by function."""
    stats = cast(Any, pstats.Stats(str(file))).stats
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for (path, _, name), (_, _, own, _, _) in stats.items():
        if IDLE in name:
            continue
        short = "/".join(Path(path).parts[-2:])
        parts[part_of(path)] += own * 1000
        functions[f"{short} {name}" if path != "~" else name] += own * 1000
    return parts, functions


async def main(report: Report) -> None:
    """Print both sides by part, and those of our functions that take most."""
    steps = SIZE * AT_ONCE * ROUNDS
    with tempfile.TemporaryDirectory() as directory:
        files = {side: Path(directory, side) for side in (OURS, HAND)}
        async with embedded_server() as client:
            address = client.service_client.config.target_host
            async with (
                process("benchmarks.worker", "ours", address, str(files[OURS])),
                process("benchmarks.worker", "hand", address, str(files[HAND])),
                routing(client) as router,
            ):
                start = starters(client, router, SIZE)
                for _ in range(ROUNDS):
                    for side in (OURS, HAND):
                        await asyncio.gather(*(start[side]() for _ in range(AT_ONCE)))
        measured = {side: shares(file) for side, file in files.items()}
    ours, hand = measured[OURS][0], measured[HAND][0]
    report.title(
        f"profile: microseconds of Python CPU for a step, by part (under cProfile, {steps} steps)"
    )
    for part, spent in ours.most_common():
        report.line(
            f"{part:36}{spent / steps * 1000:8.0f}   {HAND} {hand[part] / steps * 1000:8.0f}"
        )
    total, theirs = sum(ours.values()), sum(hand.values())
    report.line(f"{'total':36}{total / steps * 1000:8.0f}   {HAND} {theirs / steps * 1000:8.0f}")
    report.title(
        "profile: the functions of ours with the most CPU of their own, beside the same by hand"
    )
    for name, spent in measured[OURS][1].most_common(TOP):
        report.line(
            f"{name[:65]:67}{spent / steps * 1000:6.0f}"
            f"{measured[HAND][1][name] / steps * 1000:8.0f}"
        )
