"""What the roles of accelerators made of the devices, seen from outside with testinfra."""

# ruff: noqa: S101
from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]

EXPECTED: dict[str, dict[str, Any]] = {
    "edge-jetson": {
        "kind": "jetson",
        "versions": ("36.4.3", None, None),
        "devices": ["/dev/nvhost-gpu", "/dev/nvmap"],
        "cdi": ["nvidia.com/gpu=0", "nvidia.com/gpu=all"],
        "packages": {
            "libnvidia-container-tools": "1.17.7-1",
            "libnvidia-container1": "1.17.7-1",
            "nvidia-container-toolkit": "1.17.7-1",
            "nvidia-container-toolkit-base": "1.17.7-1",
        },
    },
    "edge-hailo": {
        "kind": "hailo",
        "versions": ("4.20.0", "4.20.0", "4.20.0"),
        "devices": ["/dev/hailo0"],
        "cdi": ["hailo.ai/npu=0", "hailo.ai/npu=all"],
        "packages": {"hailo-all": "4.20.0", "hailort": "4.20.0"},
    },
    "edge-coral": {
        "kind": "coral",
        "versions": ("1.2", "16.0", None),
        "devices": ["/dev/apex_0"],
        "cdi": ["coral.ai/tpu=0", "coral.ai/tpu=all"],
        "packages": {"libedgetpu1-std": "16.0"},
    },
}


@pytest.fixture
def expected(host: Any) -> dict[str, Any]:
    return EXPECTED[host.backend.get_hostname()]


def inspected(host: Any) -> dict[str, Any]:
    with host.sudo():
        answer = host.run("echo '{\"model\": null}' | /usr/local/sbin/muster-device inspect")
    seen: dict[str, Any] = json.loads(answer.stdout)
    assert seen["ok"], seen
    return seen


def test_facts_for_releases(host: Any, expected: dict[str, Any]) -> None:
    file = host.file("/etc/muster/accelerator.json")
    assert (file.user, oct(file.mode)) == ("root", "0o644")
    facts = json.loads(file.content_string)
    assert facts["kind"] == expected["kind"]
    assert (facts["driver"], facts["library"], facts["firmware"]) == expected["versions"]
    assert facts["devices"] == expected["devices"]
    assert facts["smoke_test"]["passed"]
    assert facts["problems"] == []


def test_the_device_program_tells_them(host: Any, expected: dict[str, Any]) -> None:
    seen = inspected(host)
    (accelerator,) = seen["accelerators"]
    parts = (accelerator["driver"], accelerator["library"], accelerator["firmware"])
    assert parts == expected["versions"]
    assert accelerator["working"]
    assert seen["cdi"] == expected["cdi"]


def test_packages_are_of_the_version_that_was_asked_for_and_held(
    host: Any, expected: dict[str, Any]
) -> None:
    form = "'${db:Status-Want} ${Package} ${Version}\\n'"
    listing = host.check_output(f"dpkg-query --show --showformat={form}")
    rows = [line.split() for line in listing.splitlines()]
    held = {name: version for want, name, version in rows if want == "hold"}
    assert held == expected["packages"]


def test_a_repository_is_trusted_by_its_own_key_alone(host: Any) -> None:
    source = host.file("/etc/apt/sources.list.d/muster-stand-ins.sources").content_string
    assert "Signed-By: /etc/apt/keyrings/muster-stand-ins.asc\n" in source
    assert not host.run("ls /etc/apt/trusted.gpg.d/*stand*").stdout


def test_there_is_one_specification_of_each_device(host: Any) -> None:
    names = host.file("/etc/cdi").listdir()
    assert len(names) == 1
    document = json.loads(host.file(f"/etc/cdi/{names[0]}").content_string)
    nodes = document["devices"][0]["containerEdits"]["deviceNodes"]
    assert all(host.run(f"test -c {node['path']}").rc == 0 for node in nodes)


def test_only_a_group_may_use_the_accelerator(host: Any, expected: dict[str, Any]) -> None:
    if expected["kind"] == "jetson":
        pytest.skip("access is up to L4T")
    node = host.file(expected["devices"][0])
    assert (node.user, oct(node.mode)) == ("root", "0o660")
    assert node.group == {"hailo": "hailo", "coral": "plugdev"}[expected["kind"]]
    rules = host.file(f"/etc/udev/rules.d/99-muster-{expected['kind']}.rules").content_string
    assert 'MODE="0660"' in rules
    assert "0666" not in rules


def test_the_runtime_of_a_jetson_reads_the_lists_of_l4t(
    host: Any, expected: dict[str, Any]
) -> None:
    if expected["kind"] == "jetson":
        assert 'mode = "csv"' in host.check_output("nvidia-ctk config")


def test_nothing_is_left_of_a_run_that_was_cut_off(host: Any) -> None:
    with host.sudo():
        assert host.check_output("find /etc -name '.*.muster-*'") == ""
