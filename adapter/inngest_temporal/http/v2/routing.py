"""Keys, the envelope, and errors, which all routes of `/v2` have in common."""

import dataclasses
import json
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import pydantic
from fastapi import Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from inngest_temporal.errors import (
    BodyInvalidError,
    CursorInvalidError,
    FunctionNotFoundError,
    RerunRefusedError,
    RunNotFoundError,
    VisibilityBusyError,
    WorkerMissingError,
)
from inngest_temporal.http.auth import Keys
from inngest_temporal.http.bodies import Bodies
from inngest_temporal.http.replies import ReplyError, json_reply, unavailable
from inngest_temporal.temporal.runs import rfc3339

from . import models
from .models import instance_of

ULID = Annotated[str, Path(pattern=r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$")]
Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=1_000)]
When = Annotated[pydantic.AwareDatetime | None, Query()]
Responses: TypeAlias = dict[int | str, dict[str, Any]]
ERRORS: Responses = {status: {"model": models.Problems} for status in (400, 401, 404, 503)}
"""Statuses that every route may have."""


class ApiError(Exception):
    """Ends a request with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclasses.dataclass(frozen=True)
class Guard:
    """The checks before all routes; the application's `state.guard`."""

    keys: Keys
    bodies: Bodies


def _replayed(body: bytes) -> Receive:
    """A receiver of the body of a request that was read already, within its limits."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _as_json(scope: Scope) -> Scope:
    """A request whose body counts as JSON, whatever type it has: `curl -d` says that it is a form,
    and the rest of the ingress does not ask."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}


class Route(APIRoute):
    """Answers every error in the API's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            guard: Guard = request.app.state.guard
            try:
                guard.keys.check_signing_key(request)
                async with guard.bodies.read(request) as body:
                    return await handle(Request(_as_json(request.scope), _replayed(body)))
            except Exception as error:
                problem = _problem(error)
                if problem is None:
                    raise
                return problem

        return handler


def _problem(error: Exception) -> Response | None:
    match error:
        case ApiError():
            return failed(error.status, error.code, str(error))
        case RequestValidationError():
            return failed(400, "invalid_request", _explained(error.errors()))
        case BodyInvalidError() | CursorInvalidError() | RerunRefusedError():
            return failed(400, "invalid_request", error.message)
        case RunNotFoundError():
            return failed(404, "run_not_found", error.message)
        case FunctionNotFoundError():
            return failed(404, "function_not_found", error.message)
        case WorkerMissingError():
            return failed(503, "worker_missing", error.message)
        case VisibilityBusyError():
            return failed(503, "too_many_requests", error.message)
        case ReplyError():
            return _refused(error.reply)
        case HTTPException():  # a body that is not JSON
            return failed(400, "invalid_request", str(error.detail))
    found = unavailable(error)
    return found and failed(found[0], "unavailable" if found[0] == 503 else "refused", found[1])


def _refused(reply: Response) -> Response:
    """The refusal of a request, in the API's form."""
    if reply.status_code == 401:
        return failed(401, "authentication_failed", "Authentication failed")
    body = json.loads(bytes(reply.body))
    return failed(reply.status_code, "unavailable", body.get("error") or "Try again")


def _explained(problems: Iterable[Any]) -> str:
    """The problems of a request, each with its place."""
    parts = []
    for each in problems:
        place = ".".join(str(part) for part in each["loc"] if part not in ("body", "query", "path"))
        parts.append(f"{place or each['loc'][0]}: {each['msg']}")
    return "; ".join(parts)


def failed(status: int, code: str, message: str) -> Response:
    """An error."""
    return json_reply({"errors": [{"code": code, "message": message}]}, status)


def answer(data: object, status: int = 200) -> Response:
    """Data in the envelope."""
    return _reply({"data": plain(data), "metadata": _metadata()}, status)


def listing(
    data: Iterable[object], cursor: str | None, limit: int, scope: str | None = None
) -> Response:
    """A page of a list; `scope` is a sentence that says what the list has."""
    page = {"cursor": cursor, "hasMore": cursor is not None, "limit": limit}
    metadata = _metadata() if scope is None else {**_metadata(), "scope": scope}
    return _reply({"data": [*map(plain, data)], "metadata": metadata, "page": page}, 200)


def plain(data: object) -> Any:
    """A model, or a dataclass that has one, as JSON with camelCase names."""
    if isinstance(data, pydantic.BaseModel):
        return data.model_dump(by_alias=True)
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return instance_of(data).model_dump(by_alias=True)
    return data


def _metadata() -> dict[str, Any]:
    return {"fetchedAt": rfc3339(datetime.now(UTC))}


def _reply(body: dict[str, Any], status: int) -> Response:
    """A reply without NaN, which Python writes and JSON does not have: outputs of user code may
    have it."""
    reply = json_reply(body, status)
    if b"NaN" in reply.body or b"Infinity" in reply.body:
        cleaned = json.loads(bytes(reply.body), parse_constant=lambda _: None)
        return json_reply(cleaned, status)
    return reply
