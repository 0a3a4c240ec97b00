"""What a device says about itself, asked as it is over SSH, below a folder that stands for `/`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from muster import on_device
from muster.emulator.hardware import HARDWARE_ROOT, PROFILES
from muster.enrolment import on_device as task
from muster.enrolment.hardware import decide_hardware


def describe(root: Path, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        ["sh", "-c", on_device.COMMAND],
        input=on_device.request(task, given or {"hardware_root": None}),
        env={**os.environ, "MUSTER_ROOT": str(root)},
        capture_output=True, text=True,
    )  # fmt: skip
    return on_device.read_answer(done.stdout)


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_emulated_kind_of_hardware_gets_its_group(tmp_path: Path, name: str) -> None:
    profile = PROFILES[name]
    write(tmp_path, profile.files)
    for node in profile.nodes:
        write(tmp_path, {node: ""})
    found = describe(tmp_path, {"hardware_root": HARDWARE_ROOT})
    # What stands in for other architectures runs on the one of this machine.
    assert decide_hardware({**found, "arch": "amd64"}).group == profile.group


def test_names_and_numbers(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 8000 kB\n",
            "sys/class/dmi/id/sys_vendor": "ACME\n",
            "sys/class/dmi/id/product_name": "Edge 7\n",
            "sys/class/dmi/id/product_serial": "Default string\n",
            "etc/machine-id": "abc\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian 12"\n',
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x1d0f\n",
            "sys/bus/pci/devices/0000:01:00.0/device": "0x7064\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x120000\n",
        },
    )
    found = describe(tmp_path)
    assert (found["model"], found["serial"]) == ("ACME Edge 7", None)
    assert (found["memory"], found["machine_id"]) == (8000 << 10, "abc")
    assert found["os"] == "Debian 12"
    assert found["pci"] == [{"vendor": "1d0f", "device": "7064", "class": "120000"}]


def test_a_board_without_a_model_is_not_named_after_its_firmware(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/device-tree/compatible": "acme,board\0acme,soc\0",
            "proc/device-tree/serial-number": "10000000abc\0",
            "sys/class/dmi/id/product_name": "U-Boot\n",
        },
    )
    found = describe(tmp_path)
    assert (found["model"], found["compatible"]) == ("", ["acme,board", "acme,soc"])
    assert found["serial"] == "10000000abc"


def test_an_answer_that_is_none() -> None:
    for text, word in (("", "silence"), ("motd\n", "motd"), ('{"ok": false, "error": "E"}', "E")):
        with pytest.raises(on_device.NoAnswer, match=word):
            on_device.read_answer(text)
    assert on_device.read_answer('motd\n\n{"ok": true, "result": {"a": 1}}\n') == {"a": 1}
