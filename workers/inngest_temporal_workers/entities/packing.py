"""Lines of text in few bytes: the state of an entity that continues as new must fit one Temporal
payload (2 MB)."""

import base64
import zlib
from collections.abc import Iterable


def pack(lines: Iterable[str]) -> str:
    """Lines as one compressed text. It is much smaller, because ids begin alike and use only 5 bits
    of each character."""
    return base64.b64encode(zlib.compress("\n".join(lines).encode(), 6)).decode()


def unpack(text: str) -> list[str]:
    """The inverse of `pack`."""
    lines = zlib.decompress(base64.b64decode(text)).decode()
    return lines.split("\n") if lines else []
