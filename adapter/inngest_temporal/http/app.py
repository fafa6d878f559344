"""The ingress: Inngest's event API and run API over HTTP, in front of Temporal.

It keeps no state, so it can have any number of replicas. `200` means that Temporal has accepted
everything that an event causes. If Temporal can't be reached the reply is `503`, and the sender
should repeat the request: events with ids, or with the same seed header, have no second effect.
Source: semantics §1, §2.2, §2.3.

Each resource has its own file here, with a class whose `routes` are put together below.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.dashboard.pages import dashboard_routes
from inngest_temporal.dashboard.site import Site
from inngest_temporal.errors import BodyInvalidError, FunctionNotFoundError, RegistryNotReadyError
from inngest_temporal.routing.intake import Intake
from inngest_temporal.routing.recent import RecentEvents
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import Router
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal.connection import Settings, find_namespace

from .auth import Keys
from .bodies import Bodies
from .cancellations import Cancellations
from .checkpoints import CheckpointCalls, LocalCalls
from .event_log import EventLog
from .events import Events
from .openapi import described_routes
from .registrations import Registrations
from .replies import ReplyError, error_reply, json_reply, unavailable, v1_error
from .runs import Runs
from .signals import Signals
from .state import RunState
from .v2.events import EventRoutes
from .v2.functions import FunctionRoutes
from .v2.replays import ReplayRoutes
from .v2.routing import Guard, failed
from .v2.runs import RunRoutes

logger = logging.getLogger(__name__)


def create_ingress(
    client: Client,
    settings: Settings,
    *,
    follower: Follower | None = None,
    router: Router | None = None,
    calls: LocalCalls | None = None,
) -> FastAPI:
    """The ASGI application. With a lazy `client` (`settings.connect`) it starts before Temporal
    does.

    While it runs (ASGI lifespan) it follows the registry. A caller that passes a `follower` has to
    start and stop it.
    """
    own = follower is None
    follower = follower or Follower(client)
    router = router or Router(client, follower, Waits.of(client).deliver)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if own:
            follower.start()
        yield
        if own:
            await follower.stop()

    app = FastAPI(
        title="inngest-temporal", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.follower = follower
    # Plain routes: FastAPI's typed parameters would cost time on each event, and are not needed.
    keys, bodies, recent = Keys(settings), Bodies(), RecentEvents()
    app.state.guard = Guard(keys, bodies)
    events = Events(router, Intake(client, router), keys, bodies, recent)
    app.router.routes += [
        *events.routes(),
        *Registrations(client, settings, follower, keys, bodies).routes(),
        Route("/health", _Health(settings, follower).get),
        Route("/ready", _Ready(client, follower).get),
        *_run_api(client, follower, app.state.guard, recent, calls),
        *described_routes(app),
    ]
    for resource in (
        RunRoutes(client, follower),
        FunctionRoutes(client, follower, router, recent),
        EventRoutes(client, recent),
        ReplayRoutes(client, follower),
    ):
        app.include_router(resource.router(), prefix="/v2")
    site = Site(settings, keys, bodies)
    app.router.routes += dashboard_routes(site, client, router, events, recent)
    _finish_replies(app, "dev" if settings.dev else "cloud")
    return app


def _run_api(
    client: Client,
    follower: Follower,
    guard: Guard,
    recent: RecentEvents,
    calls: LocalCalls | None,
) -> list[Mount]:
    """`/v0` and `/v1`."""
    v1 = [
        *EventLog(client, recent).routes(),
        *Runs(client, follower).routes(),
        *Cancellations(client, follower, guard.bodies).routes(),
        *Signals(client, guard.bodies).routes(),
        *CheckpointCalls(client, guard.bodies, calls).routes(),
    ]
    before = Middleware(_RunApi, keys=guard.keys, follower=follower)
    return [
        Mount("/v0", routes=RunState(client).routes(), middleware=[before]),
        Mount("/v1", routes=v1, middleware=[before]),
    ]


class _RunApi:
    """Checks keys and readiness for all resources of the run API, and gives errors their form."""

    def __init__(self, app: ASGIApp, keys: Keys, follower: Follower) -> None:
        self._app = app
        self._keys = keys
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._keys.check_signing_key(Request(scope))
            if self._follower.snapshot is None:
                raise RegistryNotReadyError
            await self._app(scope, receive, send)
        except BodyInvalidError as error:
            await v1_error(400, error.message)(scope, receive, send)
        except FunctionNotFoundError as error:
            await v1_error(404, error.message)(scope, receive, send)
        except Exception as error:
            failure = unavailable(error)
            if failure is None:
                raise
            await v1_error(*failure)(scope, receive, send)


class _Health:
    """Whether the process answers; in dev mode, whether it takes events."""

    def __init__(self, settings: Settings, follower: Follower) -> None:
        self._is_dev = settings.dev
        self._follower = follower

    async def get(self, _: Request) -> Response:
        """`GET /health`: the process answers. In dev mode 503 until the functions are known,
        because events are not accepted before."""
        if self._is_dev and self._follower.snapshot is None:
            reason = str(RegistryNotReadyError())
            return json_reply({"status": 503, "message": reason}, 503)
        return json_reply({"status": 200, "message": "OK"})


class _Ready:
    """Whether this process can accept events now. It logs nothing, because anyone may ask."""

    def __init__(self, client: Client, follower: Follower) -> None:
        self._client = client
        self._follower = follower

    async def get(self, _: Request) -> Response:
        """`GET /ready`: the registry was read, and Temporal answers; otherwise 503 with the
        reason."""
        if self._follower.snapshot is None:
            reason = str(RegistryNotReadyError())
            return json_reply({"status": 503, "message": reason}, 503)
        try:
            await find_namespace(self._client)
        except (RPCError, RuntimeError, TimeoutError) as error:
            is_missing = isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND
            reason = "has no such namespace" if is_missing else "can't be reached"
            return json_reply({"status": 503, "message": f"Temporal {reason}."}, 503)
        return json_reply({"status": 200, "message": "OK"})


def _finish_replies(app: FastAPI, kind: str) -> None:
    """Add what is the same for all replies: headers, and errors that no resource handles."""

    async def internal_error(_: Request, __: Exception) -> Response:
        """The server logs the traceback; the sender does not get it. This reply does not pass
        through middleware."""
        response = error_reply(500, "Internal server error")
        response.headers["X-Inngest-Server-Kind"] = kind
        return response

    app.add_exception_handler(ReplyError, _reply)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, internal_error)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["Link", "Mcp-Session-Id"],
        max_age=3600,
    )
    app.add_middleware(_ServerKind, kind=kind)


class _ServerKind:
    """Tells SDKs which kind of server answers, on every reply."""

    def __init__(self, app: ASGIApp, kind: str) -> None:
        self._app = app
        self._header = (b"x-inngest-server-kind", kind.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), self._header]}
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)


async def _reply(_: Request, error: Exception) -> Response:
    assert isinstance(error, ReplyError)
    return error.reply


async def _http_error(request: Request, error: Exception) -> Response:
    """The reply to a request that no route answers."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/v2/"):
        code = "not_found" if error.status_code == 404 else "invalid_request"
        response = failed(error.status_code, code, error.detail)
    else:
        response = error_reply(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _disconnected(_: Request, __: Exception) -> Response:
    """The reply to a sender that has gone: nobody reads it, and it is not our error."""
    return error_reply(400, "The request was not sent to its end")
