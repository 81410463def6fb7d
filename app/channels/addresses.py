"""Where outgoing calls may go (SSRF): public addresses only, unless a host or network was allowed on purpose.

The name is resolved once and the call goes to the very address that was checked, so a name that changes its answer
between check and call gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class AllowList:
    """Hosts (exact names) and networks (CIDR) that may be called although they are private; `anything` switches the check off."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    anything: bool = False

    @classmethod
    def of(cls, entries: Sequence[str], *, anything: bool = False) -> "AllowList":
        """From settings: each entry is a CIDR, an address or a host name."""
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.add(entry.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks), anything)

    def permits(self, host: str, address: Address) -> bool:
        """Whether `host`, which resolved to `address`, may be called."""
        if self.anything or host.lower().rstrip(".") in self.hosts:
            return True
        reached = _reached(address)
        if all(_public(plain) for plain in reached):
            return True
        return any(all(plain in network for plain in reached) or address in network for network in self.networks)


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
"""Prefixes whose last 32 bits are the IPv4 address that is reached (RFC 6052, RFC 4291)."""
_NAT64_LOCAL: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
"""A network's own NAT64 (RFC 8215): where it leads is not to be seen, so it counts as private."""


def _public(plain: Address) -> bool:
    return plain.is_global and not plain.is_multicast and not (isinstance(plain, ipaddress.IPv6Address) and plain in _NAT64_LOCAL)


def _reached(address: Address) -> tuple[Address, ...]:
    """What is reached through an address: the IPv4 ones inside an IPv6 one (mapped, 6to4, NAT64, Teredo), else itself."""
    if not isinstance(address, ipaddress.IPv6Address):
        return (address,)
    inside = address.ipv4_mapped or address.sixtofour
    if inside is not None:
        return (inside,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return (address,)


async def checked_address(host: str, port: int, allowed: AllowList) -> Address | None:
    """The address to call for `host`; None when any of its addresses is forbidden. Raises OSError when it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(allowed.permits(host, a) for a in addresses):
        return None
    return addresses[0]
