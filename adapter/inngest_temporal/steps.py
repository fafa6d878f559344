"""`ctx.step` and `ctx.group`: the durable steps of a handler, one by one and in parallel.

`Step` is the only implementation. `StepSync` drives the same coroutines from the handler's thread:
there they never suspend, because a step that can't continue raises an interrupt instead of waiting.
"""

import asyncio
import datetime
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, TypeVarTuple, cast

from inngest_temporal.drivers import protocol
from inngest_temporal.expressions import check_condition
from inngest_temporal.temporal.names import MAX_EVENT_NAME_BYTES, MAX_SIGNAL_BYTES

from .errors import ExpressionError, Interrupt, StepInvalidError
from .models import JSON, Event, ParallelMode, Signal, milliseconds, shown
from .serialization import EmptySentinel, data_to_json
from .sync import drive

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class StepRunner(Protocol):
    """The interface of a driver to the steps of one execution."""

    app_id: str
    function_id: str
    """The full id, for messages."""
    is_async: bool
    ended: bool
    """Whether the execution is over, so that the handler must stop at its next step."""
    unwinding: bool
    """Whether a handler that is not async is leaving a step by an interrupt."""
    side_by_side: bool
    """Whether a handler that is not async collects steps that are executed in parallel."""

    async def step(
        self,
        kind: protocol.OpKind,
        step_id: str,
        options: dict[str, Any],
        body: Callable[[], Awaitable[object]] | None = None,
        output_type: object = EmptySentinel,
    ) -> Any:
        """The result of a step. If there is none yet, the handler waits or stops there."""
        ...

    def arguments(self, usual: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the current step's body; `usual` are those that the handler passed."""
        ...

    async def send_events(self, step_id: str, events: list[Event]) -> list[str]:
        """Send events durably; returns their ids."""
        ...

    async def send_signal(self, signal: str, data: Any) -> str | None:
        """Send a signal durably; returns the id of the run that waited for it."""
        ...

    def asked(self, step_id: Any, call: Coroutine[Any, Any, Any]) -> None:
        """Note a step that the handler has asked for, because it may forget to await the call."""
        ...


class Invocable(Generic[T]):
    """The interface of a function that returns `T`, for `step.invoke`."""

    output_type: object

    @property
    def local_id(self) -> str:
        """The id within the app."""
        raise NotImplementedError


F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def _told(method: F) -> F:
    """Have a method of `Step` note its calls at the runner."""

    @functools.wraps(method)
    def begin(self: "Step", *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
        call = method(self, *args, **options)
        self._runner.asked(args[0] if args else options.get("step_id"), call)
        return call

    return cast(F, begin)


class Step:
    """The durable steps of an async handler.

    A step's first argument is its id, unique in the handler; an id used again counts as `id:1`,
    `id:2`, ... in the order of the calls. A finished step is never executed again in its run: the
    handler, when it is executed again, gets its recorded result.
    """

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner

    @_told
    async def run(
        self,
        step_id: str,
        handler: Callable[[*Ts], Awaitable[T]],
        *handler_args: *Ts,
        output_type: object = EmptySentinel,
    ) -> T:
        """Execute `handler(*handler_args)` once, durably, and return its result.

        The result must be JSON; a tuple comes back as a list. With a `Serializer` on the client and
        an `output_type`, any type the serializer knows. Keyword arguments: `functools.partial`.

        Raises `StepError` when the function's retries are used up, `NonRetriableError` when the
        handler raised that.
        """

        if not callable(handler):
            raise self._invalid(step_id, _not_a_function(step_id, handler))

        async def body() -> object:
            result: object = handler(*self._runner.arguments(handler_args))
            if inspect.isawaitable(result):
                if not self._runner.is_async:
                    if inspect.iscoroutine(result):
                        result.close()
                    raise self._invalid(
                        step_id,
                        "its body is async, and the function is not. Make the function async, or"
                        " the body not.",
                    )
                result = await result
            return result

        value = await self._runner.step(protocol.RUN, step_id, {}, body, output_type)
        return cast(T, value)

    @_told
    async def send_event(self, step_id: str, events: Event | list[Event]) -> list[str]:
        """Send events once, durably; their ids. Ids derive from run and step, so a retried step
        sends none twice."""
        batch = list(events) if isinstance(events, list | tuple) else [events]
        for event in batch:
            if not isinstance(event, Event):
                raise self._invalid(
                    step_id,
                    f"send_event takes an Event or a list of them, not {shown(event)}. Write"
                    ' Event(name="...", data={...}).',
                )

        async def body() -> list[str]:
            # A copy, because middleware changes them in place, in each attempt.
            copies = [event.model_copy(deep=True) for event in batch]
            return await self._runner.send_events(step_id, copies)

        return cast(list[str], await self._runner.step(protocol.RUN, step_id, {}, body))

    @_told
    async def sleep(self, step_id: str, duration: int | datetime.timedelta) -> None:
        """Sleep for `duration` (int: milliseconds); up to 366 days. No process is held
        meanwhile."""
        options = {"duration_ms": self._milliseconds(step_id, "sleep", duration)}
        await self._runner.step(protocol.SLEEP, step_id, options)

    @_told
    async def sleep_until(self, step_id: str, until: datetime.datetime) -> None:
        """Sleep until a moment; a naive one is local time. A moment in the past returns at once."""
        if not isinstance(until, datetime.datetime):
            raise self._invalid(
                step_id,
                f"sleep_until takes a datetime.datetime, not {shown(until)}. Convert it, as with"
                " datetime.datetime.fromisoformat(...); for a duration use sleep.",
            )
        until_ms = round(until.timestamp() * 1000)
        await self._runner.step(protocol.SLEEP, step_id, {"until_ms": until_ms})

    @_told
    async def wait_for_event(
        self,
        step_id: str,
        *,
        event: str | Sequence[str],
        if_exp: str | None = None,
        timeout: int | datetime.timedelta,
    ) -> Event | None:
        """Wait for the next event of that name, and return it; None after `timeout` (int:
        milliseconds).

        With several names, whichever matches first. In `if_exp` (CEL) `event` is the run's own
        event and `async` the one that arrives. Events sent before the wait was registered are not
        seen: there is no look-back, as in Inngest.
        """
        names = [event] if isinstance(event, str) else list(dict.fromkeys(event))
        if not names or not all(map(_is_event_name, names)):
            raise self._invalid(
                step_id,
                f"wait_for_event must name one event or more, of 1 to {MAX_EVENT_NAME_BYTES} bytes"
                " each.",
            )
        problem = None if if_exp is None else _problem_of(if_exp)
        if problem is not None:
            raise self._invalid(step_id, f"if_exp is not a valid expression: {problem}.")
        timeout_ms = self._milliseconds(step_id, "timeout", timeout)
        options = {"events": names, "if": if_exp, "timeout_ms": timeout_ms}
        found = await self._runner.step(protocol.WAIT_FOR_EVENT, step_id, options)
        return None if found is None else Event.model_validate(found)

    @_told
    async def wait_for_signal(
        self,
        step_id: str,
        *,
        signal: str,
        timeout: int | datetime.timedelta | None = None,
        on_conflict: Literal["fail", "replace"] = "fail",
    ) -> Signal | None:
        """Wait for a signal of that name, unique in the namespace; None after `timeout` (default:
        one year).

        If another run waits for it already, this one fails, or with `on_conflict="replace"` takes
        its place.
        """
        options: dict[str, Any] = {
            "signal": self._signal_name(step_id, signal),
            "replace": on_conflict == "replace",
        }
        if timeout is not None:
            options["timeout_ms"] = self._milliseconds(step_id, "timeout", timeout)
        found = await self._runner.step(protocol.WAIT_FOR_SIGNAL, step_id, options)
        return None if found is None else Signal.model_validate(found)

    @_told
    async def send_signal(self, step_id: str, *, signal: str, data: JSON = None) -> str | None:
        """Send a signal once, durably; the id of the run that waited for it, or None if nobody
        did."""
        name = self._signal_name(step_id, signal)

        async def body() -> str | None:
            return await self._runner.send_signal(name, data_to_json(data, f'Step "{step_id}"'))

        return cast(str | None, await self._runner.step(protocol.RUN, step_id, {}, body))

    @_told
    async def invoke(
        self,
        step_id: str,
        *,
        function: Invocable[T],
        data: Mapping[str, object] | None = None,
        timeout: int | datetime.timedelta | None = None,
        v: str | None = None,
    ) -> T:
        """Run another function of this app and return its result.

        Raises `StepError` when it fails, or does not end within `timeout` (int: milliseconds;
        default one year).
        """
        if not isinstance(function, Invocable):
            raise self._invalid(
                step_id,
                f"invoke takes a function made by create_function, not {shown(function)}. Pass"
                ' that function, or use invoke_by_id(function_id="...").',
            )
        fq_id = f"{self._runner.app_id}-{function.local_id}"
        value = await self._invoke(step_id, fq_id, data, timeout, v, function.output_type)
        return cast(T, value)

    @_told
    async def invoke_by_id(
        self,
        step_id: str,
        *,
        app_id: str | None = None,
        function_id: str,
        data: Mapping[str, object] | None = None,
        timeout: int | datetime.timedelta | None = None,
        v: str | None = None,
    ) -> object:
        """Like `invoke`, by the local id of a function of any app (default: this one)."""
        fq_id = f"{app_id or self._runner.app_id}-{function_id}"
        return await self._invoke(step_id, fq_id, data, timeout, v, EmptySentinel)

    async def _invoke(
        self,
        step_id: str,
        function_id: str,
        data: Mapping[str, object] | None,
        timeout: int | datetime.timedelta | None,
        v: str | None,
        output_type: object,
    ) -> object:
        payload: dict[str, Any] = {"data": data_to_json(dict(data or {}), f'Step "{step_id}"')}
        if v is not None:
            payload["v"] = v
        options: dict[str, Any] = {"function_id": function_id, "payload": payload}
        if timeout is not None:
            options["timeout_ms"] = self._milliseconds(step_id, "timeout", timeout)
        return await self._runner.step(protocol.INVOKE, step_id, options, output_type=output_type)

    def _milliseconds(self, step_id: str, name: str, duration: int | datetime.timedelta) -> int:
        try:
            return milliseconds(duration)
        except TypeError:
            raise self._invalid(
                step_id,
                f"{name} takes milliseconds (int) or a datetime.timedelta, not {shown(duration)}.",
            ) from None

    def _signal_name(self, step_id: str, signal: str) -> str:
        size = len(signal.encode()) if isinstance(signal, str) else 0
        if not 0 < size <= MAX_SIGNAL_BYTES:
            given = f"{size} bytes" if isinstance(signal, str) else shown(signal)
            raise self._invalid(
                step_id,
                f"the name of a signal is text of 1 to {MAX_SIGNAL_BYTES} bytes, not {given}.",
            )
        return signal

    def _invalid(self, step_id: str, problem: str) -> StepInvalidError:
        return StepInvalidError(self._runner.function_id, step_id, problem)


class StepSync:
    """The durable steps of a handler that is not async; each is described in `Step`."""

    def __init__(self, runner: StepRunner) -> None:
        self._step = Step(runner)

    def run(
        self,
        step_id: str,
        handler: Callable[[*Ts], T],
        *handler_args: *Ts,
        output_type: object = EmptySentinel,
    ) -> T:
        """See `Step.run`."""
        asynchronous = cast(Callable[[*Ts], Awaitable[T]], handler)
        return drive(self._step.run(step_id, asynchronous, *handler_args, output_type=output_type))

    def send_event(self, step_id: str, events: Event | list[Event]) -> list[str]:
        """See `Step.send_event`."""
        return drive(self._step.send_event(step_id, events))

    def sleep(self, step_id: str, duration: int | datetime.timedelta) -> None:
        """See `Step.sleep`."""
        drive(self._step.sleep(step_id, duration))

    def sleep_until(self, step_id: str, until: datetime.datetime) -> None:
        """See `Step.sleep_until`."""
        drive(self._step.sleep_until(step_id, until))

    def wait_for_event(
        self,
        step_id: str,
        *,
        event: str | Sequence[str],
        if_exp: str | None = None,
        timeout: int | datetime.timedelta,
    ) -> Event | None:
        """See `Step.wait_for_event`."""
        return drive(
            self._step.wait_for_event(step_id, event=event, if_exp=if_exp, timeout=timeout)
        )

    def wait_for_signal(
        self,
        step_id: str,
        *,
        signal: str,
        timeout: int | datetime.timedelta | None = None,
        on_conflict: Literal["fail", "replace"] = "fail",
    ) -> Signal | None:
        """See `Step.wait_for_signal`."""
        return drive(
            self._step.wait_for_signal(
                step_id, signal=signal, timeout=timeout, on_conflict=on_conflict
            )
        )

    def send_signal(self, step_id: str, *, signal: str, data: JSON = None) -> str | None:
        """See `Step.send_signal`."""
        return drive(self._step.send_signal(step_id, signal=signal, data=data))

    def invoke(
        self,
        step_id: str,
        *,
        function: Invocable[T],
        data: Mapping[str, object] | None = None,
        timeout: int | datetime.timedelta | None = None,
        v: str | None = None,
    ) -> T:
        """See `Step.invoke`."""
        return drive(self._step.invoke(step_id, function=function, data=data, timeout=timeout, v=v))

    def invoke_by_id(
        self,
        step_id: str,
        *,
        app_id: str | None = None,
        function_id: str,
        data: Mapping[str, object] | None = None,
        timeout: int | datetime.timedelta | None = None,
        v: str | None = None,
    ) -> object:
        """See `Step.invoke_by_id`."""
        return drive(
            self._step.invoke_by_id(
                step_id, app_id=app_id, function_id=function_id, data=data, timeout=timeout, v=v
            )
        )


class Group:
    """`ctx.group` of an async handler."""

    async def parallel(
        self,
        callables: tuple[Callable[[], Awaitable[T]], ...],
        parallel_mode: ParallelMode = ParallelMode.WAIT,
    ) -> tuple[T, ...]:
        """Run `callables` at once; their results in the order given. The first error is raised at
        once.

        `parallel_mode` is Inngest's: whether a callable's next step may start before the whole
        group has finished its current ones. Here it always may, so both modes give the same results
        and neither waits needlessly.
        """

        async def call(function: Callable[[], Awaitable[T]]) -> T:
            return await function()

        return tuple(await asyncio.gather(*(call(function) for function in callables)))


class GroupSync:
    """`ctx.group` of a handler that is not async."""

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner

    def parallel(
        self,
        callables: tuple[Callable[[], T], ...],
        parallel_mode: ParallelMode = ParallelMode.WAIT,
    ) -> tuple[T, ...]:
        """As `Group.parallel`: each callable runs up to the step it needs, then all those steps run
        at once."""
        results: list[T] = []
        interrupt: Interrupt | None = None
        before, self._runner.side_by_side = self._runner.side_by_side, True
        for function in callables:
            self._runner.unwinding = False
            try:
                results.append(function())
            except Interrupt as raised:
                if self._runner.ended:
                    raise
                interrupt = raised
        self._runner.side_by_side = before
        if interrupt is not None:
            self._runner.unwinding = True
            raise interrupt
        return tuple(results)


def _is_event_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name.encode()) <= MAX_EVENT_NAME_BYTES


def _not_a_function(step_id: str, given: object) -> str:
    if not inspect.iscoroutine(given):
        return f"run takes a function and its arguments, not {shown(given)}."
    given.close()  # otherwise Python warns that nobody awaited it
    name = given.__name__
    return (
        f"run takes a function and its arguments, not the coroutine that {name}(...) returned."
        f' Write run("{step_id}", {name}, ...), without calling it.'
    )


@functools.lru_cache(maxsize=1_000)
def _problem_of(expression: str) -> str | None:
    """Why an expression does not compile; cached, because a handler is executed many times."""
    try:
        check_condition(expression)
    except ExpressionError as error:
        return str(error)
    return None
