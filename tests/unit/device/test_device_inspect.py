"""``inspect``: what it finds on a device, in what kernels and vendors' drivers show."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import Device, device

from muster.emulator.hardware import HARDWARE_ROOT, PROFILES


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def accelerators(dev: Device) -> list[dict[str, Any]]:
    return dev.ok("inspect", model=None)["accelerators"]


def test_an_empty_device(dev: Device) -> None:
    write(dev.root, {"proc/meminfo": "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n"})
    answer = dev.ok("inspect")
    assert answer["program"] == device.VERSION
    assert answer["arch"] in ("amd64", "arm64", "armhf")
    assert answer["memory"] == 2048 << 10
    assert answer["memory_available"] == 1024 << 10
    assert answer["disk_free"] > 0
    assert answer["boot_id"]
    assert answer["uptime"] > 0
    assert answer["runtime"] == {"name": "docker", "version": "20.10.24", "ready": True}
    assert answer["accelerators"] == []
    assert answer["switch_modes"] == ["recreate"]
    assert answer["model"] == {
        "name": "digits",
        "current": None,
        "previous": None,
        "last_good": None,
        "generation": 0,
        "rollout": None,
        "phase": "idle",
        "guard": {"armed": False, "remaining": None},
        "lock": {"held": False, "holder": None},
        "releases": [],
        "last_outcome": None,
    }
    assert not dev.state.exists(), "looking leaves no trace"


def test_a_device_that_is_bare(dev: Device) -> None:
    """Before it is provisioned there is no configuration, no runtime and no /proc/meminfo here."""
    (dev.root / "etc/muster/device.json").unlink()
    with dev.world.change() as content:
        content["runtime_down"] = True
    answer = dev.ok("inspect", model=None)
    assert answer["runtime"] == {"name": "docker", "version": None, "ready": False}
    assert answer["memory"] == 0
    assert answer["memory_available"] is None
    assert answer["timezone"] is None
    assert answer["model"] is None


def test_the_time_zone_has_the_name_that_the_world_knows(dev: Device) -> None:
    write(dev.root, {"etc/timezone": "Europe/Berlin\n"})
    assert dev.ok("inspect")["timezone"] == "Europe/Berlin"
    for link in ("/usr/share/zoneinfo/America/Argentina/Ushuaia", "../usr/share/zoneinfo/UTC"):
        (dev.root / "etc/localtime").unlink(missing_ok=True)
        (dev.root / "etc/localtime").symlink_to(link)
        assert dev.ok("inspect")["timezone"] == link.partition("zoneinfo/")[2]


def test_a_device_with_the_proxy_knows_both_ways_to_switch(dev: Device) -> None:
    dev.provision(proxy=True)
    assert dev.ok("inspect")["switch_modes"] == ["recreate", "blue_green"]


def test_the_boot_id_changes_with_every_boot(dev: Device) -> None:
    first = dev.ok("inspect")["boot_id"]
    assert dev.ok("inspect")["boot_id"] == first
    dev.reboot()
    second = dev.ok("inspect")["boot_id"]
    assert second != first
    # a container that starts again has the machine's boot id, but another first process
    (dev.root / "proc/1/stat").write_text("1 (a (b) c) S " + " ".join(["7"] * 50))
    assert dev.ok("inspect")["boot_id"] not in (first, second)


def test_what_an_unconfirmed_switch_looks_like(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    model = dev.model()
    assert model["phase"] == "switched"
    assert (model["generation"], model["rollout"]) == (1, "r1")
    assert model["guard"]["armed"]
    assert 0 < model["guard"]["remaining"] <= 60
    assert model["current"]["serving"]
    with dev.world.change() as content:
        content["sick"] = [release.id]
    assert dev.model()["current"]["serving"] is False


@pytest.mark.parametrize(
    ("machine", "pointer", "arch"),
    [
        ("x86_64", 8, "amd64"),
        ("aarch64", 8, "arm64"),
        ("aarch64", 4, "armhf"),
        ("armv7l", 4, "armhf"),
        ("i686", 4, "i386"),
        ("riscv64", 8, "riscv64"),
    ],
)
def test_architectures_are_named_as_debian_does(
    monkeypatch: pytest.MonkeyPatch, machine: str, pointer: int, arch: str
) -> None:
    monkeypatch.setattr(device.platform, "machine", lambda: machine)
    monkeypatch.setattr(device.struct, "calcsize", lambda code: pointer)
    assert device.architecture() == arch


# Accelerators


@pytest.mark.parametrize(
    ("profile", "kind", "node", "driver"),
    [
        ("jetson_orin", "jetson", "/dev/nvhost-gpu", "36.4.3"),
        ("coral", "coral", "/dev/apex_0", "1.2"),
        ("coral_usb", "coral", None, None),
        ("hailo", "hailo", "/dev/hailo0", "4.20.0"),
        ("x86_gpu", "nvidia", "/dev/nvidia0", "535.183.01"),
        ("hailo10", "hailo", "/dev/hailo0", "5.1.1"),
        ("intel_gpu", "intel", "/dev/dri/renderD128", None),
        ("intel_npu", "intel", "/dev/accel/accel0", None),
        ("raspberry_pi", None, None, None),
        ("cpu", None, None, None),
    ],
)
def test_every_emulated_kind_of_hardware_is_found(
    dev: Device, profile: str, kind: str | None, node: str | None, driver: str | None
) -> None:
    hardware = PROFILES[profile]
    write(dev.root, dict(hardware.all_files()) | dict.fromkeys(hardware.nodes, ""))
    dev.configure(hardware_root=HARDWARE_ROOT)
    found = accelerators(dev)
    assert [(a["kind"], a["device"], a["driver"]) for a in found] == (
        [] if kind is None else [(kind, node, driver)]
    )


def pci(slot: int, vendor: str, code: str, kind: str) -> dict[str, str]:
    folder = f"sys/bus/pci/devices/0000:0{slot}:00.0"
    return {
        f"{folder}/vendor": f"0x{vendor}\n",
        f"{folder}/device": f"0x{code}\n",
        f"{folder}/class": f"0x{kind}\n",
    }


def test_hardware_without_a_driver_has_no_device_node(dev: Device) -> None:
    write(dev.root, pci(1, "1ac1", "089a", "088000") | pci(2, "1ac1", "089a", "088000"))
    write(dev.root, {"dev/apex_0": ""})
    assert [a["device"] for a in accelerators(dev)] == ["/dev/apex_0", None]


def test_two_gpus_and_their_model(dev: Device) -> None:
    information = "Model: \t\t NVIDIA RTX A2000\nIRQ: 1\n"
    write(
        dev.root,
        pci(1, "10de", "2531", "030000")
        | pci(2, "10de", "2531", "030200")
        | pci(3, "10de", "1aef", "040300")  # the sound of a graphics card is no GPU
        | {"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""}
        | {"proc/driver/nvidia/gpus/0000:01:00.0/information": information}
        | {
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for"
            " x86_64  550.54.15  Release Build\n"
        },
    )
    found = accelerators(dev)
    assert [a["device"] for a in found] == ["/dev/nvidia0", "/dev/nvidia1"]
    assert {(a["driver"], a["model"]) for a in found} == {("550.54.15", "NVIDIA RTX A2000")}


def test_an_intel_npu_with_its_driver(dev: Device) -> None:
    write(dev.root, pci(1, "8086", "7d1d", "120000") | {"dev/accel/accel0": ""})
    (dev.root / "sys/bus/pci/drivers/intel_vpu").mkdir(parents=True)
    link = dev.root / "sys/bus/pci/devices/0000:01:00.0/driver"
    link.symlink_to(os.path.relpath(dev.root / "sys/bus/pci/drivers/intel_vpu", link.parent))
    assert accelerators(dev) == [
        {
            "kind": "intel",
            "device": "/dev/accel/accel0",
            "driver": "intel_vpu",
            "model": "NPU 8086:7d1d",
        }
    ]


def test_a_coral_on_usb_has_a_node_on_the_bus(dev: Device) -> None:
    folder = "sys/bus/usb/devices/2-1"
    files = {"idVendor": "18d1\n", "idProduct": "9302\n", "busnum": "2\n", "devnum": "14\n"}
    write(dev.root, {f"{folder}/{name}": text for name, text in files.items()})
    assert [a["device"] for a in accelerators(dev)] == ["/dev/bus/usb/002/014"]


def test_what_the_device_has_itself_wins_over_what_it_is_told(dev: Device) -> None:
    write(dev.root, {"proc/device-tree/model": "NVIDIA Jetson AGX Orin\0"})
    write(dev.root, {"emulated/proc/device-tree/model": "Raspberry Pi 5\0"})
    dev.configure(hardware_root="/emulated")
    assert [a["model"] for a in accelerators(dev)] == ["NVIDIA Jetson AGX Orin"]


# What provisioning wrote about the accelerator, and CDI


HAILO = pci(1, "1e60", "2864", "120000") | {
    "dev/hailo0": "",
    "sys/module/hailo_pci/version": "4.20.0\n",
}
PUBLISHED = {
    "kind": "hailo",
    "library": "4.20.0",
    "firmware": "4.20.0",
    "smoke_test": {"command": "x", "passed": True},
}


def test_versions_of_library_and_firmware_come_from_provisioning(dev: Device) -> None:
    write(dev.root, HAILO | {"etc/muster/accelerator.json": json.dumps(PUBLISHED)})
    (found,) = accelerators(dev)
    assert (found["driver"], found["library"], found["firmware"]) == ("4.20.0",) * 3
    assert found["working"] is True


@pytest.mark.parametrize("folder", ["usr/lib", f"usr/lib/{platform.machine()}-linux-gnu"])
def test_a_library_that_was_replaced_since_is_seen(dev: Device, folder: str) -> None:
    write(dev.root, HAILO | {"etc/muster/accelerator.json": json.dumps(PUBLISHED)})
    write(dev.root, {f"{folder}/libhailort.so.4.21.0": "", f"{folder}/libhailort.so.4": ""})
    (found,) = accelerators(dev)
    assert found["library"] == "4.21.0"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "coral"}', '{"kind": "hailo"}'])
def test_facts_that_are_damaged_or_of_another_kind_do_no_harm(dev: Device, text: str) -> None:
    write(dev.root, HAILO | {"etc/muster/accelerator.json": text})
    (found,) = accelerators(dev)
    assert (found["kind"], found.get("library"), found.get("working")) == ("hailo", None, None)


def test_cdi_devices_of_all_specifications(dev: Device) -> None:
    devices = [{"name": "0", "containerEdits": {}}, {"name": "all", "containerEdits": {}}]
    document = {"cdiVersion": "0.5.0", "kind": "hailo.ai/npu", "devices": devices}
    yaml = (
        "---\ncdiVersion: 0.5.0\ncontainerEdits:\n  hooks:\n  - hookName: createContainer\n"
        "devices:\n- containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n"
        '  name: "0"\n- name: all\n  containerEdits: {}\nkind: nvidia.com/gpu\n'
    )
    write(
        dev.root,
        {
            "etc/cdi/hailo.ai-npu.json": json.dumps(document),
            "var/run/cdi/nvidia.yaml": yaml,
            "etc/cdi/broken.json": "{",
            "etc/cdi/odd.json": '{"kind": "odd", "devices": {"name": "0"}}',
            "etc/cdi/.hailo.ai-npu.json.muster-new": "{}",
        },
    )
    assert dev.ok("inspect", model=None)["cdi"] == [
        "hailo.ai/npu=0",
        "hailo.ai/npu=all",
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=all",
    ]
