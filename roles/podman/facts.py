"""What the role podman asks a device."""

from __future__ import annotations

from typing import Any

from pyinfra.api import FactBase

SERVICES = (
    "podman.socket",
    "podman.service",
    "podman-auto-update.timer",
    "podman-auto-update.service",
)
"""Units of Podman's API, and of updates by itself."""


class PodmanState(FactBase[dict[str, Any]]):
    """The ``version`` of Podman, empty if it does not answer, and which of its ``services`` are
    enabled or active."""

    def command(self) -> str:
        return (
            f"for unit in {' '.join(SERVICES)}; do"
            " systemctl is-enabled --quiet $unit 2>/dev/null && echo enabled $unit;"
            " systemctl is-active --quiet $unit && echo active $unit; done;"
            " timeout 60 podman info --format 'version {{.Version.Version}}' 2>/dev/null; true"
        )

    @staticmethod
    def default() -> dict[str, Any]:
        return {"version": "", "services": []}

    def process(self, output: list[str]) -> dict[str, Any]:
        found = self.default()
        for line in output:
            word, _, rest = line.partition(" ")
            if word == "version":
                found["version"] = rest
            elif rest not in found["services"]:
                found["services"].append(rest)
        return found
