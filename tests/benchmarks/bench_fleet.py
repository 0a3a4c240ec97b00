"""Twenty emulated devices that run the reference model, for the comparison of means."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from figures import in_folder

from examples.digits import publish
from muster.emulator import EmulatedFleet
from muster.inventory import load_inventory

NAME = "bench"
SITES = 2
IMAGES = ("1.0", "1.1")
"""Versions of the reference model whose images take turns; both are on every device."""
REGISTRY = "registry:5000"
HARDWARE = "hw_cpu"
ON_DEVICE = Path(__file__).with_name("on_device")
UNIT = "bench-digits"


@dataclass
class BenchFleet:
    """A fleet that is up and provisioned.

    :param folder: of the inventory, the releases and everything else that a run writes.
    :param releases: documents of the reference model by version.
    """

    fleet: EmulatedFleet
    folder: Path
    releases: Mapping[str, dict[str, Any]]

    @property
    def inventory(self) -> Path:
        """The inventory, in Ansible's format."""
        return self.fleet.inventory_file

    @property
    def addresses(self) -> dict[str, str]:
        """Address of each device by its name."""
        return {device.name: device.address for device in load_inventory(self.inventory).devices}

    @property
    def container(self) -> dict[str, str]:
        """Name in the Docker engine of each device."""
        return {name: f"{self.fleet.name}-{name}" for name in self.fleet.document.devices}

    def image(self, version: str) -> str:
        """Image of a version, as devices name it."""
        return f"{REGISTRY}/{self.releases[version]['variants'][HARDWARE]['image']}"

    def everywhere(self, *command: str, names: list[str] | None = None) -> None:
        """Run a command on devices, all at once, without any controller's means.

        :raises RuntimeError: it failed on one of them.
        """

        def run(name: str) -> None:
            done = subprocess.run(
                ["docker", "exec", self.container[name], *command], capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{name}: {' '.join(command)}: {done.stdout}{done.stderr}")

        chosen = list(self.container) if names is None else names
        with ThreadPoolExecutor(len(chosen)) as pool:
            list(pool.map(run, chosen))

    def device_cpu(self) -> float:
        """CPU seconds that all devices have used since they started."""
        client = self.fleet._engine.client
        used = 0
        for container in self.container.values():
            stats = client.api.stats(container, stream=False, one_shot=True)
            used += stats["cpu_stats"]["cpu_usage"]["total_usage"]
        return used / 1e9


def document(devices: int) -> str:
    """The fleet document: plain computers without an accelerator."""
    return yaml.safe_dump(
        {
            "apiVersion": "muster/v1",
            "kind": "Fleet",
            "name": NAME,
            "sites": {f"bench_{site}": {} for site in range(SITES)},
            "devices": {
                f"bench-{number:02d}": {
                    "site": f"bench_{number % SITES}",
                    "hardware": HARDWARE.removeprefix("hw_"),
                }
                for number in range(1, devices + 1)
            },
        },
        sort_keys=False,
    )


def bring_up(devices: int, folder: Path) -> BenchFleet:
    """Make the fleet, provision it, publish the model, and have both images on every device."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fleet.yml"
    path.write_text(document(devices), encoding="utf-8")
    fleet = EmulatedFleet.load(path, name=NAME, report=_say)
    fleet.up()
    _say("publishing the model")
    documents = publish(fleet.registry_address, fleet.registry_ca, folder / "published")
    releases = {
        version: _for_plain_hardware(yaml.safe_load(documents[version].read_text()))
        for version in IMAGES
    }
    site = BenchFleet(fleet, folder, releases)
    _say("provisioning")
    subprocess.run(
        [sys.executable, "-m", "muster", "provision", "--inventory", site.inventory],
        check=True,
        env=in_folder(folder),
        stdout=subprocess.DEVNULL,
    )
    _say("pulling both images everywhere, placing the unit for the other means")
    for version in IMAGES:
        for some in _slices(list(site.container), 5):
            site.everywhere("docker", "pull", "--quiet", site.image(version), names=some)
    for container in site.container.values():
        subprocess.run(
            ["docker", "cp", "--quiet", f"{ON_DEVICE}/.", f"{container}:/etc/bench/"], check=True
        )
    site.everywhere("cp", f"/etc/bench/{UNIT}.service", "/etc/systemd/system/")
    site.everywhere("systemctl", "daemon-reload")
    return site


def _slices(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _for_plain_hardware(release: dict[str, Any]) -> dict[str, Any]:
    """The release with a variant for plain computers, and checks that every means can do."""
    variant = release["variants"]["hw_raspberry_pi"]
    gates = {gate["name"]: gate for gate in release["gates"]}
    smoke = gates["smoke"] | {"cases": gates["smoke"]["cases"][1:2]}
    return release | {"variants": {HARDWARE: variant}, "gates": [gates["ready"], smoke]}


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
