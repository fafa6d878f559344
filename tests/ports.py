"""Free ports for servers that tests start."""

import secrets
import socket

FIRST, LAST = 10_000, 32_000
"""Below the ports that Linux gives to connections, which could take one before its server does."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing uses now."""
    while True:
        port = FIRST + secrets.randbelow(LAST - FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
