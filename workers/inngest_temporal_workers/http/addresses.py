"""The addresses to which connections may be made for an app, whose users may have named them.

Addresses that are not public are refused unless they are allowed, because an app must not reach
through us what only we can reach. The connection is made to the very address that was checked, so a
name can't resolve to another address a moment later.
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpcore

ALLOW_VARIABLE = "INNGEST_TEMPORAL_GATEWAY_ALLOW"

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_SPECIAL = [
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's own services, which every machine there can reach
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
]
"""IANA's special-purpose addresses. Python's `is_global` has had gaps."""
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
_WITH_V4 = (ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96"))
"""Networks whose addresses stand for IPv4 addresses."""


class AddressRefusedError(Exception):
    """The policy does not permit any address of a host. The message is shown with the run."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} has no public address, and {ALLOW_VARIABLE} of the worker does not allow it."
        )


@dataclass(frozen=True)
class AddressPolicy:
    """The addresses that are allowed in addition to public ones."""

    everything: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()

    @classmethod
    def from_env(cls, *, dev: bool, environ: Mapping[str, str] | None = None) -> "AddressPolicy":
        """From `INNGEST_TEMPORAL_GATEWAY_ALLOW`: hosts, addresses and networks, separated by
        commas. `dev` allows everything. Raises `ValueError`."""
        environ = os.environ if environ is None else environ
        hosts, networks = set(), []
        for part in filter(None, map(str.strip, environ.get(ALLOW_VARIABLE, "").split(","))):
            try:
                networks.append(ipaddress.ip_network(part, strict=False))
            except ValueError:
                if "/" in part or ":" in part:
                    raise ValueError(
                        f"{ALLOW_VARIABLE}: {part!r} is neither a host nor a network such as"
                        " 10.0.0.0/8."
                    ) from None
                hosts.add(_host(part))
        return cls(dev, frozenset(hosts), tuple(networks))

    def permits(self, host: str, address: str) -> bool:
        """Whether an address of a host may be connected to."""
        if self.everything or _host(host) in self.hosts:
            return True
        try:
            ip = _plain(ipaddress.ip_address(address))
        except ValueError:
            return False
        return is_public(ip) or any(ip in network for network in self.networks)


async def permitted(
    policy: AddressPolicy, host: str, port: int, timeout: float | None
) -> list[str]:
    """The addresses of a host that may be connected to. Raises `AddressRefusedError`, and
    httpcore's errors."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(f"The name {host} was not resolved in time.") from error
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"The name {host} can't be resolved: {error}") from error
    addresses = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
    allowed = [each for each in addresses if policy.permits(host, each)]
    if not allowed:
        raise AddressRefusedError(host)
    return allowed


def is_public(address: IPAddress) -> bool:
    """Whether anybody on the internet can reach the address."""
    address = _plain(address)
    if address.version == 6 and (address not in _PUBLIC_V6 or getattr(address, "scope_id", None)):
        return False
    return not any(address in network for network in _SPECIAL)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that a policy permits."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Try each permitted address. Raises `AddressRefusedError`, and httpcore's errors."""
        *others, last = await permitted(self._policy, host, port, timeout)
        for address in others:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(last, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """httpcore waits between its own attempts."""
        await self._inner.sleep(seconds)


def _plain(address: IPAddress) -> IPAddress:
    """The IPv4 address for which an IPv6 address stands, or the address itself."""
    if address.version == 6 and any(address in network for network in _WITH_V4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _host(name: str) -> str:
    return name.rstrip(".").lower()
