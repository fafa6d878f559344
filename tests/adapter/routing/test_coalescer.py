"""Calls that are grouped."""

import asyncio
import traceback
from collections.abc import Sequence

import pytest

from inngest_temporal.routing.coalescer import Coalescer


async def test_an_error_that_many_get_has_a_short_traceback() -> None:
    async def call(_: str, items: Sequence[int]) -> Sequence[int]:
        raise ValueError("busy")

    coalescer = Coalescer(call)
    asked = [coalescer.ask("entity", number, 1) for number in range(100)]
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert len(errors) == 100
    for error in errors:
        assert isinstance(error, ValueError)
        assert len(traceback.extract_tb(error.__traceback__)) < 5


async def test_what_is_asked_during_a_call_goes_together_in_the_next_one() -> None:
    calls: list[list[int]] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def call(_: str, items: Sequence[int]) -> Sequence[int]:
        calls.append([*items])
        begun.set()
        await go_on.wait()
        return [-item for item in items]

    coalescer = Coalescer(call)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(coalescer.ask("entity", 0, 1))
        await begun.wait()
        others = [group.create_task(coalescer.ask("entity", n, 1)) for n in range(1, 5)]
        await asyncio.sleep(0)
        go_on.set()
    assert [other.result() for other in others] == [-1, -2, -3, -4]
    assert calls == [[0], [1, 2, 3, 4]]


@pytest.mark.parametrize("sizes", [[600_000, 600_000], [10, 10]])
async def test_a_call_has_a_bounded_size(sizes: list[int]) -> None:
    calls: list[int] = []

    async def call(_: str, items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        return items

    coalescer = Coalescer(call)
    await asyncio.gather(*(coalescer.ask("entity", size, size) for size in sizes))
    assert calls == ([1, 1] if sum(sizes) > 1_000_000 else [2])
