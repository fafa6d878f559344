"""The routes of all pages of the dashboard."""

import mimetypes

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.client import Client

from inngest_temporal.http.events import Events
from inngest_temporal.routing.recent import RecentEvents
from inngest_temporal.routing.router import Router
from inngest_temporal.temporal.connection import DashboardMode

from .events_section import EventsSection
from .functions_section import FunctionsSection
from .rendering import static_file
from .replays_section import ReplaysSection
from .runs_section import RunsSection, to_runs
from .site import HEADERS, Site

FILES = ("style.css", "dashboard.js", "htmx.min.js", "icon.svg")


def dashboard_routes(
    site: Site, client: Client, router: Router, events: Events, recent: RecentEvents
) -> list[Route]:
    """The routes of the dashboard; none if it is off."""
    if site.settings.dashboard == DashboardMode.OFF:
        return []
    return [
        Route("/", to_runs),
        Route("/static/{name}", _static),
        *site.routes(),
        *RunsSection(site, client, router, events).routes(),
        *FunctionsSection(site, client, router, events).routes(),
        *EventsSection(site, client, router, events, recent).routes(),
        *ReplaysSection(site, client).routes(),
    ]


async def _static(request: Request) -> Response:
    """`GET /static/{name}`: a file, whose address changes with its content."""
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    content, _ = static_file(name)
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])
