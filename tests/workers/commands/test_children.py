"""Child processes that end at an awkward moment."""

import asyncio
import sys
from collections.abc import Awaitable

import pytest

from inngest_temporal_workers.commands.children import Children


async def test_a_child_that_ends_just_when_it_is_given_up_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def wait_for(work: Awaitable[int], seconds: float) -> None:
        await work
        raise TimeoutError

    async with Children().start([sys.executable, "-c", "input()"]) as child:
        monkeypatch.setattr(asyncio, "wait_for", wait_for)
    assert child.returncode is not None
