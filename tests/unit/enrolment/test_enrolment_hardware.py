"""Which hardware group a device goes into, and when none."""

from __future__ import annotations

from typing import Any

import pytest

from muster.enrolment.hardware import Hardware, agree, decide_hardware


def found(model: str = "", arch: str = "amd64", *kinds: str, **more: Any) -> dict[str, Any]:
    accelerators = [{"kind": kind, "model": None, "device": None} for kind in kinds]
    return {"model": model, "arch": arch, "accelerators": accelerators, **more}


PI = found("Raspberry Pi 5 Model B Rev 1.0", "arm64", compatible=["raspberrypi,5-model-b"])


@pytest.mark.parametrize(
    ("device", "group"),
    [
        (PI, "hw_raspberry_pi"),
        ({**PI, "accelerators": [{"kind": "hailo"}]}, "hw_hailo"),
        ({**PI, "accelerators": [{"kind": "coral"}]}, "hw_coral"),
        (found("NVIDIA Jetson Orin Nano Developer Kit", "arm64", "jetson"), "hw_jetson_orin"),
        (found("Custom carrier", "arm64", "jetson", compatible=["nvidia,tegra234"]),
         "hw_jetson_orin"),
        (found("ACME Box", "amd64", "nvidia"), "hw_x86_gpu"),
        (found("ACME Box", "amd64", "nvidia", "intel"), "hw_x86_gpu"),
        (found("ACME Box", "amd64", "intel", "coral"), "hw_coral"),
        (found("ACME Box", "amd64", "intel"), "hw_intel"),
        (found("ACME Box"), "hw_cpu"),
        (found("", "arm64"), "hw_cpu"),
    ],
)  # fmt: skip
def test_known_hardware(device: dict[str, Any], group: str) -> None:
    assert decide_hardware(device).group == group
    assert decide_hardware(device).problem == ""


@pytest.mark.parametrize(
    ("device", "word"),
    [
        (found("Radxa ROCK 5B", "arm64", compatible=["radxa,rock-5b"]), "Radxa ROCK 5B"),
        (found("", "arm64", compatible=["acme,board"]), "acme,board"),
        (found("NVIDIA Jetson Xavier NX", "arm64", "jetson"), "Jetson Xavier NX"),
        (found("ACME Box", "amd64", "nvidia", "coral"), "several accelerators (nvidia, coral)"),
        (found("ACME Box", "arm64", "nvidia"), "nvidia on arm64"),
        (found("ACME Box", "amd64", "tpu9"), "accelerator tpu9"),
        (found("ACME Box", pci=[{"vendor": "1d0f", "device": "7064", "class": "120000"}]),
         "unknown accelerator 1d0f:7064"),
        (found("ACME Box", "riscv64"), "architecture riscv64"),
    ],
)  # fmt: skip
def test_unknown_hardware_is_named_and_not_guessed(device: dict[str, Any], word: str) -> None:
    decided = decide_hardware(device)
    assert decided.group is None
    assert word in decided.problem
    assert "--hardware" in decided.problem


def test_a_network_card_is_no_accelerator() -> None:
    card = {"vendor": "10ec", "device": "8168", "class": "020000"}
    assert decide_hardware(found("ACME Box", pci=[card])).group == "hw_cpu"


def test_what_it_is_in_words() -> None:
    accelerators = [{"kind": "coral", "model": "Edge TPU PCIe"}]
    assert decide_hardware({**PI, "accelerators": accelerators}).what == (
        "Raspberry Pi 5 Model B Rev 1.0 with Edge TPU PCIe"
    )


CORAL, UNKNOWN = Hardware("hw_coral", "a Coral"), Hardware(None, "a thing", "unknown")


@pytest.mark.parametrize(
    ("decided", "said", "present", "group"),
    [
        (CORAL, None, None, "hw_coral"),
        (CORAL, "hw_coral", None, "hw_coral"),
        (CORAL, None, "hw_coral", "hw_coral"),
        (UNKNOWN, None, None, None),
        (UNKNOWN, "hw_mine", None, "hw_mine"),
        (UNKNOWN, None, "hw_mine", "hw_mine"),
    ],
)
def test_words_that_agree(
    decided: Hardware, said: str | None, present: str | None, group: str | None
) -> None:
    assert agree(decided, said, present) == (group, "")


def test_words_that_contradict_what_was_found_are_told() -> None:
    assert "you say hw_hailo, but it is a Coral" in agree(CORAL, "hw_hailo", None)[1]
    assert "the inventory says hw_hailo, but" in agree(CORAL, None, "hw_hailo")[1]
    assert "move it there first" in agree(CORAL, "hw_coral", "hw_hailo")[1]
