import asyncio
import functools
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from ulid import ULID

from inngest_temporal.errors import CursorInvalidError, VisibilityBusyError
from inngest_temporal.temporal import names, visibility
from inngest_temporal.temporal.runs import (
    RunFilter,
    RunPage,
    count_runs,
    list_runs,
    with_outputs,
)
from inngest_temporal.temporal.visibility import Visibility
from tests.harness import until

ALL = RunFilter()


@workflow.defn(name="shop-pay", sandboxed=False)
class Pay:
    @workflow.run
    async def run(self, given: str) -> Any:
        if given == "fails":
            raise ApplicationError("no money", type="PayError", non_retryable=True)
        await workflow.wait_condition(lambda: given != "waits")
        return {"paid": True}


async def start(client: Client, given: str = "waits", type: str = "shop-pay", **more: Any) -> str:
    """Start a run, and return its id."""
    id = str(ULID())
    options: dict[str, Any] = {
        "task_queue": "inngest-shop",
        "memo": {names.EVENTS_MEMO: [id]},
        **more,
    }
    await client.start_workflow(type, given, id=id, **options)
    return id


async def listed(client: Client, filter: RunFilter, count: int) -> RunPage:
    """The first page, once it has `count` runs."""

    async def enough() -> RunPage | None:
        page = await list_runs(client, filter)
        return page if len(page.runs) == count else None

    found: RunPage = await until(enough)
    return found


async def test_only_runs_are_listed(client: Client) -> None:
    run = await start(client)
    await client.start_workflow("InngestHub", id="inngest:hub:x", task_queue="inngest-system")
    await client.start_workflow("somebody-else", id="foreign", task_queue="theirs")
    await until(lambda: _count(client, 3))
    page = await listed(client, ALL, 1)
    assert page.runs[0] == replace(
        page.runs[0],
        id=run,
        function_id="shop-pay",
        status="Running",
        event_id=run,
        event_ids=(run,),
        ended_at=None,
    )
    assert page.next_cursor is None


async def test_many_workflows_of_others_leave_a_page_full(client: Client) -> None:
    """A namespace may have more workflows that are not runs than runs."""
    ours = {await start(client), await start(client, task_queue="orders")}
    for number in range(60):
        await client.start_workflow("theirs", id=f"foreign-{number}", task_queue="theirs")
    await until(lambda: _count(client, 62))
    page = await list_runs(client, RunFilter(queues=("orders",)), limit=2)
    assert {run.id for run in page.runs} == ours
    counted = await count_runs(client, RunFilter(queues=("orders",)))
    assert counted == {"Running": 2}


async def _count(client: Client, count: int) -> bool:
    return (await client.count_workflows()).count == count


async def _chooses(client: Client, status: str, ids: set[str]) -> bool:
    """Whether these runs, and no others, have that status. Others may have it for a moment before
    they end."""
    page = await list_runs(client, RunFilter(app="shop", status=status))
    return {(run.id, run.status) for run in page.runs} == {(id, status) for id in ids}


async def test_filters_choose_runs_by_status_function_event_and_time(client: Client) -> None:
    begun = datetime.now(UTC) - timedelta(minutes=1)
    async with Worker(client, task_queue="inngest-shop", workflows=[Pay]):
        running, completed, failed = [
            await start(client, given) for given in ("waits", "ok", "fails")
        ]
        skipped = await start(
            client, "ok", memo={names.EVENTS_MEMO: ["x"], names.STATUS_MEMO: "Skipped"}
        )
        cancelled = await start(client)
        await client.get_workflow_handle(cancelled).cancel()
        later = await start(client, start_delay=timedelta(hours=1))
        other = await start(client, type="shop-ship")
        await start(client, type="store-pay")
        expected = {
            "Running": {running, other},
            "Completed": {completed},
            "Failed": {failed},
            "Cancelled": {cancelled},
            "Skipped": {skipped},
            "Scheduled": {later},
        }
        for status, ids in expected.items():
            await until(functools.partial(_chooses, client, status, ids))
    assert len((await listed(client, ALL, 8)).runs) == 8
    assert len((await listed(client, RunFilter(function="shop-pay"), 6)).runs) == 6
    assert {run.id for run in (await listed(client, RunFilter(event_id=other), 1)).runs} == {other}
    assert (await list_runs(client, RunFilter(until=begun))).runs == ()
    assert len((await listed(client, RunFilter(since=begun), 8)).runs) == 8
    page = await listed(client, RunFilter(status="Failed"), 1)
    [shown] = await with_outputs(client, page.runs)
    assert shown.error is not None
    assert shown.error.message == "no money"
    assert await count_runs(client, RunFilter(app="shop")) == {
        "Running": 3,
        "Completed": 2,
        "Failed": 1,
        "Cancelled": 1,
    }


async def test_pages_are_stable_while_new_runs_start(client: Client) -> None:
    ids = [await start(client) for _ in range(7)]
    await listed(client, ALL, 7)
    first = await list_runs(client, ALL, limit=3)
    new = await start(client)
    await listed(client, ALL, 8)
    second = await list_runs(client, ALL, first.next_cursor, 3)
    third = await list_runs(client, ALL, second.next_cursor, 3)
    found = [run.id for page in (first, second, third) for run in page.runs]
    assert found == ids[::-1]
    assert new not in found
    assert third.next_cursor is None


async def test_a_cursor_belongs_to_one_list(client: Client) -> None:
    for _ in range(3):
        await start(client)
    await listed(client, ALL, 3)
    cursor = (await list_runs(client, ALL, limit=1)).next_cursor
    assert cursor is not None
    for filter, wrong in (
        (RunFilter(app="shop"), cursor),
        (ALL, cursor[:-4]),
        (ALL, "x"),
        (ALL, "é"),
        (ALL, ""),
    ):
        with pytest.raises(CursorInvalidError):
            await list_runs(client, filter, wrong, 1)


async def test_identical_queries_share_one_call(client: Client) -> None:
    reader = Visibility(client)
    queries = [f"WorkflowType = '{kind}'" for kind in "abc"]
    await asyncio.gather(*(reader.list(query, 10) for query in queries * 100))
    assert reader.calls == 3
    # A caller that stops waiting does not take the answer from the others.
    first, second = (asyncio.create_task(reader.list("WorkflowType = 'd'", 10)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).workflows == ()


async def test_different_queries_are_sent_at_a_bounded_rate(client: Client) -> None:
    reader = Visibility(client)
    began = time.monotonic()
    results = await asyncio.gather(
        *(reader.list(f"WorkflowType = '{number}'", 10) for number in range(60)),
        return_exceptions=True,
    )
    elapsed = time.monotonic() - began
    refused = [each for each in results if isinstance(each, VisibilityBusyError)]
    assert len(refused) + reader.calls == 60
    assert refused
    assert reader.calls <= visibility.BURST + visibility.RATE * elapsed + 1


async def test_a_refused_query_is_not_remembered(client: Client) -> None:
    reader = Visibility(client)
    for calls in (1, 2):
        with pytest.raises(Exception, match="invalid query"):
            await reader.list("no query at all", 10)
        assert reader.calls == calls
