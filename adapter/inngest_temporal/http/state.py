"""Events and memos of a run, if they are too large to be sent with a call: `/v0/runs/{run}`.

An app that was called without them asks for them here. Source: http-protocol §13.
"""

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.temporal.connection import handle_of

from .replies import json_reply, v1_error


class RunState:
    """Reads the events and memos of a run that is under way."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def routes(self) -> list[Route]:
        return [
            Route("/runs/{run:path}/batch", self.batch, methods=["GET"]),
            Route("/runs/{run:path}/actions", self.actions, methods=["GET"]),
        ]

    async def batch(self, request: Request) -> Response:
        """`GET /v0/runs/{run}/batch`: the events that started the run, a list."""
        return await self._answer(request, "events")

    async def actions(self, request: Request) -> Response:
        """`GET /v0/runs/{run}/actions`: hashed id -> memo of each step that has ended."""
        return await self._answer(request, "memos")

    async def _answer(self, request: Request, query: str) -> Response:
        run = request.path_params["run"]
        try:
            items = [item async for item in self._items(run, query)]
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return v1_error(404, f"There is no run {run}.")
        except WorkflowQueryFailedError as error:
            return v1_error(404, f"Run {run} can't be asked: {error}")
        return json_reply(dict(items) if query == "memos" else items)

    async def _items(self, run: str, query: str) -> AsyncIterator[Any]:
        handle = handle_of(self._client, run)
        count, total = 0, 1
        while count < total:
            answer = await handle.query(query, count, result_type=dict)
            total = answer["total"]
            if not answer["items"]:
                return
            for item in answer["items"]:
                count += 1
                yield item
