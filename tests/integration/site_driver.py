"""A provisioned emulated fleet with the releases of the reference model, driven by ``muster``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.digits import answering_versions
from muster.emulator import EmulatedFleet
from muster.inventory import load_inventory
from muster.paths import COLLECTION_ROOT

STRATEGY = """\
apiVersion: muster/v1
kind: Strategy
waves: {waves}
min_healthy_time: 3s
healthy_deadline: {healthy_deadline}
probe_interval: 1s
confirm_timeout: {confirm_timeout}
command_margin: 15s
"""


@dataclass
class Site:
    """Runs commands against one fleet, with a journal of its own."""

    fleet: EmulatedFleet
    folder: Path
    releases: Mapping[str, Path]

    @property
    def inventory(self) -> Path:
        return self.fleet.inventory_file

    @property
    def names(self) -> list[str]:
        return [device.name for device in load_inventory(self.inventory).devices]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "MUSTER_STATE_DIR": str(self.folder / "state"),
            "MUSTER_INVENTORY": str(self.inventory),
            "PYTHONPATH": str(COLLECTION_ROOT),
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start ``muster`` with these arguments."""
        return subprocess.Popen(
            [sys.executable, "-m", "muster", *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def muster(
        self, *arguments: str | Path, timeout: float = 400
    ) -> subprocess.CompletedProcess[str]:
        """Run ``muster`` to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        print(out, err, sep="\n")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def rollout(
        self, version: str, *arguments: str | Path, expect: int | None = 0, **strategy: str
    ) -> list[dict[str, Any]]:
        """Roll a release out; returns the events, the result last."""
        done = self.muster(
            "rollout",
            self.releases[version],
            "-s",
            self.strategy(**strategy),
            "--json",
            "--accept-no-rollback",
            *arguments,
        )
        if expect is not None:
            assert done.returncode == expect, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def strategy(
        self,
        waves: str = "[{size: 1}, {size: 50%}, {size: rest}]",
        healthy_deadline: str = "60s",
        confirm_timeout: str = "90s",
    ) -> Path:
        """Write a strategy document with short clocks."""
        text = STRATEGY.format(
            waves=waves, healthy_deadline=healthy_deadline, confirm_timeout=confirm_timeout
        )
        path = self.folder / f"strategy-{abs(hash(text))}.yml"
        path.write_text(text)
        return path

    def answering(self) -> dict[str, str]:
        """Version that answers an inference request on each device, or the error."""
        addresses = {d.name: d.address for d in load_inventory(self.inventory).devices}
        return answering_versions(addresses)

    def everywhere(self, version: str) -> None:
        """Bring every device to a release."""
        if set(self.answering().values()) != {version}:
            self.rollout(version, waves="[{size: rest}]")
        assert set(self.answering().values()) == {version}

    def device_state(self, device: str) -> dict[str, Any]:
        """What the device program of one device says, asked without SSH."""
        code, output = self.fleet.exec(
            device, ["sh", "-c", 'echo \'{"model": "digits"}\' | muster-device inspect']
        )
        assert code == 0, output
        return dict(json.loads(output.splitlines()[-1])["model"])  # the lines before are its log
