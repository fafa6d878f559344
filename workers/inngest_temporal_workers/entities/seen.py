"""The keys of events that entities remember, so that an event that is sent again has no second
effect. Workflow code."""

import base64
import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

DAY_MS = 86_400_000
BLOCK_MS = 600_000
"""Keys that were added within this time are forgotten together."""
MAX_REMEMBERED = 50_000
"""Maximum number of keys that one gate remembers: about 550 kB of what it carries over."""
_BYTES = 8
"""Length of a key's digest. Two of 50,000 keys have the same digest on one day in 10^10."""


class Seen:
    """The last keys that were added, in order."""

    def __init__(self, size: int, keys: Iterable[str] = ()) -> None:
        self._size = size
        self._keys = OrderedDict.fromkeys(keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def add(self, key: str) -> bool:
        """Remember a key; whether it is new."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > self._size:
            self._keys.popitem(last=False)
        return True


class SeenToday:
    """The keys that were added in the last 24 hours; the last 50,000 if there were more."""

    def __init__(self, blocks: Iterable[Sequence[Any]] = ()) -> None:
        """`blocks` is the result of `dump`."""
        self._blocks = deque(
            (int(since_ms), deque(_split(base64.b64decode(text)))) for since_ms, text in blocks
        )
        self._known = {digest for _, block in self._blocks for digest in block}

    def dump(self) -> list[list[Any]]:
        """The keys as JSON: `[[ms, base64], ...]`."""
        return [
            [since_ms, base64.b64encode(b"".join(block)).decode()]
            for since_ms, block in self._blocks
        ]

    @property
    def until_ms(self) -> int | None:
        """When the last key is forgotten; None if there is none."""
        return self._blocks[-1][0] + BLOCK_MS + DAY_MS if self._blocks else None

    def add(self, key: str, now_ms: int) -> bool:
        """Remember a key; whether it is new."""
        digest = hashlib.blake2b(key.encode(), digest_size=_BYTES).digest()
        if digest in self._known:
            return False
        if not self._blocks or now_ms >= self._blocks[-1][0] + BLOCK_MS:
            self._blocks.append((now_ms, deque()))
        self._blocks[-1][1].append(digest)
        self._known.add(digest)
        if len(self._known) > MAX_REMEMBERED:
            self._known.discard(self._blocks[0][1].popleft())
            if not self._blocks[0][1]:
                self._blocks.popleft()
        return True

    def forget(self, now_ms: int) -> None:
        """Forget keys that were added more than 24 hours ago."""
        while self._blocks and now_ms >= self._blocks[0][0] + BLOCK_MS + DAY_MS:
            self._known.difference_update(self._blocks.popleft()[1])


def _split(digests: bytes) -> Iterator[bytes]:
    return (digests[at : at + _BYTES] for at in range(0, len(digests), _BYTES))
