"""GCRA against a model that keeps a bucket of tokens in exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inngest_temporal_workers.entities.gcra import Arrival, Rate, admit

HOUR = 3_600_000
DAY = 24 * HOUR
NOW = 1_800_000_000_000

rates = st.builds(Rate, st.integers(1, 50), st.integers(1, 5_000), st.integers(0, 20))
gaps = st.lists(st.integers(0, 700) | st.just(0), max_size=80)


class Bucket:
    """Tokens, refilled evenly: `burst + 1` at most, `limit` in a period."""

    def __init__(self, rate: Rate, now: int) -> None:
        self.capacity = Fraction(rate.burst + 1)
        self.per_ms = Fraction(rate.limit, rate.period_ms)
        self.tokens = self.capacity
        self.at = now

    def refill(self, now: int) -> None:
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.per_ms)
        self.at = now

    def take(self, now: int) -> bool:
        self.refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@given(rates, gaps)
def test_admission_is_that_of_a_token_bucket(rate: Rate, gaps: list[int]) -> None:
    bucket, arrival, now = Bucket(rate, NOW), Arrival(), NOW
    for gap in gaps:
        now += gap
        decision = admit(arrival, now, rate)
        assert decision.admitted == bucket.take(now)
        assert decision.admitted or decision.arrival == arrival
        arrival = decision.arrival
        assert admit(arrival, decision.retry_at_ms, rate).admitted
        assert (
            decision.retry_at_ms == now
            or not admit(arrival, decision.retry_at_ms - 1, rate).admitted
        )


def start_of(arrival: Arrival, now: int, rate: Rate) -> tuple[int, Arrival]:
    """When a waiting run may start, and the state after it."""
    at = admit(arrival, now, rate).retry_at_ms if not admit(arrival, now, rate).admitted else now
    decision = admit(arrival, at, rate)
    assert decision.admitted
    return at, decision.arrival


@given(rates, gaps)
def test_starts_are_those_of_a_queue_behind_a_token_bucket(rate: Rate, gaps: list[int]) -> None:
    emission, capacity = Fraction(rate.period_ms, rate.limit), rate.burst + 1
    arrival, now, busy = Arrival(), NOW, Fraction(0)
    starts: list[int] = []
    for gap in gaps:
        now += gap
        start, arrival = start_of(arrival, max([now, *starts[-1:]]), rate)
        # The bucket is empty until `busy`, when a token for each of the capacity would be back.
        busy = max(busy, Fraction(now)) + emission
        ideal = max(Fraction(now), busy - capacity * emission)
        starts.append(start)
        assert 0 <= start - ideal < len(starts)  # each start waits for a whole millisecond
    assert starts == sorted(starts)


@pytest.mark.parametrize(
    ("limit", "period", "at_once", "then"),
    [
        (1, DAY, 1, DAY),
        (10, HOUR, 2, 6 * 60_000),
        (100, HOUR, 11, 36_000),
        (7, 1_000, 1, 143),
        (9, DAY, 1, DAY // 9),
    ],
)
def test_rate_limits_admit_as_many_as_the_reference_says(
    limit: int, period: int, at_once: int, then: int
) -> None:
    rate, arrival = Rate.limiting(limit, period), Arrival()
    for _ in range(at_once):
        decision = admit(arrival, NOW, rate)
        assert decision.admitted
        arrival = decision.arrival
    assert not admit(arrival, NOW, rate).admitted
    assert not admit(arrival, NOW + then - 1, rate).admitted
    assert admit(arrival, NOW + then, rate).admitted


def test_a_throttle_starts_limit_and_burst_at_once_then_evenly() -> None:
    rate, arrival, starts = Rate.throttling(2, 10_000, 1), Arrival(), [NOW]
    for _ in range(6):
        start, arrival = start_of(arrival, starts[-1], rate)
        starts.append(start)
    assert [start - NOW for start in starts[1:]] == [0, 0, 0, 5_000, 10_000, 15_000]


def test_a_throttle_of_limit_0_is_one_of_limit_1() -> None:
    assert Rate.throttling(0, 1_000) == Rate(1, 1_000, 0)


def test_a_changed_limit_applies_at_once() -> None:
    used_up = admit(Arrival(), NOW, Rate.limiting(1, DAY)).arrival
    faster = Rate.limiting(1, 60_000)
    assert not admit(used_up, NOW, faster).admitted
    refused = admit(used_up, NOW, faster)
    assert refused.retry_at_ms == NOW + 60_000
    assert admit(refused.arrival, refused.retry_at_ms, faster).admitted
    slower = admit(admit(Arrival(), NOW, faster).arrival, NOW, Rate.limiting(3, DAY))
    assert (slower.admitted, slower.retry_at_ms) == (False, NOW + 60_000)
