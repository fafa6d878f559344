"""The queue of a lock, and how its decisions leave it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inngest_temporal_workers.entities.queue import Decisions, Queue


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


@given(
    st.lists(st.integers()),
    st.lists(st.integers()),
    st.lists(st.integers()),
    st.booleans(),
    st.integers(1, 5),
)
def test_the_parts_of_decisions_make_the_whole(
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
