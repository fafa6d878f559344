"""The one place where sync meets async: the async path is the only implementation, and code that is
not async drives it."""

import inspect
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, cast

from .errors import Error

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end. Raises `Error` if it does suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    finally:
        coroutine.close()
    raise Error(
        "A non-async function tried to await: its middleware and serializer must not be async."
    )


async def maybe_await(result: T | Awaitable[T]) -> T:
    """The result of a hook or a transport, which may be async or not."""
    return await result if inspect.isawaitable(result) else result
