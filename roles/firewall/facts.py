"""What the role firewall asks a device."""

from __future__ import annotations

from pyinfra.api import FactBase

from roles.firewall.ruleset import TABLE

SUM = "/run/muster-firewall.sum"
"""Where the unit notes what the kernel's rules are like once they were loaded."""

LISTED = f"nft --stateless list table {TABLE} | sha256sum"


class LoadedRules(FactBase[bool]):
    """Whether the kernel has the rules as they were loaded, nobody having changed them since."""

    def command(self, noted: str) -> str:
        return f'[ "$({LISTED} 2>/dev/null)" = "$(cat {noted} 2>/dev/null)" ] && echo loaded; true'

    @staticmethod
    def default() -> bool:
        return False

    def process(self, output: list[str]) -> bool:
        return "loaded" in output
