"""`inngest-temporal remove`: removes an app from the registry."""

import asyncio

from temporalio.service import RPCError

from inngest_temporal.routing import publishing
from inngest_temporal.routing.registry import Follower
from inngest_temporal_workers.plugin import system_worker

from .processes import ProcessError, say
from .temporal import PATIENCE, Waiting, wait_for_temporal


async def remove_app(app_id: str, stop: asyncio.Event) -> None:
    """Remove an app. Raises `ProcessError`."""
    client = await wait_for_temporal(stop, Waiting(seconds=PATIENCE))
    if client is None:
        return
    async with system_worker(client):
        try:
            removed = await publishing.remove(client, app_id)
        except (RPCError, TimeoutError) as error:
            raise ProcessError(
                f"App {app_id!r} could not be removed: {error}. Try again."
            ) from error
    if not removed:
        known = ", ".join(each.app_id for each in (await Follower(client).refresh()).apps)
        raise ProcessError(
            f"There is no app {app_id!r}. "
            + (f"There are {known}." if known else "No app is registered.")
        )
    say(
        f"App {app_id} is removed, with its schedules. Runs that have begun are still there, for a"
        " worker of it to go on with; without one they can only be terminated in Temporal. A worker"
        " that is up stays without events, and one that starts brings the app back."
    )
