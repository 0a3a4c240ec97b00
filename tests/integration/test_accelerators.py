"""Accelerators of emulated devices: what a release may ask for, and what keeps it away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_driver import Site

from examples.digits import publish
from muster.emulator import EmulatedFleet

DOCUMENT = """
apiVersion: muster/v1
kind: Fleet
name: accelerators
sites: {workshop: {}}
devices:
  acc-hailo: {site: workshop, hardware: hailo, variables: {hailo_version: 4.20.0}}
  acc-usb: {site: workshop, hardware: coral_usb}
  acc-gpu: {site: workshop, hardware: intel_gpu}
"""
HAILO, USB, GPU = "acc-hailo", "acc-usb", "acc-gpu"
NOWHERE = "models/nowhere@sha256:" + 64 * "0"


def told(site: Site, device: str, script: str) -> str:
    code, output = site.fleet.exec(device, ["sh", "-c", script])
    assert code == 0, output
    return output


def inspected(site: Site, device: str) -> dict[str, Any]:
    answer = told(site, device, "echo '{\"model\": null}' | muster-device inspect")
    return dict(json.loads(answer.splitlines()[-1]))


@pytest.fixture(scope="module")
def site(
    make_fleet: Callable[[str, str], EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Site:
    fleet = make_fleet("accelerators", DOCUMENT)
    fleet.up()
    folder = tmp_path_factory.mktemp("accelerators-site")
    return Site(fleet, folder, publish(fleet.registry_address, fleet.registry_ca, folder))


@pytest.fixture(scope="module")
def provisioned(site: Site) -> Site:
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    return site


def release(site: Site, **unlike: dict[str, Any]) -> Path:
    """Write a release; variants of some groups are unlike the others, which fit."""
    document = yaml.safe_load(site.releases["1.0"].read_text())
    image = next(iter(document["variants"].values()))["image"]
    groups = ("hw_hailo", "hw_coral", "hw_intel")
    document["variants"] = {g: {"image": image, **unlike.get(g, {})} for g in groups}
    path = site.folder / "asking.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def roll(site: Site, document: Path, devices: str = "all") -> tuple[int, list[dict[str, Any]], str]:
    done = site.muster(
        "rollout", document, "-s", site.strategy(waves="[{size: rest}]"), "--json",
        "--accept-no-rollback", "--limit", devices,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_device_without_the_hardware_is_refused_before_its_role_changes_anything(
    site: Site, tmp_path: Path
) -> None:
    """It runs first: the device is bare."""
    shutil.copy(site.fleet.inventory_file, tmp_path / "hosts.yml")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / f"{GPU}.yml").write_text("muster_accelerator: nvidia\n")
    done = site.muster("provision", "-i", tmp_path, "--limit", GPU, "--json")
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)["devices"]
    assert entry["operation"] == "nvidia | hardware"
    assert "muster_accelerator is nvidia" in entry["error"]
    assert entry["error"].endswith("it has intel")
    assert told(site, GPU, "ls /etc/apt/sources.list.d /etc/cdi 2>/dev/null || true") in (
        "", "/etc/apt/sources.list.d:\n",
    )  # fmt: skip


def test_facts_of_each_kind(provisioned: Site) -> None:
    found = {device: inspected(provisioned, device) for device in (HAILO, USB, GPU)}
    (hailo,), (usb,), (gpu,) = (seen["accelerators"] for seen in found.values())
    assert [hailo[part] for part in ("driver", "library", "firmware")] == ["4.20.0"] * 3
    assert (usb["library"], gpu["library"]) == ("16.0", "24.52.32224.5")
    assert all(each["working"] for each in (hailo, usb, gpu))
    assert [seen["cdi"] for seen in found.values()] == [
        ["hailo.ai/npu=0", "hailo.ai/npu=all"],
        [],  # the node of a stick changes
        ["intel.com/gpu=0", "intel.com/gpu=all"],
    ]


@pytest.mark.parametrize(
    ("device", "variant", "reason"),
    [
        (
            USB,
            {"hw_coral": {"requires": {"accelerator": "coral", "firmware": "==1"}}},
            "coral firmware of unknown version, needed ==1",
        ),
        (
            GPU,
            {"hw_intel": {"requires": {"accelerator": "nvidia"}}},
            "accelerator nvidia not found, it has intel",
        ),
    ],
)
def test_a_release_that_fits_nowhere_is_no_rollout(
    provisioned: Site, device: str, variant: dict[str, Any], reason: str
) -> None:
    code, _, said = roll(provisioned, release(provisioned, **variant), device)
    assert code == 2
    assert f"{device}: {reason}" in said


def test_a_device_is_rejected_before_any_pull(provisioned: Site) -> None:
    # A pull of this image would fail, and say so.
    unfit = {
        "hw_hailo": {
            "image": NOWHERE,
            "requires": {"accelerator": "hailo", "driver": ">=4.21", "firmware": ">=4.20"},
        },
        "hw_intel": {"image": NOWHERE, "cdi": ["intel.com/gpu=7"]},
    }
    code, events, _ = roll(provisioned, release(provisioned, **unfit))
    assert code == 0
    ended = {each["device"]: each for each in events[-1]["devices"]}
    assert {device: each["state"] for device, each in ended.items()} == {
        HAILO: "rejected", USB: "committed", GPU: "rejected"
    }  # fmt: skip
    assert ended[HAILO]["reason"] == "hailo driver 4.20.0, needed >=4.21"
    unresolved = "CDI device intel.com/gpu=7 can't be resolved, it has intel.com/gpu=0"
    assert ended[GPU]["reason"].startswith(unresolved)
    for device in (HAILO, GPU):
        assert told(provisioned, device, "docker image ls --quiet; ls /var/lib/muster") == ""


def test_a_library_that_does_not_match_fails_and_keeps_releases_away(
    provisioned: Site, tmp_path: Path
) -> None:
    shutil.copy(provisioned.fleet.inventory_file, tmp_path / "hosts.yml")
    text = (tmp_path / "hosts.yml").read_text()
    (tmp_path / "hosts.yml").write_text(text.replace("4.20.0", "4.19.0"))
    done = provisioned.muster("provision", "-i", tmp_path, "--limit", HAILO, "--json")
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)["devices"]
    assert entry["operation"] == "hailo | smoke test"
    # the tool of the vendor does not tell the firmware then
    parts = "hailo driver 4.20.0, library 4.19.0: they must be of the same version"
    assert parts in entry["error"]
    asking = release(provisioned, hw_hailo={"requires": {"accelerator": "hailo"}})
    code, _, said = roll(provisioned, asking, HAILO)
    assert code == 2
    assert parts in said
    assert "did not pass its smoke test" in said
    done = provisioned.muster("provision", "--limit", HAILO)
    assert done.returncode == 0, done.stdout
    (found,) = inspected(provisioned, HAILO)["accelerators"]
    assert (found["library"], found["firmware"], found["working"]) == ("4.20.0", "4.20.0", True)


def test_a_container_gets_its_accelerator_also_without_cdi_in_the_runtime(
    provisioned: Site,
) -> None:
    requires = {"accelerator": "hailo", "driver": "==4.20", "firmware": "==4.20.0"}
    asking = release(provisioned, hw_hailo={"cdi": ["hailo.ai/npu=0"], "requires": requires})
    code, _, _ = roll(provisioned, asking, HAILO)
    assert code == 0
    form = "'{{json .HostConfig.Devices}}{{json .HostConfig.DeviceRequests}}'"
    given = told(provisioned, HAILO, f"docker inspect --format {form} $(docker ps --quiet)")
    assert "hailo" in given
