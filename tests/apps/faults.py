"""The app of `tests/test_http_faults.py` on the official SDK for Python: it keeps a journal of what
it was told and what it executed. `js/faults.mjs` is the same in JavaScript."""

import asyncio
import datetime
import hashlib
import json
import logging
import os
from typing import Any

import fastapi
import inngest
import inngest.fast_api
import uvicorn

JOURNAL = os.environ.get("JOURNAL", os.devnull)
client = inngest.Inngest(app_id="py", is_production=False, logger=logging.getLogger("app"))


def note(what: str, run: str, *steps: str) -> None:
    """Append one line; `O_APPEND` keeps lines of several processes whole."""
    line = json.dumps({"what": what, "run": run, "steps": steps, "pid": os.getpid()})
    descriptor = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


@client.create_function(fn_id="work", retries=20, trigger=inngest.TriggerEvent(event="py/work"))
async def work(ctx: inngest.Context) -> Any:
    async def body(step: str, seconds: float) -> str:
        hashed = hashlib.sha1(step.encode()).hexdigest()
        note("begin", ctx.run_id, hashed)
        await asyncio.sleep(seconds)
        note("end", ctx.run_id, hashed)
        return step

    found = [await ctx.step.run(step, body, step, 0.05) for step in ("a", "b", "c")]
    await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
    found += await ctx.group.parallel(
        tuple(
            lambda step=step: ctx.step.run(step, body, step, 0.3)  # type: ignore[misc]
            for step in ("left", "right")
        )
    )
    return [*found, await ctx.step.run("last", body, "last", 0)]


class Told:
    """Notes the steps that a call says have ended."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""

        async def received() -> Any:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body") and body:
                call = json.loads(body)
                if "ctx" in call:
                    note("told", call["ctx"]["run_id"], *call["steps"])
            return message

        await self._app(scope, received, send)


if __name__ == "__main__":
    served = fastapi.FastAPI()
    inngest.fast_api.serve(served, client, [work])
    served.add_middleware(Told)
    uvicorn.run(served, port=int(os.environ["PORT"]), log_level="warning")
