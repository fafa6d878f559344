"""An app that speaks the protocol by hand: a test says what it answers to each call, and what it
reports meanwhile."""

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import httpx

from .http_world import HttpWorld, served

SDK_HEADERS = {"x-inngest-sdk": "js:v4.24.0", "x-inngest-req-version": "2"}


@dataclass(frozen=True)
class Answered:
    """A reply, as it is sent."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """A call as it arrived."""

    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def ctx(self) -> dict[str, Any]:
        ctx: dict[str, Any] = self.body["ctx"]
        return ctx

    @property
    def function(self) -> str:
        return self.query["fnId"]

    @property
    def run(self) -> str:
        return str(self.ctx["run_id"])

    @property
    def steps(self) -> dict[str, Any]:
        """Memos, by hashed id."""
        steps: dict[str, Any] = self.body["steps"]
        return steps


Behaviour: TypeAlias = Callable[[Call], Awaitable[Answered]]


class HandApp:
    """The application, for ASGI; every call is kept in `calls`."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.calls: list[Call] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = {name: each[0] for name, each in parse_qs(scope["query_string"].decode()).items()}
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        call = Call(query, headers, json.loads(body))
        self.calls.append(call)
        answered = await self.behaviour(call)
        pairs = [(name.encode(), value.encode()) for name, value in answered.headers.items()]
        await send({"type": "http.response.start", "status": answered.status, "headers": pairs})
        await send({"type": "http.response.body", "body": answered.body})


def hashed(step: str) -> str:
    """The id of a step, as it is sent."""
    return hashlib.sha1(step.encode()).hexdigest()


def step_run(step: str, data: Any = None) -> dict[str, Any]:
    """A step that was executed."""
    return {"op": "StepRun", "id": hashed(step), "name": step, "displayName": step, "data": data}


def planned(step: str) -> dict[str, Any]:
    """A step that is to be executed by a call of its own."""
    return {**step_run(step), "op": "StepPlanned"}


def complete(data: Any = None) -> dict[str, Any]:
    """The end of a function."""
    return {"op": "RunComplete", "id": hashed("complete"), "data": data}


def ops(*given: Any, **headers: str) -> Answered:
    """A reply of operations."""
    return Answered(206, json.dumps(given).encode(), SDK_HEADERS | headers)


def raw(status: int, body: bytes | str = b"", **headers: str) -> Answered:
    """Any reply, without the headers of an SDK; `_` in the name of a header becomes `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answered(status, body.encode() if isinstance(body, str) else body, named)


async def report(
    ingress: str, call: Call, *steps: Any, key: str | None = None, **fields: Any
) -> int:
    """Report steps during a call, as SDKs do. Returns the status of the answer; 0 without one."""
    body = {
        "run_id": call.run,
        "fn_id": call.ctx.get("fn_id"),
        "qi_id": call.ctx.get("qi_id"),
        "request_id": call.headers.get("x-request-id"),
        "steps": steps,
    }
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    url = f"{ingress}/v1/checkpoint/{fields.pop('run', call.run)}/async"
    async with httpx.AsyncClient(timeout=30, verify=False) as http:
        try:
            return (await http.post(url, json=body | fields, headers=headers)).status_code
        except httpx.HTTPError:
            return 0


def function(app: str, id: str, url: str, **options: Any) -> dict[str, Any]:
    """A function `app-id` as SDKs register it, triggered by the event `app/id`."""
    full = f"{app}-{id}"
    retries = {"attempts": options.pop("retries", 2)}
    runtime = {"type": "http", "url": f"{url}?fnId={full}&stepId=step"}
    return {
        "id": full,
        "name": id,
        "triggers": [{"event": f"{app}/{id}"}],
        "steps": {"step": {"id": "step", "name": "step", "runtime": runtime, "retries": retries}},
        **options,
    }


async def register(
    world: HttpWorld, app: str, url: str, *functions: Any, key: str | None = None
) -> httpx.Response:
    """Register an app's functions."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"appName": app, "url": url, "sdk": "js:v4.24.0", "v": "0.1", "functions": functions}
    async with httpx.AsyncClient(timeout=30, verify=False) as http:
        answer = await http.post(f"{world.url}/fn/register", json=body, headers=headers)
    await world.refresh()
    return answer


@contextlib.asynccontextmanager
async def hand_app(
    world: HttpWorld, behaviour: Behaviour, *, app: str = "hand", key: str | None = None, **fn: Any
) -> AsyncIterator[HandApp]:
    """An app with one function, `app-fn`, registered with an ingress; `fn`: its options."""
    hand = HandApp(behaviour)
    async with served(lambda _: hand) as url:
        answer = await register(world, app, url, function(app, "fn", url, **fn), key=key)
        assert answer.status_code == 200, answer.text
        yield hand
