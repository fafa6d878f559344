"""The machine of a throttle over random traces."""

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from inngest_temporal.routing.locks import GRANTED, LimitSettings, LockRequest
from inngest_temporal_workers.entities.queue import Machine
from inngest_temporal_workers.entities.throttle import ThrottleMachine

from .machines import T0, reloaded, verdicts


def start(
    run: str, score: int = 0, limit: int = 2, period_ms: int = 60_000, burst: int = 1
) -> LockRequest:
    return LockRequest(
        run, "app-fn", [0], score=score, settings=LimitSettings(limit, period_ms, burst)
    )


def starts(lock: Machine, until_ms: int) -> list[tuple[str, int]]:
    """Which run starts when, in milliseconds after T0, if the lock's timer fires on time."""
    found = [(run, 0) for run, _, _ in lock.decisions().verdicts]
    while lock.waiting and (due := lock.due_ms()) is not None and due <= until_ms:
        lock.advance(due)
        found += [(run, due - T0) for run, _, _ in lock.decisions().verdicts]
    return found


def test_limit_2_burst_1_starts_three_at_once_and_then_one_each_half_period() -> None:
    lock = ThrottleMachine()
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
    assert lock.due_ms() == T0 + 180_000


def test_priority_orders_those_that_wait_for_their_start() -> None:
    lock = ThrottleMachine()
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
    lock: Machine = ThrottleMachine()
    assert len(verdicts(lock, *(start(f"r{n}") for n in range(3)))) == 3
    lock = reloaded(lock)
    assert verdicts(lock, start("r1"), start("r1"))[0] == ("r1", 0, GRANTED)
    lock.take(start("late"), T0)
    assert lock.due_ms() == T0 + 30_000


def test_a_run_that_is_gone_gives_its_start_to_the_next() -> None:
    lock: Machine = ThrottleMachine()
    verdicts(lock, *(start(f"r{n}") for n in range(5)))
    gone = LockRequest("r2", release=[0])
    assert verdicts(lock, gone, gone) == [("r3", 0, GRANTED)]
    assert verdicts(lock, LockRequest("r4", release=[0])) == []
    assert lock.waiting == 0


def test_a_new_rate_applies_at_once() -> None:
    lock: Machine = ThrottleMachine()
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
    lock: Machine = ThrottleMachine()
    now, period = T0, 1_000
    begun: dict[str, int] = {}

    def note() -> None:
        for run, _, _ in lock.decisions().verdicts:
            begun.setdefault(run, now)

    for wait, run, score, reload in asked:
        until = now + wait
        while lock.waiting and (due := lock.due_ms()) is not None and due <= until:
            now = max(now, due)
            lock.advance(now)
            note()
        now = until
        lock.take(start(f"r{run}", score, limit, period, burst), now)
        note()
        if reload:
            lock = reloaded(lock)
    while lock.waiting and (due := lock.due_ms()) is not None:
        now = max(now, due)
        lock.advance(now)
        note()
    assert set(begun) == {f"r{run}" for _, run, _, _ in asked}  # none is lost
    times = sorted(begun.values())
    for first, since in enumerate(times):
        for last in range(first, len(times)):
            allowed = limit + burst + (times[last] - since) * limit / period
            assert last - first + 1 <= allowed + 1e-9


def test_a_throttle_tells_all_of_the_thousands_that_it_admits_at_once() -> None:
    lock: Machine = ThrottleMachine()
    runs = [f"r{n}" for n in range(2_500)]
    for run in runs:
        lock.take(LockRequest(run, acquire=[0], settings=LimitSettings(2_500, 3_600_000)), T0)
    lock.take(LockRequest("r7", release=[0]), T0)
    told = [run for run, _, verdict in lock.decisions().verdicts if verdict == GRANTED]
    assert told == [run for run in runs if run != "r7"]
