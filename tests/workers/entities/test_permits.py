"""The machine of a concurrency limit, against a naive model over random traces."""

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ulid import ULID

from inngest_temporal.routing.locks import GRANTED, LimitSettings, LockRequest, Ticket
from inngest_temporal_workers.entities.permits import Permits
from inngest_temporal_workers.entities.queue import Machine
from inngest_temporal_workers.entities.throttle import ThrottleMachine

from .machines import T0, reloaded, verdicts


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


def test_waiting_runs_are_in_the_order_of_their_creation_whenever_they_asked() -> None:
    lock = Permits()
    verdicts(lock, ask("holder"), *(ask(f"r{n}", score=T0 + n) for n in (3, 1, 4, 0, 2)))
    order = []
    ended = "holder"
    while told := verdicts(lock, back(ended)):
        [(ended, _, _)] = told
        order.append(ended)
    assert order == ["r0", "r1", "r2", "r3", "r4"]


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
@pytest.mark.parametrize("kind", [Permits, ThrottleMachine])
def test_an_older_configuration_is_ignored(kind: type[Machine], reload: bool) -> None:
    def asks(run: str, free: bool, version: int) -> LockRequest:
        settings = LimitSettings(100 if free else 1, 1 if free else 3_600_000, version=version)
        return LockRequest(run, "app-fn", [1] if run else [], settings=settings)

    lock = kind.load({})
    assert [run for run, _, _ in verdicts(lock, *(asks(run, False, 10) for run in "abc"))] == ["a"]
    lock = reloaded(lock) if reload else lock
    assert verdicts(lock, asks("", True, 9), asks("d", True, 0)) == []
    told = verdicts(lock, asks("", True, 20))
    # What a throttle has used up counts at most as one full interval of the new rate.
    lock.advance(T0 + 1)
    assert [run for run, _, _ in told + lock.decisions().verdicts] == ["b", "c", "d"]
    lock = reloaded(lock) if reload else lock
    told = verdicts(lock, asks("", False, 10), asks("e", False, 10), now=T0 + 9)
    assert [run for run, _, _ in told] == ["e"]


def test_a_lock_ignores_the_configuration_of_a_function_that_never_asked_it() -> None:
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
    # b0 is first in order, but its limit does not allow two others beside it.
    assert [run for run, _, _ in verdicts(lock, done[0])] == ["a3"]
    assert verdicts(lock, done[1], done[2]) == []
    assert [run for run, _, _ in verdicts(lock, LockRequest("a3", "app-a", release=[1]))] == ["b0"]


def test_only_holders_that_were_silent_are_suspected() -> None:
    lock = Permits()
    verdicts(lock, ask("a", limit=2))
    lock.suspect()
    assert not lock.decisions()
    verdicts(lock, ask("b", limit=2))
    lock.suspect()
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
        # Work is conserved: a run waits only because of the limit.
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
    # No permit that was announced and not given back has gone to another run.
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
