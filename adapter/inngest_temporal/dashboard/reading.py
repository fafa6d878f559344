"""What pages read from Temporal besides visibility, shared by all who open the same page."""

from temporalio.client import Client

from inngest_temporal.temporal.shared import FRESH, Shared
from inngest_temporal.traces.models import Trace
from inngest_temporal.traces.reading import load_trace

KEPT = 30.0
"""Seconds for which the trace of an ended run is kept, because people click from step to step."""


def shared_traces(client: Client) -> Shared[str, Trace | None]:
    """Traces by run id; None if there is no such run."""

    def fresh(trace: Trace | None) -> float:
        return FRESH if trace is None or trace.ended_ms is None else KEPT

    return Shared(lambda run_id: load_trace(client, run_id), fresh)
