"""`/health` and `/ready` of a process that serves nothing else over HTTP."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def health_app(problem: Callable[[], Awaitable[str | None]]) -> Starlette:
    """`/health`: 200 for as long as the process answers. `/ready`: 503 with the `problem`, 200 if
    there is none."""

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": 200, "message": "OK"})

    async def ready(_: Request) -> JSONResponse:
        message = await problem()
        status = 200 if message is None else 503
        return JSONResponse({"status": status, "message": message or "OK"}, status)

    return Starlette(routes=[Route("/health", health), Route("/ready", ready)])
