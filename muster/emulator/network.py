"""Which subnet a site gets, and which address a device gets in it."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

POOL = IPv4Network("10.192.0.0/10")
"""Private range that sites get their /24 from."""

REGISTRY_HOST = 2
FIRST_DEVICE_HOST = 10


def free_subnets(site: str, used: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Yield /24 networks of :data:`POOL` that overlap none of ``used``.

    The order starts at a place that depends on ``site`` alone, so that a fleet which is brought up
    again mostly gets its old addresses, and two fleets that start together rarely collide.
    """
    taken = list(used)
    count = 1 << (24 - POOL.prefixlen)
    start = int.from_bytes(hashlib.sha256(site.encode()).digest()[:4], "big")
    for offset in range(count):
        base = int(POOL.network_address) + ((start + offset) % count << 8)
        candidate = IPv4Network((base, 24))
        if not any(candidate.overlaps(network) for network in taken):
            yield candidate


def host_routes(table: str | None = None) -> list[IPv4Network]:
    """Networks that this machine already routes, the default route left out.

    :param table: text of ``/proc/net/route``; read from there when not given.
    """
    if table is None:
        path = Path("/proc/net/route")
        table = path.read_text(encoding="ascii") if path.exists() else ""
    networks = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, mask = (_host_order(fields[index]) for index in (1, 7))
        if mask:
            networks.append(IPv4Network((address & mask, mask.bit_count())))
    return networks


def _host_order(field: str) -> int:
    # the kernel prints the bytes of an address as one number of the machine's byte order
    return int(ipaddress.IPv4Address(socket.inet_ntoa(struct.pack("=L", int(field, 16)))))


def assign_addresses(
    subnet: IPv4Network, devices: Sequence[str], present: Mapping[str, str]
) -> dict[str, str]:
    """Give every device an address; those ``present`` keep theirs.

    :raises ValueError: when the subnet is too small.
    """
    addresses = {
        name: present[name]
        for name in devices
        if name in present and ipaddress.IPv4Address(present[name]) in subnet
    }
    taken = set(addresses.values())
    free = (
        str(subnet[host])
        for host in range(FIRST_DEVICE_HOST, subnet.num_addresses - 1)
        if str(subnet[host]) not in taken
    )
    for name in devices:
        if name not in addresses:
            try:
                addresses[name] = next(free)
            except StopIteration:
                raise ValueError(f"{subnet} is too small for {len(devices)} devices") from None
    return {name: addresses[name] for name in devices}
