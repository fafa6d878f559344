"""Sends the events, and repeats them with the same ids until they are accepted."""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

SHARED_KEYS = 3
MOST_UNFINISHED = 80
"""How many events and cases may be under way when another case begins."""
EACH = (
    *("steps-0", "steps-1", "steps-5", "steps-20", "parallel", "sleeps", "sync", "large"),
    *("waits", "signals", "invokes", "chain", "flaky", "retry-after"),
    *("fatal", "no-retries", "cancelled", "timed-out"),
    *("per-key", "shared-a", "shared-b", "throttled", "priority", "batched"),
    *("http-steps", "http-waits", "http-keyed"),
)
"""Kinds of which every event has its run."""
NEWEST = ("debounced", "single-cancel")
"""Kinds of which the newest event of a key has its run."""
ONE = ("rate-limited", "idempotent")
"""Kinds of which a key has one run."""
SOME = ("single-skip",)
"""Kinds of which a key has a run or more."""
THRICE = ("per-key", "batched", "http-keyed")
"""Kinds whose cases have several events, each with its run."""
FREE = ("extra",)
"""Kinds that only one version has: nothing is expected of them."""
KINDS = (*EACH, *NEWEST, *ONE, *SOME, *FREE)

PROOF = {"fatal": "failed", "cancelled": "cancelled", "timed-out": "cancelled"}
"""The step that shows that an event had its effect, if it is not `last`."""


@dataclass
class Sent:
    """An event that was sent."""

    kind: str
    n: int
    key: str
    ids: list[str]
    """What the ingress answered when it accepted it."""
    reply: str = "no answer"
    """The last reply."""


class Sender:
    """Sends cases (a few events of one kind and key, one after the other) at a rate."""

    def __init__(self, chance: random.Random, urls: Callable[[], list[str]]) -> None:
        self.sent: list[Sent] = []
        self.repeats = 0
        self._chance = chance
        self._urls = urls
        self._numbers = itertools.count(1)
        self._cases = itertools.count(1)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float, rate: float, unfinished: Callable[[], int]) -> None:
        """Begin cases for `seconds`, but none while too many events are unfinished: a slow machine
        then has less to do, rather than more to catch up with. Ends when all are accepted."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with httpx.AsyncClient(timeout=20) as http:
            kinds = self._all_kinds()
            while loop.time() < end:
                if len(self._under_way) + unfinished() < MOST_UNFINISHED:
                    task = asyncio.create_task(self._case(http, next(kinds)))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
                await asyncio.sleep(self._chance.expovariate(rate))
            await asyncio.gather(*self._under_way)

    async def probe(self, url: str, kind: str, n: int) -> None:
        """Send an event that is not counted, for a function of that kind."""
        async with httpx.AsyncClient(timeout=20) as http:
            body = {"name": f"chaos/{kind}", "data": {"kind": "probe", "n": n, "key": url}}
            await http.post(f"{url}/e/dev", json=body)

    def _all_kinds(self) -> Iterator[str]:
        while True:
            yield from self._chance.sample(KINDS, len(KINDS))

    async def _case(self, http: httpx.AsyncClient, kind: str) -> None:
        case = next(self._cases)
        several = kind not in (*EACH, *FREE)
        key = f"{kind}-{case}" if several else f"k{case % SHARED_KEYS}"
        for _ in range(3 if several or kind in THRICE else 1):
            await self._send(http, Sent(kind, next(self._numbers), key, []))
            await asyncio.sleep(self._chance.uniform(0, 0.5))

    async def _send(self, http: httpx.AsyncClient, event: Sent) -> None:
        self.sent.append(event)
        data: dict[str, Any] = {"kind": event.kind, "n": event.n, "key": event.key}
        if event.kind == "large":
            data["blob"] = "x" * 300_000
        body = {"name": f"chaos/{event.kind}", "id": f"chaos-{event.n}", "data": data}
        while not event.ids:
            try:
                reply = await http.post(f"{self._chance.choice(self._urls())}/e/dev", json=body)
                event.reply = f"{reply.status_code} {reply.text[:200]}"
                if reply.status_code == 200:
                    event.ids = reply.json()["ids"]
                    return
                if reply.status_code < 500:
                    raise RuntimeError(f"{body['id']} was refused: {event.reply}")
            except httpx.TransportError as error:
                event.reply = repr(error)
            self.repeats += 1
            await asyncio.sleep(self._chance.uniform(0.2, 1.5))
