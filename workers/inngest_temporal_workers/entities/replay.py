"""A replay: starts reruns of all runs that it finds, at a fixed rate
(`inngest_temporal.routing.replays` is the other side).

Its state is a page of run ids, the beginning of the next page, and the counts. Each activity starts
reruns for a part of the page and may be repeated, because the key of a rerun derives from the
replay and the run. Visibility lists ended runs by the time of their end, so each is on one page.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy

from inngest_temporal.errors import FunctionNotFoundError, RerunRefusedError, RunNotFoundError
from inngest_temporal.routing import events
from inngest_temporal.routing.registry import Follower, Snapshot
from inngest_temporal.routing.replays import (
    CANCEL_SIGNAL,
    MAX_SHOWN,
    PROGRESS_MEMO,
    ReplayProgress,
    ReplayRequest,
    key_of,
)
from inngest_temporal.routing.reruns import rerun
from inngest_temporal.temporal import names
from inngest_temporal.temporal.runs import RunRecord, count_runs, list_runs
from inngest_temporal.wire import from_wire, to_wire

from .fan_out import HEARTBEAT_TIMEOUT, heartbeats

PAGE = 500
"""Maximum number of runs of one page."""
PART_SECONDS = 2.0
"""Time in which the reruns of one part are started."""
MAX_PART = 100
MAX_PARTS = 200
"""Maximum number of parts before it continues as new: each is about 15 events of history."""
VISIBILITY_PAUSE = timedelta(seconds=3)
"""How long visibility may take to list a run."""
PART_TIMEOUT = timedelta(minutes=5)
RETRIES = RetryPolicy(maximum_interval=timedelta(seconds=10))
LONGEST_PAUSE = 60
"""Longest time in seconds between two looks for a function that is not there."""


@dataclass(frozen=True)
class FoundRuns:
    """A page of runs."""

    runs: list[str]
    cursor: str | None = None
    """Where the next page begins; None at the end."""
    total: int | None = None
    """Number of runs on all pages, if that was asked for."""


@dataclass(frozen=True)
class StartedRuns:
    """What became of a part."""

    started: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    """Run id -> why it can't be rerun."""
    problem: str | None = None
    """Why no run can be rerun for now; then nothing was done."""


@workflow.defn(name=names.REPLAY_TYPE, sandboxed=False)
class ReplayWorkflow:
    """One replay."""

    @workflow.init
    def __init__(self, state: dict[str, Any]) -> None:
        self._id: str = state["id"]
        self._progress = from_wire(ReplayProgress, state["progress"])
        self._runs: list[str] = state.get("runs", [])
        """Runs that were found and not handled yet."""
        self._cursor: str | None = state.get("cursor")
        self._has_begun: bool = state.get("has_begun", False)
        self._parts = 0
        self._cancelled = False

    @workflow.run
    async def run(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state` is `{id, progress: ReplayProgress, ...}`. Returns the progress at the end."""
        if not self._has_begun:
            await self._pause(VISIBILITY_PAUSE)
        while not self._cancelled:
            if self._runs:
                await self._start_part()
            elif self._cursor is None and self._has_begun:
                break
            else:
                await self._find()
            if self._parts >= MAX_PARTS and not self._cancelled:
                workflow.continue_as_new(self._dump(), memo={PROGRESS_MEMO: self._shown()})
        is_complete = not self._runs and self._cursor is None and self._has_begun
        status: Any = "Completed" if is_complete else "Cancelled"
        self._show(replace(self._progress, status=status, problem=None))
        return self._shown()

    @workflow.signal(name=CANCEL_SIGNAL)
    def cancel(self) -> None:
        """Start no further reruns."""
        self._cancelled = True

    def _dump(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "progress": self._shown(),
            "runs": self._runs,
            "cursor": self._cursor,
            "has_begun": True,
        }

    def _shown(self) -> dict[str, Any]:
        wire: dict[str, Any] = to_wire(self._progress)
        return wire

    def _show(self, progress: ReplayProgress) -> None:
        if progress != self._progress:
            self._progress = progress
            workflow.upsert_memo({PROGRESS_MEMO: self._shown()})

    async def _pause(self, length: timedelta) -> None:
        """Wait for this long, or until the replay is cancelled."""
        try:
            await workflow.wait_condition(lambda: self._cancelled, timeout=length)
        except TimeoutError:
            pass

    async def _find(self) -> None:
        self._parts += 1
        found = await workflow.execute_activity(
            "inngest.replay_find",
            args=[self._id, self._progress.request, self._cursor, not self._has_begun],
            result_type=FoundRuns,
            summary="find runs",
            start_to_close_timeout=PART_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRIES,
        )
        self._has_begun = True
        self._runs, self._cursor = found.runs, found.cursor
        if found.total is not None:
            self._show(replace(self._progress, total=found.total))

    async def _start_part(self) -> None:
        rate = self._progress.request.rate
        size = max(1, min(MAX_PART, round(rate * PART_SECONDS)))
        part = self._runs[:size]
        self._parts += 1
        starting = workflow.start_activity(
            "inngest.replay_start",
            args=[self._id, self._progress.request, part],
            result_type=StartedRuns,
            summary=f"start {len(part)} runs",
            start_to_close_timeout=PART_TIMEOUT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRIES,
        )
        await self._pause(timedelta(seconds=len(part) / rate))
        self._count(part, await starting)
        if self._progress.problem is not None:
            await self._pause(timedelta(seconds=min(LONGEST_PAUSE, 2 ** min(self._parts, 6))))

    def _count(self, part: Sequence[str], done: StartedRuns) -> None:
        if done.problem is not None:
            self._show(replace(self._progress, problem=done.problem))
            return
        self._runs = self._runs[len(part) :]
        progress = self._progress
        refusals = dict([*progress.refusals.items(), *done.refusals.items()][:MAX_SHOWN])
        self._show(
            replace(
                progress,
                found=progress.found + len(part),
                started=progress.started + done.started,
                refused=progress.refused + len(done.refusals),
                refusals=refusals,
                problem=None,
            )
        )


@dataclass(frozen=True)
class ReplayActivities:
    """The activities of replays."""

    client: Client
    follower: Follower
    """Reads the registry; need not be started."""

    def all(self) -> list[Callable[..., Any]]:
        return [self.find, self.start]

    @activity.defn(name="inngest.replay_find")
    async def find(
        self, replay_id: str, request: ReplayRequest, cursor: str | None, counts: bool
    ) -> FoundRuns:
        """A page of the runs to rerun, without those that the replay has started itself."""
        async with heartbeats():
            total = None
            if counts:
                total = sum((await count_runs(self.client, request.filter())).values())
            page = await list_runs(self.client, request.filter(), cursor, PAGE)
        found = [run.id for run in page.runs if not _is_own(replay_id, run)]
        return FoundRuns(found, page.next_cursor, total)

    @activity.defn(name="inngest.replay_start")
    async def start(self, replay_id: str, request: ReplayRequest, runs: list[str]) -> StartedRuns:
        """Start reruns, evenly over time. May be repeated."""
        snapshot = await self.follower.refresh()
        if snapshot.function(request.function_id) is None:
            return StartedRuns(problem=f"There is no function {request.function_id} now.")

        async def one(index: int, run_id: str) -> str | None:
            await asyncio.sleep(index / request.rate)
            return await self._refusal(snapshot, replay_id, run_id)

        async with heartbeats():
            answers = await asyncio.gather(*(one(*each) for each in enumerate(runs)))
        refusals = {
            run: refusal for run, refusal in zip(runs, answers, strict=True) if refusal is not None
        }
        return StartedRuns(len(runs) - len(refusals), refusals)

    async def _refusal(self, snapshot: Snapshot, replay_id: str, run_id: str) -> str | None:
        """Rerun a run; if that is refused, returns why."""
        try:
            await rerun(self.client, snapshot, run_id, key=key_of(replay_id, run_id))
        except (FunctionNotFoundError, RerunRefusedError, RunNotFoundError) as error:
            return error.message
        return None


def _is_own(replay_id: str, run: RunRecord) -> bool:
    """Whether the replay itself has started this run, which it finds if its clock was ahead of
    Temporal's."""
    return run.original is not None and run.id == events.rerun_id(
        run.function_id, run.event_id, run.original, key_of(replay_id, run.original)
    )
