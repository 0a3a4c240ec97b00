"""The fleet document: what is accepted, and what the errors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.documents import load_document
from muster.emulator.document import FleetDocument
from muster.emulator.hardware import HARDWARE_ROOT, PROFILES
from muster.errors import InputError
from muster.paths import COLLECTION_ROOT

VALID: dict[str, Any] = {
    "apiVersion": "muster/v1",
    "kind": "Fleet",
    "name": "lab",
    "sites": {"plant": None},
    "devices": {"coral-1": {"site": "plant", "hardware": "coral", "memory": "512MiB"}},
}


def write(folder: Path, document: object) -> Path:
    path = folder / "fleet.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def device(**changes: Any) -> dict[str, Any]:
    return VALID | {"devices": {"coral-1": VALID["devices"]["coral-1"] | changes}}


def test_sizes_are_bytes_and_defaults_are_filled_in(tmp_path: Path) -> None:
    document = load_document(write(tmp_path, VALID), FleetDocument)
    found = document.devices["coral-1"]
    assert (found.memory, found.disk, found.groups) == (512 << 20, None, ())
    assert document.sites["plant"].subnet is None


@pytest.mark.parametrize(
    ("document", "key", "expected"),
    [
        (VALID | {"sites": {}}, "sites", "expected at least 1 entries, got 0"),
        (VALID | {"name": "Lab 1"}, "name", "expected text like"),
        (VALID | {"subnets": 1}, "subnets", "expected no such key"),
        (
            VALID | {"sites": {"plant": {"subnet": "10.0.0.0/30"}}},
            "sites.plant.subnet",
            "expected an IPv4 network of 16 addresses or more",
        ),
        (
            VALID | {"sites": {"plant": {"subnet": "10.0.0.1/24"}}},
            "sites.plant.subnet",
            "expected an IPv4 network",
        ),
        (device(site="depot"), "devices.coral-1.site", "expected one of plant, got 'depot'"),
        (device(hardware="tpu"), "devices.coral-1.hardware", "expected one of coral, coral_usb"),
        (device(architecture="armhf"), "devices.coral-1.architecture", "expected"),
        (device(memory="much"), "devices.coral-1.memory", "expected a size such as 256MiB"),
        (device(cpus=0), "devices.coral-1.cpus", "expected more than 0"),
        (device(disk="1MiB"), "devices.coral-1.disk", "expected at least 64MiB, got 1048576 bytes"),
        (device(disc="1GiB"), "devices.coral-1.disc", "did you mean disk?"),
        (
            VALID | {"devices": {"registry": VALID["devices"]["coral-1"]}},
            "devices.registry",
            "expected another name",
        ),
    ],
)
def test_a_mistake_is_named_by_file_key_and_what_was_expected(
    tmp_path: Path, document: dict[str, Any], key: str, expected: str
) -> None:
    path = write(tmp_path, document)
    with pytest.raises(InputError) as caught:
        load_document(path, FleetDocument)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:")
    assert f" {key}: " in problem
    assert expected in problem


def test_the_fleet_of_the_collection_has_four_kinds_of_devices_at_two_sites() -> None:
    path = COLLECTION_ROOT / "inventories" / "emulated" / "fleet.yml"
    document = load_document(path, FleetDocument)
    kinds = {(each.site, each.hardware) for each in document.devices.values()}
    assert len(document.devices) == len(kinds) == 8
    assert all(each.disk for each in document.devices.values())


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_nodes_of_every_profile_are_made_again_at_each_boot(name: str) -> None:
    profile = PROFILES[name]
    made = profile.all_files().get("/etc/tmpfiles.d/emulated-hardware.conf", "")
    assert [line.split()[1] for line in made.splitlines() if line.startswith("c ")] == list(
        profile.nodes
    )


def test_nothing_is_written_into_proc_or_sys_themselves() -> None:
    for profile in PROFILES.values():
        assert all(path.startswith("/etc/") for path in profile.all_files())
    model = PROFILES["raspberry_pi"].files[f"{HARDWARE_ROOT}/proc/device-tree/model"]
    assert model.endswith("\0")
