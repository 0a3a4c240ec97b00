"""Inputs of the role hailo."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

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

GENERATIONS = {"hailo-all": ("Hailo-8",), "hailo-h10-all": ("Hailo-10H", "Hailo-15L")}
"""What each of Raspberry Pi's collections of packages is for; they exclude each other."""


class Variables(AcceleratorVariables):
    """Hailo accelerator on PCIe."""

    kind: ClassVar[str] = "hailo"

    hailo_packages: Annotated[Packages, Field(min_length=1)] | None = variable(
        None,
        "packages of driver, library and firmware, which must be of one version, such as `hailort`"
        " and `hailort-pcie-driver`; null for the Raspberry Pi's, `hailo-all` for a Hailo-8 and"
        " `hailo-h10-all` for a Hailo-10H" + PACKAGES_TEXT,
        shown_type=PACKAGES_TYPE,
    )
    hailo_version: PackageVersion | None = variable(
        None,
        "version of the Raspberry Pi's packages, and of those that come along; may end with `*`;"
        " null for any",
        shown_type="version",
    )
    hailo_hold: list[PackageName] = variable(
        [
            "h10-hailort", "h10-hailort-pcie-driver", "hailo-dkms", "hailofw", "hailort",
            "hailort-pcie-driver", "python3-hailort",
        ],
        "further packages that are held where they are installed: those that come along",
        shown_type="list of names",
    )  # fmt: skip
    hailo_group: Group = variable(
        "hailo", "group that may use the accelerator, besides root", shown_type="name"
    )
    hailo_smoke_test: Command = variable(
        "hailortcli fw-control identify",
        "command that fails unless the accelerator works",
        shown_type="shell command",
    )

    @field_validator("hailo_packages")
    @classmethod
    def _one_generation(cls, value: Packages | None) -> Packages | None:
        if GENERATIONS.keys() <= (value or {}).keys():
            raise ValueError("expected hailo-all or hailo-h10-all, never both")
        return value

    @field_validator("hailo_version")
    @classmethod
    def _one_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("hailo_packages") is not None:
            raise ValueError("expected the version in hailo_packages, which is given, too")
        return value
