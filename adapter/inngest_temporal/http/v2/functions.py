"""Apps and functions: `/v2/apps`. A function is named by its own id or by its full one."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import Response
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from inngest_temporal.errors import FunctionNotFoundError
from inngest_temporal.http.replies import unavailable
from inngest_temporal.routing import events, pauses
from inngest_temporal.routing.flow_state import flow_state
from inngest_temporal.routing.recent import RecentEvents
from inngest_temporal.routing.registry import AppConfig, Follower, RegisteredFunction
from inngest_temporal.routing.reports import Outcome
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal import names, runs
from inngest_temporal.temporal.runs import RunFilter

from . import models
from .models import Envelope, Listing, RunStatus
from .routing import ERRORS, ApiError, Cursor, Limit, Responses, Route, When, answer
from .runs import RunRoutes, known, shown

App = Annotated[str, Path(max_length=900)]
FunctionId = Annotated[str, Path(max_length=1_800)]
_HELD = {
    "debounced": ("function_debounced", "The function is debounced and starts later."),
    "batched": ("function_batched", "The event is in a batch, which starts later."),
    "rate_limited": ("rate_limited", "The function's rate limit is reached."),
    "refused": ("function_refused", "The function does not run."),
}


class FunctionRoutes:
    """Shows apps and functions; invokes, pauses and resumes functions."""

    def __init__(
        self, client: Client, follower: Follower, router: Router, recent: RecentEvents
    ) -> None:
        self._client = client
        self._follower = follower
        self._router = router
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(route_class=Route, tags=["functions"], responses=ERRORS)
        router.get("/apps", response_model=Envelope[list[models.AppView]])(self.apps)
        router.get("/apps/{app}", response_model=Envelope[models.AppView])(self.app)
        router.get("/apps/{app}/functions", response_model=Envelope[list[models.FunctionView]])(
            self.of_app
        )
        place = "/apps/{app}/functions/{function:path}"
        router.get(f"{place}/runs", response_model=Listing[models.RunView])(self.runs)
        held: Responses = {
            409: {"model": Envelope[models.Invoked]},
            422: {"model": models.Problems},
        }
        router.post(f"{place}/invoke", response_model=Envelope[models.Invoked], responses=held)(
            self.invoke
        )
        router.post(f"{place}/pause", response_model=Envelope[models.FunctionView])(self.pause)
        router.post(f"{place}/resume", response_model=Envelope[models.FunctionView])(self.resume)
        # Last, since an id may have any character.
        router.get(place, response_model=Envelope[models.FunctionDetails])(self.get)
        return router

    async def apps(self) -> Response:
        """All apps."""
        return answer([each.model_dump(by_alias=True) for each in self._apps()])

    async def app(self, app: App) -> Response:
        """One app."""
        return answer(self._app(app))

    async def of_app(self, app: App) -> Response:
        """The functions of an app."""
        functions = [self._find(app, id) for id in self._app(app).functions]
        return answer([_function(each).model_dump(by_alias=True) for each in functions])

    async def get(self, app: App, function: FunctionId) -> Response:
        """A function, its configuration, and what its flow control does now: who holds its locks,
        who waits, and when the next one starts."""
        found = self._find(app, function)
        state, counts = await asyncio.gather(
            flow_state(self._client, found),
            runs.count_runs(self._client, RunFilter(function=found.id, status="Running")),
        )
        details = models.FunctionDetails(
            **vars(_function(found)),
            active=counts,
            flow=[models.instance_of(each) for each in state.entities],
            flow_complete=state.complete,
        )
        return answer(details)

    async def runs(
        self,
        app: App,
        function: FunctionId,
        status: RunStatus | None = None,
        until: When = None,
        cursor: Cursor = None,
        limit: Limit = 20,
    ) -> Response:
        """The runs of a function, even if it was removed, in the order of `/v2/runs`."""
        id = function if function.startswith(f"{app}-") else f"{app}-{function}"
        filter = RunFilter(function=id, status=status, until=until)
        return await RunRoutes(self._client, self._follower).page(filter, cursor, limit, False)

    async def pause(self, app: App, function: FunctionId) -> Response:
        """Pause a function: new runs wait until it is resumed, and runs under way continue."""
        await pauses.pause(self._client, self._find(app, function))
        await self._follower.refresh()
        return answer(_function(self._find(app, function)))

    async def resume(self, app: App, function: FunctionId) -> Response:
        """Resume a paused function: its runs start again, first those that waited."""
        await pauses.resume(self._client, self._find(app, function))
        await self._follower.refresh()
        return answer(_function(self._find(app, function)))

    async def invoke(
        self, app: App, function: FunctionId, request: models.InvokeRequest
    ) -> Response:
        """Start a run of a function. A second request with the same `idempotencyKey` is answered
        with 409 and the first run's id. With `waitSeconds` the answer has the run's result, if it
        ends in time."""
        target = self._find(app, function)
        event: dict[str, Any] = {"data": request.data, "user": request.user or {}}
        if request.idempotency_key is not None:
            event["id"] = f"invoke:{names.digest(target.id, request.idempotency_key)}"
        stamped = events.stamp_invocation(event, target.id)
        outcome = await self._started(stamped)
        if outcome.run is None:
            code, message = _HELD[outcome.kind]
            raise ApiError(422, code, outcome.reason or message)
        invoked = models.Invoked(run_id=outcome.run)
        if request.wait_seconds:
            invoked = await self._end_of(outcome.run, request.wait_seconds)
        return answer(invoked, 409 if outcome.kind == "existed" else 200)

    async def _started(self, stamped: events.Stamped) -> Outcome:
        """Route an invocation; returns what became of it for the function that it names."""
        try:
            [routed] = await self._router.route([stamped])
        except Exception as error:
            failure = unavailable(error)
            if failure is not None:
                self._recent.add(stamped, (Outcome("failed", reason=failure[1]),))
            raise
        self._recent.add(stamped, routed.outcomes)
        if routed.missing is not None:
            raise FunctionNotFoundError(f"There is no function {routed.missing} any more.")
        return routed.outcomes[0]

    async def _end_of(self, run: str, seconds: float) -> models.Invoked:
        """The run, after it has ended or the time is over."""
        ends = time.monotonic() + seconds
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + seconds):
                await self._client.get_workflow_handle(run).result()
        except (TimeoutError, WorkflowFailureError):
            pass
        except RPCError:
            if time.monotonic() < ends:
                raise
        record = await runs.load(self._client, run)
        if record is None:
            return models.Invoked(run_id=run)
        found = shown(record, None)
        return models.Invoked.model_construct(
            run_id=run, status=found.status, output=found.output, error=found.error
        )

    def _apps(self) -> list[models.AppView]:
        """All apps; the releases of an app are shown as one."""
        found: dict[str, list[AppConfig]] = {}
        for config in known(self._follower).apps:
            found.setdefault(config.app_id, []).append(config)
        return [_shown_app(id, releases) for id, releases in found.items()]

    def _app(self, id: str) -> models.AppView:
        found = next((each for each in self._apps() if each.id == id), None)
        if found is None:
            raise ApiError(404, "app_not_found", f"There is no app {id!r}.")
        return found

    def _find(self, app: str, function: str) -> RegisteredFunction:
        snapshot = known(self._follower)
        for id in (f"{app}-{function}", function):
            found = snapshot.function(id)
            if found is not None and found.app_id == app:
                return found
        raise FunctionNotFoundError(f"App {app!r} has no function {function!r}.")


def _shown_app(id: str, releases: list[AppConfig]) -> models.AppView:
    newest = releases[0]
    return models.AppView(
        id=id,
        task_queue=newest.task_queue,
        url=newest.http.url if newest.http else None,
        sdk=newest.http.sdk if newest.http else None,
        functions=sorted(function.id for each in releases for function in each.functions),
    )


def _function(function: RegisteredFunction) -> models.FunctionView:
    configuration = function.config.to_wire()
    configuration.pop("paused", None)
    return models.FunctionView(
        id=function.id,
        app_id=function.app_id,
        name=function.config.name,
        paused=bool(function.config.paused),
        triggers=configuration["triggers"],
        configuration=configuration,
    )
