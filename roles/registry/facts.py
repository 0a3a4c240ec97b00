"""What the role registry asks a device."""

from __future__ import annotations

from pyinfra.api import FactBase


class RegistryState(FactBase[dict[str, bool]]):
    """Whether the registry starts with the device (``enabled``), and serves with the certificate
    that it was given (``serving``)."""

    def command(self) -> str:
        return (
            "systemctl is-enabled muster-registry.service 2>/dev/null;"
            " timeout 20 /usr/local/sbin/muster-registry serving 2>/dev/null; true"
        )

    @staticmethod
    def default() -> dict[str, bool]:
        return {"enabled": False, "serving": False}

    def process(self, output: list[str]) -> dict[str, bool]:
        return {
            "enabled": "enabled" in output,
            "serving": any('"serving": true' in line for line in output),
        }
