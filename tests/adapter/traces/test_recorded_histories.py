"""Every recorded history of a run gives a trace that has the run's steps."""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.plugin import SimplePlugin
from temporalio.worker import Replayer

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import Done, Memo, Op
from inngest_temporal.temporal.connection import Settings
from inngest_temporal.traces.history import trace_of
from inngest_temporal.traces.models import Trace
from inngest_temporal_workers.http.dispatches import Dispatches
from inngest_temporal_workers.http.memos import memo_text
from inngest_temporal_workers.http.worker import HttpAppsPlugin
from inngest_temporal_workers.plugin import InngestPlugin
from inngest_temporal_workers.runs.memory import RunMemory
from inngest_temporal_workers.runs.workflow import RunWorkflow
from tests.apps import recorded
from tests.record_histories import HISTORIES

RUNS = sorted(
    path for path in HISTORIES.glob("*/*.json") if path.name.startswith(("recorded-", "http-"))
)
ENTITIES = sorted(HISTORIES.glob("*/Inngest*.json"))


def read(path: Path) -> tuple[str, WorkflowHistory]:
    """The run's id, which is the last part of the file's name, and its history."""
    run_id = path.stem.rpartition("-")[2]
    return run_id, WorkflowHistory.from_json(run_id, path.read_text())


class Replayed:
    """What a run says that it did, when it is replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memos: list[tuple[str, Any]] = []
        self.ops: dict[str, Op] = {}
        append, know, forget = RunMemory.append, RunWorkflow._know, RunWorkflow._forget

        def appended(memory: RunMemory, step: str, text: str) -> None:
            self.memos.append((step, json.loads(text)))
            append(memory, step, text)

        def known(run: RunWorkflow, op: Op) -> None:
            self.ops.setdefault(op.id, op)
            know(run, op)

        def forgotten(run: RunWorkflow, op: Op, *rest: Any) -> None:
            self.ops.pop(op.id, None)
            forget(run, op, *rest)

        monkeypatch.setattr(RunMemory, "append", appended)
        monkeypatch.setattr(RunWorkflow, "_know", known)
        monkeypatch.setattr(RunWorkflow, "_forget", forgotten)


def memos_of(trace: Trace) -> list[tuple[str, Any]]:
    """The memos that a trace stands for, in the order in which the steps ended."""
    ended = [step for step in trace.steps if step.position is not None]
    memos = []
    for step in sorted(ended, key=lambda step: step.position or 0):
        kind: Any = protocol.RUN if step.kind in ("fetch", "ai") else step.kind
        op = Op(kind, step.id, step.name)
        if trace.served_at is None:
            memo: Any = protocol.memo_to_json(Memo(step.output, step.error))
        else:
            memo = json.loads(memo_text(Done(op, step.output, step.error)))
        memos.append((step.id, memo))
    return memos


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_the_steps_of_a_trace_are_the_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = Replayed(monkeypatch)
    plugin: SimplePlugin = InngestPlugin(recorded.FUNCTIONS)
    if path.name.startswith("http-"):
        plugin = HttpAppsPlugin(Settings(), dispatches=Dispatches())
    run_id, history = read(path)
    await Replayer(workflows=[], plugins=[plugin]).replay_workflow(history)
    trace = trace_of(run_id, history.events)
    assert trace.notes == ()
    assert memos_of(trace) == replayed.memos
    assert {step.id: (step.name, step.kind) for step in trace.steps} == {
        op.id: (op.name, op.kind) for op in replayed.ops.values()
    }


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_times_of_a_trace_are_in_order(path: Path) -> None:
    run_id, history = read(path)
    trace = trace_of(run_id, history.events)
    assert trace.ended_ms is not None
    assert trace.started_ms is None or trace.queued_ms <= trace.started_ms + 1_000
    for step in trace.steps:
        assert step.ended_ms is not None
        assert trace.queued_ms - 1_000 <= step.started_ms <= step.ended_ms <= trace.ended_ms + 1_000
        for attempt in step.attempts:
            assert attempt.started_ms is not None
            assert attempt.ended_ms is not None
            assert attempt.started_ms <= attempt.ended_ms
        numbers = [attempt.number for attempt in step.attempts]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("path", ENTITIES, ids=lambda path: path.stem[:60])
def test_a_history_of_an_entity_has_no_steps_and_a_note(path: Path) -> None:
    run_id, history = read(path)
    trace = trace_of(run_id, history.events)
    assert trace.steps == ()
    assert trace.notes
