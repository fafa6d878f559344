"""Signals, from the outside: a run waits for a signal by its name, and anybody can send it.

A signal's name is unique in the namespace: one run waits for it at a time. Each name that a run
waits for has an entity workflow (`inngest_temporal_workers.entities.signal`) that knows the run. A
signal that no run waits for is not kept. Source: Inngest's `waitForSignal` (semantics §5.6), which
its Python SDK lacks.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client

from inngest_temporal.errors import BodyInvalidError
from inngest_temporal.temporal import names
from inngest_temporal.temporal.entity import EntityHandle
from inngest_temporal.temporal.runs import is_running

MAX_DATA_BYTES = 1_800_000
"""Maximum size of a signal's data, as Temporal's default converter writes it: a payload is limited
to 2 MiB, and the signal's entity can neither refuse nor pass on a larger update."""

ANSWER = timedelta(seconds=10)
"""How long a sender waits to be told which run waited for the signal."""


@dataclass(frozen=True)
class Claim:
    """A run's wait for a signal."""

    run: str
    """Run id (workflow id)."""
    step: str
    """Hashed step id."""
    expires_ms: int
    replace: bool = False
    """Whether it replaces another run's wait, which then times out."""


@dataclass(frozen=True)
class ReleaseClaim:
    """Takes a `Claim` back."""

    run: str
    step: str


def _entity(client: Client, signal: str) -> EntityHandle:
    return EntityHandle(client, names.SIGNAL_TYPE, names.signal_id(signal))


async def claim(client: Client, signal: str, wait: Claim) -> bool:
    """Begin a wait; False if another run waits for that signal already. Raises `RPCError`."""
    entity = _entity(client, signal)
    holder = await entity.update_with_start("claim", wait, Claim)
    if not _is(holder, wait) and not await is_running(client, holder.run):
        # It was terminated; a run that ends in another way releases its claim itself.
        await release(client, signal, holder.run, holder.step)
        holder = await entity.update_with_start("claim", wait, Claim)
    return _is(holder, wait)


def _is(holder: Claim, wait: Claim) -> bool:
    return (holder.run, holder.step) == (wait.run, wait.step)


async def release(client: Client, signal: str, run: str, step: str) -> None:
    """Take a claim back; a no-op if it is not there. Raises `RPCError`."""
    await _entity(client, signal).signal("release", ReleaseClaim(run, step))


async def send(client: Client, signal: str, data: Any, *, send_id: str | None = None) -> str | None:
    """Send a signal; returns the id of the run that waited for it, or None if no run did.

    Sending again with the same `send_id` has no second effect and gets the same answer, for as long
    as the signal's entity remembers it.

    Raises `RPCError`, `TimeoutError` if no worker answers for the entity, and `BodyInvalidError`
    for data that is too large.
    """
    size = len(json.dumps(data, separators=(",", ":")))
    if size > MAX_DATA_BYTES:
        raise BodyInvalidError(
            f"Signal is over the max size: Max {MAX_DATA_BYTES} bytes / Size {size} bytes"
        )
    return await _entity(client, signal).update(
        "send", data, str, timeout=ANSWER, update_id=send_id
    )
