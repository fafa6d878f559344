"""Steps that apps report while a call to them is open: `/v1/checkpoint/{run}/async`.

The reply says that the steps are durable. The process that has the call makes them so
(`LocalCalls`). Other processes find that process in Temporal's description of the run, and hand the
request over to it: workers that call apps have their address in their identity. Source:
http-protocol §14.
"""

import enum
import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from inngest_temporal.drivers.protocol import Done
from inngest_temporal.sdk.replies import read_checkpoint
from inngest_temporal.temporal.connection import handle_of

from .bodies import Bodies
from .replies import json_reply, v1_error

if TYPE_CHECKING:
    import httpx

RELAYED = "x-inngest-temporal-relayed"
"""Header of a request that another ingress has handed over. It is not handed over again."""
RELAY_SECONDS = 10.0
MAX_REMEMBERED = 10_000
"""Maximum number of calls whose worker an ingress remembers."""

_IDENTITY = "inngest-http "
_EXECUTION = "inngest.execute"


class Committed(enum.Enum):
    """What became of reported steps."""

    DONE = 200
    """They are durable."""
    STALE = 409
    """The call is over, or another one has taken its place: the app must stop."""
    LATER = 503
    """They are not durable. The app may report them again, or return them with its reply."""


class LocalCalls(Protocol):
    """The calls to apps that are under way in this process."""

    async def commit(self, dispatch: str, run: str, steps: list[Done]) -> Committed:
        """Make steps durable; `dispatch` is the id of the call. Raises `RPCError`."""
        ...


def identity_of(url: str) -> str:
    """The identity by which a worker tells ingresses where it listens; `url` has no path."""
    return _IDENTITY + url


class CheckpointCalls:
    """Takes the steps that apps report."""

    def __init__(self, client: Client, bodies: Bodies, local: LocalCalls | None) -> None:
        """`local` is None if this process calls no apps."""
        self._client = client
        self._bodies = bodies
        self._local = local
        self._places: OrderedDict[str, str] = OrderedDict()
        """Call -> URL of the worker that has it."""

    @functools.cached_property
    def _http(self) -> "httpx.AsyncClient":
        # Created on first use: most ingresses hand nothing over, and it reads certificates.
        import httpx

        return httpx.AsyncClient(timeout=RELAY_SECONDS, trust_env=False)

    def routes(self) -> list[Route]:
        return [Route("/checkpoint/{run:path}/async", self.commit, methods=["POST"])]

    async def commit(self, request: Request) -> Response:
        """`POST /v1/checkpoint/{run}/async` `{"qi_id", "steps": [op], ...}`: 200 once the steps are
        durable; 409 if the call is not the run's current one."""
        run = request.path_params["run"]
        async with self._bodies.read(request) as body:
            dispatch, steps = read_checkpoint(body)
            if self._local is not None:
                committed = await self._local.commit(dispatch, run, steps)
                if committed is not Committed.STALE or RELAYED in request.headers:
                    return _reply(committed.value)
            if RELAYED in request.headers:
                return _reply(Committed.STALE.value)
            return await self._relay(request, dispatch, run, body)

    async def _relay(self, request: Request, dispatch: str, run: str, body: bytes) -> Response:
        known = self._places.get(dispatch)
        try:
            places = [known] if known is not None else await self._find(run)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return v1_error(404, f"There is no run {run}.")
        status = Committed.STALE.value
        for place in places:
            answer = await self._hand_over(place, request, run, body)
            if answer == Committed.DONE.value:
                self._remember(dispatch, place)
                return _reply(answer)
            if answer != Committed.STALE.value:
                status = answer
        return _reply(status)

    async def _find(self, run: str) -> list[str]:
        """The addresses of the workers that execute the run now."""
        described = await handle_of(self._client, run).describe()
        return [
            each.last_worker_identity.removeprefix(_IDENTITY)
            for each in described.raw_description.pending_activities
            if each.activity_type.name == _EXECUTION
            and each.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
            and each.last_worker_identity.startswith(_IDENTITY)
        ]

    async def _hand_over(self, place: str, request: Request, run: str, body: bytes) -> int:
        import httpx

        headers = {"content-type": "application/json", RELAYED: "true"}
        if "authorization" in request.headers:
            headers["authorization"] = request.headers["authorization"]
        url = f"{place}{request.url.path}"
        try:
            answer = await self._http.post(url, content=body, headers=headers)
        except httpx.HTTPError:
            return Committed.LATER.value
        return answer.status_code if answer.status_code in (200, 409) else Committed.LATER.value

    def _remember(self, dispatch: str, place: str) -> None:
        self._places[dispatch] = place
        self._places.move_to_end(dispatch)
        if len(self._places) > MAX_REMEMBERED:
            self._places.popitem(last=False)


def _reply(status: int) -> Response:
    if status == Committed.DONE.value:
        return json_reply({"data": None})
    if status == Committed.STALE.value:
        return v1_error(status, "This call is not the run's current one any more.")
    return v1_error(status, "The steps can't be stored now; report them again.")
