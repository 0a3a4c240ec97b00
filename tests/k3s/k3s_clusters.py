"""Clusters that ``deploys/k3s.py`` brings up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from conftest import MakeFleet
from k3s_nodes import Node

from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT
from muster.provisioning import REPORT_FILE
from roles.k3s.prerequisites import UPGRADE


@dataclass
class Outcome:
    """What became of a run: operations by device, with their outcomes."""

    code: int
    devices: Mapping[str, Mapping[str, Any]]

    @property
    def changed(self) -> list[str]:
        """Operations that changed something."""
        return [
            f"{device}: {operation['name']}"
            for device, told in self.devices.items()
            for operation in told["operations"]
            if operation["outcome"] == "changed"
        ]

    def error(self, device: str) -> str:
        """What a device failed with."""
        operations = self.devices[device]["operations"]
        return "\n".join(each["error"] for each in operations if each["outcome"] == "failed")


@dataclass
class Clusters:
    """The clusters of one fleet."""

    fleet: EmulatedFleet
    folder: Path
    nodes: dict[str, Node]
    variables: dict[str, Any] = field(default_factory=dict)

    def converge(self, *arguments: str, upgrade: str = "", **variables: Any) -> Outcome:
        """Run ``deploys/k3s.py``, with other variables for this once."""
        group_vars = self.fleet.inventory_file.parent / "group_vars"
        group_vars.mkdir(exist_ok=True)
        text = yaml.safe_dump({**self.variables, **variables})
        (group_vars / "all.yml").write_text(text, encoding="utf-8")
        report = self.folder / "report"
        report.write_text("")
        environment = os.environ | {
            "MUSTER_INVENTORY": str(self.fleet.inventory_file),
            "MUSTER_STATE_DIR": str(self.folder / "state"),
            "PYTHONPATH": str(COLLECTION_ROOT),
            REPORT_FILE: str(report),
            UPGRADE: upgrade,
        }
        deploys = COLLECTION_ROOT / "deploys"
        command = [sys.executable, "-m", "pyinfra", "--json", "--config", os.devnull, "--yes"]
        command += [str(deploys / "inventory.py"), str(deploys / "k3s.py"), *arguments]
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=800,
        )
        print(done.stderr)
        lines = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
        return Outcome(done.returncode, {line["device"]: line for line in lines})

    def starts(self) -> dict[str, str]:
        """When and how often K3s was started on each node."""
        asked = "--property=NRestarts,ActiveEnterTimestampMonotonic,MainPID"
        return {
            name: node.run(f"systemctl show {asked} k3s.service k3s-agent.service")
            for name, node in self.nodes.items()
        }

    def binaries(self) -> dict[str, str]:
        """Checksums of the programs on each node; those that wait count."""
        command = "sha256sum /usr/local/bin/k3s /usr/local/bin/.k3s.muster-* 2>/dev/null"
        return {name: node.run(command, expect=None) for name, node in self.nodes.items()}


def up(
    make: MakeFleet, word: str, devices: dict[str, dict[str, Any]], folder: Path, **variables: Any
) -> Clusters:
    fleet = make(word, devices)
    nodes = {name: Node(fleet, name) for name in devices}
    return Clusters(fleet, folder, nodes, {"muster_device_runtime": "k3s", **variables})
