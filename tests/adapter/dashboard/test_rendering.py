"""How pages write durations, JSON, configurations and timelines."""

import html
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inngest_temporal as inngest
from inngest_temporal.config import FunctionConfig
from inngest_temporal.dashboard.charts import chart_of
from inngest_temporal.dashboard.rendering import (
    MAX_TREE_NODES,
    duration,
    json_view,
    moment,
    render,
)
from inngest_temporal.dashboard.waterfall import Waterfall, waterfall_of
from inngest_temporal.dashboard.welcome import suggestion
from inngest_temporal.dashboard.words import sayings, triggers_of
from inngest_temporal.drivers.protocol import ErrorInfo
from inngest_temporal.models import TriggerCron, TriggerEvent
from inngest_temporal.routing.registry import AppConfig, Snapshot
from inngest_temporal.temporal.runs import RunRecord
from inngest_temporal.traces.models import Attempt, Trace, TraceStep

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (-5, "0 ms"),
        (999.4, "999 ms"),
        (1_000, "1 s"),
        (1_240, "1.24 s"),
        (59_960, "60 s"),
        (60_000, "1 min"),
        (200_000, "3 min 20 s"),
        (3_600_000, "1 h"),
        (187_200_000, "2 d 4 h"),
        (None, "–"),
    ],
)
def test_durations_are_short(ms: float | None, text: str) -> None:
    assert duration(ms) == text


def test_a_time_that_no_calendar_has_is_a_number() -> None:
    assert "<time" in moment(1_795_754_000_000)
    assert moment(1e30) == "1e+30 ms since 1970"


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


@settings(deadline=None)
@given(JSON)
def test_the_text_of_a_tree_is_its_json(value: Any) -> None:
    shown = json_view(value)
    assert json.loads(text_of(shown)) == value
    assert not re.search(r"<(?!/?(div|span|details|summary)\b)", shown)


def test_large_and_deep_json_is_shown_too() -> None:
    large = list(range(MAX_TREE_NODES + 1))
    assert json_view(large).startswith("<pre")
    assert "first 200,000 of" in json_view([["x" * 99] * 9_999])
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    assert "nested deeper" in json_view(deep)
    for _ in range(5_000):
        deep = [deep]
    assert "nested too deep" in json_view(deep)


def test_halves_of_characters_are_written_as_escapes() -> None:
    json_view({"\ud800": "\udfff"}).encode()
    page = render("error.html", site=_Site(), title="\ud800", text="<b>", ui_url="")
    assert "\\ud800" in page
    assert "&lt;b&gt;" in page


class _Site:
    section = ""
    signed_in = False
    can_sign_out = False
    read_only = False
    dev = False
    message = None


def test_a_configuration_is_described_in_words() -> None:
    config = FunctionConfig(
        id="shop-all",
        name="All",
        triggers=[
            TriggerEvent(event="shop/*", expression="event.data.x > 1"),
            TriggerCron(cron="0 9 * * *", jitter="30s"),
        ],
        concurrency=[
            inngest.Concurrency(limit=10, key="event.data.customer"),
            inngest.Concurrency(limit=1, level="fn"),
        ],
        throttle=inngest.Throttle(limit=100, period=60_000, burst=5),
        rate_limit=inngest.RateLimit(limit=1, period=3_600_000),
        debounce=inngest.Debounce(period=2_000, timeout=10_000),
        singleton=inngest.Singleton(mode="cancel"),
        idempotency="event.data.id",
        priority=inngest.Priority(run="120"),
        timeouts=inngest.Timeouts(start=60_000, finish=timedelta(hours=1)),
        cancel=[inngest.Cancel(event="shop/stop", if_exp="event.data.a == async.data.a")],
        retries=0,
    )
    assert [text_of(each) for each in triggers_of(config)] == [
        "event shop/* if event.data.x > 1",
        "schedule 0 9 * * *, up to 30s late",
    ]
    assert [f"{each.about}: {text_of(each.text)}" for each in sayings(config)] == [
        "Concurrency: at most 10 at once for each event.data.customer",
        "Concurrency: at most 1 run under way",
        "Throttle: starts at most 100 runs in 1 min, 5 at once; further runs wait",
        "Rate limit: at most 1 run in 1 h; further events start none",
        "Idempotency: one run in 24 hours for each event.data.id",
        "Debounce: starts once no event came for 2 s, after 10 s at the latest",
        "Singleton: one run at a time; a new one cancels the other",
        "Priority: goes before others by 120 seconds",
        "Retries: none: what fails once fails the run",
        "Timeout: cancelled unless it begins within 1 min",
        "Timeout: cancelled unless it ends within 1 h",
        "Cancel: by event shop/stop if event.data.a == async.data.a",
    ]


def trace(*steps: TraceStep, ended_ms: int | None = None) -> Trace:
    return Trace("run", "fn", "Running", (), (), 1_000, 1_100, ended_ms, steps=steps)


def bars(drawn: Waterfall) -> list[list[tuple[str, float, float]]]:
    return [[(bar.kind, bar.x, bar.width) for bar in row.bars] for row in drawn.rows]


def test_attempts_waiting_and_executing_have_bars_of_their_own() -> None:
    error = ErrorInfo("E", "no")
    step = TraceStep(
        "id",
        "ship",
        "run",
        "Completed",
        1_200,
        2_000,
        (
            Attempt(0, 1_300, 1_400, error, queued_ms=1_200, retry_at_ms=1_700),
            Attempt(1, 1_800, 2_000, queued_ms=1_700),
        ),
    )
    sleep = TraceStep("s", "nap", "sleep", "Sleeping", 2_000, deadline_ms=99_000)
    drawn = waterfall_of(trace(step, sleep), now_ms=3_000)
    assert bars(drawn) == [
        [
            ("queued", 10.0, 5.0),
            ("failed", 15.0, 5.0),
            ("retrying", 20.0, 15.0),
            ("queued", 35.0, 5.0),
            ("done", 40.0, 10.0),
        ],
        [("sleeping", 50.0, 50.0)],
    ]
    assert [(bar.kind, bar.width) for bar in drawn.run_bars] == [("queued", 5.0), ("running", 95.0)]
    assert drawn.rows[0].executions == 2
    assert [(tick.x, tick.label) for tick in drawn.ticks][:2] == [(0.0, "0 ms"), (25.0, "500 ms")]


TIMES = st.integers(0, 10**13)


@settings(deadline=None)
@given(st.lists(st.tuples(TIMES, st.none() | TIMES, st.none() | TIMES), max_size=5), TIMES, TIMES)
def test_no_bar_leaves_the_axis(
    times: list[tuple[int, int | None, int | None]], now: int, queued: int
) -> None:
    steps = [
        TraceStep(
            str(index),
            "s",
            "run",
            "Running",
            at,
            ended,
            (Attempt(0, begun, ended, ErrorInfo("E", ""), queued_ms=at, retry_at_ms=begun),),
        )
        for index, (at, begun, ended) in enumerate(times)
    ]
    drawn = waterfall_of(Trace("r", "f", "Running", (), (), queued, steps=tuple(steps)), now)
    for row in drawn.rows:
        for bar in (*row.bars, *drawn.run_bars):
            assert 0 <= bar.x <= 100
            assert 0 < bar.width <= 100.001
            assert bar.x + bar.width <= 100.001
    assert 1 <= len(drawn.ticks) <= 12


def test_a_chart_has_a_bar_for_each_five_minutes() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def run(minutes: float, status: str) -> RunRecord:
        return RunRecord("r", "f", "e", status, now - timedelta(minutes=minutes))

    found = [run(1, "Completed"), run(2, "Failed"), run(30, "Running"), run(61, "Failed")]
    chart = chart_of(found, now)
    assert chart.counts == {"Completed": 1, "Running": 1, "Failed": 1}
    assert [(piece.status, piece.y, piece.height) for piece in chart.pieces] == [
        ("Running", 50.0, 50.0),
        ("Completed", 50.0, 50.0),
        ("Failed", 0.0, 50.0),
    ]
    assert chart.text == "Runs of the last hour: 1 completed, 1 running, 1 failed"
    assert chart_of([], now).text == "Runs of the last hour: none"


def test_the_first_page_suggests_a_command_for_a_function_that_exists() -> None:
    functions = [
        FunctionConfig(id="a-cron", name="c", triggers=[TriggerCron(cron="0 9 * * *")]),
        FunctionConfig(id="a-it's", name="i", triggers=[TriggerEvent(event="it's/*")]),
    ]
    snapshot = Snapshot([AppConfig(app_id="a", task_queue="q", functions=functions)])
    said = suggestion(snapshot, "http://here/", dev=True)
    assert said.function == "a-it's"
    assert said.command == (
        """curl http://here/e/dev -d '{"name": "it'\\''s/example", "data": {}}'"""
    )
    assert suggestion(Snapshot(), "http://here/", dev=False).command.startswith(
        "curl http://here/e/$INNGEST_EVENT_KEY -d"
    )
