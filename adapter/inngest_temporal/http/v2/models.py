"""The requests and answers of `/v2`. Names are camelCase in JSON. Times are RFC 3339 in UTC with
milliseconds; fields named `...Ms` have milliseconds since 1970."""

import dataclasses
import functools
import types
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic
from pydantic.alias_generators import to_camel

from inngest_temporal.routing.flow_state import FlowEntity
from inngest_temporal.routing.replays import ReplayProgress
from inngest_temporal.traces.models import Trace

T = TypeVar("T")

RunStatus = Literal["Scheduled", "Running", "Completed", "Failed", "Cancelled", "Skipped"]


Key = Annotated[str | None, pydantic.Field(min_length=1, max_length=200)]


class Body(pydantic.BaseModel):
    """Base of all models."""

    model_config = pydantic.ConfigDict(alias_generator=to_camel, populate_by_name=True)


class RequestBody(Body):
    """Base of requests: unknown fields are refused."""

    model_config = pydantic.ConfigDict(extra="forbid")


class Metadata(Body):
    fetched_at: str


class Page(Body):
    cursor: str | None
    """Where the next page begins; null at the end."""
    has_more: bool
    limit: int


class Envelope(Body, Generic[T]):
    data: T
    metadata: Metadata


class Listing(Body, Generic[T]):
    data: list[T]
    metadata: Metadata
    page: Page


class Problem(Body):
    code: str
    message: str


class Problems(Body):
    """Every error."""

    errors: list[Problem]


class ErrorView(Body):
    error: str
    name: str
    message: str
    stack: str | None = None


class RunView(Body):
    id: str
    app_id: str | None
    """Null if no app has the function any more."""
    function_id: str
    status: RunStatus
    event_id: str
    """Internal id of the first event."""
    event_ids: list[str]
    started_at: str
    ended_at: str | None
    original_run_id: str | None
    """The original run of a rerun."""
    output: Any = None
    """What a completed run returned; in lists only on request."""
    error: ErrorView | None = None
    """Why a failed run failed; in lists only on request."""


class Rerun(Body):
    run_id: str


class StepChoice(RequestBody):
    id: str
    """The step's id, or its hash."""
    input: list[Any] | None = None
    """New arguments for the step."""


class RerunRequest(RequestBody):
    from_step: StepChoice | None = None
    idempotency_key: Key = None


class InvokeRequest(RequestBody):
    data: dict[str, Any]
    user: dict[str, Any] | None = None
    idempotency_key: Key = None
    """Only one run is started with the same key, within the namespace's retention."""
    wait_seconds: Annotated[float, pydantic.Field(ge=0, le=60)] = 0
    """How long the answer may wait for the run's end."""


class Invoked(Body):
    run_id: str
    status: RunStatus | None = None
    """Only if the answer waited for the run's end."""
    output: Any = None
    error: ErrorView | None = None


class AppView(Body):
    id: str
    task_queue: str
    url: str | None
    """Where it is served over HTTP; null: workers execute its functions."""
    sdk: str | None
    functions: list[str]
    """Full ids."""


class FunctionView(Body):
    id: str
    """Full id: the app's, a hyphen, and its own."""
    app_id: str
    name: str
    paused: bool
    triggers: list[dict[str, Any]]
    configuration: dict[str, Any]
    """As it was registered."""


class OutcomeView(Body):
    kind: str
    function_id: str | None
    run_id: str | None
    text: str


class EventView(Body):
    internal_id: str
    id: str
    name: str
    data: dict[str, Any]
    user: Any = None
    ts: int
    v: str | None = None
    received_at: str | None = None
    """Null if this replica does not remember the event, and it was read from a run."""
    outcomes: list[OutcomeView] | None = None
    """Null in the same case."""


class EventMetadata(Metadata):
    scope: str
    """A sentence that says what the list has: the events of one replica, which are not durable."""


class EventList(Body):
    data: list[EventView]
    metadata: EventMetadata
    page: Page


class ReplayOrder(RequestBody):
    status: Literal["Failed", "Cancelled", "Completed", "Skipped"] = "Failed"
    since: Annotated[pydantic.AwareDatetime | None, pydantic.Field(alias="from")] = None
    until: pydantic.AwareDatetime | None = None
    rate: Annotated[float, pydantic.Field(ge=0.01, le=100)] = 10.0
    """Runs a second."""
    idempotency_key: Key = None


class ReplayStarted(Body):
    id: str


@functools.cache
def model_of(record: type) -> type[Body]:
    """The model of a dataclass, with the same name; so are the dataclasses in its fields."""
    hints = get_type_hints(record)
    fields: dict[str, Any] = {
        each.name: (_modelled(hints[each.name]), _default_of(each))
        for each in dataclasses.fields(record)
    }
    return pydantic.create_model(record.__name__, __base__=Body, __doc__=record.__doc__, **fields)


def instance_of(record: Any) -> Any:
    """A dataclass as an instance of its model, whose values are not validated."""
    fields = {
        each.name: _instance(getattr(record, each.name)) for each in dataclasses.fields(record)
    }
    model: type[Body] = model_of(type(record))  # type: ignore[arg-type]
    return model.model_construct(**fields)


def _instance(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return instance_of(value)
    if isinstance(value, tuple):
        return tuple(map(_instance, value))
    return value


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    return ... if field.default is dataclasses.MISSING else field.default


def _modelled(hint: Any) -> Any:
    """A type, with the models of dataclasses in their place."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return model_of(hint)
    arguments = get_args(hint)
    if not arguments or get_origin(hint) is Literal:
        return hint
    inner = tuple(arg if arg is ... else _modelled(arg) for arg in arguments)
    if get_origin(hint) in (Union, types.UnionType):
        return Union[inner]  # noqa: UP007
    return get_origin(hint)[inner]


if TYPE_CHECKING:

    class TraceBody(Body): ...

    class FlowEntityBody(Body): ...

    class ProgressBody(Body): ...

else:
    TraceBody, FlowEntityBody, ProgressBody = map(model_of, (Trace, FlowEntity, ReplayProgress))


class ReplayView(Body):
    id: str
    created_at: str
    ended_at: str | None
    remaining: int
    progress: ProgressBody


class FunctionDetails(FunctionView):
    active: dict[str, int]
    """Runs that are scheduled or running, by status."""
    flow: list[FlowEntityBody]
    """Open gates and locks."""
    flow_complete: bool
