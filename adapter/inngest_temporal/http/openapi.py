"""The description of all routes, `/openapi.json`, and a page that shows it, `/docs`, which loads
nothing from other sites.

FastAPI describes `/v2`. The other routes are plain, because FastAPI would cost time on each event;
they are described here by hand.
"""

import functools
import importlib.metadata
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from .replies import json_reply

_ANY: dict[str, Any] = {}
_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_EVENT = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _TEXT,
        "data": {"type": "object"},
        "id": _TEXT,
        "ts": {"type": "integer", "description": "Milliseconds since 1970."},
        "user": {"type": "object"},
        "v": _TEXT,
    },
}
_ERROR = {
    "type": "object",
    "required": ["error", "status"],
    "properties": {"error": _TEXT, "status": {"type": "integer"}},
}
_ACCEPTED = {
    "type": "object",
    "required": ["ids", "status"],
    "properties": {
        "ids": {"type": "array", "items": _TEXT},
        "status": {"type": "integer"},
        "error": _TEXT,
    },
}
_ENVELOPE = {"type": "object", "required": ["data"]}
_CANCELLATION = {
    "type": "object",
    "required": ["app_id", "function_id", "started_before"],
    "properties": {
        "app_id": _TEXT,
        "function_id": _TEXT,
        "started_before": {"type": "string", "format": "date-time"},
        "started_after": {"type": "string", "format": "date-time"},
        "if": {"type": "string", "description": "CEL over `event`, the run's first event."},
    },
}
_SIGNAL = {"type": "object", "required": ["signal"], "properties": {"signal": _TEXT, "data": _ANY}}


@dataclass(frozen=True)
class Described:
    """The parts of a plain route's description that are not in its docstring."""

    tag: str
    ok: dict[str, Any] | None = field(default_factory=lambda: _ENVELOPE)
    """Schema of the answer; None: it has no body."""
    errors: Sequence[int] = ()
    body: dict[str, Any] | None = None
    """Schema of the request's body."""
    query: Sequence[str] = ()
    secured: bool = True
    status: int = 200


_RUN_API = (400, 401, 404, 503)
_EVENT_QUERY = ("limit", "cursor", "name", "received_after", "received_before")
DESCRIBED = {
    "POST /e/{key}": Described(
        "sending",
        _ACCEPTED,
        (400, 401, 503),
        {"oneOf": [_EVENT, {"type": "array", "items": _EVENT}]},
        secured=False,
    ),
    "POST /invoke/{slug}": Described(
        "sending",
        {"type": "object", "properties": {"id": _TEXT, "status": {"type": "integer"}}},
        (400, 401, 503),
        {"type": "object", "properties": {"data": _OBJECT, "user": _OBJECT, "id": _TEXT}},
    ),
    "POST /fn/register": Described("apps", _OBJECT, (400, 401, 503), _OBJECT),
    "DELETE /fn/remove": Described("apps", _OBJECT, (400, 401, 404, 503), query=("url",)),
    "GET /dev": Described("apps", _OBJECT, secured=False),
    "GET /health": Described("health", _OBJECT, (503,), secured=False),
    "GET /ready": Described("health", _OBJECT, (503,), secured=False),
    "GET /openapi.json": Described("health", _OBJECT, secured=False),
    "GET /docs": Described("health", _TEXT, secured=False),
    "GET /v0/runs/{run}/batch": Described("what apps ask", {"type": "array"}, _RUN_API),
    "GET /v0/runs/{run}/actions": Described("what apps ask", _OBJECT, _RUN_API),
    "POST /v1/checkpoint/{run}/async": Described(
        "what apps ask", _ENVELOPE, (*_RUN_API, 409), _OBJECT
    ),
    "GET /v1/events": Described("v1", _ENVELOPE, _RUN_API, query=_EVENT_QUERY),
    "GET /v1/events/{id}": Described("v1", _ENVELOPE, _RUN_API),
    "GET /v1/events/{id}/runs": Described("v1", _ENVELOPE, _RUN_API),
    "GET /v1/runs/{id}": Described("v1", _ENVELOPE, _RUN_API),
    "DELETE /v1/runs/{id}": Described("v1", None, _RUN_API),
    "POST /v1/cancellations": Described("v1", _ENVELOPE, _RUN_API, _CANCELLATION, status=201),
    "GET /v1/cancellations": Described("v1", _ENVELOPE, _RUN_API),
    "GET /v1/cancellations/{id}": Described("v1", _ENVELOPE, _RUN_API),
    "DELETE /v1/cancellations/{id}": Described("v1", None, _RUN_API),
    "POST /v1/signals": Described("v1", _ENVELOPE, _RUN_API, _SIGNAL),
}
"""Method and path of every plain route -> its description."""


def described_routes(app: FastAPI) -> list[Route]:
    """`/openapi.json` and `/docs` of an application."""

    @functools.cache
    def schema() -> dict[str, Any]:
        return openapi(app)

    async def document(_: Request) -> Response:
        """`GET /openapi.json`: the description of all routes."""
        return json_reply(schema())

    async def page(_: Request) -> Response:
        """`GET /docs`: the same description as a page."""
        return HTMLResponse(_page(schema()), headers={"Content-Security-Policy": _POLICY})

    return [Route("/openapi.json", document), Route("/docs", page)]


_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def plain_routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, Route]]:
    """Method, path and route of each route that FastAPI does not describe, except pages for
    people."""
    for route in routes:
        if isinstance(route, Mount):
            yield from plain_routes(route.routes, prefix + route.path)
        elif type(route) is Route and route.include_in_schema and not _is_page(route):
            path = prefix + route.path.replace(":path}", "}")
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, path, route


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. Raises `KeyError` for a plain route that nobody has described."""
    schema = get_openapi(
        title="inngest-temporal",
        version=importlib.metadata.version("inngest-temporal"),
        description="Events, runs and functions of inngest-temporal.",
        routes=app.routes,
    )
    paths = schema.setdefault("paths", {})
    for operations in paths.values():
        for operation in operations.values():
            operation["security"] = [{"signingKey": []}]
            # FastAPI describes 422 for invalid requests; here these are answered with 400.
            unused = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(unused):
                del operation["responses"]["422"]
    for method, path, route in plain_routes(app.routes):
        told = DESCRIBED[f"{method} {path}"]
        paths.setdefault(path, {})[method.lower()] = _operation(path, route, told)
    components = schema.setdefault("components", {})
    components["securitySchemes"] = {
        "signingKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "The signing key, or what Inngest's SDKs send for it. Open in dev mode"
            " without keys.",
        }
    }
    return schema


def _is_page(route: Route) -> bool:
    return route.endpoint.__module__.startswith("inngest_temporal.dashboard")


def _operation(path: str, route: Route, told: Described) -> dict[str, Any]:
    text = " ".join((inspect.getdoc(route.endpoint) or "").split())
    _, _, text = text.partition("`: ") if "`: " in text else ("", "", text)
    in_path = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [
        *({"name": n, "in": "path", "required": True, "schema": _TEXT} for n in in_path),
        *({"name": n, "in": "query", "schema": _TEXT} for n in told.query),
    ]
    responses: dict[str, Any] = {str(told.status): {"description": "Done"}}
    if told.ok is not None:
        kind = "text/html" if path == "/docs" else "application/json"
        responses[str(told.status)]["content"] = {kind: {"schema": told.ok}}
    # A line break in a path fits no route.
    for status in sorted({*told.errors, *([404] if in_path else [])}):
        content: dict[str, Any] = {"application/json": {"schema": _OBJECT}}
        if status == 401:
            content["text/plain"] = {"schema": _TEXT}
        responses[str(status)] = {"description": "An error", "content": content}
    operation: dict[str, Any] = {
        "summary": text[:1].upper() + text[1:],
        "tags": [told.tag],
        "parameters": parameters,
        "responses": responses,
    }
    if told.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": told.body}},
        }
    if told.secured:
        operation["security"] = [{"signingKey": []}]
    return operation


def _page(schema: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("inngest_temporal.http"), autoescape=True, trim_blocks=True
    )
    tags: dict[str, list[tuple[str, str, Any]]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            tags.setdefault(tag, []).append((method.upper(), path, operation))
    return environment.get_template("docs.html").render(
        tags=tags, schemas=schema.get("components", {}).get("schemas", {}), info=schema["info"]
    )
