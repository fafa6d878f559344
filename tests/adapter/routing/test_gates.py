"""Gates: rate limits, debounces and batches, through the real router; times on the time-skipping
server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

import inngest_temporal as inngest
import inngest_temporal.routing.gates
import inngest_temporal.temporal.entity
import inngest_temporal_workers.entities.batch
import inngest_temporal_workers.entities.debounce
import inngest_temporal_workers.entities.entity
import inngest_temporal_workers.entities.rate_limit
import inngest_temporal_workers.entities.seen
from inngest_temporal.config import FunctionConfig
from inngest_temporal.models import Batch, Debounce, RateLimit
from inngest_temporal.routing import events
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.gates import (
    BATCHED,
    DEBOUNCED,
    START,
    DebounceOffer,
    Entry,
    Gates,
    StartRequest,
    Target,
    Verdict,
)
from inngest_temporal.routing.registry import Follower, RegisteredFunction
from inngest_temporal.routing.run_input import Invoker
from inngest_temporal.temporal import names
from inngest_temporal_workers.commands.embedded import server_program
from inngest_temporal_workers.entities.activities import SystemActivities
from inngest_temporal_workers.entities.batch import MAX_BATCH_BYTES, full_batch
from inngest_temporal_workers.entities.debounce import Held, debounced
from tests.harness import PATIENCE, TRIGGER, new_client, running, until

REFUSED = Verdict(start=False, refusal="invoked function is rate limited", kind="rate_limited")
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
GATES = [
    inngest_temporal_workers.entities.rate_limit.RateLimitWorkflow,
    inngest_temporal_workers.entities.debounce.DebounceWorkflow,
    inngest_temporal_workers.entities.batch.BatchWorkflow,
]


@activity.defn(name="inngest.pause")
async def pause() -> None: ...


# Times, on the time-skipping server


@dataclass(frozen=True)
class Moment:
    """A moment, in seconds of the server's clock. The clock also runs while the test works, so a
    moment equals a second that is up to `took` before it."""

    at: float
    took: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other - 0.5 <= self.at <= other + 0.5 + self.took


@dataclass
class Skipping:
    """Gates on a server whose time the test moves, and the runs that they start."""

    env: WorkflowEnvironment
    gates: Gates
    started: list[tuple[float, StartRequest]] = field(default_factory=list)
    """Seconds since the test began, and the run."""
    taken: list[list[str]] = field(default_factory=list)
    """What the next starts return: the events of the run, if it was started before."""
    begun: float = 0
    real: float = 0
    """As `begun`, by this process's clock."""
    ahead: float = 0
    """Seconds by which the server's time is ahead of this process's."""

    async def now(self) -> float:
        return (await self.env.get_current_time()).timestamp()

    async def pass_time(self, **duration: float) -> None:
        await self.env.sleep(timedelta(**duration))
        self.ahead = await self.now() - time.time()

    async def ask(self, function: RegisteredFunction, **data: Any) -> Verdict:
        return await self.send(function, event(**data))

    async def send(
        self, function: RegisteredFunction, stamped: Stamped, invoker: Invoker | None = None
    ) -> Verdict:
        return await self.gates.ask(function, stamped, events.run_id(function.id, stamped), invoker)

    async def settled(self) -> None:
        """Let time pass until every entity that the test may have asked has ended."""
        for kind in ("debounce", "batch"):
            for key in ((), ("a",), ("b",)):
                while await self.is_open(names.gate_id(kind, "app-fn", *key)):
                    await self.pass_time(seconds=5)

    async def is_open(self, entity: str) -> bool:
        try:
            found = await self.env.client.get_workflow_handle(entity).describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return False
        return found.status == WorkflowExecutionStatus.RUNNING

    async def execution(self, entity: str) -> str:
        """The id of an entity's current execution."""
        return (await self.env.client.get_workflow_handle(entity).describe()).run_id

    def runs(self) -> list[tuple[Moment, list[Any]]]:
        """The moment of each start and the `n` of its events, sorted by the latter."""
        took = time.monotonic() - self.real
        found = [
            (Moment(at, took), [entry.event["data"]["n"] for entry in run.entries])
            for at, run in self.started
        ]
        return sorted(found, key=lambda run: run[1])


@pytest_asyncio.fixture
async def skipping(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Skipping]:
    forget_after(monkeypatch, MINUTE)
    path = server_program("temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=path) as env:
        skipping = Skipping(env, Gates(env.client, PATIENCE))
        skipping.real = time.monotonic()
        skipping.begun = await skipping.now()
        monkeypatch.setattr(
            inngest_temporal.temporal.entity,
            "now_ms",
            lambda: round((time.time() + skipping.ahead) * 1000),
        )

        @activity.defn(name="inngest.start")
        async def start(request: StartRequest) -> list[str]:
            skipping.started.append((await skipping.now() - skipping.begun, request))
            return skipping.taken.pop(0) if skipping.taken else []

        async with Worker(
            env.client,
            task_queue=names.SYSTEM_TASK_QUEUE,
            workflows=GATES,
            activities=[start, pause],
        ):
            yield skipping


def function(**config: Any) -> RegisteredFunction:
    return RegisteredFunction(
        "app", "queue", FunctionConfig(id="app-fn", name="fn", triggers=[TRIGGER], **config)
    )


def event(*, id: str = "", ts: int = 0, **data: Any) -> Stamped:
    return events.stamp({"name": "test/event", "id": id, "ts": ts, "data": data})


async def admitted(skipping: Skipping, fn: RegisteredFunction, count: int, **data: Any) -> int:
    return sum([await skipping.ask(fn, **data) == START for _ in range(count)])


@pytest.mark.parametrize(
    ("limit", "at_once", "then"), [(10, 2, 6 * MINUTE), (100, 11, 36 * SECOND)]
)
async def test_a_rate_limit_admits_a_tenth_plus_one_at_once_and_then_evenly(
    skipping: Skipping, limit: int, at_once: int, then: int
) -> None:
    fn = function(rate_limit=RateLimit(limit=limit, period=HOUR))
    assert await admitted(skipping, fn, at_once + 3) == at_once
    for _ in range(2):
        await skipping.pass_time(milliseconds=then * 0.97)
        assert await admitted(skipping, fn, 1) == 0
        await skipping.pass_time(milliseconds=then * 0.04)
        assert await admitted(skipping, fn, 2) == 1


async def test_a_refusal_says_what_an_invoker_is_told(skipping: Skipping) -> None:
    fn = function(rate_limit=RateLimit(limit=1, period=HOUR))
    assert [await skipping.ask(fn) for _ in range(2)] == [START, REFUSED]


async def test_rate_limits_of_keys_are_independent_and_false_is_no_key(skipping: Skipping) -> None:
    fn = function(rate_limit=RateLimit(limit=1, period=HOUR, key="event.data.user"))
    assert await admitted(skipping, fn, 3, user="a") == 1
    assert await admitted(skipping, fn, 3, user="b") == 1
    assert await admitted(skipping, fn, 3, user=5) == 1
    assert await admitted(skipping, fn, 3, user=5.0) == 0
    assert await admitted(skipping, fn, 3, user=False) == 3
    assert await admitted(skipping, fn, 3) == 3  # a missing value counts as false, as in Inngest


async def test_an_event_asked_for_again_has_the_same_answer_and_counts_once(
    skipping: Skipping,
) -> None:
    fn = function(rate_limit=RateLimit(limit=10, period=HOUR))
    first, second, third = event(), event(id="mine"), event()
    for _ in range(2):
        assert await skipping.send(fn, first) == START
    assert await skipping.send(fn, second) == START
    assert await skipping.send(fn, event(id="mine")) == START
    assert await skipping.send(fn, third) == REFUSED
    await skipping.pass_time(minutes=7)
    assert await skipping.send(fn, third) == REFUSED
    assert await skipping.send(fn, event()) == START


async def test_a_key_that_has_no_value_starts_nothing(skipping: Skipping) -> None:
    key = "int(event.data.x)"
    for config in ({"rate_limit": RateLimit(limit=1, period=HOUR, key=key)}, {"idempotency": key}):
        verdict = await skipping.ask(function(**config), x="no number")
        assert not verdict.start
        assert "key of app-fn has no value" in str(verdict.refusal)
    for other in (
        {"debounce": Debounce(period=SECOND, key=key)},
        {"batch_events": Batch(max_size=2, timeout=SECOND, key=key)},
    ):
        assert (await skipping.ask(function(**other), x="no number")).refusal
    await skipping.settled()
    assert skipping.started == []


async def test_idempotency_is_one_in_24_hours_and_replaces_a_rate_limit(skipping: Skipping) -> None:
    fn = function(idempotency="event.data.order", rate_limit=RateLimit(limit=1_000, period=SECOND))
    assert await admitted(skipping, fn, 3, order=1) == 1
    assert await admitted(skipping, fn, 3, order=2) == 1
    await skipping.pass_time(hours=23, minutes=59)
    assert await admitted(skipping, fn, 1, order=1) == 0
    await skipping.pass_time(minutes=2)
    assert await admitted(skipping, fn, 2, order=1) == 1


async def test_a_changed_rate_limit_applies_at_once(skipping: Skipping) -> None:
    assert (
        await admitted(skipping, function(rate_limit=RateLimit(limit=1, period=24 * HOUR)), 2) == 1
    )
    faster = function(rate_limit=RateLimit(limit=1, period=10 * SECOND))
    assert await admitted(skipping, faster, 1) == 0
    await skipping.pass_time(seconds=11)
    assert await admitted(skipping, faster, 2) == 1


async def test_a_rate_limit_continues_as_new_and_ends_when_all_is_free(
    skipping: Skipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_COST", 12)
    fn = function(rate_limit=RateLimit(limit=100, period=HOUR))
    first = event()
    assert await skipping.send(fn, first) == START
    entity = names.gate_id("ratelimit", fn.id)
    begun = await skipping.execution(entity)
    assert await admitted(skipping, fn, 20) == 10
    assert await skipping.send(fn, first) == START
    assert await skipping.execution(entity) != begun
    await skipping.pass_time(seconds=11 * 36 - 5)
    assert await skipping.is_open(entity)
    await skipping.pass_time(seconds=20)
    assert not await skipping.is_open(entity)


@pytest.mark.parametrize(
    "config",
    [
        {"batch_events": Batch(max_size=9, timeout=10 * SECOND)},
        {"debounce": Debounce(period=10 * SECOND)},
    ],
)
async def test_an_event_sent_again_within_24_hours_starts_nothing_though_its_gate_is_idle(
    skipping: Skipping, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    """A sender repeats a request that was answered 503 though parts of it had been accepted."""
    monkeypatch.setattr(inngest_temporal_workers.entities.seen, "DAY_MS", 24 * HOUR)
    fn = function(**config)
    for n in range(3):
        await skipping.ask(fn, id="mine", n=n)
        await skipping.pass_time(minutes=1)
    await skipping.pass_time(hours=23)
    await skipping.ask(fn, id="mine", n=3)
    await skipping.ask(fn, id="another", n=4)
    await skipping.pass_time(minutes=1)
    assert [n for _, run in skipping.runs() for n in run] == [0, 4]
    await skipping.pass_time(hours=25)
    await skipping.settled()


# Debounce


async def test_a_debounce_starts_one_run_with_the_last_event_exactly_after_the_period(
    skipping: Skipping,
) -> None:
    fn = function(debounce=Debounce(period=10 * SECOND))
    for n in range(3):
        assert await skipping.ask(fn, n=n) == DEBOUNCED
        await skipping.pass_time(seconds=6)
    await skipping.settled()
    assert skipping.runs() == [(22, [2])]
    run = skipping.started[0][1]
    assert run.run_id == events.run_id(fn.id, Stamped({}, run.entries[0].id))


async def test_an_older_event_neither_replaces_nor_moves_a_debounce(skipping: Skipping) -> None:
    fn = function(debounce=Debounce(period=10 * SECOND))
    ts = events.stamp({"name": "x"}).event["ts"]
    await skipping.ask(fn, n=1, ts=ts)
    await skipping.pass_time(seconds=5)
    await skipping.ask(fn, n=2, ts=ts - 1)
    await skipping.settled()
    assert skipping.runs() == [(10, [1])]


async def test_a_debounce_is_capped_by_its_timeout(skipping: Skipping) -> None:
    fn = function(debounce=Debounce(period=10 * SECOND, timeout=25 * SECOND))
    for n in range(6):
        await skipping.ask(fn, n=n)
        await skipping.pass_time(seconds=6)
    await skipping.settled()
    assert skipping.runs() == [(25, [4]), (40, [5])]


async def test_a_duplicate_neither_moves_a_debounce_nor_starts_it_again(skipping: Skipping) -> None:
    fn = function(debounce=Debounce(period=10 * SECOND))
    await skipping.ask(fn, id="mine", n=1)
    await skipping.pass_time(seconds=6)
    await skipping.ask(fn, id="mine", n=2)
    await skipping.pass_time(seconds=6)
    await skipping.ask(fn, id="mine", n=3)
    await skipping.settled()
    assert skipping.runs() == [(10, [1])]


async def test_debounces_of_keys_are_independent(skipping: Skipping) -> None:
    fn = function(debounce=Debounce(period=10 * SECOND, key="event.data.k"))
    for n, k in enumerate("aab"):
        await skipping.ask(fn, n=n, k=k)
    await skipping.settled()
    assert skipping.runs() == [(10, [1]), (10, [2])]


async def test_a_duplicate_of_a_newer_event_does_not_discard_the_event_beside_it(
    skipping: Skipping,
) -> None:
    """A sender repeats a request of two events, of which the first was accepted alone and has
    started its run."""
    fn = function(debounce=Debounce(period=10 * SECOND))
    now = event().event["ts"]
    first, second = event(id="a", n=1, ts=now + 5), event(id="b", n=2, ts=now)
    await skipping.send(fn, first)
    await skipping.pass_time(seconds=12)
    await asyncio.gather(skipping.send(fn, first), skipping.send(fn, second))
    await skipping.settled()
    assert skipping.runs() == [(10, [1]), (22, [2])]


async def test_a_rate_limit_counts_each_event_of_a_debounce(skipping: Skipping) -> None:
    fn = function(
        debounce=Debounce(period=10 * SECOND), rate_limit=RateLimit(limit=10, period=HOUR)
    )
    assert [await skipping.ask(fn, n=n) for n in range(4)] == [DEBOUNCED] * 2 + [REFUSED] * 2
    await skipping.settled()
    assert skipping.runs() == [(10, [1])]


async def test_all_invokers_that_a_debounced_run_stands_for_are_answered_by_it(
    skipping: Skipping,
) -> None:
    """So are those whose event is older than one that came before."""
    fn = function(debounce=Debounce(period=10 * SECOND))
    ts = events.stamp({"name": "x"}).event["ts"]
    for n, age in enumerate((1, 0, 2)):
        await skipping.send(fn, event(n=n, ts=ts - age), Invoker(f"run-{n}", "step"))
    await skipping.settled()
    [(_, started)] = skipping.started
    assert [entry.event["data"]["n"] for entry in started.entries] == [1]
    assert started.invokers == [Invoker(f"run-{n}", "step") for n in range(3)]


async def test_a_changed_period_applies_at_once(skipping: Skipping) -> None:
    await skipping.ask(function(debounce=Debounce(period=HOUR)), n=1)
    await skipping.ask(function(debounce=Debounce(period=5 * SECOND)), n=2)
    await skipping.settled()
    assert skipping.runs() == [(5, [2])]


TARGET = Target("app", "queue", {})
offers = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 30)), min_size=1, max_size=20)


@given(offers, st.none() | st.integers(1, 60))
def test_debouncing_does_what_the_naive_model_does(
    steps: list[tuple[int, int]], timeout: int | None
) -> None:
    state: Held | None = None
    now, naive, moved = 0, (-1, 0), 0
    for n, (gap, ts) in enumerate(steps):
        now += gap
        entry = Entry(str(n), str(n), {"ts": ts}, 0)
        state = debounced(state, DebounceOffer(TARGET, 10, timeout, entry), [entry], now)
        if ts >= naive[0]:
            naive, moved = (ts, n), now
    assert state is not None
    assert (state.last.event["ts"], int(state.last.key)) == naive
    first = steps[0][0]
    assert state.deadline_ms == min(moved + 10, first + (timeout if timeout is not None else 10**9))


# Batches


async def test_a_batch_starts_when_it_is_full_and_the_rest_at_the_timeout(
    skipping: Skipping,
) -> None:
    fn = function(batch_events=Batch(max_size=5, timeout=30 * SECOND))
    for n in range(8):
        assert await skipping.ask(fn, n=n) == BATCHED
        await skipping.pass_time(seconds=1)
    await skipping.settled()
    assert skipping.runs() == [(4, [0, 1, 2, 3, 4]), (35, [5, 6, 7])]


async def test_batches_of_keys_are_independent(skipping: Skipping) -> None:
    fn = function(batch_events=Batch(max_size=2, timeout=30 * SECOND, key="event.data.k"))
    for n, k in enumerate("abab"):
        await skipping.ask(fn, n=n, k=k)
    await skipping.settled()
    assert sorted(run for _, run in skipping.runs()) == [[0, 2], [1, 3]]


async def test_a_batch_without_a_timeout_has_inngests_default(skipping: Skipping) -> None:
    await skipping.ask(function(batch_events=Batch(max_size=2)), n=1)
    await skipping.settled()
    assert skipping.runs() == [(60, [1])]


async def test_an_event_that_does_not_meet_the_condition_runs_alone(skipping: Skipping) -> None:
    fn = function(batch_events=Batch(max_size=2, timeout=SECOND, if_exp="int(event.data.x) > 5"))
    assert await skipping.ask(fn, n=0, x=3) == START
    assert await skipping.ask(fn, n=1, x="no number") == START
    assert [await skipping.ask(fn, n=n, x=7) for n in (2, 3)] == [BATCHED, BATCHED]
    await skipping.settled()
    assert [run for _, run in skipping.runs()] == [[2, 3]]


async def test_a_rate_limit_does_not_count_batched_events(skipping: Skipping) -> None:
    batch = Batch(max_size=2, timeout=SECOND, if_exp="event.data.n < 4")
    fn = function(batch_events=batch, rate_limit=RateLimit(limit=1, period=HOUR))
    assert [await skipping.ask(fn, n=n) for n in range(6)] == [BATCHED] * 4 + [START, REFUSED]


async def test_an_event_is_in_one_batch(skipping: Skipping) -> None:
    fn = function(batch_events=Batch(max_size=3, timeout=10 * SECOND))
    same = [event(n=n) for n in range(4)]
    for one in [*same, *same, event(id="x", n=5), event(id="x", n=6)]:
        await skipping.send(fn, one)
    await skipping.settled()
    assert [run for _, run in skipping.runs()] == [[0, 1, 2], [3, 5]]
    first, second = (run.run_id for _, run in skipping.started)
    assert first != second


async def test_a_batch_ends_before_a_payload_is_too_large(skipping: Skipping) -> None:
    fn = function(batch_events=Batch(max_size=100, timeout=30 * SECOND))
    for n, size in enumerate((600_000, 600_000, 600_000, 1_790_000, 10)):
        await skipping.ask(fn, n=n, text="x" * size)
    await skipping.settled()
    assert skipping.runs() == [(0, [0, 1]), (0, [2]), (0, [3]), (30, [4])]


async def test_many_events_at_once_are_batched_in_their_order(skipping: Skipping) -> None:
    fn = function(batch_events=Batch(max_size=300, timeout=30 * SECOND))
    sent = [event(n=n) for n in range(2_000)]
    assert await asyncio.gather(*(skipping.send(fn, one) for one in sent)) == [BATCHED] * 2_000
    await skipping.settled()
    batches = [run for _, run in skipping.runs()]
    assert [len(batch) for batch in batches] == [300] * 6 + [200]
    assert [n for batch in batches for n in batch] == list(range(2_000))


async def test_events_that_a_lost_start_did_not_take_are_in_the_next_batch(
    skipping: Skipping,
) -> None:
    fn = function(batch_events=Batch(max_size=4, timeout=10 * SECOND))
    sent = [event(n=n) for n in range(4)]
    skipping.taken = [[one.internal_id for one in sent[:3]]]
    await asyncio.gather(*(skipping.send(fn, one) for one in sent))
    await skipping.settled()
    assert skipping.runs() == [(0, [0, 1, 2, 3]), (10, [3])]
    assert skipping.started[0][1].run_id != skipping.started[1][1].run_id


async def test_entities_continue_as_new_with_all_that_they_keep(
    skipping: Skipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_COST", 8)
    batching = function(batch_events=Batch(max_size=25, timeout=HOUR))
    debouncing = function(debounce=Debounce(period=20 * SECOND, timeout=HOUR))
    sent = [event(n=n) for n in range(30)]
    for one in [*sent, *sent[:5]]:
        await skipping.send(batching, one)
        await skipping.send(debouncing, one)
        await skipping.pass_time(seconds=1)
    await skipping.settled()
    batches = [(24, list(range(25))), (25 + 3600, list(range(25, 30)))]
    assert skipping.runs() == [*batches, (49, [29])]
    for kind in ("batch", "debounce"):
        last = skipping.env.client.get_workflow_handle(names.gate_id(kind, "app-fn"))
        assert (await last.describe()).raw_description.workflow_execution_info.history_length < 20


sizes = st.lists(st.integers(1, 400_000) | st.integers(1_400_000, 1_800_000), max_size=30)


@given(sizes, st.integers(2, 8))
def test_batches_are_full_in_order_and_fit_a_payload(sizes: list[int], max_size: int) -> None:
    entries = [Entry(str(n), str(n), {}, size) for n, size in enumerate(sizes)]
    batches: list[Sequence[Entry]] = []
    while count := full_batch(entries, max_size):
        batches.append(entries[:count])
        entries = entries[count:]
    assert [entry for batch in [*batches, entries] for entry in batch] == [
        Entry(str(n), str(n), {}, size) for n, size in enumerate(sizes)
    ]
    following = [*batches, entries][1:]
    for batch, after in zip(batches, following, strict=True):
        total = sum(entry.size for entry in batch)
        assert len(batch) == 1 or (
            len(batch) <= max_size and total - batch[-1].size < MAX_BATCH_BYTES
        )
        assert len(batch) == 1 or total <= MAX_BATCH_BYTES
        assert (
            len(batch) == max_size
            or total >= MAX_BATCH_BYTES
            or total + after[0].size > MAX_BATCH_BYTES
        )
    assert len(entries) < max_size
    assert sum(entry.size for entry in entries) < MAX_BATCH_BYTES


# With functions, on the embedded server


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle entities end soon."""
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "LINGER_MS", 200)
    forget_after(monkeypatch, 2 * SECOND)


def forget_after(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.seen, "DAY_MS", ms)
    monkeypatch.setattr(inngest_temporal_workers.entities.seen, "BLOCK_MS", SECOND)


async def is_closed(client: Client, entity: str) -> bool:
    return (
        await client.get_workflow_handle(entity).describe()
    ).status == WorkflowExecutionStatus.COMPLETED


async def test_a_rate_limited_function_runs_no_more_than_its_limit(
    client: Client, brief: None
) -> None:
    ran: list[int] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, rate_limit=RateLimit(limit=10, period=2 * SECOND)
    )
    async def fn(ctx: inngest.Context) -> None:
        ran.append(ctx.event.data["n"])  # type: ignore[arg-type]

    async with running(client, fn) as app:
        sent = [event(n=n) for n in range(5)]
        first = await app.router.route(sent)
        again = await app.router.route(sent)
        assert [len(one.runs) for one in first] == [1, 1, 0, 0, 0]
        assert first == again
        await until(lambda: len(ran) == 2)
        await until(lambda: is_closed(client, names.gate_id("ratelimit", fn.id)))
    assert sorted(ran) == [0, 1]


async def test_an_invoked_function_that_is_limited_tells_its_invoker(client: Client) -> None:
    @new_client().create_function(fn_id="child", trigger=[], idempotency="event.data.order")
    async def child(ctx: inngest.Context) -> str:
        return "ran"

    @new_client().create_function(fn_id="parent", trigger=TRIGGER)
    async def parent(ctx: inngest.Context) -> list[str]:
        results = [await ctx.step.invoke("first", function=child, data={"order": 1})]
        try:
            await ctx.step.invoke("second", function=child, data={"order": 1})
        except inngest.StepError as error:
            results.append(error.message)
        return [*results, await ctx.step.invoke("third", function=child, data={"order": 2})]

    async with running(client, child, parent) as app:
        assert await app.run(parent) == ["ran", "invoked function is rate limited", "ran"]


async def test_a_debounced_function_runs_with_the_last_event(client: Client, brief: None) -> None:
    ran: list[list[Any]] = []

    @new_client().create_function(fn_id="fn", trigger=TRIGGER, debounce=Debounce(period=SECOND))
    async def fn(ctx: inngest.Context) -> None:
        ran.append([each.data["n"] for each in ctx.events])

    async with running(client, fn) as app:
        now = events.stamp({"name": "x"}).event["ts"]
        # One request: its events go to the entity together.
        routed = await app.router.route([event(n=n, ts=now - abs(n - 3)) for n in range(6)])
        assert all(one.runs == () for one in routed)
        await until(lambda: ran)
        await until(lambda: is_closed(client, names.gate_id("debounce", fn.id)))
    assert ran == [[3]]


async def test_all_who_invoke_a_debounced_function_have_its_result(
    client: Client, brief: None
) -> None:
    """So do those whose event is replaced by a later one, here by one that nobody waits for."""

    @new_client().create_function(
        fn_id="debounced",
        trigger=inngest.TriggerEvent(event="debounced"),
        debounce=Debounce(period=2 * SECOND),
    )
    async def debounced(ctx: inngest.Context) -> Any:
        return ctx.event.data["n"]

    @new_client().create_function(fn_id="caller", trigger=TRIGGER)
    async def caller(ctx: inngest.Context) -> Any:
        async def one(n: int) -> Any:
            return await ctx.step.invoke(f"{n}", function=debounced, data={"n": n})

        return await asyncio.gather(*map(one, range(3)))

    async with running(client, debounced, caller) as app:
        run = app.run_of(caller, await app.send("test/event"))
        await until(lambda: offered(client, names.gate_id("debounce", debounced.id), 3))
        await app.send("debounced", {"n": 7})
        assert await asyncio.wait_for(run.result(), 60) == [7] * 3


async def offered(client: Client, gate: str, count: int) -> bool:
    """Whether a debounce was offered that many events."""
    try:
        history = await client.get_workflow_handle(gate).fetch_history()
    except RPCError:
        return False
    offers = [
        json.loads(event.workflow_execution_signaled_event_attributes.input.payloads[0].data)
        for event in history.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    return sum(1 + len(offer["others"]) for offer in offers) == count


async def test_a_batch_function_has_its_events_in_order(client: Client, brief: None) -> None:
    ran: list[list[Any]] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, batch_events=Batch(max_size=5, timeout=SECOND)
    )
    async def fn(ctx: inngest.Context) -> None:
        assert ctx.event == ctx.events[0]
        ran.append([each.data["n"] for each in ctx.events])

    async with running(client, fn) as app:
        await app.router.route([event(n=n) for n in range(8)])
        await until(lambda: len(ran) == 2)
        await until(lambda: is_closed(client, names.gate_id("batch", fn.id)))
    assert sorted(ran) == [[0, 1, 2, 3, 4], [5, 6, 7]]


async def test_a_batch_of_many_events_is_one_run(client: Client) -> None:
    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, batch_events=Batch(max_size=1_000, timeout=MINUTE)
    )
    async def fn(ctx: inngest.Context) -> int:
        counts.append(len(ctx.events))
        return len(ctx.events)

    counts: list[int] = []
    async with running(client, fn) as app:
        await app.router.route([event(n=n) for n in range(1_000)])
        await until(lambda: counts)
    assert counts == [1_000]


async def test_every_invoker_of_a_batch_is_answered(client: Client) -> None:
    finished: list[Any] = []

    @new_client().create_function(
        fn_id="sum", trigger=[], batch_events=Batch(max_size=3, timeout=MINUTE)
    )
    async def total(ctx: inngest.Context) -> Any:
        return sum(each.data["n"] for each in ctx.events)  # type: ignore[misc]

    @new_client().create_function(fn_id="parent", trigger=TRIGGER)
    async def parent(ctx: inngest.Context) -> Any:
        calls = tuple(
            lambda n=n: ctx.step.invoke(f"{n}", function=total, data={"n": n}) for n in (1, 2, 4)
        )
        return await ctx.group.parallel(calls)

    @new_client().create_function(
        fn_id="watch",
        trigger=inngest.TriggerEvent(
            event="inngest/function.finished", expression="event.data.function_id == 'app-sum'"
        ),
    )
    async def watch(ctx: inngest.Context) -> None:
        data: Any = ctx.event.data
        finished.append((data["correlation_id"], data["event"]["data"]["n"], len(data["events"])))

    async with running(client, total, parent, watch) as app:
        assert await app.run(parent) == [7, 7, 7]
        await until(lambda: len(finished) == 3)
    assert len({correlation for correlation, _, _ in finished}) == 3
    assert sorted((n, count) for _, n, count in finished) == [(1, 3), (2, 3), (4, 3)]


async def test_a_batch_of_one_event_does_not_wait_for_its_time(client: Client) -> None:
    ran: list[Any] = []

    @new_client().create_function(
        fn_id="fn", trigger=TRIGGER, batch_events=Batch(max_size=2, timeout=SECOND)
    )
    async def fn(ctx: inngest.Context) -> None:
        ran.append(ctx.event.data["n"])

    async with running(client, fn) as app:
        await app.router.route([event(n=1, ts=4_000_000_000_000)])
        await until(lambda: ran, 10)


async def test_starting_a_run_again_says_which_events_it_has(client: Client) -> None:
    fn = function(batch_events=Batch(max_size=5))
    sent = [event(n=n) for n in range(4)]
    entries = [Entry(one.internal_id, one.internal_id, one.event, 0) for one in sent]
    run_id = events.batch_run_id(fn.id, entries[0].id)
    start = SystemActivities(client, Follower(client)).start
    assert await start(StartRequest(Target.of(fn), run_id, entries[:3])) == []
    assert await start(StartRequest(Target.of(fn), run_id, entries)) == [
        entry.id for entry in entries[:3]
    ]


async def test_no_event_is_lost_or_batched_twice_while_entities_end_renew_and_repeat_starts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "LINGER_MS", 15)
    forget_after(monkeypatch, 20 * SECOND)
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_COST", 12)
    fn = function(batch_events=Batch(max_size=7, timeout=SECOND, key="event.data.k"))
    system = SystemActivities(client, Follower(client))
    batches: dict[str, list[str]] = {}
    count = 0

    @activity.defn(name="inngest.start")
    async def start(request: StartRequest) -> list[str]:
        nonlocal count
        count += 1
        taken = await system.start(request)
        batches.setdefault(request.run_id, [entry.id for entry in request.entries])
        if count % 5 == 0:
            raise RuntimeError("the reply is lost")
        return taken

    async with Worker(
        client, task_queue=names.SYSTEM_TASK_QUEUE, workflows=GATES, activities=[start, pause]
    ):
        every = [Gates(client, PATIENCE) for _ in range(3)]
        sent = [event(k=n % 3) for n in range(150)]

        async def send(part: int) -> None:
            for one in sent[part::6]:
                await every[part % 3].ask(fn, one, events.run_id(fn.id, one))
                await every[part % 3].ask(fn, one, events.run_id(fn.id, one))

        await asyncio.gather(*(send(part) for part in range(6)))
        ids = [names.gate_id("batch", fn.id, key) for key in range(3)]
        for entity in ids:
            await until(lambda entity=entity: is_closed(client, entity), 60)
    assert sorted(each for batch in batches.values() for each in batch) == sorted(
        one.internal_id for one in sent
    )


async def test_a_batch_reads_what_came_while_no_worker_was_there(client: Client) -> None:
    """It reads all of it in one workflow task, which may compute for 2 s, and would fail for ever
    if that took longer."""
    fn, started = function(batch_events=Batch(max_size=5_000, timeout=HOUR)), []

    @activity.defn(name="inngest.start")
    async def start(request: StartRequest) -> list[str]:
        started.append([entry.key for entry in request.entries])
        return []

    keys = [str(n) for n in range(5_000)]
    entries = [{"key": key, "id": key.zfill(26), "event": {}, "size": 250} for key in keys]
    offer = {
        "target": vars(Target.of(fn)),
        "max_size": 5_000,
        "timeout_ms": HOUR,
        "entries": entries,
    }
    for _ in range(30):  # the same events each time: they are read, but already known
        await client.start_workflow(
            names.BATCH_TYPE,
            id=names.gate_id("batch", fn.id),
            task_queue=names.SYSTEM_TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="offer",
            start_signal_args=[offer, round(time.time() * 1000)],
        )
    async with Worker(
        client, task_queue=names.SYSTEM_TASK_QUEUE, workflows=GATES, activities=[start, pause]
    ):
        await until(lambda: started)
    assert started == [keys]


async def test_a_batch_continues_as_new_while_events_wait(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a backlog would be in one history, and Temporal terminates a workflow of 50 MB."""
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_COST", 40)
    monkeypatch.setattr(inngest_temporal_workers.entities.batch, "STARTS", 4)
    fn = function(batch_events=Batch(max_size=2, timeout=SECOND))
    executions: dict[str, list[str]] = {}
    count = 0

    @activity.defn(name="inngest.start")
    async def start(request: StartRequest) -> list[str]:
        nonlocal count
        count += 1
        known = request.run_id in batches
        batches.setdefault(request.run_id, [entry.id for entry in request.entries])
        executions.setdefault(str(activity.info().workflow_run_id), []).append(request.run_id)
        if count % 20 == 0:
            raise RuntimeError("the reply is lost")
        return batches[request.run_id] if known else []

    batches: dict[str, list[str]] = {}
    sent = [event(n=n) for n in range(101)]
    gates = Gates(client, PATIENCE)
    await asyncio.gather(*(gates.ask(fn, one, events.run_id(fn.id, one)) for one in sent))
    async with Worker(
        client, task_queue=names.SYSTEM_TASK_QUEUE, workflows=GATES, activities=[start, pause]
    ):
        await until(lambda: len(batches) == 51)
    assert sorted(each for batch in batches.values() for each in batch) == sorted(
        one.internal_id for one in sent
    )
    assert len(executions) > 2


async def test_an_entity_that_does_not_keep_up_gets_no_more_events(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal.routing.gates, "MAX_WAITING_BYTES", 20_000)
    kinds: list[dict[str, Any]] = [
        {"batch_events": Batch(max_size=2, timeout=HOUR)},
        {"debounce": Debounce(period=MINUTE)},
    ]
    for config in kinds:
        fn, gates, sent = function(**config), Gates(client, PATIENCE), []

        async def flood(
            fn: RegisteredFunction = fn, gates: Gates = gates, sent: list[Stamped] = sent
        ) -> None:
            while len(sent) < 10:
                sent.append(event(text="x" * 5_000, n=len(sent)))
                await gates.ask(fn, sent[-1], events.run_id(fn.id, sent[-1]))

        with pytest.raises(TimeoutError, match="has not kept up"):
            await flood()
        assert 3 <= len(sent) < 7


async def test_many_processes_share_a_rate_limit_that_continues_as_new(
    client: Client, temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inngest_temporal_workers.entities.entity, "MAX_COST", 20)
    fn = function(rate_limit=RateLimit(limit=200, period=HOUR))
    others = [await Client.connect(temporal_address, namespace=client.namespace) for _ in range(12)]
    every = [Gates(other, PATIENCE) for other in others]
    async with Worker(client, task_queue=names.SYSTEM_TASK_QUEUE, workflows=GATES):

        async def ask(which: Gates) -> list[Verdict]:
            verdicts = []
            for _ in range(10):
                one = event()
                verdicts.append(await which.ask(fn, one, events.run_id(fn.id, one)))
            return verdicts

        verdicts = [
            verdict
            for all_of_one in await asyncio.gather(*map(ask, every))
            for verdict in all_of_one
        ]
    assert len(verdicts) == 120
    assert verdicts.count(START) == 21


async def test_an_entity_that_does_not_answer_is_a_timeout(client: Client) -> None:
    asked = Gates(client, timedelta(milliseconds=100))
    one, fn = event(), function(rate_limit=RateLimit(limit=1, period=HOUR))
    with pytest.raises(TimeoutError):
        await asked.ask(fn, one, events.run_id(fn.id, one))
