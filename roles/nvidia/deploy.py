"""NVIDIA GPU: driver, container toolkit, CDI."""

from __future__ import annotations

import math

from pyinfra.api.deploy import deploy

from roles.accelerators.operations import (
    detected,
    generated_cdi,
    pinned_packages,
    repository_files,
    working,
)
from roles.nvidia.operations import TOOLKIT, driver
from roles.nvidia.variables import Variables
from roles.operations import place_files

CDI = "/etc/cdi/nvidia.json"


@deploy("nvidia")
def nvidia(variables: Variables) -> None:
    """Bring the GPU of a device to where containers get it by CDI."""
    root = variables.muster_device_hardware_root
    drivers = variables.nvidia_driver_packages
    detected(name="hardware", kind="nvidia", root=root)
    driver(
        name="driver",
        at_least=variables.nvidia_min_driver_version,
        installs=bool(drivers),
        root=root,
    )
    if variables.accelerator_apt_repositories:
        files = repository_files(variables.accelerator_apt_repositories)
        place_files(name="package repositories", files=files)
    if drivers:
        pinned_packages(name="packages of the driver", packages=drivers)
    toolkit = dict.fromkeys(TOOLKIT, variables.nvidia_toolkit_version)
    pinned_packages(name="container toolkit", packages=toolkit, together=True)
    generated_cdi(name="CDI", mode="auto", path=CDI)
    working(
        name="smoke test",
        kind="nvidia",
        test=variables.nvidia_smoke_test,
        seconds=math.ceil(variables.accelerator_test_timeout),
        root=root,
    )
