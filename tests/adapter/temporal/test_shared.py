import asyncio

import pytest

from inngest_temporal.temporal.shared import MAX_KEPT, Shared


async def test_what_many_ask_for_is_read_once() -> None:
    reads: list[str] = []
    gate = asyncio.Event()

    async def read(key: str) -> str:
        reads.append(key)
        await gate.wait()
        if key == "bad":
            raise ValueError(key)
        return key.upper()

    shared = Shared(read, lambda found: 0.0 if found == "OLD" else 60.0)
    first = asyncio.create_task(shared.get("a"))
    others = [asyncio.create_task(shared.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await asyncio.gather(*others) == ["A"] * 5
    assert await shared.get("a") == "A"
    assert reads == ["a"]
    for _ in range(2):
        assert await shared.get("old") == "OLD"
        with pytest.raises(ValueError, match="bad"):
            await shared.get("bad")
    assert reads == ["a", "old", "bad", "old", "bad"]
    for number in range(MAX_KEPT):
        await shared.get(str(number))
    await shared.get("a")
    assert reads.count("a") == 2
