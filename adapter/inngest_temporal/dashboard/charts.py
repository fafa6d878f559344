"""Small charts: runs of the last hour by status."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from inngest_temporal.temporal.runs import RunRecord

BUCKETS = 12
BUCKET = timedelta(minutes=5)
HOUR = BUCKET * BUCKETS
ORDER = ("Completed", "Running", "Scheduled", "Skipped", "Cancelled", "Failed")
"""The order from the bottom of a bar to its top, where the failures are."""


@dataclass(frozen=True)
class Piece:
    """One status in one bar of a chart, in percent of the chart."""

    status: str
    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Chart:
    """Runs of the last hour."""

    pieces: tuple[Piece, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Number of runs by status, without statuses that have none."""

    @property
    def text(self) -> str:
        """The chart as text, for screen readers."""
        counted = ", ".join(f"{count} {word.lower()}" for word, count in self.counts.items())
        return f"Runs of the last hour: {counted or 'none'}"


def chart_of(runs: Iterable[RunRecord], now: datetime) -> Chart:
    """A bar for every five minutes in which runs were started."""
    table: dict[tuple[int, str], int] = {}
    for run in runs:
        bucket = BUCKETS - 1 - (now - run.started_at) // BUCKET
        if 0 <= bucket < BUCKETS + 1:  # another clock may be a bit ahead
            place = min(bucket, BUCKETS - 1), run.status
            table[place] = table.get(place, 0) + 1
    sums = [sum(table.get((bucket, word), 0) for word in ORDER) for bucket in range(BUCKETS)]
    highest = max(sums)
    pieces = []
    for bucket in range(BUCKETS):
        top = 100.0
        for word in ORDER:
            if count := table.get((bucket, word), 0):
                height = 100 * count / highest
                top -= height
                x = 100 * bucket / BUCKETS + 0.8
                pieces.append(Piece(word, round(x, 2), round(top, 2), round(height, 2)))
    counts = {
        word: count
        for word in ORDER
        if (count := sum(table.get((bucket, word), 0) for bucket in range(BUCKETS)))
    }
    return Chart(tuple(pieces), counts)
