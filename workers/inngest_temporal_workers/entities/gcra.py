"""The generic cell rate algorithm (GCRA), which limits rates with one number of state: the
theoretical arrival time.

A rate limit drops what `admit` refuses; a throttle lets it wait until `retry_at_ms`. Source:
Inngest's rate limit and throttle (semantics §4.4, §4.5). Times are whole milliseconds since 1970.
The interval of a rate such as 7 in a second is not a whole number of them, so the state counts in
ticks of 1/limit milliseconds.
"""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Rate:
    """On average `limit` in `period_ms`, and up to `burst + 1` at once."""

    limit: int
    """At least 1."""
    period_ms: int
    burst: int = 0

    @classmethod
    def limiting(cls, limit: int, period_ms: int) -> Self:
        """The rate of a rate limit: a tenth of the limit and one more are admitted at once, then
        one each period/limit."""
        return cls(limit, period_ms, limit // 10)

    @classmethod
    def throttling(cls, limit: int, period_ms: int, burst: int = 0) -> Self:
        """The rate of a throttle: `limit + burst` start at once, then one each period/limit. Limit
        0 means 1, as in Inngest."""
        limit = max(1, limit)
        return cls(limit, period_ms, limit + burst - 1)


@dataclass(frozen=True)
class Arrival:
    """The theoretical arrival time, `ticks / per_ms` milliseconds since 1970. The default is long
    ago: nothing is used up."""

    ticks: int = 0
    per_ms: int = 1

    def ms(self) -> int:
        """The first whole millisecond at which all that was used up is free again."""
        return _ceil(self.ticks, self.per_ms)

    def _in(self, per_ms: int) -> int:
        """The arrival in ticks of another length, after a limit was changed."""
        return self.ticks if per_ms == self.per_ms else _ceil(self.ticks * per_ms, self.per_ms)


@dataclass(frozen=True)
class Decision:
    """The answer to one that asked for admission."""

    admitted: bool
    arrival: Arrival
    """The new state. After a refusal it is unchanged, or clamped to the latest that the rate
    allows."""
    retry_at_ms: int
    """When the next one would be admitted, if nothing is admitted before."""


def admit(arrival: Arrival, now_ms: int, rate: Rate) -> Decision:
    """Admit or refuse one at `now_ms`.

    A state that this rate can't have led to, because the rate was changed, is clamped to the latest
    that it allows, so that a shorter period applies at once.
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
