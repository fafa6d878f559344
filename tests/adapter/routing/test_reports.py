import logging
from collections.abc import Iterator

import pytest

import inngest_temporal as inngest
from inngest_temporal.routing import events, reports
from inngest_temporal.routing.registry import AppConfig, Snapshot
from inngest_temporal.routing.reports import Outcome
from tests.harness import new_client

NOTHING = [Outcome("unmatched")]


def snapshot(**triggers: str) -> Snapshot:
    """Functions of app `shop`: id and event name."""
    client = new_client("shop")
    configs = []
    for fn_id, event in triggers.items():
        create = client.create_function(fn_id=fn_id, trigger=inngest.TriggerEvent(event=event))

        async def handler(ctx: inngest.Context) -> None:
            pass

        configs += [part.config for part in create(handler).parts()]
    return Snapshot([AppConfig(app_id="shop", task_queue="q", functions=configs)])


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inngest_temporal.events")


def test_the_log_says_what_an_event_starts_and_what_holds_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    order = events.stamp({"name": "order", "data": {}})
    outcomes = [
        Outcome("started", "shop-a", "R"),
        Outcome("debounced", "shop-b"),
        Outcome("rate_limited", "shop-c", reason="..."),
        Outcome("delivered"),
    ]
    reports.routed(order, snapshot(a="order"), outcomes)
    assert caplog.messages == [
        "order starts shop-a (run R), is debounced for shop-b, is rate limited by shop-c,"
        " is given to the runs that wait for it"
    ]


def test_an_event_that_nothing_listens_for_is_logged_with_the_known_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    typo = events.stamp({"name": "odrer", "data": {}})
    reports.routed(typo, snapshot(a="order", b="aorder", c="inngest/function.failed"), NOTHING)
    reports.routed(typo, Snapshot(), NOTHING)
    many = {f"f{n}": f"e{n:02}" for n in range(11)}
    reports.routed(typo, snapshot(**many), NOTHING)
    assert caplog.messages[:2] == [
        "Nothing listens for odrer; known: aorder, order",
        "Nothing listens for odrer; known: none",
    ]
    assert caplog.messages[2].endswith("e08, e09, ...")


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The filter of production, by a clock of hours that the test sets."""
    now = [0.0]
    seldom = reports.Seldom(lambda: now[0] * 3600)
    reports.unmatched.addFilter(seldom)
    yield now
    reports.unmatched.removeFilter(seldom)


def test_in_production_a_name_is_logged_at_info_once_in_an_hour(
    caplog: pytest.LogCaptureFixture, hours: list[float]
) -> None:
    caplog.set_level(logging.DEBUG, "inngest_temporal.events")
    for hours[0] in (0, 0.9, 1, 1.9):
        for name in ("odrer", "x" * 500):
            reports.routed(events.stamp({"name": name, "data": {}}), Snapshot(), NOTHING)
    levels = {message: [] for message in caplog.messages}
    for record in caplog.records:
        levels[record.getMessage()].append(record.levelname)
    once = ["INFO", "DEBUG", "INFO", "DEBUG"]
    assert levels == {
        "Nothing listens for odrer; known: none": once,
        f"Nothing listens for {'x' * 97}...; known: none": once,
    }


def test_in_production_only_so_many_names_are_remembered_and_logged(
    caplog: pytest.LogCaptureFixture, hours: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_NAMES", 2)
    for hours[0] in (0, 1):
        for name in ("a", "b", "c", "a", "c"):
            reports.routed(events.stamp({"name": name, "data": {}}), Snapshot(), NOTHING)
    assert [message.split(";")[0][-1] for message in caplog.messages] == ["a", "b"] * 2


def test_system_events_that_start_nothing_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    finished = events.Stamped({"name": events.FINISHED, "data": {}}, "01KB")
    reports.routed(finished, snapshot(a="order"), NOTHING)
    assert caplog.messages == []
