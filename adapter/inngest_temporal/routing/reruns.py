"""Reruns: a new run with the events of an earlier one, from the beginning or from a step.

A rerun is a new run of the function as it is configured now. It waits for locks like every run. But
rate limits, debounces, batches, and singletons that skip don't apply to it: they are about events,
and a rerun was asked for. If the earlier run was invoked, its invoker is not answered again.

A rerun *from a step* begins with the memos of the steps that had ended before that step did: what
ended later may depend on it, what ended earlier can't. The memos are taken from the run's history,
so this needs no worker, and those steps are not executed again, whatever was deployed since.
"""

from dataclasses import dataclass
from typing import Any

from temporalio.client import Client
from ulid import ULID

from inngest_temporal.drivers import protocol
from inngest_temporal.drivers.protocol import MAX_OUTPUT_BYTES, Done, Op, json_size
from inngest_temporal.errors import FunctionNotFoundError, RerunRefusedError, RunNotFoundError
from inngest_temporal.temporal import runs
from inngest_temporal.temporal.connection import RPC_TIMEOUT
from inngest_temporal.traces.models import Trace, TraceStep
from inngest_temporal.traces.reading import load_trace
from inngest_temporal.wire import to_wire

from . import events
from .events import Stamped
from .registry import RegisteredFunction, Snapshot
from .router import start_run
from .run_input import RerunInput

MAX_KEY_BYTES = 200
"""Maximum size of a key."""


@dataclass(frozen=True)
class FromStep:
    """The step from which a rerun begins."""

    step: str
    """The step's hashed id, or the user's id if no other step has it."""
    input: list[Any] | None = None
    """Arguments (JSON values) for the step's body instead of the handler's; None: unchanged."""


async def rerun(
    client: Client,
    snapshot: Snapshot,
    run_id: str,
    *,
    from_step: FromStep | None = None,
    key: str | None = None,
) -> str:
    """Start a run with the events of an earlier one; returns its id.

    Calls with the same `key` (any text; None: a new one) start one run, however often they are
    repeated. Raises `RunNotFoundError`, `FunctionNotFoundError` if the function was removed,
    `RerunRefusedError`, and what Temporal's client raises.
    """
    if key is not None and not 0 < len(key.encode(errors="replace")) <= MAX_KEY_BYTES:
        raise RerunRefusedError(f"A rerun's key must have 1 to {MAX_KEY_BYTES} bytes.")
    found = await runs.describe(client, run_id)
    original = None if found is None else await runs.input_of(client, run_id)
    if found is None or original is None or not original.events:
        raise RunNotFoundError(run_id)
    function = snapshot.function(found.workflow_type)
    if function is None:
        raise FunctionNotFoundError(
            f"Function {found.workflow_type} of run {run_id} does not exist any more: start a"
            " worker that has it, or register its app."
        )
    singleton = function.config.singleton
    changes = RerunInput(run_id, may_skip=singleton is None or singleton.mode != "skip")
    if from_step is not None:
        trace = await load_trace(client, run_id)
        if trace is None:
            raise RunNotFoundError(run_id)
        changes = _from_step(trace, from_step, changes, _takes_input(snapshot, function))
    first_id = original.event_ids[0]
    new_id = events.rerun_id(function.id, first_id, run_id, key or str(ULID()))
    await start_run(
        client,
        function,
        [Stamped(event, id) for event, id in zip(original.events, original.event_ids, strict=True)],
        new_id,
        batched=len(original.events) > 1 or run_id == events.batch_run_id(function.id, first_id),
        rerun=changes,
        rpc_timeout=RPC_TIMEOUT,
    )
    return new_id


def _from_step(
    trace: Trace, wanted: FromStep, changes: RerunInput, takes_input: bool
) -> RerunInput:
    step = _found(trace, wanted.step)
    if wanted.input is not None:
        _check_input(step, takes_input)
    kept = [
        each
        for each in trace.steps
        if each.id != step.id
        and (each.position is not None or each.status == "Completed")
        and _order(each) < _order(step)
    ]
    memos = [_done(each) for each in sorted(kept, key=_order)]
    inputs = {} if wanted.input is None else {step.id: wanted.input}
    size = json_size([to_wire(memos), inputs, trace.events])
    if size > MAX_OUTPUT_BYTES:
        raise RerunRefusedError(
            f'The events and the results of the {len(memos)} steps before "{step.name}" are {size}'
            f" bytes, and a run can begin with {MAX_OUTPUT_BYTES} at most. Rerun from an earlier"
            " step, or from the beginning."
        )
    return RerunInput(changes.original, tuple(memos), step.id, inputs, changes.may_skip)


def _order(step: TraceStep) -> tuple[int, int]:
    """Steps that have ended come before those that have not. A step without a position may have
    ended together with its run, after all others."""
    ended_ms = step.ended_ms if step.status == "Completed" else None
    unknown = 2**62
    return (
        unknown if step.position is None else step.position,
        unknown if ended_ms is None else ended_ms,
    )


def _found(trace: Trace, wanted: str) -> TraceStep:
    found = [each for each in trace.steps if each.id == wanted]
    found = found or [each for each in trace.steps if each.name == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(each.id for each in found[:5])
        raise RerunRefusedError(
            f'Run {trace.run_id} has {len(found)} steps "{wanted}": name one by its hashed id, such'
            f" as {ids}."
        )
    raise RerunRefusedError(f'Run {trace.run_id} has no step "{wanted[:100]}".')


def _check_input(step: TraceStep, takes_input: bool) -> None:
    if step.kind != protocol.RUN:
        raise RerunRefusedError(
            f'Step "{step.name}" is not a step.run ({step.kind}), so its input can\'t be replaced.'
            " Rerun from it without an input."
        )
    if not takes_input:
        raise RerunRefusedError(
            f'The input of step "{step.name}" can\'t be replaced: the SDK of its app does not'
            " support that. The JavaScript SDK does, and so do functions of our own workers."
        )


def _takes_input(snapshot: Snapshot, function: RegisteredFunction) -> bool:
    """Whether the app's SDK supports a new input for a step: the official Python SDK would take it
    for the step's result."""
    [app] = [each for each in snapshot.apps if each.app_id == function.app_id][:1]
    return app.http is None or app.http.sdk.startswith("js:")


def _done(step: TraceStep) -> Done:
    """A finished step, as the memo with which the new run begins."""
    if step.kind == "fetch" or step.kind == "ai":
        op = Op(protocol.RUN, step.id, step.name, {"gateway": step.kind})
    else:
        op = Op(step.kind, step.id, step.name)
    return Done(op, step.output, step.error)
