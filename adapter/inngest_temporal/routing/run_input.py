"""What a run is started with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pydantic

from inngest_temporal.drivers.protocol import Done
from inngest_temporal.wire import to_wire


@dataclass(frozen=True)
class Invoker:
    """The step that waits for a run's end."""

    workflow_id: str
    step: str
    """Hashed id of the invoking step."""


@dataclass(frozen=True)
class LockNeed:
    """A lock that a run must pass before it may execute."""

    kind: str
    """`pause` (the function was paused), `singleton`, `throttle`, `run` (one permit for the whole
    run) or `step` (permits while something executes)."""
    lock: str
    """Workflow id of the lock."""
    key: str | None = None
    """The key expression; together with `scope` it identifies the limit in the configuration."""
    scope: str = "fn"
    value: str = ""
    """The key's value, for people."""


@dataclass(frozen=True)
class RunInput:
    """Argument of every run workflow."""

    events: list[dict[str, Any]]
    """The events that started the run, as stamped by the ingress: `{id, name, data, ts, user?,
    v?}`."""
    event_ids: list[str]
    """Internal id (ULID) of each of `events`."""
    invoker: Invoker | None = None
    timeouts: dict[str, int] = field(default_factory=dict)
    """Inngest's `timeouts`, milliseconds: `{start?, finish?}`. They are part of the input because a
    deploy may change them."""
    retries: int = 0
    """Attempts after the first, of each step and of the handler between steps."""
    not_before_ms: int = 0
    """When the run may begin, if its event's time was in the future; otherwise 0."""
    cancels: dict[str, str] = field(default_factory=dict)
    """Wait id -> mailbox of the function's `cancel` entries, registered before the run was started.
    """
    more_invokers: list[Invoker] = field(default_factory=list)
    """Further invokers, if a batch has several events that are invocations."""
    needs: list[LockNeed] = field(default_factory=list)
    """The locks to pass, in this order."""
    factor: int = 0
    """The run's priority in queues: by how many seconds it goes before others."""
    url: str | None = None
    """Where the function was served over HTTP when the run was created; None: it is native."""
    memos: list[Done] = field(default_factory=list)
    """The steps that a rerun does not execute again, in the order in which they ended."""
    from_step: str | None = None
    """Hashed id of the step at which a rerun begins."""
    inputs: dict[str, list[Any]] = field(default_factory=dict)
    """Hashed id of a step -> the arguments that its body gets in place of the handler's."""

    @staticmethod
    def from_json(json: Mapping[str, Any]) -> "RunInput":
        """The inverse of `to_json`; temporalio's own conversion takes forty times as long. Raises
        `ValidationError`."""
        return _RUN_INPUT.validate_python(json)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, because people read this in Temporal's Web
        UI. The events are not copied: `asdict` would take ten times as long as writing them."""
        json: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value != (
                each.default_factory() if callable(each.default_factory) else each.default
            ):
                json[each.name] = _plain(value)
        return json


@dataclass(frozen=True)
class RerunInput:
    """What the input of a rerun has in addition."""

    original: str
    """Id of the earlier run, whose events the rerun has."""
    memos: tuple[Done, ...] = ()
    """`memos`, `from_step` and `inputs` are those of `RunInput`."""
    from_step: str | None = None
    inputs: Mapping[str, list[Any]] = field(default_factory=dict)
    may_skip: bool = True
    """Whether a singleton may skip it."""

    def applied_to(self, input: RunInput) -> RunInput:
        """The input of a rerun, made from that of a usual run."""
        return replace(
            input,
            needs=[need for need in input.needs if self.may_skip or need.kind != "singleton"],
            memos=[*self.memos],
            from_step=self.from_step,
            inputs=dict(self.inputs),
        )


_RUN_INPUT = pydantic.TypeAdapter(RunInput)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Done):
        return to_wire(value)
    return asdict(value) if isinstance(value, Invoker | LockNeed) else value
