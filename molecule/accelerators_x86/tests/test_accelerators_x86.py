"""What the roles of accelerators made of larger computers, seen from outside with testinfra."""

# ruff: noqa: S101
from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]

EXPECTED: dict[str, dict[str, Any]] = {
    "x86-nvidia": {
        "kind": "nvidia",
        "versions": ("535.183.01", "535.183.01", None),
        "cdi": ["nvidia.com/gpu=0", "nvidia.com/gpu=all"],
    },
    "x86-npu": {
        "kind": "intel",
        "versions": (None, "1.17.0", None),
        "cdi": ["intel.com/npu=0", "intel.com/npu=all"],
    },
    "x86-hailo": {
        "kind": "hailo",
        "versions": ("5.1.1", "5.1.1", "5.1.1"),
        "cdi": ["hailo.ai/npu=0", "hailo.ai/npu=all"],
    },
}


@pytest.fixture
def expected(host: Any) -> dict[str, Any]:
    return EXPECTED[host.backend.get_hostname()]


def test_facts_for_releases(host: Any, expected: dict[str, Any]) -> None:
    with host.sudo():
        answer = host.run("echo '{\"model\": null}' | /usr/local/sbin/muster-device inspect")
    seen = json.loads(answer.stdout)
    (accelerator,) = seen["accelerators"]
    assert accelerator["kind"] == expected["kind"]
    parts = (accelerator["driver"], accelerator["library"], accelerator["firmware"])
    assert parts == expected["versions"]
    assert accelerator["working"]
    assert seen["cdi"] == expected["cdi"]


def test_the_toolkit_is_of_one_version(host: Any, expected: dict[str, Any]) -> None:
    if expected["kind"] != "nvidia":
        pytest.skip("no toolkit")
    found = host.check_output(
        "dpkg-query --show --showformat='${Version}\\n' nvidia-container-toolkit"
        " nvidia-container-toolkit-base libnvidia-container-tools libnvidia-container1"
    )
    assert set(found.split()) == {"1.17.8-1"}


def test_the_npu_is_for_its_group(host: Any, expected: dict[str, Any]) -> None:
    if expected["kind"] != "intel":
        pytest.skip("no NPU")
    node = host.file("/dev/accel/accel0")
    assert (node.group, oct(node.mode)) == ("render", "0o660")


def test_only_packages_of_the_own_generation_are_there(host: Any, expected: dict[str, Any]) -> None:
    if expected["kind"] == "hailo":
        assert host.package("hailo-h10-all").is_installed
        assert not host.package("hailo-all").is_installed
