"""What of an execution is too large to cross to Temporal."""

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
    """The outcome; or an error, if it is larger or deeper than what crosses to Temporal."""
    if outcome is None or isinstance(outcome, Failed):
        return outcome
    returned = isinstance(outcome, Returned)
    what = "The function's output" if returned else "What the handler gives to its steps"
    try:
        size = json_size(to_wire(outcome))
    except RecursionError:  # a thread, where the handler may have been, has a few levels more
        return Failed(error_info(OutputUnserializableError(f"{what} is nested too deeply.")))
    if size > MAX_OUTPUT_BYTES:
        return Failed(error_info(OutputTooLargeError(what, size, MAX_OUTPUT_BYTES)))
    return outcome
