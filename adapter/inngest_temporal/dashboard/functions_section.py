"""Functions: all of them, and one with its configuration, its state and what can be done with
it."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from temporalio.client import Client
from ulid import ULID

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.http.events import Events
from inngest_temporal.routing import events, pauses, replays
from inngest_temporal.routing.flow_state import FlowState, flow_state
from inngest_temporal.routing.registry import RegisteredFunction
from inngest_temporal.routing.replays import ReplayRequest
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import runs
from inngest_temporal.temporal.runs import MAX_PAGE, RunFilter, RunPage, RunRecord
from inngest_temporal.temporal.shared import Shared

from .charts import HOUR, Chart, chart_of
from .reading import KEPT
from .rendering import pretty
from .runs_section import WITHIN
from .site import (
    Form,
    Message,
    PageError,
    Site,
    done,
    function_address,
    read_json,
    replay_address,
    run_address,
    unknown_action,
)
from .welcome import suggestion
from .words import sayings, triggers_of

SHOWN_RUNS = 10
"""Number of runs on the page of a function."""
KNOWN_LOOKS = 40
"""How often a page checks, within two seconds, whether this process knows of a pause."""
MAX_EXAMPLE = 20_000
"""Maximum length in characters of an event that is filled into a form."""


class FunctionsSection:
    """The pages of functions."""

    def __init__(self, site: Site, client: Client, router: Router, accepting: Events) -> None:
        self._site = site
        self._client = client
        self._router = router
        self._accepting = accepting
        # Open pages ask for these every two seconds.
        self._hours = Shared(self._last_hour)
        self._examples = Shared(self._example, lambda _: KEPT)
        self._flow = Shared(self._flow_state)

    def routes(self) -> list[Route]:
        return [
            self._site.page("/functions", self.list),
            self._site.page("/functions/{id:path}", self.one, self.change),
        ]

    async def list(self, request: Request) -> Response:
        """`GET /functions`: the functions of all apps. Their charts cost one query."""
        snapshot = self._router.functions
        now = datetime.now(UTC)
        page = await self._hours.get("")
        by_function: dict[str, list[RunRecord]] = defaultdict(list)
        for run in page.runs:
            by_function[run.function_id].append(run)
        return await self._site.show(
            request,
            "functions.html",
            section="/functions",
            apps=snapshot.apps,
            triggers_of=triggers_of,
            sayings=sayings,
            charts={id: chart_of(found, now) for id, found in by_function.items()},
            no_runs=Chart(),
            cut=page.next_cursor is not None,
            suggestion=suggestion(snapshot, str(request.base_url), dev=self._site.settings.dev),
        )

    async def one(self, request: Request) -> Response:
        """`GET /functions/{id}`: one function."""
        return await self._show(request, self._function(request))

    async def change(self, request: Request) -> Response:
        """`POST /functions/{id}`: invoke it, pause or resume it, or replay its runs."""
        function = self._function(request)
        form = await self._site.form(request)
        match form.text("action"):
            case "invoke":
                return await self._invoke(request, function, form)
            case "pause":
                await pauses.pause(self._client, function)
                return await self._paused(function, True)
            case "resume":
                await pauses.resume(self._client, function)
                return await self._paused(function, False)
            case "replay":
                return await self._replay(function, form)
            case _:
                raise unknown_action(form)

    async def _show(
        self,
        request: Request,
        function: RegisteredFunction,
        *,
        data: str | None = None,
        problem: str | None = None,
    ) -> Response:
        now = datetime.now(UTC)
        page = await self._hours.get(function.id)
        latest = sorted(page.runs, key=lambda run: run.started_at, reverse=True)
        if not latest:  # none in the last hour
            older = await runs.list_runs(self._client, RunFilter(function=function.id), None, 50)
            latest = sorted(older.runs, key=lambda run: run.started_at, reverse=True)
        return await self._site.show(
            request,
            "function.html",
            section="/functions",
            status=400 if problem else 200,
            message=Message(problem, bad=True) if problem else None,
            function=function,
            triggers=triggers_of(function.config),
            sayings=sayings(function.config),
            chart=chart_of(page.runs, now),
            cut=page.next_cursor is not None,
            runs=latest[:SHOWN_RUNS],
            now=now,
            data=await self._filled_in(latest) if data is None else data,
            here=function_address(function.id),
            within={name: text for name, (text, _) in WITHIN.items()},
            ended=replays.ENDED,
            rate=replays.DEFAULT_RATE,
            key=str(ULID()),
            flow=await self._flow.get(function.id),
        )

    async def _last_hour(self, function_id: str) -> RunPage:
        """The runs of a function, or of all functions if the id is empty."""
        # Rounded, so that the query is the same for a minute.
        since = (datetime.now(UTC) - HOUR).replace(second=0, microsecond=0)
        queues = self._router.functions.queues
        wanted = RunFilter(function=function_id or None, since=since, queues=queues)
        return await runs.list_runs(self._client, wanted, None, MAX_PAGE)

    async def _flow_state(self, function_id: str) -> FlowState:
        return await flow_state(self._client, self._function_of(function_id))

    async def _filled_in(self, latest: Sequence[RunRecord]) -> str:
        """Data with which somebody may want to invoke the function."""
        return await self._examples.get(latest[0].id) if latest else "{}"

    async def _example(self, run_id: str) -> str:
        """The data of the event that started a run."""
        given = await runs.input_of(self._client, run_id)
        data = given.events[0].get("data") if given is not None and given.events else None
        shown = {key: value for key, value in (data or {}).items() if key != "_inngest"}
        text = pretty(shown)
        return text if len(text) <= MAX_EXAMPLE else "{}"

    async def _invoke(self, request: Request, function: RegisteredFunction, form: Form) -> Response:
        text = form.text("data")
        try:
            data = read_json(text, "Data")
            stamped = events.stamp_invocation({"data": data}, function.id)
        except BodyInvalidError as error:
            return await self._show(request, function, data=text, problem=error.message)
        routed = await self._accepting.accept(stamped)
        if routed.refused is not None:
            return await self._show(request, function, data=text, problem=routed.refused)
        if routed.invoked is None:
            return done(function_address(function.id), "invoked")
        return RedirectResponse(run_address(routed.invoked), 303)

    async def _paused(self, function: RegisteredFunction, paused: bool) -> Response:
        """Wait until this process knows of a pause or its end, which takes a moment."""
        for _ in range(KNOWN_LOOKS):
            if bool(self._function_of(function.id).config.paused) is paused:
                break
            await asyncio.sleep(0.05)
        return done(function_address(function.id), "paused" if paused else "resumed")

    async def _replay(self, function: RegisteredFunction, form: Form) -> Response:
        within = WITHIN.get(form.text("within"))
        now_ms = time.time_ns() // 1_000_000
        since_ms = None if within is None else now_ms - within[1] // timedelta(milliseconds=1)
        try:
            rate = float(form.text("rate") or replays.DEFAULT_RATE)
        except ValueError:
            raise BodyInvalidError("The rate must be a number of runs a second") from None
        wanted = ReplayRequest(
            function.id, form.text("status") or "Failed", since_ms=since_ms, rate=rate
        )
        key = form.text("key") or None
        id = await replays.start(self._client, self._router.functions, wanted, key=key)
        return RedirectResponse(replay_address(id), 303)

    def _function(self, request: Request) -> RegisteredFunction:
        return self._function_of(request.path_params["id"])

    def _function_of(self, function_id: str) -> RegisteredFunction:
        function = self._router.functions.function(function_id)
        if function is None:
            raise PageError(
                404,
                "There is no such function",
                f"No app has a function {function_id}. Its runs may still be listed under Runs.",
            )
        return function
