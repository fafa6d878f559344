"""Histories that were recorded with earlier versions replay: no change of ours breaks a run that is
under way."""

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.plugin import SimplePlugin
from temporalio.worker import Replayer

from inngest_temporal.temporal.connection import Settings
from inngest_temporal_workers.http.dispatches import Dispatches
from inngest_temporal_workers.http.worker import HttpAppsPlugin
from inngest_temporal_workers.plugin import SYSTEM_WORKFLOWS, InngestPlugin
from tests.apps import recorded
from tests.record_histories import HISTORIES

RECORDED = sorted(HISTORIES.glob("*/*.json"))


def test_there_are_histories_of_every_workflow_type() -> None:
    types = {path.name.split("-")[0] for path in RECORDED}
    ours = {workflow._Definition.must_from_class(each).name for each in SYSTEM_WORKFLOWS}
    assert types >= {*ours, "recorded", "http"}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_recorded_history_replays(path: Path) -> None:
    plugin: SimplePlugin = InngestPlugin(recorded.FUNCTIONS)
    if path.name.startswith("http-"):
        plugin = HttpAppsPlugin(Settings(), dispatches=Dispatches())
    replayer = Replayer(workflows=[], plugins=[plugin])
    history = WorkflowHistory.from_json("recorded", path.read_text())
    await replayer.replay_workflow(history)


async def test_a_history_that_does_not_fit_is_noticed() -> None:
    """This shows that the test above can fail."""
    [path] = [path for path in RECORDED if path.name.startswith("recorded-limited")][:1]
    text = path.read_text().replace("inngest.execute", "inngest.other")
    replayer = Replayer(workflows=[], plugins=[InngestPlugin(recorded.FUNCTIONS)])
    with pytest.raises(Exception, match=r"ondeterminis|inngest"):
        await replayer.replay_workflow(WorkflowHistory.from_json("recorded", text))
