"""What the role jetson asks a device."""

from __future__ import annotations

import re

from pyinfra.api import FactBase


class RuntimeMode(FactBase[str]):
    """How NVIDIA's container runtime finds the devices of a container: ``auto``, ``csv`` ...

    Empty if the tool is not installed.
    """

    def command(self) -> str:
        return "nvidia-ctk config 2>/dev/null; true"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        section = ""
        for line in output:
            if match := re.match(r"\s*\[([^\]]+)\]", line):
                section = match[1]
            match = re.match(r'\s*mode\s*=\s*"([^"]*)"', line)
            if match and section == "nvidia-container-runtime":
                return match[1]
        return ""
