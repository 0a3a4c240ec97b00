"""Devices of another architecture: what the machine has to be able to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.emulator.architecture import (
    emulation_problem,
    foreign_architectures,
    read_handlers,
    require_emulation,
)
from muster.errors import InputError

ARM64 = """\
{state}
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
BIG_ENDIAN = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64_be-binfmt-P
flags: POCF
offset 0
magic 7f454c46020201000000000000000000000200b7
mask ffffffffffffff00fffffffffffffffffffeffff
"""
BY_NAME = "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n"


def arm64(state: str = "enabled", flags: str = "POCF") -> str:
    return ARM64.format(state=state, flags=flags)


def test_a_fitting_interpreter_is_found_among_others() -> None:
    handlers = {"jar": BY_NAME, "qemu-aarch64_be": BIG_ENDIAN, "muster-arm64": arm64()}
    assert emulation_problem("arm64", handlers) is None


@pytest.mark.parametrize(
    ("handlers", "problem"),
    [
        ({}, "no interpreter for its programs is registered"),
        ({"qemu-aarch64_be": BIG_ENDIAN, "jar": BY_NAME}, "no interpreter for its programs"),
        ({"qemu-aarch64": arm64(state="disabled")}, "no interpreter for its programs"),
        (
            {"qemu-aarch64": arm64(flags="OPF")},
            "qemu-aarch64 lacks the flag C, as sudo has to work",
        ),
        ({"qemu-aarch64": arm64(flags="OC")}, "lacks the flag F, as it has to work in containers"),
        ({"qemu-aarch64": arm64(flags="")}, "where its file is not; C, as sudo has to work"),
    ],
)
def test_what_is_missing_is_named(handlers: dict[str, str], problem: str) -> None:
    found = emulation_problem("arm64", handlers)
    assert found is not None
    assert problem in found


def test_an_interpreter_that_falls_short_does_not_hide_one_that_fits() -> None:
    handlers = {"muster-arm64": arm64(), "qemu-aarch64": arm64(flags="OPF")}
    assert emulation_problem("arm64", handlers) is None
    assert emulation_problem("amd64", handlers) is not None


def test_devices_that_the_machine_can_not_run_are_refused_by_name() -> None:
    wanted = {"arm-1": "arm64", "box-1": "amd64", "arm-2": "arm64"}
    assert foreign_architectures(wanted, "amd64") == ("arm64",)
    with pytest.raises(InputError) as caught:
        require_emulation(wanted, "amd64", {})
    text = str(caught.value)
    assert "devices.arm-1.architecture: this machine can't run arm64" in text
    assert "devices.arm-2" in text
    assert "box-1" not in text
    assert "scripts/binfmt.sh register" in text


def test_devices_of_the_machines_own_architecture_need_nothing() -> None:
    require_emulation({"box-1": "amd64"}, "amd64", {})
    require_emulation({"arm-1": "arm64"}, "arm64", {})
    assert foreign_architectures({"box-1": "amd64"}, "amd64") == ()


def test_handlers_are_read_but_for_the_kernels_own_files(tmp_path: Path) -> None:
    for name in ("register", "status"):
        (tmp_path / name).write_text("enabled\n")
    (tmp_path / "muster-arm64").write_text(arm64())
    assert read_handlers(tmp_path) == {"muster-arm64": arm64()}
    assert read_handlers(tmp_path / "not-mounted") == {}
