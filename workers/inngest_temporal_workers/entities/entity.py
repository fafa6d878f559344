"""What the entity workflows share. Workflow code."""

from datetime import timedelta
from typing import Any

from temporalio import workflow

MAX_STATE = 1_800_000
"""Bytes that an entity carries over when it continues as new. With more, Temporal would end it, and
what it knows would be lost: it goes on as it is, which it can until its history has 50,000 events.
"""
RETRY = 500
"""Events of history after which one that had too much to carry over looks again."""


def is_long() -> bool:
    """Whether history is so long that the workflow should continue as new."""
    return workflow.info().is_continue_as_new_suggested()


async def end_task() -> None:
    """End the workflow task, so that history knows what was done. In one that goes on for long
    signals pile up until Temporal gives it up (at 2 MB), and all that it has started is started
    again. A timer would take a second."""
    await workflow.execute_activity("inngest.pause", start_to_close_timeout=timedelta(seconds=10))


class Renewal:
    """Continuing as new, unless that would carry over too much."""

    def __init__(self) -> None:
        self._at = 0
        """Length of history from which it may be tried."""

    def is_due(self) -> bool:
        return workflow.info().get_current_history_length() >= self._at

    def attempt(self, state: Any, size: int) -> None:
        """Continue as new with a state of so many bytes; returns if they are too many."""
        if size <= MAX_STATE:
            workflow.continue_as_new(state)
        self._at = workflow.info().get_current_history_length() + RETRY
        workflow.logger.warning("%d bytes are too many for this workflow to continue as new", size)
