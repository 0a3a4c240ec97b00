"""Inputs of the role jetson."""

from __future__ import annotations

from typing import ClassVar

from roles.accelerators.inputs import (
    PACKAGES_TEXT,
    PACKAGES_TYPE,
    AcceleratorVariables,
    Command,
    Packages,
    PackageVersion,
)
from roles.variables import variable


class Variables(AcceleratorVariables):
    """NVIDIA Jetson."""

    kind: ClassVar[str] = "jetson"

    jetson_packages: Packages = variable(
        {},
        "further packages, such as `nvidia-container` or `nvidia-l4t-cuda`" + PACKAGES_TEXT,
        shown_type=PACKAGES_TYPE,
    )
    jetson_toolkit_version: PackageVersion | None = variable(
        None,
        "version of the four packages of the container toolkit, which are installed and held"
        " together; may end with `*`; null for any",
        shown_type="version",
    )
    jetson_smoke_test: Command = variable(
        "test -c /dev/nvhost-gpu || test -c /dev/nvgpu/igpu0/ctrl",
        "command that fails unless the GPU works; a device query of CUDA says more, where the"
        " image has one",
        shown_type="shell command",
    )
