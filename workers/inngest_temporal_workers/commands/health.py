"""`/health` and `/ready` of a process that serves nothing else over HTTP."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .processes import ProcessError


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


def parse_address(option: str, text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` (`[::1]:8080`, `:8080` on all addresses). Raises
    `ProcessError`."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ProcessError(f"{option} {text}: write HOST:PORT, as in 127.0.0.1:8289.")
    return host.strip("[]") or "0.0.0.0", int(port)
