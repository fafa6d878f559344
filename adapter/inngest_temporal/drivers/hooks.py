"""The middleware's hooks around one execution."""

import asyncio
import contextvars
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from inngest_temporal.context import Context, ContextSync
from inngest_temporal.errors import OutputUnserializableError
from inngest_temporal.functions import FunctionPart
from inngest_temporal.logger import FilteredLogger
from inngest_temporal.middleware import (
    MiddlewareManager,
    Output,
    StepMemos,
    TransformOutputResult,
    TransformOutputStepInfo,
)
from inngest_temporal.models import Event, SendEventsResult
from inngest_temporal.serialization import EmptySentinel, to_json

from .failures import as_exception
from .protocol import Memo, memo_from_json

T = TypeVar("T")


class Hooks:
    """Calls all hooks with the same context variables.

    Hooks of async functions may be reached in any task of the handler, and each task has its own
    copy of the variables. So a token that one hook got could not be reset in another one.
    """

    def __init__(
        self,
        part: FunctionPart,
        variables: contextvars.Context,
        log_context: Callable[[], dict[str, Any]],
    ) -> None:
        self.is_empty = not (part.client.middleware or part.middleware)
        # The built-in middleware uses this logger. It is made here, so that no hooks need to be
        # called if there is no other middleware.
        self.logger = FilteredLogger(part.client.logger, log_context)
        self._part = part
        self._variables = variables
        self._manager: MiddlewareManager
        self._reached_new_code = False
        self._has_executed = False
        self._has_responded = False

    def open(self) -> None:
        """Create the middleware's instances. Raises what their constructors raise."""
        part = self._part
        self._manager = MiddlewareManager.for_function(
            part.client, part.middleware, None, part.is_async
        )

    async def _call(self, hook: Coroutine[Any, Any, T]) -> T:
        if self.is_empty or not self._part.is_async:
            return await hook
        return await asyncio.get_running_loop().create_task(hook, context=self._variables)

    async def transform_input(
        self, context: Context | ContextSync, memos: Sequence[tuple[str, str]]
    ) -> dict[str, Memo]:
        """The memos as middleware changed them, by hashed step id; none if there is no
        middleware."""
        if self.is_empty:
            return {}
        known = {step: memo_from_json(json.loads(text)) for step, text in memos}
        outputs = {step: Output(memo.data, memo.error) for step, memo in known.items()}
        function = self._part.function
        await self._call(self._manager.transform_input(context, function, StepMemos(outputs)))
        return {step: Memo(output.data, output.error) for step, output in outputs.items()}

    async def reach_new_code(self) -> None:
        """Note that code begins here which no earlier execution has executed."""
        if not self._reached_new_code:
            self._reached_new_code = True
            self.logger.enable()
            await self._call(self._manager.before_execution())

    async def after_execution(self) -> None:
        self._has_executed = True
        await self._call(self._manager.after_execution())

    async def before_response(self) -> None:
        self._has_responded = True
        await self._call(self._manager.before_response())

    async def conclude(self) -> None:
        """Call those that come at the end of an execution, unless they were called."""
        if not self._has_executed:
            await self.after_execution()
        if not self._has_responded:
            await self.before_response()

    async def before_send_events(self, events: list[Event]) -> None:
        await self._call(self._manager.before_send_events(events))

    async def after_send_events(self, result: SendEventsResult) -> None:
        await self._call(self._manager.after_send_events(result))

    async def planned(self, step: TransformOutputStepInfo) -> None:
        """Show the middleware a step of another kind than `step.run`, before it begins."""
        result = TransformOutputResult(error=None, output=EmptySentinel, step=step)
        await self._call(self._manager.transform_output(result))

    async def transform_output(
        self, output: Any, error: BaseException | None, step: TransformOutputStepInfo | None
    ) -> tuple[Any, BaseException | None]:
        """An output, as JSON, or an error, as middleware changed it. `step` is None for the output
        of the function."""
        shown = as_exception(error)
        result = TransformOutputResult(error=shown, output=output, step=step)
        await self._call(self._manager.transform_output(result))
        if result.error is not None:
            return None, error if result.error is shown else result.error
        if not result.has_output():
            return None, None
        if self.is_empty:
            return result.output, None
        try:
            return to_json(result.output, self._part.id if step is None else step.id), None
        except OutputUnserializableError as raised:
            return None, raised
