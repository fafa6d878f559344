from inngest_temporal.routing import events
from inngest_temporal.routing.events import Stamped
from inngest_temporal.routing.recent import RecentEvents
from inngest_temporal.routing.reports import Outcome

STARTED = (Outcome("started", "shop-a", "R"),)


def event(n: int, size: int = 0) -> Stamped:
    return events.stamp({"name": f"e{n}", "data": {"text": "x" * size}, "id": str(n)})


def names(recent: RecentEvents, after: Stamped | None = None) -> list[str]:
    return [each.name for each in recent.latest(None if after is None else after.internal_id)]


def test_the_latest_are_first_and_the_oldest_forgotten() -> None:
    recent = RecentEvents(max_events=3)
    for n in range(5):
        recent.add(event(n), STARTED)
    assert names(recent) == ["e4", "e3", "e2"]
    assert names(recent, event(3)) == ["e2"]
    assert names(recent, event(0)) == []
    assert recent.get(event(1).internal_id) is None


def test_large_events_push_out_more_of_the_others() -> None:
    recent = RecentEvents(max_bytes=10_000)
    for n in range(8):
        recent.add(event(n, 1_000), STARTED)
    recent.add(event(8, 5_000), STARTED)
    assert names(recent) == ["e8", "e7", "e6", "e5", "e4"]
    recent.add(event(9, 20_000), STARTED)
    assert names(recent) == []
    recent.add(event(10), STARTED)
    assert len(recent) == 1


def test_an_event_that_comes_again_keeps_its_place_and_has_the_last_outcome() -> None:
    recent = RecentEvents()
    for n in (1, 2):
        recent.add(event(n), (Outcome("failed", reason="Temporal is away"),))
    recent.add(event(1), STARTED)
    assert names(recent) == ["e2", "e1"]
    again = recent.get(event(1).internal_id)
    assert again is not None
    assert again.outcomes == STARTED
    assert again.event["data"] == {"text": ""}


def test_an_event_that_is_kept_as_its_body_is_read_as_it_was_stamped() -> None:
    recent = RecentEvents()
    for body in (
        b'{"name": "a", "data": {"x": "\\ud800"}}',
        b' [{"name":"a","data":null,"v":"1","other":5}]',
        '{"name": "ä", "id": "mine", "ts": 1700000000000}'.encode(),
    ):
        given = events.parse(body)
        stamped = events.stamp(given[0] if isinstance(given, list) else given)
        recent.add(stamped, STARTED, body)
        known = recent.get(stamped.internal_id)
        assert known is not None
        assert known.event == stamped.event
    invocation = events.stamp_invocation({"data": {"x": 1}}, "shop-a")
    recent.add(invocation, STARTED)
    known = recent.get(invocation.internal_id)
    assert known is not None
    assert known.event == invocation.event
