"""The description of all routes, and a schemathesis run over it."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import BaseRoute, Mount, Route
from temporalio.client import Client

from inngest_temporal.http.app import create_ingress
from inngest_temporal.http.v2 import models
from inngest_temporal.routing.registry import Follower, Snapshot
from tests.adapter.http.test_ingress import APP, DEV, http, ingress_for
from tests.harness import until

SECONDS, LONG_SECONDS = 12.0, 60.0
"""How long schemathesis sends requests, to all routes together."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def served(routes: list[BaseRoute], prefix: str = "") -> Iterator[str]:
    """Method and path of everything that an application serves."""
    for route in routes:
        if isinstance(route, Mount):
            yield from served(list(route.routes), prefix + route.path)
        elif inner := getattr(route, "original_router", None):  # a router that was included
            more = route.include_context.prefix  # type: ignore[attr-defined]
            yield from served(list(inner.routes), prefix + more)
        elif isinstance(route, Route | fastapi.routing.APIRoute) and not is_page(route):
            for method in (route.methods or set()) - {"HEAD"}:
                yield f"{method} {prefix}{re.sub(':path}', '}', route.path)}"


def is_page(route: Route) -> bool:
    return route.endpoint.__module__.startswith("inngest_temporal.dashboard")


async def test_every_route_is_described(client: Client) -> None:
    app = ingress_for(client)
    async with http(app) as api:
        document = (await api.get("/openapi.json")).json()
        page = (await api.get("/docs")).text
    described = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {*served(app.routes)}
    assert {"POST /e/{key}", "GET /v1/runs/{id}", "POST /fn/register"} <= described
    for path in document["paths"]:
        assert f"{path}</code>" in page
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation.get("description") or operation["summary"]
    assert not re.search(r'(src|href)="(https?:)?//', page)


async def test_the_api_document_names_what_exists(client: Client) -> None:
    text = (Path(__file__).parents[3] / "docs" / "API.md").read_text()
    invocation, replay = [json.loads(body) for body in re.findall(r"-d '(.*?)'", text)]
    models.InvokeRequest.model_validate(invocation)
    models.ReplayOrder.model_validate(replay)
    [rerun] = re.findall(r"`({.fromStep.*?)`", text)
    models.RerunRequest.model_validate(json.loads(rerun))
    there = {re.sub(r"{\w+}", "{}", each) for each in served(ingress_for(client).routes)}
    named = re.findall(r"`(?:GET )?(/v2/[^`]*)`", text)
    assert named
    assert {"GET " + re.sub(r"{\w+}", "{}", path) for path in named} <= there


@pytest.fixture
def address(temporal_address: str, namespace: str) -> Iterator[str]:
    """An ingress under uvicorn in a thread: schemathesis is not async."""
    started = threading.Event()
    found: list[uvicorn.Server] = []

    async def serve() -> None:
        client = await Client.connect(temporal_address, namespace=namespace)
        follower = Follower(client)
        follower.snapshot = Snapshot([APP])
        app = create_ingress(client, DEV, follower=follower)
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off")
        found.append(uvicorn.Server(config))
        serving = asyncio.ensure_future(found[0].serve())
        await until(lambda: found[0].started)
        started.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(30)
    [server] = found[0].servers
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    found[0].should_exit = True
    thread.join(30)


@pytest.mark.timeout(180)
def test_every_request_is_answered_as_described(address: str, long: bool) -> None:
    there = known(address)
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    ends = time.monotonic() + (LONG_SECONDS if long else SECONDS)
    answered = 0
    for index, operation in enumerate(operations):
        share = (ends - time.monotonic()) / (len(operations) - index) / 3
        answered += send(operation, GenerationMode.POSITIVE, share)
        names = {each.name for each in operation.path_parameters}
        if names and names <= there.keys():
            parameters = {name: there[name] for name in names}
            answered += send(operation, GenerationMode.POSITIVE, share, path_parameters=parameters)
        if operation.body or operation.query:
            answered += send(operation, GenerationMode.NEGATIVE, share)
    assert answered >= len(operations)


def known(address: str) -> dict[str, str]:
    """Path parameters of things that exist: a function, an event and its run."""
    with httpx.Client(base_url=address, verify=False) as api:
        event = api.post("/e/key", json={"name": "shop/ok", "data": {}}).json()["ids"][0]
        [outcome] = api.get(f"/v2/events/{event}").json()["data"]["outcomes"]
    run = outcome["runId"]
    return {"app": "shop", "function": "ok", "run_id": run, "event_id": event, "id": run}


def send(operation: Any, mode: GenerationMode, seconds: float, **parts: Any) -> int:
    """Send requests that fit an operation, or don't, for `seconds`; returns how many."""
    ends, answered = time.monotonic() + seconds, 0

    @hypothesis.given(case=operation.as_strategy(mode, **parts))
    @hypothesis.settings(
        max_examples=30,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        nonlocal answered
        if not answered or time.monotonic() < ends:
            if isinstance(case.body, dict) and isinstance(case.body.get("waitSeconds"), float):
                case.body["waitSeconds"] = min(case.body["waitSeconds"], 0.01)
            # Callers of a workflow that no worker answers wait for it.
            case.call_and_validate(checks=CHECKS, timeout=40)
            answered += 1

    check()
    return answered
