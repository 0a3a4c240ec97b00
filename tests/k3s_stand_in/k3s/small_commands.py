"""``k3s secrets-encrypt`` and ``k3s check-config``."""

from __future__ import annotations

import json
from pathlib import Path

from . import config
from .processes import FatalError


def secrets_encrypt(arguments: list[str]) -> int:
    """Say whether secrets are encrypted.

    :raises FatalError: for another command than ``status``.
    """
    if arguments[:1] != ["status"]:
        raise FatalError("the stand-in knows secrets-encrypt status alone")
    settings = config.load("server", [])
    file = settings.layout.encryption
    if not file.exists():
        print("Encryption Status: Disabled, no configuration file found")
        return 0
    providers = json.loads(file.read_text(encoding="utf-8"))["resources"][0]["providers"]
    name = providers[0]["aescbc"]["keys"][0]["name"]
    print("Encryption Status: Enabled\nCurrent Rotation Stage: start")
    print("Server Encryption Hashes: All hashes match\n")
    print(f"Active  Key Type  Name\n------  --------  ----\n *      AES-CBC   {name}")
    return 0


def check_config(_arguments: list[str]) -> int:
    """Look at what the kernel offers."""
    controllers = Path("/proc/cgroups").read_text(encoding="ascii").splitlines()[1:]
    enabled = {line.split()[0] for line in controllers if line.split()[3] == "1"}
    wrong = sorted({"memory", "cpu", "cpuset"} - enabled)
    print("\nVerifying binaries in /opt/k3s-stand-in:\n- stand-in: good\n\nSystem:")
    for each in ("cpu", "cpuset", "memory"):
        print(f"- cgroup {each}: {'missing' if each in wrong else 'enabled'}")
    print(f"\nSTATUS: {f'{len(wrong)} (fail)' if wrong else 'pass'}")
    return 1 if wrong else 0
