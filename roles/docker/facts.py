"""What the role docker asks a device."""

from __future__ import annotations

import re

from pyinfra.api import FactBase


class DockerVersion(FactBase[str]):
    """Version of the engine that is installed, empty if none is."""

    def command(self) -> str:
        return "dockerd --version 2>/dev/null; true"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        found = re.search(r"version v?(\d+(\.\d+)+)", " ".join(output))
        return found[1] if found else ""


class DockerState(FactBase[dict[str, bool]]):
    """Whether the engine starts with the device (``enabled``) and answers (``ready``)."""

    def command(self) -> str:
        return (
            "systemctl is-enabled docker.service 2>/dev/null; systemctl is-active docker.service"
            " && timeout 20 docker info --format 'version {{.ServerVersion}}' 2>/dev/null; true"
        )

    @staticmethod
    def default() -> dict[str, bool]:
        return {"enabled": False, "ready": False}

    def process(self, output: list[str]) -> dict[str, bool]:
        answered = any(line.startswith("version ") and line.split()[1:] for line in output)
        return {"enabled": "enabled" in output, "ready": answered}
