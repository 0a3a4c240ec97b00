"""Inputs of the role nvidia."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import StringConstraints

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
    """NVIDIA GPU in a server."""

    kind: ClassVar[str] = "nvidia"

    nvidia_driver_packages: Packages = variable(
        {},
        "packages of the driver, such as `nvidia-headless-535-server` and"
        " `nvidia-utils-535-server`; none where the device comes with its driver" + PACKAGES_TEXT,
        shown_type=PACKAGES_TYPE,
    )
    nvidia_min_driver_version: (
        Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")] | None
    ) = variable(
        None, "lowest version of the driver that will do", shown_type="version such as `535.104`"
    )
    nvidia_toolkit_version: PackageVersion | None = variable(
        None,
        "version of the four packages of the container toolkit, which are installed and held"
        " together; may end with `*`; null for any",
        shown_type="version",
    )
    nvidia_smoke_test: Command = variable(
        "nvidia-smi -L", "command that fails unless the GPU works", shown_type="shell command"
    )
