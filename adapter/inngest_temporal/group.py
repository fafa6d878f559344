"""Steps side by side."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from .errors import Interrupt
from .models import ParallelMode

if TYPE_CHECKING:
    from inngest_temporal.drivers.local import Pass

T = TypeVar("T")


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

    def __init__(self, pass_: "Pass") -> None:
        self._pass = pass_

    def parallel(
        self,
        callables: tuple[Callable[[], T], ...],
        parallel_mode: ParallelMode = ParallelMode.WAIT,
    ) -> tuple[T, ...]:
        """As `Group.parallel`: each callable runs up to the step it needs, then all those steps run
        at once."""
        results: list[T] = []
        interrupt: Interrupt | None = None
        for function in callables:
            self._pass.unwinding = False
            try:
                results.append(function())
            except Interrupt as raised:
                if self._pass.ended:
                    raise
                interrupt = raised
        if interrupt is not None:
            self._pass.unwinding = True
            raise interrupt
        return tuple(results)
