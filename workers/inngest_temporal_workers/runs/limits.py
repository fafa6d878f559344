"""Checks that the outcome of an execution fits Temporal's limits."""

from inngest_temporal.drivers.failures import error_info
from inngest_temporal.drivers.protocol import (
    MAX_OUTPUT_BYTES,
    Failed,
    Outcome,
    Returned,
    json_size,
)
from inngest_temporal.errors import OutputTooLargeError, OutputUnserializableError
from inngest_temporal.wire import to_wire


def within_limits(outcome: Outcome | None) -> Outcome | None:
    """The outcome, or an error if it is too large or too deeply nested for Temporal."""
    if outcome is None or isinstance(outcome, Failed):
        return outcome
    returned = isinstance(outcome, Returned)
    name = "The function's output" if returned else "What the handler gives to its steps"
    try:
        size = json_size(to_wire(outcome))
    except RecursionError:  # the handler's thread may have allowed a few levels more
        return Failed(error_info(OutputUnserializableError(f"{name} is nested too deeply.")))
    if size > MAX_OUTPUT_BYTES:
        return Failed(error_info(OutputTooLargeError(name, size, MAX_OUTPUT_BYTES)))
    return outcome
