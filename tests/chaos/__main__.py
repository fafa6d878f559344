"""`python -m tests.chaos --minutes N`: faults for N minutes, then a report. The exit status
is 1 unless every count that should be zero is zero."""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from temporalio.client import Client

if TYPE_CHECKING:
    from .sender import Sender, Sent
    from .verify import Journal
    from .world import World

STAYS = [
    "InngestRegistry",
    "InngestApp",
    "InngestHub",
    "InngestRateLimit",
    "InngestDebounce",
    "InngestBatch",
]
"""Workflow types that may be open when all is quiet: gates remember events for 24 hours."""
ALSO_STAYS = {"chaos-cron"}
"""Runs of these may begin at any moment."""
SHOWN = 10
"""Lines of details for each count that is not zero."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3, help="how long there are faults")
    parser.add_argument("--settle", type=float, default=5, help="minutes to finish after them")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--rate", type=float, default=3, help="cases that begin in a second")
    parser.add_argument("--pause", type=float, default=5, help="seconds between faults")
    parser.add_argument("--burners", type=int, default=0, help="processes that only use CPU time")
    parser.add_argument("--directory", type=Path, help="kept; without it, kept if it is needed")
    parser.add_argument(
        "--server",
        metavar="COMMAND",
        help="starts Temporal, on Postgres for instance, with an empty namespace `default`; without"
        " it, the embedded server on a file",
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="where that server listens")
    options = parser.parse_args()
    if (options.server is None) != (options.address is None):
        parser.error("--server and --address go together")
    return options


async def chaos(options: argparse.Namespace, directory: Path) -> bool:
    """Run the test. Returns whether all went well."""
    from . import verify
    from .sender import Sender
    from .world import World, until

    chance = random.Random(options.seed)
    journal = verify.Journal(Path(os.environ["CHAOS_JOURNAL"]))
    server = options.server and (options.address, shlex.split(options.server))
    world = World(directory, random.Random(options.seed + 1), options.burners, server)
    sender = Sender(chance, world.urls)

    def missing() -> "list[Sent]":
        journal.read()
        return verify.unfinished(journal, sender.sent)

    supervising = asyncio.create_task(world.supervise())
    try:
        await ready(world, sender, journal)
        print(f"ready after {time.perf_counter() - BEGAN:.0f} s", flush=True)
        seconds = options.minutes * 60
        sending = asyncio.create_task(sender.run(seconds, options.rate, lambda: len(missing())))
        await world.break_things(seconds, options.pause)
        began = time.perf_counter()
        with contextlib.suppress(TimeoutError, RuntimeError):
            await asyncio.wait_for(sending, options.settle * 60)
            await until(lambda: not missing(), options.settle * 60, "events")
        settled = time.perf_counter() - began
        client = await world.client()
        with contextlib.suppress(RuntimeError):
            await until(lambda: nothing_open(client), 120, "entities")
        left = [f"{kind} {run}" for kind, run in await opened(client)]
        lost, stuck = await explained(world, missing())
        return report(options, world, sender, journal, (lost, stuck, left), settled)
    finally:
        supervising.cancel()
        world.close()


async def ready(world: "World", sender: "Sender", journal: "Journal") -> None:
    """Wait until events to each ingress start runs of both apps; before, they may start none."""
    from .world import until

    numbers = iter(range(-1, -10_000, -1))
    Path(os.environ["CHAOS_JOURNAL"]).touch()
    await until(lambda: registered(world.app_url), 180, "the registration of the app over HTTP")
    for url, kind in itertools.product(world.urls(), ("steps-0", "http-keyed")):
        first = next(numbers)

        async def answered(url: str = url, kind: str = kind, first: int = first) -> bool:
            with contextlib.suppress(httpx.TransportError):
                await sender.probe(url, kind, n := next(numbers))
                await asyncio.sleep(0.5)
                journal.read()
                return any(journal.proved("probe", each) for each in range(n, first))
            return False

        await until(answered, 180, f"a run of {kind} by way of {url}")


async def registered(app_url: str) -> bool:
    """Have the app over HTTP register, as `dev -u` does. Returns whether it has."""
    with contextlib.suppress(httpx.TransportError):
        async with httpx.AsyncClient(timeout=20) as http:
            return (await http.put(app_url, json={"url": app_url})).is_success
    return False


async def opened(client: Client) -> list[tuple[str, str]]:
    running = client.list_workflows("ExecutionStatus = 'Running'")
    found = [(each.workflow_type, each.id) async for each in running]
    return [each for each in found if each[0] not in {*STAYS, *ALSO_STAYS}]


async def nothing_open(client: Client) -> bool:
    return not await opened(client)


async def explained(world: "World", missing: "list[Sent]") -> tuple[list[str], list[str]]:
    """Divide events without their effect: those of which no run is under way, and the others."""
    lost, stuck = [], []
    async with httpx.AsyncClient(timeout=20) as http:
        for each in missing:
            reply = await http.get(f"{world.urls()[0]}/v1/events/{each.ids[0]}/runs")
            runs: list[Any] = reply.json().get("data") or []
            text = f"{each.kind} {each.n} {each.key} {each.ids[0]}: " + (
                ", ".join(f"{run['run_id']} {run['status']}" for run in runs) or "no run"
            )
            open_ = any(run["status"] in ("Running", "Scheduled") for run in runs)
            (stuck if open_ else lost).append(text)
    return lost, stuck


def report(
    options: argparse.Namespace,
    world: "World",
    sender: "Sender",
    journal: "Journal",
    outcome: tuple[list[str], list[str], list[str]],
    settled: float,
) -> bool:
    from . import verify

    attempts = journal.attempts()
    lost, stuck, left = outcome
    refused = [f"{each.kind} {each.n}: {each.reply}" for each in sender.sent if not each.ids]
    counts: dict[str, list[str]] = {
        "never accepted": refused,
        "lost": lost,
        "stuck": stuck,
        "failed": verify.said(journal, "failed"),
        "wrong results": verify.said(journal, "wrong"),
        "finished and again": list(verify.again(attempts)),
        "twice": list(verify.twice(journal)),
        "over a limit": list(verify.over_limit(attempts)),
        "singletons side by side": list(verify.singletons(attempts)),
        "more than one": list(verify.more_than_one(journal)),
        "left over": left,
        "ended by themselves": world.surprises,
        "did not stop": verify.said(journal, "did not stop"),
        "no cron": [] if any(each.kind == "cron" for each in attempts) else ["no tick"],
    }
    accepted = [each for each in sender.sent if each.ids]
    kinds = len({each.kind for each in accepted})
    times = ", ".join(f"{count} {name}" for name, count in sorted(world.faults.items()))
    print(
        f"seed {options.seed}, {options.minutes:g} minutes, {options.burners} burners: "
        f"{len(accepted)} events of {kinds} kinds and a cron, {sender.repeats} requests repeated, "
        f"{len(attempts)} steps executed"
    )
    print(f"{sum(world.faults.values())} faults: {times}")
    print(f"{'not all' if lost or stuck else 'all'} finished, {settled:.0f} s after the last fault")
    print(", ".join(f"{name} {len(found)}" for name, found in counts.items()))
    for name, found in counts.items():
        for line in found[:SHOWN]:
            print(f"  {name}: {line}")
    by_kind = Counter(each.split()[0] for each in lost + stuck)
    if by_kind:
        print("  unfinished by kind:", dict(by_kind))
    return not any(counts.values())


def main() -> int:
    options = arguments()
    # In memory if there is such a place: a disk that others use makes Temporal wait, and what a
    # killed process has written to a file is there afterwards either way.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = options.directory or Path(tempfile.mkdtemp(prefix="chaos-", dir=memory))
    directory.mkdir(parents=True, exist_ok=True)
    # Before `notes` is imported, which reads it.
    os.environ["CHAOS_JOURNAL"] = str(directory / "journal.jsonl")
    well = asyncio.run(chaos(options, directory))
    if well and options.directory is None:
        shutil.rmtree(directory)
    else:
        print(f"Journal, logs and Temporal's database: {directory}")
    return 0 if well else 1


BEGAN = time.perf_counter()

if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # temporalio's threads may call Python while it is being torn down
