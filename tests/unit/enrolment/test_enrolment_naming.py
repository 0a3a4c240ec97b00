"""What devices are called, which one a target is, and what is kept of them."""

from __future__ import annotations

from typing import Any

import pytest

from muster.enrolment.naming import choose_name, cloned_from, facts_of, known_device
from muster.enrolment.targets import Target
from muster.inventory import Device


def device(name: str, address: str, port: int = 22) -> Device:
    return Device(name, address, port, "site_a", None, (), {})


DEVICES = (device("cam-1", "10.0.0.1"), device("cam-2", "10.0.0.2", 2222))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target("cam-1"), "cam-1"),
        (Target("10.0.0.1"), "cam-1"),
        (Target("10.0.0.2"), "cam-2"),
        (Target("10.0.0.2", port=22), None),
        (Target("10.0.0.9", name="cam-1"), "cam-1"),
        (Target("10.0.0.1", name="cam-9"), None),
        (Target("10.0.0.9"), None),
    ],
)
def test_which_device_is_meant(target: Target, name: str | None) -> None:
    found = known_device(target, DEVICES)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("target", "hostname", "name"),
    [
        (Target("10.0.0.7", name="mine"), "edge-7", "mine"),
        (Target("cam-7.example"), "edge-7", "cam-7.example"),
        (Target("10.0.0.7"), "edge-7", "edge-7"),
        (Target("10.0.0.7"), "EDGE-7.local", "edge-7"),
        (Target("10.0.0.7"), "raspberrypi", "big-harbour-10-0-0-7"),
        (Target("10.0.0.7"), "ubuntu.local", "big-harbour-10-0-0-7"),
        (Target("10.0.0.7"), "taken", "big-harbour-10-0-0-7"),
        (Target("10.0.0.7"), "", "big-harbour-10-0-0-7"),
        (Target("fe80::1"), "", "big-harbour-fe80-1"),
    ],
)
def test_what_a_new_device_is_called(target: Target, hostname: str, name: str) -> None:
    assert choose_name(target, {"hostname": hostname}, "site_big_harbour", {"taken"}) == name


def test_a_copied_image_is_noticed() -> None:
    others = {"cam-1": {"machine_id": "aa"}, "cam-2": {}}
    assert "same machine-id as cam-1" in cloned_from("cam-3", {"machine_id": "aa"}, others)
    assert cloned_from("cam-1", {"machine_id": "aa"}, others) == ""
    assert cloned_from("cam-3", {}, others) == ""


def found(memory: int) -> dict[str, Any]:
    return {
        "memory": memory << 20,
        "arch": "arm64",
        "model": "",
        "accelerators": [],
        "serial": None,
    }


def test_facts_keep_what_is_known_and_figures_that_hardly_changed() -> None:
    facts = facts_of(found(7900), "SHA256:x", None)
    assert facts == {"arch": "arm64", "memory_mib": 7900, "host_key": "SHA256:x"}
    assert facts_of(found(7850), "SHA256:x", facts)["memory_mib"] == 7900
    assert facts_of(found(3900), "SHA256:x", facts)["memory_mib"] == 3900
