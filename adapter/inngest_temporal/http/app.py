"""The ingress: Inngest's event API and run API over HTTP, in front of Temporal.

It keeps nothing: any number of replicas do. `200` means that Temporal has accepted everything that
an event causes. When Temporal can't be reached the reply is `503`, and the sender should repeat the
request: events that have ids, or come with the same seed header, have no effect twice. Source:
semantics §1, §2.2, §2.3.

Sending events is the hot path, so its bodies are checked by hand
(`inngest_temporal.routing.events`) and not by models.
"""

import asyncio
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
)
from temporalio.service import RPCError, RPCStatusCode
from ulid import ULID

from inngest_temporal.drivers.failures import error_of, standard_error
from inngest_temporal.errors import BodyInvalidError, FunctionNotFoundError, RegistryNotReadyError
from inngest_temporal.routing import events, signals
from inngest_temporal.routing.events import Seed, Stamped
from inngest_temporal.routing.registry import Follower
from inngest_temporal.routing.router import EVENT_IDS, Router, refuses
from inngest_temporal.routing.waits import Waits
from inngest_temporal.temporal import names
from inngest_temporal.temporal.connection import RPC_TIMEOUT, Settings, ensure_search_attribute

from .cancellations import Cancellations

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Of one request. Inngest has no such limit; decoded JSON takes many times its size in memory."""
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Of all requests that are being received and routed."""
MAX_RUNS = 100
"""Runs of an event that are listed."""

_STATUS = {
    WorkflowExecutionStatus.RUNNING: "Running",
    WorkflowExecutionStatus.CONTINUED_AS_NEW: "Running",
    WorkflowExecutionStatus.COMPLETED: "Completed",
    WorkflowExecutionStatus.CANCELED: "Cancelled",
    WorkflowExecutionStatus.FAILED: "Failed",
    WorkflowExecutionStatus.TERMINATED: "Failed",
    WorkflowExecutionStatus.TIMED_OUT: "Failed",
}


class _OverloadedError(Exception):
    """More bodies at once than there should be in memory."""


class _ApiError(Exception):
    """A reply of the run API that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Ingress:
    """What the routes do; see `create_ingress`."""

    def __init__(
        self, client: Client, settings: Settings, follower: Follower, router: Router
    ) -> None:
        self._client = client
        self._settings = settings
        self._follower = follower
        self._router = router
        self._cancellations = Cancellations(client, follower)
        self._bodies = _Bodies()
        self._event_keys = [key.encode() for key in settings.event_keys]
        self._tokens = [
            token.encode() for key in settings.signing_keys for token in signing_tokens(key)
        ]

    # Events.

    async def send(self, request: Request) -> Response:
        """`POST /e/{key}`: one event or an array of events; `{"ids": [...], "status": 200}`."""
        refused = self._refuse_event_key(request.path_params["key"])
        if refused is not None:
            return refused
        try:
            async with self._bodies.read(request) as body:
                return await self._send(body, _seed(request))
        except BodyInvalidError as error:
            return _json({"ids": [""], "status": 400, "error": error.message}, 400)
        except _OverloadedError as error:
            status, message = _unavailable(error) or (503, "")
            return _json({"ids": [], "status": status, "error": message}, status)

    async def _send(self, body: bytes, seed: Seed | None) -> Response:
        accepted: list[Stamped] = []
        problem: BodyInvalidError | None = None
        try:
            for index, raw in enumerate(_batch(events.parse(body)), 1):
                accepted.append(events.stamp(raw, seed.internal_id(index) if seed else None))
        except BodyInvalidError as error:
            problem = error
        # As in Inngest, what stands before a bad event is accepted all the same.
        failure = await self._route(accepted)
        if failure is not None:
            status, message = failure
            return _json({"ids": [], "status": status, "error": message}, status)
        ids = [stamped.internal_id for stamped in accepted]
        if problem is not None:
            return _json({"ids": ids or [""], "status": 400, "error": problem.message}, 400)
        return _json({"ids": ids, "status": 200})

    async def invoke(self, request: Request) -> Response:
        """`POST /invoke/{slug}`: start a function by its full id; `{"id": "...", "status": 200}`.
        Does not wait."""
        if not self._may_invoke(request):
            return _error(401, "Authentication failed")
        slug = request.path_params["slug"]
        if not slug:
            return _error(400, "Function id is required")
        seed = _seed(request)
        try:
            async with self._bodies.read(request) as body:
                stamped = events.stamp_invocation(
                    events.parse(body), slug, seed.internal_id(0) if seed else None
                )
                failure = await self._route([stamped])
        except BodyInvalidError as error:
            return _error(400, error.message)
        except _OverloadedError as error:
            failure = _unavailable(error)
        if failure is not None:
            return _error(*failure)
        return _json({"id": stamped.internal_id, "status": 200})

    async def _route(self, stamped: Sequence[Stamped]) -> tuple[int, str] | None:
        """Status and message if something failed."""
        if not stamped:
            return None
        try:
            await self._router.route(stamped)
        except Exception as error:
            failure = _unavailable(error)
            if failure is None:
                raise
            return failure
        return None

    def _refuse_event_key(self, key: str) -> Response | None:
        if not key:
            return _error(401, "Event key is required")
        if not self._event_keys:
            if self._settings.dev:
                return None
            body = {
                "status": 503,
                "message": "",
                "error": "Event keys are required to process events securely",
            }
            return _json(body, 503)
        return None if _is_any(key, self._event_keys) else _error(401, "Event key not found")

    def _may_invoke(self, request: Request) -> bool:
        """Who may send events or cancel runs may also invoke."""
        if self._settings.dev and not (self._event_keys or self._tokens):
            return True
        return _is_any(_bearer(request), [*self._event_keys, *self._tokens])

    # Runs.

    async def event_runs(self, request: Request) -> Response:
        """`GET /v1/events/{id}/runs`: the runs that an event (by its internal id) started."""
        event_id = _ulid(request.path_params["id"])
        found = self._client.list_workflows(
            f"{EVENT_IDS.name} = '{event_id}'",
            page_size=MAX_RUNS,
            limit=MAX_RUNS,
            rpc_timeout=RPC_TIMEOUT,
        )
        ids = sorted({run.id async for run in found})
        runs = await asyncio.gather(*map(self._load, ids))
        return _envelope([run for run in runs if run is not None], 15)

    async def run(self, request: Request) -> Response:
        """`GET /v1/runs/{id}`."""
        run = await self._load(_ulid(request.path_params["id"]))
        if run is None:
            raise _ApiError(404, "Unable to load function run")
        return _envelope(run, 3)

    async def cancel(self, request: Request) -> Response:
        """`DELETE /v1/runs/{id}`: cancel a run; one that has ended stays as it is."""
        run_id = _ulid(request.path_params["id"])
        if await self._describe(run_id) is None:
            raise _ApiError(404, "Unable to load function run")
        try:
            await self._client.get_workflow_handle(run_id).cancel(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:  # it ended meanwhile
                raise
        return Response(status_code=200)

    # Bulk cancellations.

    async def create_cancellation(self, request: Request) -> Response:
        """`POST /v1/cancellations`: begin to cancel a function's runs (`Cancellations.create`)."""
        try:
            async with self._bodies.read(request) as raw:
                body = events.parse(raw)
            created = await self._cancellations.create(body)
        except BodyInvalidError as error:
            raise _ApiError(400, error.message) from None
        except FunctionNotFoundError as error:
            raise _ApiError(404, error.message) from None
        return _envelope(created, 0, 201)

    async def list_cancellations(self, _: Request) -> Response:
        """`GET /v1/cancellations`."""
        return _envelope(await self._cancellations.latest(), 0)

    async def cancellation(self, request: Request) -> Response:
        """`GET /v1/cancellations/{id}`, which Inngest has not: how far it is."""
        found = await self._cancellations.get(_ulid(request.path_params["id"]))
        if found is None:
            raise _ApiError(404, "Cancellation not found")
        return _envelope(found, 0)

    async def delete_cancellation(self, request: Request) -> Response:
        """`DELETE /v1/cancellations/{id}`: stop it."""
        if not await self._cancellations.delete(_ulid(request.path_params["id"])):
            raise _ApiError(404, "Cancellation not found")
        return Response(status_code=200)

    # Signals.

    async def signal(self, request: Request) -> Response:
        """`POST /v1/signals` `{"signal": "...", "data": any}`: `{"data": {"run_id": "..."}}`; 404:
        nobody waits."""
        try:
            async with self._bodies.read(request) as raw:
                body = events.parse(raw)
        except BodyInvalidError as error:
            raise _ApiError(400, error.message) from None
        name = body.get("signal") if isinstance(body, dict) else None
        if not isinstance(name, str) or not 0 < len(name.encode()) <= names.MAX_SIGNAL_BYTES:
            raise _ApiError(
                400,
                f"Request body must be an object whose signal has 1 to {names.MAX_SIGNAL_BYTES}"
                " bytes",
            )
        try:
            run_id = await signals.send(self._client, name, body.get("data"))
        except BodyInvalidError as error:
            raise _ApiError(400, error.message) from None
        if run_id is None:
            raise _ApiError(404, "No signal found")
        return _json({"data": {"run_id": run_id}})

    async def _describe(self, run_id: str) -> WorkflowExecutionDescription | None:
        """None if there is no such workflow, or it is none of ours."""
        try:
            found = await self._client.get_workflow_handle(run_id).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None
        return found if found.typed_search_attributes.get(EVENT_IDS) else None

    async def _load(self, run_id: str) -> dict[str, Any] | None:
        """A run in Inngest's shape. Ids that Inngest has and Temporal has not are slugs or
        constants."""
        found = await self._describe(run_id)
        if found is None:
            return None
        assert found.status is not None
        run = {
            "run_id": run_id,
            "run_started_at": _time(found.start_time),
            "function_id": found.workflow_type,
            "function_version": 1,
            "environment_id": names.ENVIRONMENT_ID,
            "event_id": found.typed_search_attributes[EVENT_IDS][0],
            "status": await found.memo_value(names.STATUS_MEMO, _STATUS[found.status]),
            "ended_at": _time(found.close_time),
        }
        if run["status"] in ("Completed", "Failed"):
            run["output"] = await self._output(run_id, found.run_id)
        return run

    async def _output(self, run_id: str, execution: str) -> Any:
        try:
            handle = self._client.get_workflow_handle(run_id, run_id=execution)
            result = await handle.result(rpc_timeout=RPC_TIMEOUT)
        except WorkflowFailureError as error:
            return _error_output(error.cause)
        # Python writes NaN where JSON has no such thing.
        return json.loads(json.dumps(result), parse_constant=lambda _: None)

    async def authorize(self, request: Request) -> Response | None:
        """The reply to who may not use the run API."""
        if not self._tokens:
            if self._settings.dev:
                return None
            return _v1_error(503, "A signing key is required to serve runs securely")
        if _is_any(_bearer(request), self._tokens):
            return None
        return Response("Authentication failed", 401, media_type="text/plain")

    @property
    def ready(self) -> bool:
        """Whether Temporal was reached once."""
        return self._follower.snapshot is not None


def create_ingress(
    client: Client,
    settings: Settings,
    *,
    follower: Follower | None = None,
    router: Router | None = None,
) -> FastAPI:
    """The ASGI application. With a lazy `client` (`settings.connect`) it starts before Temporal
    does.

    While it runs (ASGI lifespan) it makes sure that the namespace has our search attribute, and
    follows the registry; a `follower` that is given must be started and stopped by whoever gave it.
    """
    kind = "dev" if settings.dev else "cloud"
    own = follower is None
    follower = follower or Follower(client)
    router = router or Router(client, follower, Waits.of(client).deliver)
    ingress = Ingress(client, settings, follower, router)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        preparing = asyncio.create_task(_prepare(client), name="inngest search attribute")
        if own:
            follower.start()
        yield
        preparing.cancel()
        if own:
            await follower.stop()

    app = FastAPI(
        title="inngest-temporal", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.follower = follower

    async def health(_: Request) -> Response:
        return _json({"status": 200, "message": "OK"})

    async def internal_error(_: Request, __: Exception) -> Response:
        """The server logs the traceback; the sender gets none. This reply passes no middleware."""
        response = _error(500, "Internal server error")
        response.headers["X-Inngest-Server-Kind"] = kind
        return response

    def run_api(handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            refused = await ingress.authorize(request)
            if refused is not None:
                return refused
            try:
                if not ingress.ready:
                    raise RegistryNotReadyError
                response: Response = await handler(request)
            except _ApiError as error:
                return _v1_error(error.status, error.message)
            except Exception as error:
                failure = _unavailable(error)
                if failure is None:
                    raise
                return _v1_error(*failure)
            return response

        return guarded

    # Plain routes: what FastAPI adds for typed parameters costs time on each event and is not
    # needed here.
    app.add_route("/health", health, ["GET"])
    app.add_route("/e/{key:path}", ingress.send, ["POST"])
    app.add_route("/invoke/{slug:path}", ingress.invoke, ["POST"])
    app.add_route("/v1/events/{id}/runs", run_api(ingress.event_runs), ["GET"])
    app.add_route("/v1/runs/{id}", run_api(ingress.run), ["GET"])
    app.add_route("/v1/runs/{id}", run_api(ingress.cancel), ["DELETE"])
    app.add_route("/v1/cancellations", run_api(ingress.create_cancellation), ["POST"])
    app.add_route("/v1/cancellations", run_api(ingress.list_cancellations), ["GET"])
    app.add_route("/v1/cancellations/{id}", run_api(ingress.cancellation), ["GET"])
    app.add_route("/v1/cancellations/{id}", run_api(ingress.delete_cancellation), ["DELETE"])
    app.add_route("/v1/signals", run_api(ingress.signal), ["POST"])

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
    return app


def signing_tokens(key: str) -> list[str]:
    """What a caller may present for a signing key: as it is, without `signkey-<env>-`, or the hash
    of its bytes (§2.2).

    The hash needs a key of hexadecimal digits. SDKs send it after the key's own prefix, so that
    counts too. A prefix alone is no key.
    """
    prefix, bare = "", key
    if key.startswith("signkey-"):
        *head, bare = key.split("-", 2)
        prefix = "-".join(head) + "-"
    if not bare:
        return []
    tokens = [key, bare]
    try:
        hashed = hashlib.sha256(binascii.unhexlify(bare)).hexdigest()
    except ValueError:
        return tokens
    return [*tokens, hashed, prefix + hashed]


async def _prepare(client: Client) -> None:
    """A new namespace has no search attribute of ours, without which no run can be started."""
    while True:
        try:
            await ensure_search_attribute(client)
        except Exception as error:
            if isinstance(error, RuntimeError) and not _is_connect(error):
                logger.error("%s", error)
                return
            await asyncio.sleep(1)
        else:
            return


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


class _Bodies:
    """Reads bodies, of which no more than the limits is kept: of one, and of all that are being
    worked on."""

    def __init__(self) -> None:
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Raises `BodyInvalidError` if it is too large, `_OverloadedError` if there are too
        many."""
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:18]) > MAX_BODY_BYTES:
            raise _too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                self._held += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                if self._held > MAX_HELD_BYTES:
                    raise _OverloadedError
                chunks.append(chunk)
            yield b"".join(chunks)
        finally:
            self._held -= size


def _too_large() -> BodyInvalidError:
    return BodyInvalidError(f"Request body is over the max size: Max {MAX_BODY_BYTES} bytes")


def _batch(decoded: object) -> list[Any]:
    if isinstance(decoded, Mapping):
        return [decoded]
    if not isinstance(decoded, list):
        raise BodyInvalidError(
            "Request body must contain an event object or an array of event objects"
        )
    if len(decoded) > events.MAX_EVENTS:
        raise BodyInvalidError(f"Cannot have more than {events.MAX_EVENTS} events in a batch")
    return decoded


def _seed(request: Request) -> Seed | None:
    return Seed.parse(request.headers.get("x-inngest-event-id-seed"))


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _is_any(given: str, known: Sequence[bytes]) -> bool:
    """Compares with all of them, each in constant time."""
    found = False
    for one in known:
        found |= hmac.compare_digest(given.encode("utf-8", "replace"), one)
    return found


def _unavailable(error: Exception) -> tuple[int, str] | None:
    """Status and public message for what Temporal's client raises; None for anything else, which is
    a bug."""
    if isinstance(error, RegistryNotReadyError):
        return 503, str(error)
    if isinstance(error, _OverloadedError):
        return 503, "Too many requests at once; try again"
    if isinstance(error, RPCError):
        if refuses(error):
            return 400, f"Temporal refused the request: {error.message}"
        logger.warning(
            "Temporal refused or did not answer: %s %s", error.status.name, error.message
        )
        return 503, "Temporal can't be reached or is overloaded; try again"
    if isinstance(error, TimeoutError) or _is_connect(error):
        logger.warning("Temporal can't be reached: %s", error or type(error).__name__)
        return 503, "Temporal can't be reached; try again"
    return None


def _is_connect(error: Exception) -> bool:
    """The Temporal client raises no class of its own when its first connection fails."""
    return isinstance(error, RuntimeError) and "connect" in str(error)


def _error_output(error: BaseException) -> dict[str, Any]:
    """Why a run failed, as Inngest shows it."""
    info = error_of(error)
    # A run never retries as a whole, so its failure says nothing of whether user code forbade
    # another attempt.
    return standard_error(replace(info, retriable=info.name != "NonRetriableError"))


def _ulid(text: str) -> str:
    try:
        return str(ULID.from_str(text.upper()))
    except ValueError:
        raise _ApiError(400, "Invalid ID: it must be a ULID") from None


def _time(moment: datetime | None) -> str | None:
    return (
        None
        if moment is None
        else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _json(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    # ASCII, because text from user code may hold halves of characters, which UTF-8 can't.
    return Response(json.dumps(body, separators=(",", ":")), status, headers, "application/json")


def _error(status: int, message: str) -> Response:
    return _json({"error": message, "status": status}, status)


def _v1_error(status: int, message: str) -> Response:
    return _json({"error": message, "data": None, "status": status}, status)


def _envelope(data: Any, seconds: int, status: int = 200) -> Response:
    now = datetime.now(UTC)
    metadata = {"fetched_at": _time(now), "cached_until": _time(now + timedelta(seconds=seconds))}
    return _json(
        {"data": data, "metadata": metadata},
        status,
        {"Cache-Control": f"private, max-age={seconds}"},
    )


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _error(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _disconnected(_: Request, __: Exception) -> Response:
    """No one reads it; it is no error of ours."""
    return _error(400, "The request was not sent to its end")
