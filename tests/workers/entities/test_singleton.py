"""The machine of a singleton over random traces."""

from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from inngest_temporal.routing.locks import GRANTED, SKIPPED, LimitSettings, LockRequest
from inngest_temporal_workers.entities.queue import Machine
from inngest_temporal_workers.entities.singleton import SingletonMachine

from .machines import T0, reloaded, verdicts


def claim(run: str, mode: str = "skip", created_ms: int = 0) -> LockRequest:
    """Runs created in the same millisecond are in the order of their ids."""
    return LockRequest(run, "app-fn", [0], created_ms=created_ms, settings=LimitSettings(mode=mode))


def test_skip_looks_for_the_holder_before_it_skips() -> None:
    lock: Machine = SingletonMachine()
    assert verdicts(lock, claim("a")) == [("a", 0, GRANTED)]
    lock.take(claim("b"), T0)
    decisions = lock.decisions()
    assert (decisions.verdicts, decisions.check, decisions.reply) == ([], [("a", 0)], True)
    lock = reloaded(lock)
    assert verdicts(lock, LockRequest("a", alive=True)) == [("b", 0, SKIPPED)]
    assert verdicts(lock, LockRequest("a", release=[0]), claim("c")) == [("c", 0, GRANTED)]
    assert lock.waiting == 0


def test_skip_lets_a_run_in_whose_holder_is_gone() -> None:
    lock: Machine = SingletonMachine()
    verdicts(lock, claim("a"), claim("b"), claim("c"))
    lock.take(LockRequest("a", release=[0]), T0)
    decisions = lock.decisions()
    assert (decisions.verdicts, decisions.check) == ([("b", 0, GRANTED)], [("b", 0)])
    assert verdicts(lock, LockRequest("b", alive=True)) == [("c", 0, SKIPPED)]


def test_cancel_hands_over_to_the_newest_once_the_holder_has_ended() -> None:
    lock: Machine = SingletonMachine()
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


def test_cancel_cancels_a_replaced_run_that_still_asks() -> None:
    lock: Machine = SingletonMachine()
    for run in ("a", "b", "c"):
        lock.take(claim(run, "cancel"), T0)
    assert lock.decisions().cancel[-2:] == [("b", 0), ("a", 0)]
    lock = reloaded(lock)
    lock.take(claim("b", "cancel"), T0)  # a request that was under way
    assert lock.decisions().cancel == [("b", 0)]
    assert verdicts(lock, LockRequest("b", release=[0])) == []
    assert verdicts(lock, LockRequest("a", release=[0])) == [("c", 0, GRANTED)]


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
    lock: Machine = SingletonMachine()
    open_: set[str] = set()
    replaced: set[str] = set()
    """Runs that were cancelled for a newer one: what they still ask does not count."""
    for what, number, mode in trace:
        run = f"r{number}"
        assert isinstance(lock, SingletonMachine)
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
        assert isinstance(lock, SingletonMachine)
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


@given(st.permutations(range(6)), st.integers(0, 6))
def test_cancel_lets_the_newest_win_in_whatever_order_runs_ask(
    order: list[int], released_after: int
) -> None:
    lock: Machine = SingletonMachine()
    cancelled: set[str] = set()

    def carry_out() -> None:
        """Cancelled runs end, and give back what they hold or wait for."""
        while decisions := lock.decisions():
            for run, number in decisions.cancel:
                cancelled.add(run)
                lock.take(LockRequest(run, release=[number]), T0)

    for index, number in enumerate(order):
        lock.take(claim(f"r{9 - number}", "cancel", created_ms=T0 + number), T0)
        if index >= released_after:
            carry_out()
    carry_out()
    assert isinstance(lock, SingletonMachine)
    assert lock.holder == ("r4", 0)
    assert cancelled == {f"r{number}" for number in range(5, 10)}


def test_cancel_cancels_an_older_run_that_asks_after_the_newest_has_ended() -> None:
    lock: Machine = SingletonMachine()
    verdicts(lock, claim("new", "cancel", created_ms=2), LockRequest("new", release=[0]))
    lock = reloaded(lock)
    lock.take(claim("old", "cancel", created_ms=1), T0)
    assert lock.decisions().cancel == [("old", 0)]
    assert verdicts(lock, claim("newer", "cancel", created_ms=3)) == [("newer", 0, GRANTED)]


@given(st.permutations(range(1, 6)))
def test_skip_gives_the_place_of_a_lost_run_to_the_oldest(order: list[int]) -> None:
    lock: Machine = SingletonMachine()
    verdicts(lock, claim("lost"), *(claim(f"r{n}", created_ms=T0 - n) for n in order))
    lock = reloaded(lock)
    lock.take(LockRequest("lost", release=[0]), T0)
    decisions = lock.decisions()
    assert (decisions.verdicts, decisions.check) == ([("r5", 0, GRANTED)], [("r5", 0)])
    assert {run for run, _, _ in verdicts(lock, LockRequest("r5", alive=True))} == {
        f"r{n}" for n in range(1, 5)
    }
