"""The first page of very many runs, as the dashboard and the API show it: how long that takes, and
how many queries it sends.

No worker executes them: they are there to be listed. Starting them takes some minutes, so
`python -m benchmarks` leaves this out: `python -m benchmarks pages`.
"""

import asyncio
import statistics
import time

import httpx
from temporalio.client import Client

from inngest_temporal.config import FunctionConfig
from inngest_temporal.http.app import create_ingress
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import RegisteredFunction
from inngest_temporal.routing.router import start_run
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import Settings
from inngest_temporal.temporal.visibility import Visibility

from . import functions
from .bench import NO_PAUSE, Report, embedded_server

RUNS = 100_000
FEW = 100
AT_ONCE = 50
TURNS = 9
FUNCTION = functions.FUNCTIONS[0].id
PAGES = {
    "the dashboard": "/runs",
    "the API": "/v2/runs",
    "the API, failed ones": "/v2/runs?status=Failed",
    "the API, of one function": f"/v2/apps/bench/functions/{FUNCTION}/runs",
}
UNSHARED_SECONDS = 1.1
"""Seconds after which an answer is not shared any more."""


async def main(report: Report) -> None:
    async with embedded_server(NO_PAUSE) as client:
        ingress = create_ingress(client, Settings(dev=True))
        transport = httpx.ASGITransport(app=ingress)
        async with httpx.AsyncClient(transport=transport, base_url="http://ingress") as http:
            await start(client, FEW)
            few = await pages(report, http, client, FEW)
            begun = time.monotonic()
            await start(client, RUNS - FEW)
            rate = (RUNS - FEW) / (time.monotonic() - begun)
            report.line(f"{RUNS:,} runs started, {rate:.0f}/s")
            many = await pages(report, http, client, RUNS)
    report.title(f"pages: the first of {RUNS:,} runs beside the first of {FEW}")
    for what in PAGES:
        report.compare(what, many[what], few[what], "ms", names=(f"{RUNS:,} runs", f"{FEW} runs"))


async def start(client: Client, count: int) -> None:
    numbers = iter(range(count))
    app_id = functions.FUNCTIONS[0].client.app_id
    config = FunctionConfig(id=FUNCTION, name="page", triggers=[])
    function = RegisteredFunction(app_id, names.task_queue(app_id), config)

    async def go_on() -> None:
        for number in numbers:
            event = events.stamp({"name": "bench/page", "data": {"number": number}})
            await start_run(client, function, [event], events.run_id(function.id, event))

    await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))


async def pages(
    report: Report, http: httpx.AsyncClient, client: Client, count: int
) -> dict[str, float]:
    """The median of the milliseconds that each page takes."""
    while True:  # visibility follows a moment later
        total = sum((await Visibility(client).count(f"WorkflowType = '{FUNCTION}'")).values())
        if total >= count:
            break
        await asyncio.sleep(1)
    medians = {}
    for what, path in PAGES.items():
        took = []
        calls = Visibility.of(client).calls
        for _ in range(TURNS):
            await asyncio.sleep(UNSHARED_SECONDS)
            begun = time.perf_counter()
            answer = await http.get(path)
            took.append((time.perf_counter() - begun) * 1000)
            assert answer.status_code == 200, answer.text
            assert (FUNCTION in answer.text) is ("Failed" not in path)
        queries = (Visibility.of(client).calls - calls) / TURNS
        report.line(f"{what}, {count:,} runs: {queries:.1f} queries of visibility")
        medians[what] = statistics.median(took)
    return medians
