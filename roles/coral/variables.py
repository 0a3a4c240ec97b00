"""Inputs of the role coral."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints, field_validator

from roles.accelerators.inputs import (
    PACKAGES_TEXT,
    PACKAGES_TYPE,
    AcceleratorVariables,
    Command,
    Group,
    Packages,
    PackageVersion,
)
from roles.variables import PackageName, variable


class Variables(AcceleratorVariables):
    """Coral Edge TPU, on PCIe or USB."""

    kind: ClassVar[str] = "coral"

    coral_packages: Annotated[Packages, Field(min_length=1)] = variable(
        {"libedgetpu1-std": None},
        "packages of the library" + PACKAGES_TEXT,
        shown_type=PACKAGES_TYPE,
    )
    coral_gasket_package: PackageName = variable(
        "gasket-dkms",
        "package with the kernel modules of a TPU on PCIe; it is installed only where the kernel"
        " has none, and never for USB",
        shown_type="name",
    )
    coral_gasket_version: PackageVersion | None = variable(
        None, "its version, may end with `*`; null for any", shown_type="version"
    )
    coral_gasket_kernel_limit: (
        Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]+$")] | None
    ) = variable(
        "6.8",
        "first kernel on which that package does not build: a device with this one, or a newer"
        " one, is refused; null for a package that a site builds for its kernels",
        shown_type="version",
    )
    coral_group: Group = variable(
        "plugdev", "group that may use the TPU, besides root", shown_type="name"
    )
    coral_smoke_test: Command = variable(
        "python3 -c 'import ctypes; ctypes.CDLL(\"libedgetpu.so.1\")'",
        "command that fails unless the TPU works; the default finds out whether the library loads",
        shown_type="shell command",
    )

    @field_validator("coral_packages")
    @classmethod
    def _one_clock(cls, value: Packages) -> Packages:
        if {"libedgetpu1-std", "libedgetpu1-max"} <= value.keys():
            raise ValueError("expected libedgetpu1-std or libedgetpu1-max, never both")
        return value
