"""The argument of a handler."""

import logging
from dataclasses import dataclass

from .models import Event
from .steps import Group, GroupSync, Step, StepSync


@dataclass
class Context:
    """The argument of an async handler."""

    attempt: int
    """Zero-based: how often this step, or this part of the handler, was tried before."""
    event: Event
    """The event that started the run; the first one of a batch."""
    events: list[Event]
    group: Group
    job_id: str | None
    """Always None: a Temporal worker's tasks have no job id of Inngest's."""
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    """Silent while finished steps are repeated, so that each line is logged once."""
    request_id: str | None
    """Id of this execution of the handler."""
    run_id: str
    """ULID, which is also the id of the Temporal workflow."""
    step: Step


@dataclass
class ContextSync:
    """The argument of a handler that is not async; fields as in `Context`."""

    attempt: int
    event: Event
    events: list[Event]
    group: GroupSync
    job_id: str | None
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    request_id: str | None
    run_id: str
    step: StepSync
