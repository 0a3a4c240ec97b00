"""What the role containerd asks a device."""

from __future__ import annotations

import re
from typing import Any

from pyinfra.api import FactBase


class ContainerdState(FactBase[dict[str, Any]]):
    """The ``version`` of containerd, empty if none is installed, whether it starts with the device
    (``enabled``) and whether it ``answers``."""

    def command(self) -> str:
        return (
            "containerd --version 2>/dev/null; systemctl is-enabled containerd.service 2>/dev/null;"
            " timeout 20 ctr --connect-timeout 5s version >/dev/null 2>&1 && echo answers; true"
        )

    @staticmethod
    def default() -> dict[str, Any]:
        return {"version": "", "enabled": False, "answers": False}

    def process(self, output: list[str]) -> dict[str, Any]:
        told = " ".join(line for line in output if line.startswith("containerd "))
        found = re.search(r" v?(\d+(\.\d+)+)", told)
        return {
            "version": found[1] if found else "",
            "enabled": "enabled" in output,
            "answers": "answers" in output,
        }
