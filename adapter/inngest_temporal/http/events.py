"""Sending events and invoking functions: `/e/{key}` and `/invoke/{slug}`.

This is the hot path, so bodies are checked by hand (`inngest_temporal.routing.events`), not by
models.
"""

import itertools
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.routing import events
from inngest_temporal.routing.events import Seed, Stamped
from inngest_temporal.routing.intake import Intake
from inngest_temporal.routing.recent import RecentEvents
from inngest_temporal.routing.reports import Outcome
from inngest_temporal.routing.router import Routed, Router

from .auth import Keys
from .bodies import Bodies, OverloadedError
from .replies import error_reply, json_reply, unavailable

MAX_UNMATCHED = 10
"""Maximum number of event names in one header."""


class Events:
    """Accepts events: `200` means that Temporal has accepted everything that an event causes."""

    def __init__(
        self,
        router: Router,
        intake: Intake,
        keys: Keys,
        bodies: Bodies,
        recent: RecentEvents,
    ) -> None:
        """Each event is added to `recent`."""
        self._router = router
        self._intake = intake
        self._keys = keys
        self._bodies = bodies
        self._recent = recent

    def routes(self) -> list[Route]:
        return [
            Route("/e/{key:path}", self.send, methods=["POST"]),
            Route("/invoke/{slug:path}", self.invoke, methods=["POST"]),
        ]

    async def send(self, request: Request) -> Response:
        """`POST /e/{key}`: one event or an array of events; `{"ids": [...], "status": 200}`."""
        self._keys.check_event_key(request.path_params["key"])
        try:
            async with self._bodies.read(request) as body:
                return await self._send(body, _seed(request))
        except BodyInvalidError as error:
            return json_reply({"ids": [""], "status": 400, "error": error.message}, 400)
        except OverloadedError as error:
            return _failed(unavailable(error) or (503, ""))

    async def _send(self, body: bytes, seed: Seed | None) -> Response:
        accepted: list[Stamped] = []
        problem: BodyInvalidError | None = None
        try:
            for index, raw in enumerate(_batch(events.parse(body)), 1):
                accepted.append(events.stamp(raw, seed.internal_id(index) if seed else None))
        except BodyInvalidError as error:
            problem = error
        # As in Inngest, the events before a bad one are accepted.
        alone = body if len(accepted) == 1 and problem is None else None
        routed = (
            await self._routed(accepted, self._intake.take(accepted), alone) if accepted else []
        )
        if isinstance(routed, tuple):
            return _failed(routed)
        headers = _unmatched_header(accepted, routed)
        ids = [stamped.internal_id for stamped in accepted]
        if problem is not None:
            refused = {"ids": ids or [""], "status": 400, "error": problem.message}
            return json_reply(refused, 400, headers)
        return json_reply({"ids": ids, "status": 200}, headers=headers)

    async def invoke(self, request: Request) -> Response:
        """`POST /invoke/{slug}`: start a function by its full id, without waiting for its end;
        `{"id": "...", "status": 200}`."""
        self._keys.check_invocation(request)
        slug = request.path_params["slug"]
        if not slug:
            return error_reply(400, "Function id is required")
        seed = _seed(request)
        try:
            async with self._bodies.read(request) as body:
                stamped = events.stamp_invocation(
                    events.parse(body), slug, seed.internal_id(0) if seed else None
                )
                routed = await self._routed([stamped], self._router.route([stamped]))
        except BodyInvalidError as error:
            return error_reply(400, error.message)
        except OverloadedError as error:
            routed = unavailable(error) or (503, "")
        if isinstance(routed, tuple):
            return error_reply(*routed)
        return json_reply({"id": stamped.internal_id, "status": 200})

    async def accept(self, stamped: Stamped) -> Routed:
        """Take one event as if it had been posted. Raises what Temporal's client raises, and
        `RegistryNotReadyError`."""
        try:
            [routed] = await self._intake.take([stamped])
        except Exception as error:
            self._remember_failure([stamped], unavailable(error))
            raise
        self._recent.add(stamped, routed.outcomes)
        return routed

    async def _routed(
        self,
        accepted: Sequence[Stamped],
        routing: Coroutine[Any, Any, list[Routed]],
        body: bytes | None = None,
    ) -> list[Routed] | tuple[int, str]:
        """What became of the events, or status and message if something failed. `body` is that of a
        request with a single event."""
        try:
            routed = await routing
        except Exception as error:
            failure = unavailable(error)
            if failure is None:
                raise
            self._remember_failure(accepted, failure, body)
            return failure
        for stamped, one in zip(accepted, routed, strict=True):
            self._recent.add(stamped, one.outcomes, body)
        return routed

    def _remember_failure(
        self,
        accepted: Sequence[Stamped],
        failure: tuple[int, str] | None,
        body: bytes | None = None,
    ) -> None:
        reason = "it failed inside the ingress" if failure is None else failure[1]
        for stamped in accepted:
            self._recent.add(stamped, (Outcome("failed", reason=reason),), body)


def _failed(failure: tuple[int, str]) -> Response:
    status, message = failure
    return json_reply({"ids": [], "status": status, "error": message}, status)


def _unmatched_header(
    accepted: Sequence[Stamped], routed: Sequence[Routed]
) -> dict[str, str] | None:
    """A header with the names of events that nothing listens to, percent-encoded, so that such
    events don't vanish silently."""
    names = {
        one.event["name"]: None
        for one, result in zip(accepted, routed, strict=True)
        if result.unmatched
    }
    if not names:
        return None
    shown = [quote(name, safe="/:") for name in itertools.islice(names, MAX_UNMATCHED)]
    return {"X-Inngest-Unmatched": ", ".join(shown)}


def _batch(decoded: object) -> list[Any]:
    if isinstance(decoded, Mapping):
        return [decoded]
    if not isinstance(decoded, list):
        raise BodyInvalidError(
            "Request body must contain an event object or an array of event objects"
        )
    if len(decoded) > events.MAX_EVENTS:
        raise BodyInvalidError(f"Cannot have more than {events.MAX_EVENTS} events in a batch")
    return decoded


def _seed(request: Request) -> Seed | None:
    return Seed.parse(request.headers.get("x-inngest-event-id-seed"))
