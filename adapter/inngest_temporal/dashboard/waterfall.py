"""The timeline of a run: the bars of its steps, and the axis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from inngest_temporal.traces.models import Attempt, Trace, TraceStep

from .rendering import duration

BarKind = Literal["queued", "done", "failed", "running", "sleeping", "waiting", "retrying"]

MIN_PERCENT = 0.4
"""Minimum width of a bar, so that it can be seen."""
MAX_TICKS = 6
MIN_SPAN_MS = 10
_STEPS = (1, 2, 5, 10, 15, 30, 60)


@dataclass(frozen=True)
class Bar:
    """One bar of a row, in percent of the axis."""

    kind: BarKind
    x: float
    width: float
    title: str


@dataclass(frozen=True)
class Row:
    """One line of the timeline."""

    step: TraceStep
    bars: tuple[Bar, ...]
    took_ms: int
    executions: int
    """How many times its body was begun."""


@dataclass(frozen=True)
class Tick:
    """A line of the axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Waterfall:
    """The timeline that the template draws."""

    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    run_bars: tuple[Bar, ...]
    took_ms: int


def mark_of(step: TraceStep) -> str:
    """The CSS class of a step's mark. A wait that timed out without an error has ended like any
    other."""
    if step.status != "TimedOut":
        return step.status.lower()
    return "completed" if step.error is None else "failed"


def waterfall_of(trace: Trace, now_ms: int) -> Waterfall:
    """The timeline of a trace. Bars of what is under way end at `now_ms`."""
    end = trace.ended_ms if trace.ended_ms is not None else now_ms
    ends = [at for step in trace.steps for at in (step.ended_ms, step.started_ms) if at is not None]
    axis = _Axis(trace.queued_ms, max([end, *ends, trace.queued_ms + MIN_SPAN_MS]))
    rows = tuple(
        Row(
            step,
            tuple(_bars(step, axis, end)),
            max(0, _end(step, end) - step.started_ms),
            sum(1 for attempt in step.attempts if attempt.started_ms is not None),
        )
        for step in trace.steps
    )
    return Waterfall(rows, axis.ticks(), tuple(_run_bars(trace, axis, end)), end - trace.queued_ms)


class _Axis:
    def __init__(self, start_ms: int, end_ms: int) -> None:
        self._start = start_ms
        self._span = end_ms - start_ms

    def bar(self, kind: BarKind, start: float, end: float, title: str) -> Bar:
        x = self._percent(start)
        width = max(self._percent(end) - x, MIN_PERCENT)
        return Bar(kind, round(min(x, 100 - width), 3), round(width, 3), title)

    def ticks(self) -> tuple[Tick, ...]:
        step = _nice(self._span / MAX_TICKS)
        count = int(self._span // step)
        return tuple(
            Tick(round(100 * step * index / self._span, 3), duration(step * index))
            for index in range(count + 1)
            if step * index <= self._span * 0.97  # a label has room behind its line
        )

    def _percent(self, at: float) -> float:
        return min(100.0, max(0.0, 100 * (at - self._start) / self._span))


def _nice(ms: float) -> float:
    """The shortest round duration that is at least this long."""
    unit = 1.0
    for size in (1, 10, 100, 1_000, 60_000, 3_600_000, 86_400_000, 8_640_000_000):
        unit = float(size)
        for step in _STEPS:
            if step * unit >= ms and (size >= 1_000 or step <= 10):
                return step * unit
    return ms or unit


def _run_bars(trace: Trace, axis: _Axis, end: int) -> Iterator[Bar]:
    started = trace.started_ms if trace.started_ms is not None else end
    if started > trace.queued_ms:
        took = duration(started - trace.queued_ms)
        yield axis.bar("queued", trace.queued_ms, started, f"Queued for {took}")
    if trace.started_ms is not None:
        kind: BarKind = "failed" if trace.status == "Failed" else "done"
        if trace.ended_ms is None:
            kind = "running"
        yield axis.bar(kind, started, end, f"Under way for {duration(end - started)}")


def _bars(step: TraceStep, axis: _Axis, end: int) -> Iterator[Bar]:
    if step.kind in ("sleep", "wait_for_event", "wait_for_signal", "invoke"):
        kind: BarKind = "sleeping" if step.kind == "sleep" else "waiting"
        until = _end(step, end)
        took = duration(until - step.started_ms)
        said = "Slept" if step.kind == "sleep" else "Waited"
        ending = ", then timed out" if step.status == "TimedOut" else ""
        yield axis.bar(kind, step.started_ms, until, f"{said} for {took}{ending}")
        return
    if not step.attempts:
        until = _end(step, end)
        kind = _outcome(step.status == "Failed", step.ended_ms is None)
        yield axis.bar(kind, step.started_ms, until, duration(until - step.started_ms))
        return
    first = _asked(step.attempts[0])
    if first > step.started_ms:  # for a permit
        yield _queued(axis, 1, step.started_ms, first)
    for index in range(len(step.attempts)):
        yield from _attempt_bars(step.attempts, index, axis, _end(step, end))


def _attempt_bars(attempts: Sequence[Attempt], index: int, axis: _Axis, end: int) -> Iterator[Bar]:
    """Waiting and executing of one attempt, and the pause after it."""
    attempt = attempts[index]
    number = attempt.number + 1
    begun = attempt.started_ms
    if attempt.queued_ms is not None and (begun is None or begun > attempt.queued_ms):
        until = end if begun is None else begun
        yield _queued(axis, number, attempt.queued_ms, until)
    if begun is None:
        return
    until = attempt.ended_ms if attempt.ended_ms is not None else end
    kind = _outcome(attempt.error is not None, attempt.ended_ms is None)
    yield axis.bar(kind, begun, until, f"Attempt {number}: {duration(until - begun)}")
    if attempt.ended_ms is None or attempt.retry_at_ms is None:
        return
    following = _asked(attempts[index + 1]) if index + 1 < len(attempts) else end
    pause_end = min(attempt.retry_at_ms, following)
    if pause_end > attempt.ended_ms:
        took = duration(attempt.retry_at_ms - attempt.ended_ms)
        yield axis.bar("retrying", attempt.ended_ms, pause_end, f"{took} until the next attempt")
    if following > pause_end >= attempt.ended_ms:
        yield _queued(axis, number + 1, pause_end, following)


def _queued(axis: _Axis, number: int, start: int, end: int) -> Bar:
    return axis.bar("queued", start, end, f"Attempt {number} waited for {duration(end - start)}")


def _asked(attempt: Attempt) -> int:
    """When an attempt was scheduled in Temporal; otherwise, when it began."""
    asked = attempt.queued_ms if attempt.queued_ms is not None else attempt.started_ms
    return 0 if asked is None else asked


def _outcome(failed: bool, is_open: bool) -> BarKind:
    if failed:
        return "failed"
    return "running" if is_open else "done"


def _end(step: TraceStep, end: int) -> int:
    return step.ended_ms if step.ended_ms is not None else max(end, step.started_ms)
