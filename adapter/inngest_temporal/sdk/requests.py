"""The request by which an app is asked for one execution of a function."""

import functools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inngest_temporal.drivers.protocol import ExecutionRequest

from .signatures import canonical, sign

MAX_INLINE_BYTES = 4 * 1024 * 1024 - 1024
"""Maximum size of a body, as in Inngest. Above it the app fetches events and memos itself."""

DISCOVERY = "step"
"""Inngest's name for a request without a target."""

_FUNCTIONS = uuid.UUID("6f3d0a5e-3b0c-5f5e-9a57-1f7e4f1b0c10")


@dataclass(frozen=True)
class HttpCall:
    """One POST."""

    url: str
    headers: dict[str, str]
    body: bytes


def execution_call(
    *,
    url: str,
    function_id: str,
    run_id: str,
    events: Sequence[Mapping[str, Any]],
    memos: Sequence[tuple[str, str]],
    request: ExecutionRequest,
    dispatch: str | None,
    keys: Sequence[str],
    now: int,
    sdk: str = "",
) -> HttpCall:
    """The call for one execution.

    `url`: with `fnId`, without `stepId`. `events`: as `routing.events` stamps them, which is what
    the SDK of Python insists on: no field is null, `ts` is whole. `memos`: hashed id and JSON text
    of each step, in the order in which they ended; the texts are sent as they are, unless the call
    is signed. `dispatch`: the id of this call; None: the app is not to checkpoint. `keys`: the
    first one signs. `now`: seconds since 1970. `sdk`: as the app registered, such as `go:v0.16.0`,
    whose SDK can't fetch memos.
    """
    ctx = _ctx(function_id, run_id, memos, request, dispatch)
    replaced = request.inputs.get(request.target or "")
    if replaced is not None:
        text = json.dumps({"input": replaced}, separators=(",", ":"))
        memos = [*memos, (request.target or "", text)]
    body = _body(ctx, events, memos, request.version, is_signed=bool(keys))
    if len(body) > MAX_INLINE_BYTES and not sdk.startswith("go:") and replaced is None:
        ctx["use_api"] = True
        body = _body(ctx, events, [], request.version, is_signed=bool(keys))
    headers = {
        "content-type": "application/json",
        "x-run-id": run_id,
        "x-inngest-step-id": ctx["step_id"],
        "x-inngest-req-version": str(request.version),
    }
    if dispatch is not None:
        headers |= {"x-request-id": dispatch, "x-inngest-job-id": dispatch}
    if keys:
        headers["x-inngest-signature"] = sign(keys[0], body, now)
    separator = "&" if "?" in url else "?"
    return HttpCall(f"{url}{separator}stepId={ctx['step_id']}", headers, body)


@functools.lru_cache(maxsize=1024)
def function_uuid(function_id: str) -> str:
    """The id of a function in `ctx.fn_id`, which must be a UUID for the Go SDK."""
    return str(uuid.uuid5(_FUNCTIONS, function_id))


def _ctx(
    function_id: str,
    run_id: str,
    memos: Sequence[tuple[str, str]],
    request: ExecutionRequest,
    dispatch: str | None,
) -> dict[str, Any]:
    """The context without null fields, which the JavaScript SDK refuses."""
    target = None if request.gateway else request.target
    ctx = {
        "attempt": request.attempt,
        "disable_immediate_execution": request.plan_only or request.gateway,
        "max_attempts": request.retries + 1,
        "run_id": run_id,
        "stack": {"current": len(memos), "stack": [step for step, _ in memos]},
        "step_id": target or DISCOVERY,
        "use_api": False,
    }
    if dispatch is not None:
        ctx |= {"fn_id": function_uuid(function_id), "qi_id": dispatch}
    return ctx


def _body(
    ctx: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    memos: Sequence[tuple[str, str]],
    version: int,
    *,
    is_signed: bool,
) -> bytes:
    """The keys are in the order of the canonical form, so joining canonical parts gives it."""
    texts = [_dump(event, is_signed) for event in events]
    given = [] if ctx["use_api"] else texts
    if is_signed:
        memos = sorted((step, _dump(json.loads(memo), True)) for step, memo in memos)
    steps = ",".join(f"{json.dumps(step)}:{memo}" for step, memo in memos)
    return (
        f'{{"ctx":{_dump(ctx, is_signed)},"event":{texts[0]},"events":[{",".join(given)}],'
        f'"steps":{{{steps}}},"use_api":{_dump(ctx["use_api"], is_signed)},"version":{version}}}'
    ).encode()


def _dump(value: Any, is_signed: bool) -> str:
    return canonical(value).decode() if is_signed else json.dumps(value, separators=(",", ":"))
