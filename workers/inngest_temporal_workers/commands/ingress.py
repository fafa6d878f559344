"""`inngest-temporal ingress`: the ingress as a process of its own."""

import asyncio
from dataclasses import replace

from inngest_temporal.http.app import create_ingress
from inngest_temporal.temporal.connection import DashboardMode, Settings, connect

from .processes import ProcessError, first, listen, say, serving, url_of
from .temporal import temporal_place


def read_settings(dashboard: str, temporal_ui_url: str) -> Settings:
    """The settings of an ingress, from the environment and its options. Raises `ProcessError`,
    `SettingsInvalidError`."""
    settings = replace(
        Settings.from_env(),
        dashboard=DashboardMode(dashboard),
        temporal_ui_url=temporal_ui_url.rstrip("/"),
    )
    if not settings.dev and not settings.event_keys:
        raise ProcessError(
            "The ingress takes events only from those who know a key, and none is set. Set"
            " INNGEST_EVENT_KEY (and INNGEST_SIGNING_KEY to read and cancel runs), or"
            " INNGEST_DEV=1 to let anyone in on your own machine."
        )
    return settings


async def run_ingress(settings: Settings, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve the ingress until `stop`. Raises `ProcessError`."""
    place = temporal_place()
    listener = listen(host, port, "--port")
    async with serving(create_ingress(await connect(), settings), listener) as server:
        say(f"Events    {url_of(host, port)}/e/{'dev' if settings.dev else 'EVENT_KEY'}")
        _say_dashboard(settings, url_of(host, port))
        say(f"Temporal  {place}")
        if settings.dev:
            say("Dev mode: without keys, anyone who reaches this port may send events.")
        elif not settings.signing_keys:
            say(
                "Runs can't be read or cancelled over HTTP, because INNGEST_SIGNING_KEY is not set."
            )
        await first(server, stop)


def _say_dashboard(settings: Settings, url: str) -> None:
    if settings.dashboard == DashboardMode.OFF:
        return
    if settings.dev or settings.signing_keys:
        only = ", read-only" if settings.dashboard == DashboardMode.READ_ONLY else ""
        say(f"Dashboard {url}{only}")
    else:
        say("Dashboard is off, because INNGEST_SIGNING_KEY is not set: nobody could sign in.")
