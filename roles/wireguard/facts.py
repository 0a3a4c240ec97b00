"""What the role wireguard asks a device."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class WireguardPublicKey(FactBase[str]):
    """The public key of a link, for the peers at its other end; empty if there is none yet."""

    def command(self, interface: str = "wg0") -> str:
        path = quote(f"/etc/wireguard/{interface}.key")
        return f"[ ! -s {path} ] || wg pubkey <{path}; true"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return output[0] if output else ""
