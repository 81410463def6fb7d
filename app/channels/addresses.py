"""Where outgoing calls may go (SSRF): public addresses only, unless a host or network was allowed on purpose.

The name is resolved once and the call goes to the very address that was checked, so a name that changes its answer
between check and call gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

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
        plain = _unwrapped(address)
        return (plain.is_global and not plain.is_multicast) or any(plain in network for network in self.networks)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one (mapped, 6to4), which is the one that is reached."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address.sixtofour or address
    return address


async def checked_address(host: str, port: int, allowed: AllowList) -> Address | None:
    """The address to call for `host`; None when any of its addresses is forbidden. Raises OSError when it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(allowed.permits(host, a) for a in addresses):
        return None
    return addresses[0]
