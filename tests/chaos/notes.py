"""The journal, from the side of the apps under test: what their steps write."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

VERSION = os.environ.get("CHAOS_VERSION", "1")
JOURNAL = os.environ.get("CHAOS_JOURNAL", os.devnull)
LAST = 99
"""Place of the last step in the order of its run's steps."""


def note(what: str, **fields: Any) -> None:
    """Append one line; `O_APPEND` keeps lines of several processes whole."""
    line = json.dumps({"what": what, "at": time.time(), "pid": os.getpid(), **fields})
    descriptor = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def identity(ctx: Any) -> dict[str, Any]:
    """What a run is about: the kind, number and key of the event that a test sent."""
    events = [each.data for each in ctx.events]
    if "n" not in events[0]:  # one of Inngest's own events holds the event that the test sent
        events = [events[0].get("event", {}).get("data", {})]
    numbers = [each.get("n") for each in events]
    return {
        "event": ctx.event.name,
        "kind": events[0].get("kind", "cron"),
        "key": events[0].get("key"),
        "n": numbers,
        "run": ctx.run_id,
        "version": VERSION,
    }


@contextlib.contextmanager
def noted(ctx: Any, step: str, order: int) -> Iterator[None]:
    about = identity(ctx) | {"step": step, "order": order, "attempt": ctx.attempt}
    note("begin", **about)
    try:
        yield
    except BaseException:
        note("cut", **about)
        raise
    note("end", **about)


def expect(ctx: Any, step: str, result: object, expected: object) -> None:
    if result != expected:
        note("wrong", **identity(ctx), step=step, got=repr(result)[:200])
