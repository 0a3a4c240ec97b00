"""What the role storage asks a device."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class Fstab(FactBase[list[str]]):
    """Lines of an fstab."""

    def command(self, path: str = "/etc/fstab") -> str:
        # the mark keeps leading spaces
        return f"sed 's/^/|/' {quote(path)} 2>/dev/null; true"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line[1:] for line in output]


class OwnFiles(FactBase[list[str]]):
    """Which of some files this role has written."""

    def command(self, paths: list[str]) -> str:
        names = " ".join(quote(path) for path in paths)
        return f"grep -lF 'written by the role storage' -- {names} 2>/dev/null; true"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return output


class ZramInUse(FactBase[bool]):
    """Whether the device swaps to compressed memory."""

    def command(self, device: str) -> str:
        return f"grep {quote(f'^{device} ')} /proc/swaps; true"

    @staticmethod
    def default() -> bool:
        return False

    def process(self, output: list[str]) -> bool:
        return bool(output)


class DiskSwap(FactBase[list[str]]):
    """Swap that is in use on disks, and units that are enabled and would bring it back."""

    def command(self, units: list[str]) -> str:
        names = " ".join(quote(unit) for unit in units)
        return (
            "sed -n '/^\\/dev\\/zram/d; 2,$s/[[:space:]].*//p' /proc/swaps;"
            f" for unit in {names}; do"
            ' [ "$(systemctl is-enabled "$unit" 2>/dev/null)" != enabled ] || echo "$unit"; done'
        )

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line for line in output if line]
