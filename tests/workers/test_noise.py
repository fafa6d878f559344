"""What is logged of our own workflows and activities on a machine that is too busy."""

import asyncio
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

import inngest_temporal as inngest
from inngest_temporal.routing import signals
from inngest_temporal.routing.waits import Waits
from inngest_temporal_workers import calls, noise
from inngest_temporal_workers.entities.signal import SignalWorkflow
from inngest_temporal_workers.plugin import InngestPlugin
from tests.harness import TRIGGER, new_client, registered, running

BUSY = RPCError("too busy", RPCStatusCode.UNAVAILABLE, b"")


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Calls are cut off, and repeated, soon."""
    monkeypatch.setattr(calls, "LOCAL_TIMEOUT", timedelta(seconds=1))
    monkeypatch.setattr(calls, "RETRIES", RetryPolicy(initial_interval=timedelta(milliseconds=10)))
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.WARNING, "temporalio.worker")  # as in our commands


def block() -> None:
    """Block for twice as long as the SDK allows a workflow, so that it can interrupt this."""
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        time.sleep(0.01)


def block_whole() -> None:
    """Block in one call, which the SDK can't interrupt: it removes the workflow meanwhile."""
    time.sleep(4)


def waiter() -> inngest.Function[Any]:
    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> bool:
        found = await ctx.step.wait_for_event("wait", event="go", timeout=timedelta(hours=1))
        return found is not None

    return fn


async def finish(client: Client) -> str:
    """Let a run wait for an event and end, and return its id."""
    fn = waiter()
    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        await app.send("go")
        assert await run.result()
        return run.id


def fail(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
    """Make the activity that registers waits fail with these errors, in turn; for None it takes too
    long, and is cut off."""
    register, left = Waits.register, [*errors]

    async def failing(self: Waits, **wait: Any) -> str:
        if left:
            error = left.pop(0)
            await asyncio.sleep(600 if error is None else 0)
            assert error is not None
            raise error
        return await register(self, **wait)

    monkeypatch.setattr(Waits, "register", failing)


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the SDK has logged."""
    return [each for each in caplog.records if each.name.startswith("temporalio")]


async def test_a_call_that_is_cut_off_and_repeated_is_not_logged(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(monkeypatch, None, BUSY, TimeoutError())
    await finish(client)
    assert told(caplog) == []


async def test_a_call_that_is_cut_off_is_logged_at_level_debug(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "temporalio.activity")
    fail(monkeypatch, None)
    await finish(client)
    [line] = [each for each in told(caplog) if "as failed" in each.getMessage()]
    assert (line.levelname, line.exc_info is None) == ("DEBUG", False)


async def test_a_call_that_fails_for_long_is_logged_now_and_then(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(monkeypatch, BUSY, *[BUSY] * 21)  # the first is the local one
    run = await finish(client)
    assert [each.getMessage() for each in told(caplog)] == [
        f"inngest.wait of {run} failed in attempt {attempt}: too busy" for attempt in (5, 10, 20)
    ]
    assert all(each.levelname == "WARNING" and not each.exc_info for each in told(caplog))


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), RPCError("who?", RPCStatusCode.PERMISSION_DENIED, b"")]
)
async def test_a_bug_and_a_refusal_are_logged_with_their_traceback(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    fail(monkeypatch, error)
    await finish(client)
    [line] = told(caplog)
    assert line.exc_info is not None
    assert line.exc_info[1] is error
    assert line.levelname == "WARNING"


@activity.defn(name="own")
async def own_activity() -> None:
    if activity.info().attempt == 1:
        raise TimeoutError("own")


@workflow.defn(sandboxed=False)
class OwnWorkflow:
    """A team's own workflow in the same worker, which blocks once."""

    slept = False

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            own_activity,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
        )
        if not OwnWorkflow.slept:
            OwnWorkflow.slept = True
            block()


async def test_what_a_teams_own_code_does_is_logged_as_without_us(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = InngestPlugin([waiter()])
    async with Worker(
        client,
        task_queue="own",
        workflows=[OwnWorkflow],
        activities=[own_activity],
        plugins=[plugin],
    ):
        await client.execute_workflow(OwnWorkflow.run, id="own", task_queue="own")
    errors = [str(each.exc_info[1]) for each in told(caplog) if each.exc_info]
    assert "own" in errors
    assert any("Potential deadlock" in error for error in errors)


@pytest.mark.parametrize("blocking_call", [block, block_whole])
async def test_a_workflow_of_ours_that_gets_no_cpu_time_is_logged_in_one_line(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    blocking_call: Callable[[], None],
) -> None:
    asked, blocks = SignalWorkflow.asked, [True]

    def blocking(self: SignalWorkflow, sent_ms: int) -> None:
        if blocks:
            blocks.pop()
            blocking_call()
        asked(self, sent_ms)

    monkeypatch.setattr(SignalWorkflow, "asked", blocking)

    @new_client().create_function(fn_id="fn", trigger=TRIGGER)
    async def fn(ctx: inngest.Context) -> bool:
        signal = await ctx.step.wait_for_signal("wait", signal="s", timeout=60_000)
        return signal is not None

    async with running(client, fn) as app:
        run = app.run_of(fn, await app.send("test/event"))
        await registered(run)
        assert await signals.send(client, "s", None) == run.id
        assert await run.result()
    [line] = told(caplog)
    assert line.getMessage().startswith("A workflow task did not end within 2 s, and is repeated")
    assert (line.levelname, line.exc_info) == ("WARNING", None)


def test_a_call_that_ends_just_as_it_is_cut_off_gives_no_warning() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        noise.quieten()
        warnings.warn("Cannot find activity to cancel for token b'x'", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(each.message) for each in seen] == ["another"]


CORE = """
import logging, sys
from inngest_temporal_workers.commands import logs
logs.configure(logs.LogLevel(sys.argv[1]), logs.LogFormat.TEXT)
core = logging.getLogger("temporalio.core")
core.warning("Tried to complete untracked local activity {}")
core.warning("Task not found when completing {'run_id': 'x'}")
core.warning("Activity not found on completion. This may happen if it was cancelled. {}")
core.warning("[TMPRL1104] x:4:1 Workflow task duration exceeded 5 seconds. {}")
core.warning("Failing workflow task {'failure': 'Failure { message: [TMPRL1101] deadlock'}")
core.warning("Failing workflow task {'failure': 'Failure { message: [TMPRL1100] another'}")
"""


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("debug", 6)])
def test_answers_that_come_too_late_are_logged_at_level_debug(level: str, lines: int) -> None:
    """These are lines of Temporal's core, in processes of ours."""
    done = subprocess.run(
        [sys.executable, "-c", CORE, level], check=True, capture_output=True, text=True
    )
    shown = [line for line in done.stderr.splitlines() if "temporalio.core" in line]
    assert len(shown) == lines
    assert "WARNING temporalio.core: Failing workflow task" in shown[-1]
    assert "[TMPRL1100]" in shown[-1]
