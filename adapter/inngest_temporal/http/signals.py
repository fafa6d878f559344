"""Signals: `/v1/signals`."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.routing import events, signals
from inngest_temporal.temporal import names

from .bodies import Bodies
from .replies import ReplyError, json_reply, v1_error


class Signals:
    """Sends signals to the runs that wait for them."""

    def __init__(self, client: Client, bodies: Bodies) -> None:
        self._client = client
        self._bodies = bodies

    def routes(self) -> list[Route]:
        return [Route("/signals", self.send, methods=["POST"])]

    async def send(self, request: Request) -> Response:
        """`POST /v1/signals` `{"signal": "...", "data": any}`: `{"data": {"run_id": "..."}}`; 404
        if no run waits."""
        async with self._bodies.read(request) as raw:
            body = events.parse(raw)
        name = body.get("signal") if isinstance(body, dict) else None
        if not isinstance(name, str) or not 0 < len(name.encode()) <= names.MAX_SIGNAL_BYTES:
            raise BodyInvalidError(
                "Request body must be an object whose signal has 1 to"
                f" {names.MAX_SIGNAL_BYTES} bytes"
            )
        events.check_id("signal", name, names.MAX_SIGNAL_BYTES)
        run_id = await signals.send(self._client, name, body.get("data"))
        if run_id is None:
            raise ReplyError(v1_error(404, "No signal found"))
        return json_reply({"data": {"run_id": run_id}})
