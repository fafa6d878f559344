"""The generic cell rate algorithm (GCRA), which limits rates with one number of state: the
theoretical arrival time.

A rate limit drops what `admit` refuses, a throttle has it wait until `retry_at_ms`. Source:
Inngest's rate limit and throttle (semantics §4.4, §4.5). Times are whole milliseconds since 1970. A
rate of 7 in a second has no whole interval, so the state counts in fractions of a millisecond that
divide it.
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Rate:
    """`limit` in `period_ms` on average, and `burst` more than one at once."""

    limit: int
    """At least 1."""
    period_ms: int
    burst: int = 0

    @classmethod
    def limiting(cls, limit: int, period_ms: int) -> Self:
        """A rate limit's: a tenth of the limit, and one more, are admitted at once; then one per
        period/limit."""
        return cls(limit, period_ms, limit // 10)

    @classmethod
    def throttling(cls, limit: int, period_ms: int, burst: int = 0) -> Self:
        """A throttle's: `limit + burst` start at once, then one per period/limit. Limit 0 is 1, as
        in Inngest."""
        limit = max(1, limit)
        return cls(limit, period_ms, limit + burst - 1)


@dataclass(frozen=True)
class Arrival:
    """The theoretical arrival time, `ticks / per_ms` milliseconds since 1970; the default is long
    past."""

    ticks: int = 0
    per_ms: int = 1

    def ms(self) -> int:
        """The first whole millisecond at which it is past: all that was used up is free again."""
        return _ceil(self.ticks, self.per_ms)

    def _in(self, per_ms: int) -> int:
        """As ticks of another length, after a limit was changed."""
        return self.ticks if per_ms == self.per_ms else _ceil(self.ticks * per_ms, self.per_ms)


@dataclass(frozen=True)
class Decision:
    """What became of one that asked for admission."""

    admitted: bool
    arrival: Arrival
    """The new state. If it was refused: unchanged, or brought down to what the rate can have led to
    by now."""
    retry_at_ms: int
    """When the next one would be admitted, if nothing else is until then."""


def admit(arrival: Arrival, now_ms: int, rate: Rate) -> Decision:
    """Admit or refuse one at `now_ms`.

    A state that this rate can't have led to (it was changed) is brought down to its fullest one, so
    that a shorter period applies at once.
    """
    # A tick is 1/limit ms, so one emission (period/limit) is `period_ms` ticks.
    emission, tolerance, now = rate.period_ms, rate.burst * rate.period_ms, now_ms * rate.limit
    tat = min(arrival._in(rate.limit), now + tolerance + emission)
    admitted = tat <= now + tolerance
    if admitted:
        tat = max(tat, now) + emission
    return Decision(
        admitted, Arrival(tat, rate.limit), max(now_ms, _ceil(tat - tolerance, rate.limit))
    )


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
