import logging

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


def test_system_events_that_start_nothing_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    finished = events.Stamped({"name": events.FINISHED, "data": {}}, "01KB")
    reports.routed(finished, snapshot(a="order"), NOTHING)
    assert caplog.messages == []
