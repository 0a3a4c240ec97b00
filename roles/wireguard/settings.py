"""The files of the role wireguard and what makes them take effect. Pure: knows no device."""

from __future__ import annotations

from collections.abc import Iterator

from roles.operations import File
from roles.templates import render
from roles.wireguard.variables import Peer, Variables

FOLDER = "/etc/wireguard"


def configuration_path(interface: str) -> str:
    """What wg-quick reads."""
    return f"{FOLDER}/{interface}.conf"


def key_path(interface: str) -> str:
    """The private key, in a file of its own so that the device can make it."""
    return f"{FOLDER}/{interface}.key"


def unit(interface: str) -> str:
    """The unit of a link."""
    return f"wg-quick@{interface}.service"


def link_files(variables: Variables) -> list[File]:
    """All that a link is made of, but for a private key that the device makes."""
    name = variables.wireguard_interface
    files = [
        File(configuration_path(name), configuration(variables), "600"),
        File(
            f"/etc/systemd/system/{unit(name)}.d/50-muster.conf",
            render("wireguard/reload.conf", key=key_path(name), interface=name),
        ),
    ]
    if variables.wireguard_private_key is not None:
        files.append(File(key_path(name), f"{variables.wireguard_private_key}\n", "600"))
    return files


def configuration(variables: Variables) -> str:
    """What wg-quick reads, without the private key."""
    lines = ["# written by the role wireguard", "[Interface]"]
    lines += [f"Address = {address}" for address in variables.wireguard_addresses]
    if variables.wireguard_listen_port:
        lines.append(f"ListenPort = {variables.wireguard_listen_port}")
    if variables.wireguard_mtu:
        lines.append(f"MTU = {variables.wireguard_mtu}")
    lines.append(f"PostUp = wg set %i private-key {key_path('%i')}")
    for peer in variables.wireguard_peers:
        lines += _peer(peer)
    return "\n".join(lines) + "\n"


def _peer(peer: Peer) -> Iterator[str]:
    yield from ("", "[Peer]")
    if peer.name:
        yield f"# {peer.name}"
    yield f"PublicKey = {peer.public_key}"
    if peer.preshared_key:
        yield f"PresharedKey = {peer.preshared_key}"
    if peer.endpoint:
        yield f"Endpoint = {peer.endpoint}"
    yield f"AllowedIPs = {', '.join(peer.allowed_ips)}"
    if peer.keepalive:
        yield f"PersistentKeepalive = {int(peer.keepalive)}"


def check(interface: str) -> str:
    """Shell command that fails if WireGuard does not take the staged configuration.

    It tries it on an interface that is never up. Names of endpoints are left out, as there may be
    no way to resolve them yet.
    """
    return f"""try=muster-check
folder=$(mktemp -d) && cp "$(newest {configuration_path(interface)})" "$folder/{interface}.conf"
trap 'ip link delete dev $try 2>/dev/null; rm -r "$folder"' EXIT
wg-quick strip "$folder/{interface}.conf" >"$folder/stripped" || exit 1
ip link add dev $try type wireguard 2>/dev/null || wireguard-go $try >/dev/null 2>&1 || {{
	echo "this kernel has no WireGuard: wireguard_userspace installs one" >&2
	exit 1
}}
grep -v '^Endpoint' "$folder/stripped" >"$folder/tried" && wg setconf $try "$folder/tried"
"""


def take_effect(interface: str) -> str:
    """Shell command that brings a link to what its files say.

    Peers are changed without a pause. What wg-quick alone sets (addresses, routes) needs a restart
    of the link.
    """
    conf, key = configuration_path(interface), key_path(interface)
    started = f"/run/muster-{interface}.started"
    return f"""systemctl daemon-reload
[ -e {conf} ] || {{ systemctl stop {unit(interface)}; exit 0; }}
wg pubkey <{key} >{FOLDER}/{interface}.pub && chmod 644 {FOLDER}/{interface}.pub || exit 1
by_wg_quick() {{ grep -E '^(Address|MTU|AllowedIPs|PostUp) ' {conf} | sort; }}
if systemctl is-active --quiet {unit(interface)} &&
	by_wg_quick | cmp -s - {started}; then
	systemctl reload {unit(interface)}
else
	systemctl reset-failed {unit(interface)} 2>/dev/null
	systemctl restart {unit(interface)} && by_wg_quick >{started}
fi"""
