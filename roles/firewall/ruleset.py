"""The rules, made from what is open. Pure: knows no device."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from roles.facts import SshSession
from roles.firewall.variables import Variables
from roles.variables import OpenPort

TABLE = "inet muster"
_LOG = 'limit rate 10/minute log prefix "muster-firewall: "'
_BRIDGES = ("podman*", "cni-podman*", "nerdctl*")


@dataclass(frozen=True)
class Rules:
    """What a device lets in.

    :param ssh: the ports of SSH, at least the one that the controller came through.
    :param opened: by the device's roles and by ``firewall_allow``.
    """

    ssh: Sequence[int]
    opened: Sequence[OpenPort]


def ruleset(variables: Variables, rules: Rules) -> str:
    """What ``nft -f`` reads: one table of our own, replaced in one step.

    Nobody else's table is touched.
    """
    ssh = [
        OpenPort(port, "tcp", "SSH", tuple(variables.firewall_ssh_sources))
        for port in sorted({*rules.ssh})
    ]
    ports = [*ssh, *rules.opened]
    lines = [
        "# written by the role firewall",
        # makes the table where there is none, so that it can be deleted
        f"table {TABLE}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
    ]
    if variables.firewall_containers:
        # what a runtime hands on to a container passes the input chain by
        lines += _chain("published", _published(variables, rules.opened))
        handed_on = ["ct state established,related accept", "ct status dnat jump published"]
        lines += _chain("forward", [_hook("forward", "accept"), *handed_on])
    lines += _chain("input", [_hook("input", "drop"), *_input(variables, ports)])
    return "\n".join([*lines, "}"]) + "\n"


def _hook(name: str, policy: str) -> str:
    return f"type filter hook {name} priority filter; policy {policy};"


def _chain(name: str, lines: Iterable[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{line}" for line in lines), "\t}"]


def _input(variables: Variables, ports: Sequence[OpenPort]) -> Iterator[str]:
    yield "ct state established,related accept"
    yield "ct state invalid drop"
    yield 'iifname "lo" accept'
    for interface in variables.firewall_trusted_interfaces:
        yield f'iifname "{interface}" accept'
    yield from _control(variables.firewall_ping)
    for bridge in _BRIDGES:
        # containers ask the bridge for names and for their address
        yield f'iifname "{bridge}" udp dport {{ 53, 67 }} accept'
        yield f'iifname "{bridge}" tcp dport 53 accept'
    for port in ports:
        yield from _accept(port, f"{port.protocol} dport {port.port}")
    if variables.firewall_log:
        yield _LOG


def _control(ping: bool) -> Iterator[str]:
    # without these no path has the right packet size, and IPv6 finds no neighbour
    yield "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept"
    yield (
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem,"
        " nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert,"
        " mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }"
        " accept"
    )
    if ping:
        yield "icmp type echo-request accept"
        yield "icmpv6 type echo-request accept"
    yield "udp sport 67 udp dport 68 accept"
    yield "ip6 saddr fe80::/10 udp dport 546 accept"


def _published(variables: Variables, opened: Sequence[OpenPort]) -> Iterator[str]:
    for interface in variables.firewall_trusted_interfaces:
        yield f'iifname "{interface}" accept'
    for port in opened:
        asked = f"meta l4proto {port.protocol} ct original proto-dst {port.port}"
        yield from _accept(port, asked)
    if variables.firewall_log:
        yield _LOG
    yield "drop"


def _accept(port: OpenPort, match: str) -> Iterator[str]:
    comment = f' comment "{port.why}"' if port.why else ""
    if not port.sources:
        yield f"{match} accept{comment}"
    for version, word in ((4, "ip"), (6, "ip6")):
        networks = [s for s in port.sources if ipaddress.ip_network(s).version == version]
        if networks:
            yield f"{word} saddr {{ {', '.join(networks)} }} {match} accept{comment}"


def ssh_problem(sources: Sequence[str], session: SshSession) -> str | None:
    """Why the controller would lock itself out, None if it would not.

    :param sources: networks that may reach SSH, everybody if empty.
    :param session: how the controller came in.
    """
    if not session.ports:
        return "expected to find out the port of SSH, got no answer: the rules would close it"
    if not sources or session.address is None:
        return None
    here = ipaddress.ip_address(session.address.partition("%")[0])
    here = getattr(here, "ipv4_mapped", None) or here
    if any(here in ipaddress.ip_network(source) for source in sources):
        return None
    return (
        f"expected firewall_ssh_sources to have {here}, from where this connection comes, got"
        f" {', '.join(sources)}"
    )
