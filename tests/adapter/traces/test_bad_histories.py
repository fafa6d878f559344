"""The trace reader trusts nothing: whatever a history holds, it gives a trace."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent

from inngest_temporal.traces.history import MAX_NOTES, trace_of
from inngest_temporal.traces.models import Trace
from tests.adapter.traces.test_recorded_histories import ENTITIES, RUNS, read

STATUSES = {"Scheduled", "Running", "Completed", "Failed", "Cancelled", "Skipped"}
BAD = [
    Payload(metadata={"encoding": b"binary/encrypted"}, data=b"\x00\x01"),
    Payload(metadata={"encoding": b"json/plain"}, data=b"{"),
    Payload(metadata={"encoding": b"json/plain"}, data=b"\xff\xfe"),
    Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 100_000),
    Payload(metadata={"encoding": b"json/plain"}, data=b"[]"),
    Payload(metadata={"encoding": b"json/plain"}, data=b'{"done": [{"op": 1}], "ops": "x"}'),
    Payload(metadata={"encoding": b"json/plain"}, data=b"17"),
    Payload(metadata={"encoding": b"json/plain"}, data=b"null"),
    Payload(),
]


def check_sound(trace: Trace) -> None:
    assert trace.status in STATUSES
    assert len(trace.notes) <= MAX_NOTES + 2
    assert all(isinstance(note, str) and note for note in trace.notes)
    for step in trace.steps:
        assert isinstance(step.name, str)
        assert isinstance(step.event, dict | None)
        assert isinstance(step.invoked_run, str | None)
    ids = [step.id for step in trace.steps]
    assert len(ids) == len(set(ids))
    positions = sorted(step.position for step in trace.steps if step.position is not None)
    assert positions == [*range(len(positions))]
    if trace.ended_ms is not None:
        assert all(step.ended_ms is not None for step in trace.steps)


def copies(events: Any) -> list[HistoryEvent]:
    copied = []
    for event in events:
        copy = HistoryEvent()
        copy.CopyFrom(event)
        copied.append(copy)
    return copied


def payloads_in(message: Message) -> list[Payload]:
    """All payloads anywhere in a message."""
    if isinstance(message, Payload):
        return [message]
    found = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = [each for each in value.values() if isinstance(each, Message)]
        else:
            inner = list(value) if field.is_repeated else [value]
        for each in inner:
            found += payloads_in(each)
    return found


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_history_that_breaks_off_anywhere_gives_the_steps_before(path: Path) -> None:
    run_id, history = read(path)
    whole = trace_of(run_id, history.events)
    for length in range(len(history.events)):
        trace = trace_of(run_id, history.events[:length], complete=False)
        check_sound(trace)
        assert not trace.complete
        if length:
            assert trace.function_id == whole.function_id
            assert trace.events == whole.events
        ended = {step.id: step.output for step in trace.steps if step.position is not None}
        assert ended.items() <= {step.id: step.output for step in whole.steps}.items()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_payloads_that_cannot_be_read_are_noted(path: Path) -> None:
    run_id, history = read(path)
    count = len([each for event in history.events for each in payloads_in(event)])
    assert count > 1
    noted = 0
    for index in range(count):
        for bad in BAD:
            events = copies(history.events)
            [*payloads] = [each for event in events for each in payloads_in(event)]
            payloads[index].CopyFrom(bad)
            trace = trace_of(run_id, events)
            check_sound(trace)
            noted += bool(trace.notes)
    assert noted


def test_missing_doubled_and_misplaced_events_give_a_trace(long: bool) -> None:
    chance = random.Random(7)
    for path in RUNS:
        run_id, history = read(path)
        for _ in range(200 if long else 20):
            events = copies(history.events)
            for _ in range(chance.randint(1, 5)):
                change, at = chance.randrange(3), chance.randrange(len(events))
                if change == 0 and len(events) > 1:
                    del events[at]
                elif change == 1:
                    events.insert(chance.randrange(len(events)), events[at])
                else:
                    chance.shuffle(events[at : at + 5])
                    events[at : at + 5] = reversed(events[at : at + 5])
            check_sound(trace_of(run_id, events))


def test_damaged_bytes_give_a_trace(long: bool) -> None:
    chance = random.Random(8)
    for path in RUNS:
        run_id, history = read(path)
        for _ in range(200 if long else 20):
            events = []
            for event in history.events:
                data = bytearray(event.SerializeToString())
                if chance.random() < 0.2:
                    data[chance.randrange(len(data))] = chance.randrange(256)
                try:
                    events.append(HistoryEvent.FromString(bytes(data)))
                except Exception:
                    continue
            check_sound(trace_of(run_id, events))


def test_a_history_of_another_workflow_gives_a_trace_with_a_note() -> None:
    for path in ENTITIES:
        run_id, history = read(path)
        trace = trace_of(run_id, history.events)
        check_sound(trace)
        assert "input" in trace.notes[0]


def test_a_history_without_events_gives_a_trace_with_a_note() -> None:
    trace = trace_of("run", [])
    check_sound(trace)
    assert trace.notes


def test_reading_takes_linear_time() -> None:
    """Temporal ends a run at about 50,000 events: they must not take much more than ten times as
    long as 5,000."""
    few, many = took(5_000), took(50_000)
    print(f"5,000 events: {few:.2f} s; 50,000 events: {many:.2f} s")
    assert many < 30 * few


def took(count: int) -> float:
    """CPU seconds to read a run of `count` events: parallel steps, retries, waits and timers."""
    paths = [path for path in RUNS if path.name.startswith("recorded-steps")]
    run_id, history = max(map(read, paths), key=lambda run: len(run[1].events))
    head, body = history.events[:5], history.events[5:]
    events = copies(head)
    turn = 0
    while len(events) < count:
        turn += 1
        for event in copies(body):
            event.event_id += turn * len(body)
            for payload in payloads_in(event):
                payload.data = payload.data.replace(b'"id":"', b'"id":"%d.' % turn).replace(
                    b'"target":"', b'"target":"%d.' % turn
                )
            for field in ("started_event_id", "scheduled_event_id"):
                attributes = getattr(event, event.WhichOneof("attributes") or "")
                if hasattr(attributes, field):
                    setattr(attributes, field, getattr(attributes, field) + turn * len(body))
            is_end = event.HasField("workflow_execution_completed_event_attributes")
            if not is_end and b'"returned"' not in event.SerializeToString():
                events.append(event)
    begun = time.process_time()
    trace = trace_of(run_id, events)
    spent = time.process_time() - begun
    assert len(trace.steps) > turn
    check_sound(trace)
    return spent
