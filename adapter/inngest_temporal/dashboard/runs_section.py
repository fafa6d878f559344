"""Runs: the list of them, and one run with its timeline."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from temporalio.client import Client
from ulid import ULID

from inngest_temporal.errors import BodyInvalidError, RunNotFoundError
from inngest_temporal.http.events import Events
from inngest_temporal.routing import events, reruns
from inngest_temporal.routing.registry import Snapshot
from inngest_temporal.routing.reruns import FromStep
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import runs
from inngest_temporal.temporal.runs import STATUSES, RunFilter

from .reading import shared_traces
from .site import Form, PageError, Site, address, done, read_json, run_address, unknown_action
from .waterfall import mark_of, waterfall_of
from .welcome import Suggestion, suggestion

PAGE_SIZE = 50
WITHIN = {
    "15m": ("Last 15 minutes", timedelta(minutes=15)),
    "1h": ("Last hour", timedelta(hours=1)),
    "1d": ("Last day", timedelta(days=1)),
    "7d": ("Last 7 days", timedelta(days=7)),
}
MAX_CHOSEN = 100
"""Maximum number of runs that one form cancels or reruns."""


@dataclass(frozen=True)
class _Filter:
    """The filter of the list of runs, which is in its address."""

    status: str
    function: str
    within: str
    event: str

    @classmethod
    def of(cls, request: Request) -> "_Filter":
        """From an address; a value that can't be chosen is ignored."""
        params = request.query_params
        status, within = params.get("status", ""), params.get("within", "")
        return cls(
            status if status in STATUSES else "",
            params.get("function", "").strip(),
            within if within in WITHIN else "",
            params.get("event", "").strip(),
        )

    @property
    def is_empty(self) -> bool:
        return not (self.status or self.function or self.within or self.event)

    def address(self, cursor: str | None = None) -> str:
        """The address of the list, from this cursor on."""
        return address("/runs", **vars(self), cursor=cursor)

    def for_runs(self, snapshot: Snapshot | None) -> RunFilter:
        """The filter of the read model. The time is rounded, so that all browsers share a query."""
        since = None
        if self.within:
            now = datetime.now(UTC).replace(second=0, microsecond=0)
            since = now - WITHIN[self.within][1]
        return RunFilter(
            function=self.function or None,
            status=self.status or None,
            since=since,
            event_id=self.event or None,
            queues=() if snapshot is None else snapshot.queues,
        )


class RunsSection:
    """The pages of runs."""

    def __init__(self, site: Site, client: Client, router: Router, accepting: Events) -> None:
        self._site = site
        self._client = client
        self._router = router
        self._accepting = accepting
        self._traces = shared_traces(client)

    def routes(self) -> list[Route]:
        return [
            self._site.page("/runs", self.list, self.change_many),
            self._site.page("/runs/{id:path}", self.one, self.change),
        ]

    async def list(self, request: Request) -> Response:
        """`GET /runs`: a page of the list, with a filter."""
        wanted = _Filter.of(request)
        cursor = request.query_params.get("cursor") or None
        snapshot = self._router.snapshot
        page = await runs.list_runs(self._client, wanted.for_runs(snapshot), cursor, PAGE_SIZE)
        is_new = wanted.is_empty and cursor is None and not page.runs
        return await self._site.show(
            request,
            "runs.html",
            section="/runs",
            wanted=wanted,
            here=wanted.address(cursor),
            first=None if cursor is None else wanted.address(),
            next=None if page.next_cursor is None else wanted.address(page.next_cursor),
            runs=page.runs,
            functions=[] if snapshot is None else _function_ids(snapshot),
            statuses=list(STATUSES),
            within={name: text for name, (text, _) in WITHIN.items()},
            now=datetime.now(UTC),
            key=str(ULID()),
            suggestion=self._suggestion(request) if is_new else None,
        )

    def _suggestion(self, request: Request) -> Suggestion:
        dev = self._site.settings.dev
        return suggestion(self._router.snapshot, str(request.base_url), dev=dev)

    async def change_many(self, request: Request) -> Response:
        """`POST /runs`: cancel the chosen runs, or start them again."""
        form = await self._site.form(request)
        chosen = form.texts("run")[:MAX_CHOSEN]
        back = _local(form.text("back"))
        if not chosen:
            raise PageError(400, "No run was chosen", "Choose runs with the boxes before them.")
        count = 0
        if form.text("action") == "cancel":
            for run in chosen:
                count += await runs.cancel(self._client, run)
            return done(back, "cancelled", count)
        if form.text("action") != "rerun":
            raise unknown_action(form)
        key = form.text("key") or None
        for run in chosen:
            try:
                await reruns.rerun(self._client, self._router.functions, run, key=key)
                count += 1
            except RunNotFoundError:  # it was deleted at the end of its retention
                continue
        return done(back, "rerun", count)

    async def one(self, request: Request) -> Response:
        """`GET /runs/{id}`: what happened in a run."""
        run_id = request.path_params["id"]
        trace = await self._traces.get(run_id)
        if trace is None:
            raise _no_run(run_id)
        chosen = request.query_params.get("step", "")
        snapshot = self._router.snapshot
        function = None if snapshot is None else snapshot.function(trace.function_id)
        return await self._site.show(
            request,
            "run.html",
            section="/runs",
            trace=trace,
            waterfall=waterfall_of(trace, int(time.time() * 1000)),
            mark_of=mark_of,
            function=function,
            chosen=next((step for step in trace.steps if step.id == chosen), None),
            here=run_address(run_id),
            key=str(ULID()),
            namespace=self._client.namespace,
        )

    async def change(self, request: Request) -> Response:
        """`POST /runs/{id}`: cancel a run, start it again, or send its event again."""
        run_id = request.path_params["id"]
        form = await self._site.form(request)
        match form.text("action"):
            case "cancel":
                if not await runs.cancel(self._client, run_id):
                    raise _no_run(run_id)
                return done(run_address(run_id), "cancelled")
            case "rerun" | "rerun-from":
                return await self._rerun(run_id, form)
            case "resend":
                return await self._resend(run_id)
            case _:
                raise unknown_action(form)

    async def _rerun(self, run_id: str, form: Form) -> Response:
        from_step = None
        if form.text("action") == "rerun-from":
            from_step = FromStep(form.text("step"), _arguments(form.text("input")))
        new = await reruns.rerun(
            self._client,
            self._router.functions,
            run_id,
            from_step=from_step,
            key=form.text("key") or None,
        )
        return RedirectResponse(run_address(new), 303)

    async def _resend(self, run_id: str) -> Response:
        """Send a run's events once more, as new ones: they may start other functions, too."""
        given = await runs.input_of(self._client, run_id)
        if given is None:
            raise _no_run(run_id)
        for event in given.events:
            fields = {name: value for name, value in event.items() if name not in ("id", "ts")}
            await self._accepting.accept(events.stamp(fields))
        return done("/events", "sent", len(given.events))


def _function_ids(snapshot: Snapshot) -> list[str]:
    return [config.id for app in snapshot.apps for config in app.functions]


def _arguments(text: str) -> list[Any] | None:
    """New arguments for a step. Raises `BodyInvalidError`."""
    if not text.strip():
        return None
    given = read_json(text, "The input")
    if not isinstance(given, list):
        raise BodyInvalidError("The input must be a JSON array: the arguments of the step's body")
    return given


def _no_run(run_id: str) -> PageError:
    return PageError(
        404,
        "There is no such run",
        f"No run of a function has the id {run_id}. Temporal forgets runs some time after their end"
        " (the namespace's retention), and a list may show a new one a second late.",
    )


def _local(path: str) -> str:
    return path if path.startswith("/runs") else "/runs"


def to_runs(_: Request) -> Response:
    """`GET /`."""
    return RedirectResponse("/runs", 307)
