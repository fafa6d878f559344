"""Locks as state machines, against naive models over random traces."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ulid import ULID

from inngest_temporal.routing.locks import GRANTED, SKIPPED, LimitSettings, LockRequest, Ticket
from inngest_temporal_workers.entities.permits import Permits
from inngest_temporal_workers.entities.queue import YOUNG_MS, Decisions, Machine, Queue
from inngest_temporal_workers.entities.singleton import Singleton
from inngest_temporal_workers.entities.throttle import Throttle

T0 = 1_790_000_000_000


def verdicts(lock: Machine, *requests: LockRequest, now: int = T0) -> list[tuple[str, int, str]]:
    for request in requests:
        lock.take(request, now)
    return lock.decisions().verdicts


def ask(
    run: str, *numbers: int, limit: int = 1, score: int = 0, function: str = "app-fn"
) -> LockRequest:
    return LockRequest(
        run, function, list(numbers or [1]), score=score, settings=LimitSettings(limit)
    )


def back(run: str, *numbers: int, limit: int | None = None) -> LockRequest:
    return LockRequest(
        run,
        "app-fn",
        release=list(numbers or [1]),
        settings=None if limit is None else LimitSettings(limit),
    )


def reloaded(lock: Machine) -> Machine:
    """The lock after it continued as new."""
    return type(lock).load(json.loads(json.dumps(lock.dump())))


# Concurrency.


def test_permits_are_given_up_to_the_limit_and_then_in_order() -> None:
    lock = Permits()
    asked = [
        ask(run, limit=2, score=score)
        for run, score in [("a", 5), ("b", 6), ("c", 9), ("d", 7), ("e", 7)]
    ]
    assert [run for run, _, _ in verdicts(lock, *asked)] == ["a", "b"]
    assert [run for run, _, _ in verdicts(lock, back("b"), back("a"), back("d"))] == ["e", "c"]
    assert verdicts(lock, back("e"), back("c"), back("c")) == []
    assert lock.idle(T0)


def test_a_repeated_request_has_the_same_answer_and_takes_nothing() -> None:
    lock = Permits()
    assert verdicts(lock, ask("a"), ask("b"), ask("b")) == [("a", 1, GRANTED)]
    assert verdicts(lock, ask("a")) == [("a", 1, GRANTED)]
    assert lock.waiting == 1
    assert verdicts(lock, back("a"), back("a")) == [("b", 1, GRANTED)]


def test_a_permit_that_was_given_back_meanwhile_is_not_announced() -> None:
    lock = Permits()
    assert verdicts(lock, ask("a"), back("a"), ask("b")) == [("b", 1, GRANTED)]


def test_a_new_limit_applies_at_once() -> None:
    lock = Permits()
    verdicts(lock, *(ask(run, limit=1) for run in "abcd"))
    assert [run for run, _, _ in verdicts(lock, ask("e", limit=3))] == ["b", "c"]
    assert verdicts(lock, back("a", limit=1), back("b", limit=1)) == []
    assert [run for run, _, _ in verdicts(lock, back("c", limit=0))] == ["d", "e"]


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("kind", [Permits, Throttle])
def test_what_an_older_configuration_says_is_ignored(kind: type[Machine], reload: bool) -> None:
    def asks(run: str, free: bool, version: int) -> LockRequest:
        settings = LimitSettings(100 if free else 1, 1 if free else 3_600_000, version=version)
        return LockRequest(run, "app-fn", [1] if run else [], settings=settings)

    lock = kind.load({})
    assert [run for run, _, _ in verdicts(lock, *(asks(run, False, 10) for run in "abc"))] == ["a"]
    lock = reloaded(lock) if reload else lock
    assert verdicts(lock, asks("", True, 9), asks("d", True, 0)) == []
    told = verdicts(lock, asks("", True, 20))
    lock.advance(
        T0 + 1
    )  # what a throttle has used up counts at most as one full interval of the new rate
    assert [run for run, _, _ in told + lock.decisions().verdicts] == ["b", "c", "d"]
    lock = reloaded(lock) if reload else lock
    told = verdicts(lock, asks("", False, 10), asks("e", False, 10), now=T0 + 9)
    assert [run for run, _, _ in told] == ["e"]


def test_a_new_configuration_is_nothing_to_a_lock_where_none_of_the_function_ever_was() -> None:
    lock = Permits()
    assert verdicts(
        lock, LockRequest("", "app-other", settings=LimitSettings(5, version=3)), ask("a")
    ) == [("a", 1, GRANTED)]
    assert list(lock.dump()["groups"]) == ["app-fn"]


def test_functions_that_share_a_lock_are_counted_together_each_with_its_own_limit() -> None:
    lock = Permits()
    asked = [ask(f"a{n}", limit=3, score=n, function="app-a") for n in range(4)]
    asked += [ask(f"b{n}", limit=1, score=-9, function="app-b") for n in range(2)]
    assert [run for run, _, _ in verdicts(lock, *asked)] == ["a0", "a1", "a2"]
    done = [LockRequest(f"a{n}", "app-a", release=[1]) for n in range(3)]
    assert [run for run, _, _ in verdicts(lock, done[0])] == [
        "a3"
    ]  # b0 comes first, but two others are too many for it
    assert verdicts(lock, done[1], done[2]) == []
    assert [run for run, _, _ in verdicts(lock, LockRequest("a3", "app-a", release=[1]))] == ["b0"]


def test_only_holders_that_were_silent_are_suspected() -> None:
    lock = Permits()
    lock.take(ask("a", limit=2), T0)
    lock.take(ask("b", limit=2), T0 + YOUNG_MS)
    lock.suspect(T0 + YOUNG_MS)
    decisions = lock.decisions()
    assert (decisions.check, decisions.reply) == ([("a", 1)], False)


@dataclass
class NaivePermits:
    """Lists, sorted whenever something is taken."""

    limits: dict[str, int] = field(default_factory=dict)
    held: list[Ticket] = field(default_factory=list)
    waiting: list[tuple[int, str, int, Ticket]] = field(default_factory=list)
    arrivals: int = 0

    def take(self, request: LockRequest) -> list[Ticket]:
        if request.settings is not None:
            self.limits[request.function] = request.settings.limit
        for number in request.release:
            self.held = [ticket for ticket in self.held if ticket != (request.run, number)]
            self.waiting = [each for each in self.waiting if each[3] != (request.run, number)]
        for number in request.acquire:
            ticket = (request.run, number)
            if ticket not in self.held and ticket not in [each[3] for each in self.waiting]:
                self.arrivals += 1
                self.waiting.append((request.score, request.function, self.arrivals, ticket))
        granted = []
        while True:
            able = [
                each
                for each in sorted(self.waiting)
                if not self.limits[each[1]] or len(self.held) < self.limits[each[1]]
            ]
            if not able:
                return granted
            self.waiting.remove(able[0])
            self.held.append(able[0][3])
            granted.append(able[0][3])


RUNS = [f"r{n}" for n in range(8)]
NUMBERS = st.lists(st.integers(1, 3), max_size=2, unique=True)
REQUESTS = st.builds(
    LockRequest,
    st.sampled_from(RUNS),
    st.sampled_from(["app-a", "app-b"]),
    NUMBERS,
    NUMBERS,
    score=st.integers(-3, 3),
    settings=st.builds(LimitSettings, st.integers(0, 4)),
)
GONE = st.builds(lambda run: LockRequest(run, release=[1, 2, 3]), st.sampled_from(RUNS))
RELOAD = st.none()
TRACES = st.lists(st.one_of(REQUESTS, REQUESTS, GONE, RELOAD), max_size=60)


@hypothesis_settings(max_examples=300, deadline=None)
@given(TRACES)
def test_permits_do_what_the_naive_model_does(trace: list[LockRequest | None]) -> None:
    lock: Machine = Permits()
    naive = NaivePermits()
    for request in trace:
        if request is None:
            lock = reloaded(lock)
            naive.waiting = [
                (score, name, index, ticket)
                for index, (score, name, _, ticket) in enumerate(sorted(naive.waiting))
            ]
            naive.arrivals = len(naive.waiting)
            continue
        held = set(naive.held)
        granted = naive.take(request)
        announced = verdicts(lock, request)
        again = [(run, number) for run, number, _ in announced if (run, number) in held]
        assert all(run == request.run and number in request.acquire for run, number in again)
        assert [(run, number) for run, number, _ in announced if (run, number) not in again] == [
            ticket for ticket in granted if ticket not in again
        ]
        assert isinstance(lock, Permits)
        assert set(lock.holders) == set(naive.held)
        assert lock.waiting == len(naive.waiting)
        # Work is conserved: who waits, waits because of the limit.
        for _, function, _, _ in naive.waiting:
            assert naive.limits[function] <= len(lock.holders)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(REQUESTS, max_size=40), st.integers(0, 40))
def test_a_repeated_task_with_more_requests_decides_what_was_announced_again(
    trace: list[LockRequest], cut: int
) -> None:
    first, second = Permits(), Permits()
    announced = verdicts(first, *trace[:cut])
    for request in trace[:cut]:
        second.take(request, T0 + 500)
    assert verdicts(second) == announced
    more = verdicts(second, *trace[cut:])
    # Nobody else has got a permit that was announced and not given back.
    assert set(second.holders) <= {(run, number) for run, number, _ in announced + more} | set(
        first.holders
    )


def test_20_000_waiting_runs_fit_in_half_a_megabyte_and_continue_in_order() -> None:
    lock: Machine = Permits()
    runs = [str(ULID.from_timestamp(T0 / 1000 + index / 50)) for index in range(20_000)]
    for index, run in enumerate(runs):
        lock.take(ask(run, limit=5, score=T0 + 20 * index - (index % 7) * 60_000), T0)
    size = len(json.dumps(lock.dump()))
    print(f"20,000 waiting: {size:,} bytes")
    assert size < 500_000
    lock = reloaded(lock)
    order = sorted(range(5, 20_000), key=lambda index: (20 * index - (index % 7) * 60_000, index))
    assert lock.waiting == len(order)
    got = [verdicts(lock, back(runs[index])) for index in range(5)]
    assert [run for each in got for run, _, _ in each] == [runs[index] for index in order[:5]]


# Queues.


@given(
    st.lists(
        st.tuples(st.text("AZ09-:", min_size=1), st.integers(0, 9), st.integers(-(10**15), 10**15))
    )
)
def test_a_packed_queue_is_the_same_queue(entries: list[tuple[str, int, int]]) -> None:
    queue = Queue()
    for run, number, score in entries:
        queue.add((run, number), score)
    assert list(Queue.unpack(queue.pack())) == list(queue)


# Throttle.


def start(
    run: str, score: int = 0, limit: int = 2, period_ms: int = 60_000, burst: int = 1
) -> LockRequest:
    return LockRequest(
        run, "app-fn", [0], score=score, settings=LimitSettings(limit, period_ms, burst)
    )


def starts(lock: Machine, until_ms: int) -> list[tuple[str, int]]:
    """Who starts when, in milliseconds after T0, as the lock's timer would have it."""
    found = [(run, 0) for run, _, _ in lock.decisions().verdicts]
    while (due := lock.due_ms()) is not None and due <= until_ms:
        lock.advance(due)
        found += [(run, due - T0) for run, _, _ in lock.decisions().verdicts]
    return found


def test_limit_2_burst_1_starts_three_at_once_and_then_one_each_half_period() -> None:
    lock = Throttle()
    for index in range(6):
        lock.take(start(f"r{index}"), T0)
    assert starts(lock, T0 + 600_000) == [
        ("r0", 0),
        ("r1", 0),
        ("r2", 0),
        ("r3", 30_000),
        ("r4", 60_000),
        ("r5", 90_000),
    ]
    assert not lock.idle(T0 + 90_000)
    assert lock.idle(T0 + 90_000 + 90_000)
    assert lock.free_ms == T0 + 180_000


def test_priority_orders_those_that_wait_for_their_start() -> None:
    lock = Throttle()
    for index in range(4):
        lock.take(start(f"low{index}", score=index), T0)
    lock.take(start("high", score=-1), T0 + 1)
    assert [run for run, _ in starts(lock, T0 + 600_000)] == [
        "low0",
        "low1",
        "low2",
        "high",
        "low3",
    ]


def test_a_start_that_is_asked_for_again_counts_once() -> None:
    lock: Machine = Throttle()
    assert len(verdicts(lock, *(start(f"r{n}") for n in range(3)))) == 3
    lock = reloaded(lock)
    assert verdicts(lock, start("r1"), start("r1"))[0] == ("r1", 0, GRANTED)
    lock.take(start("late"), T0)
    assert lock.due_ms() == T0 + 30_000


def test_a_run_that_is_gone_gives_its_start_to_the_next() -> None:
    lock: Machine = Throttle()
    verdicts(lock, *(start(f"r{n}") for n in range(5)))
    gone = LockRequest("r2", release=[0])
    assert verdicts(lock, gone, gone) == [("r3", 0, GRANTED)]
    assert verdicts(lock, LockRequest("r4", release=[0])) == []
    assert lock.due_ms() is None


def test_a_new_rate_applies_at_once() -> None:
    lock: Machine = Throttle()
    verdicts(lock, *(start(f"r{n}") for n in range(5)))
    verdicts(lock, start("r5", limit=60))
    due = lock.due_ms()
    assert due is not None
    assert due <= T0 + 30_000
    assert len(starts(lock, T0 + 60_000)) == 3


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5_000), st.integers(0, 11), st.integers(-2, 2), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_no_window_has_more_starts_than_the_throttle_allows(
    asked: list[tuple[int, int, int, bool]], limit: int, burst: int
) -> None:
    lock: Machine = Throttle()
    now, period = T0, 1_000
    begun: dict[str, int] = {}

    def note() -> None:
        for run, _, _ in lock.decisions().verdicts:
            begun.setdefault(run, now)

    for wait, run, score, reload in asked:
        until = now + wait
        while (due := lock.due_ms()) is not None and due <= until:
            now = max(now, due)
            lock.advance(now)
            note()
        now = until
        lock.take(start(f"r{run}", score, limit, period, burst), now)
        note()
        if reload:
            lock = reloaded(lock)
    while (due := lock.due_ms()) is not None:
        now = max(now, due)
        lock.advance(now)
        note()
    assert set(begun) == {f"r{run}" for _, run, _, _ in asked}  # none is lost
    times = sorted(begun.values())
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            allowed = limit + burst + (times[last] - since) * limit / period
            assert last - first + 1 <= allowed + 1e-9


# Singleton.


def claim(run: str, mode: str = "skip") -> LockRequest:
    return LockRequest(run, "app-fn", [0], settings=LimitSettings(mode=mode))


def test_skip_looks_for_the_holder_before_it_skips() -> None:
    lock: Machine = Singleton()
    assert verdicts(lock, claim("a")) == [("a", 0, GRANTED)]
    lock.take(claim("b"), T0)
    decisions = lock.decisions()
    assert (decisions.verdicts, decisions.check, decisions.reply) == ([], [("a", 0)], True)
    lock = reloaded(lock)
    assert lock.decisions().check == [("a", 0)]
    assert verdicts(lock, LockRequest("a", alive=True)) == [("b", 0, SKIPPED)]
    assert verdicts(lock, LockRequest("a", release=[0]), claim("c")) == [("c", 0, GRANTED)]
    assert lock.waiting == 0


def test_skip_lets_a_run_in_whose_holder_is_gone() -> None:
    lock: Machine = Singleton()
    verdicts(lock, claim("a"), claim("b"), claim("c"))
    lock.take(LockRequest("a", release=[0]), T0)
    decisions = lock.decisions()
    assert (decisions.verdicts, decisions.check) == ([("b", 0, GRANTED)], [("b", 0)])
    assert verdicts(lock, LockRequest("b", alive=True)) == [("c", 0, SKIPPED)]


def test_cancel_hands_over_to_the_newest_once_the_holder_has_ended() -> None:
    lock: Machine = Singleton()
    verdicts(lock, claim("a", "cancel"))
    lock.take(claim("b", "cancel"), T0)
    assert lock.decisions().cancel == [("a", 0)]
    lock.take(claim("b", "cancel"), T0)
    assert not lock.decisions()
    lock.take(claim("c", "cancel"), T0)
    assert lock.decisions().cancel == [("b", 0), ("a", 0)]
    lock = reloaded(lock)
    assert verdicts(lock, LockRequest("b", release=[0])) == []
    assert verdicts(lock, LockRequest("a", release=[0])) == [("c", 0, GRANTED)]
    assert verdicts(lock, LockRequest("c", release=[0])) == []
    assert lock.idle(T0)


def test_cancel_ignores_what_a_replaced_run_still_asks() -> None:
    lock: Machine = Singleton()
    for run in ("a", "b", "c"):
        lock.take(claim(run, "cancel"), T0)
    assert lock.decisions().cancel[-2:] == [("b", 0), ("a", 0)]
    lock = reloaded(lock)
    lock.take(claim("b", "cancel"), T0)  # a look at the queue that was under way
    assert not lock.decisions()
    assert verdicts(lock, LockRequest("b", release=[0])) == []
    assert verdicts(lock, LockRequest("a", release=[0])) == [("c", 0, GRANTED)]


@pytest.mark.parametrize("reload", [False, True])
def test_a_throttle_tells_all_of_the_thousands_that_it_admits_at_once(reload: bool) -> None:
    """And charges none of them again, though it does not remember them all."""
    lock: Machine = Throttle()
    runs = [f"r{n}" for n in range(2_500)]
    for run in runs:
        lock.take(LockRequest(run, acquire=[0], settings=LimitSettings(2_500, 3_600_000)), T0)
    lock.take(LockRequest("r7", release=[0]), T0)
    if reload:
        lock = reloaded(lock)
    told = [run for run, _, verdict in lock.decisions().verdicts if verdict == GRANTED]
    assert told == [run for run in runs if run != "r7"]


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["claim", "release", "alive", "reload"]),
            st.integers(0, 5),
            st.sampled_from(["skip", "cancel"]),
        ),
        max_size=50,
    )
)
def test_a_singleton_has_one_holder_and_forgets_nobody(trace: list[tuple[str, int, str]]) -> None:
    lock: Machine = Singleton()
    open_: set[str] = set()
    replaced: set[str] = set()
    """Cancelled for a newer one; what they still ask does not count."""
    for what, number, mode in trace:
        run = f"r{number}"
        assert isinstance(lock, Singleton)
        before = lock.holder
        if what == "reload":
            lock = reloaded(lock)
        elif what == "claim":
            lock.take(claim(run, mode), T0)
            open_ |= {run} - replaced
        elif what == "release":
            lock.take(LockRequest(run, release=[0]), T0)
            open_.discard(run)
            replaced.discard(run)
        elif before is not None:
            lock.take(LockRequest(before[0], alive=True), T0)
        assert isinstance(lock, Singleton)
        if before is not None and before[0] in open_:
            assert lock.holder == before  # nobody is pushed out
        decisions = lock.decisions()
        cancelled = {run for run, _ in decisions.cancel}
        for told, _, verdict in decisions.verdicts:
            if verdict == SKIPPED:
                open_.discard(told)
        replaced |= {run for run in cancelled if lock.holder is None or run != lock.holder[0]}
        open_ -= replaced
        if open_:
            assert lock.holder is not None
        state: Any = lock.dump()
        present = {
            ticket[0] for ticket in [state["holder"], state["next"], *state["doubtful"]] if ticket
        }
        assert open_ <= present


@given(
    st.lists(st.integers()),
    st.lists(st.integers()),
    st.lists(st.integers()),
    st.booleans(),
    st.integers(1, 5),
)
def test_parts_of_effects_are_the_whole(
    verdicts: list[Any], check: list[Any], cancel: list[Any], reply: bool, size: int
) -> None:
    whole = Decisions(verdicts, check, reply, cancel)
    parts = list(whole.parts(size))
    assert [each for part in parts for each in part.verdicts] == verdicts
    assert [each for part in parts for each in part.check] == check
    assert [each for part in parts for each in part.cancel] == cancel
    assert all(part and part.reply == reply for part in parts)
    assert all(max(len(part.verdicts), len(part.check), len(part.cancel)) <= size for part in parts)
    assert bool(parts) == bool(whole)
