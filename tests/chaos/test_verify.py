"""The verifier sees what it is there to see."""

import json
from pathlib import Path
from typing import Any

import pytest

from . import verify
from .sender import Sent

LAST = 99


class Story:
    """A journal in the making: each line is a second after the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = 0.0
        path.touch()

    def tell(self, what: str, run: str = "r1", step: str = "last", **fields: Any) -> None:
        self._now += 1
        kind = fields.get("kind", "steps-5")
        line = {"what": what, "at": self._now, "pid": 1, "run": run, "step": step, "attempt": 0}
        line |= {"event": f"chaos/{kind}", "kind": kind, "key": "k0", "n": [1], "order": LAST}
        with self._path.open("a") as file:
            file.write(json.dumps(line | fields) + "\n")

    def process(self, what: str, victim: int = 1, seconds: float = 0) -> None:
        self._now += 1
        line = {"what": what, "at": self._now, "pid": 9, "victim": victim, "seconds": seconds}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def journal(self) -> verify.Journal:
        journal = verify.Journal(self._path)
        journal.read()
        return journal


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path / "journal.jsonl")


def test_an_event_without_its_last_step_is_missing(story: Story) -> None:
    sent = [Sent("steps-5", 1, "k0", ["id"]), Sent("steps-5", 2, "k0", ["id"])]
    story.tell("begin", n=[2])
    story.tell("begin")
    story.tell("end")
    assert verify.unfinished(story.journal(), sent) == sent[1:]


def test_of_a_debounced_key_the_newest_event_must_have_its_run(story: Story) -> None:
    sent = [Sent("debounced", n, "a", ["id"]) for n in (1, 2)]
    story.tell("end", kind="debounced", key="a", n=[1])
    assert verify.unfinished(story.journal(), sent) == sent[1:]
    story.tell("end", kind="debounced", key="a", n=[2])
    assert verify.unfinished(story.journal(), sent) == []


def test_an_event_that_was_not_accepted_is_not_missing(story: Story) -> None:
    assert verify.unfinished(story.journal(), [Sent("steps-5", 1, "k0", [])]) == []


def test_a_finished_step_that_is_executed_after_a_later_one_is_seen(story: Story) -> None:
    for what, step, order in (("begin", "a", 0), ("end", "a", 0), ("begin", "b", 1)):
        story.tell(what, step=step, order=order)
    assert list(verify.again(story.journal().attempts())) == []
    story.tell("begin", step="a", order=0, attempt=1)
    assert len(list(verify.again(story.journal().attempts()))) == 1


def test_two_runs_of_one_event_and_an_event_twice_in_a_batch_are_seen(story: Story) -> None:
    story.tell("begin", run="r1")
    story.tell("begin", run="r2")
    story.tell("begin", run="r3", kind="batched", n=[5, 6, 5])
    assert len(list(verify.twice(story.journal()))) == 2


def test_more_runs_at_once_than_the_limit_are_seen(story: Story) -> None:
    for run in ("r1", "r2"):
        story.tell("begin", run=run, kind="per-key")
    assert list(verify.over_limit(story.journal().attempts())) == []
    story.tell("begin", run="r3", kind="per-key")
    assert len(list(verify.over_limit(story.journal().attempts()))) == 1


@pytest.mark.parametrize(("what", "seconds"), [("killed", 0), ("stalled", 32)])
def test_what_a_lost_process_did_ended_when_it_was_lost(
    story: Story, what: str, seconds: float
) -> None:
    for run in ("r1", "r2"):
        story.tell("begin", run=run, kind="per-key")
    story.process(what, seconds=seconds)
    story.tell("begin", run="r3", kind="per-key", pid=2)
    assert list(verify.over_limit(story.journal().attempts())) == []


def test_singletons_side_by_side_are_seen(story: Story) -> None:
    story.tell("begin", run="r1", kind="single-skip")
    story.tell("begin", run="r2", kind="single-skip")
    assert list(verify.singletons(story.journal().attempts())) == []  # r1 ended with its line
    story.tell("end", run="r1", kind="single-skip")
    assert len(list(verify.singletons(story.journal().attempts()))) == 1


def test_a_second_run_of_an_idempotent_key_is_seen(story: Story) -> None:
    story.tell("begin", run="r1", kind="idempotent")
    assert list(verify.more_than_one(story.journal())) == []
    story.tell("begin", run="r2", kind="idempotent", n=[2])
    assert len(list(verify.more_than_one(story.journal()))) == 1
