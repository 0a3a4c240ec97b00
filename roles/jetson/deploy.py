"""NVIDIA Jetson: container toolkit, mode of its runtime, CDI."""

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
from roles.jetson.operations import runtime_mode
from roles.jetson.variables import Variables
from roles.nvidia.deploy import CDI
from roles.nvidia.operations import TOOLKIT
from roles.operations import place_files


@deploy("jetson")
def jetson(variables: Variables) -> None:
    """Bring the GPU of a Jetson to where containers get it, by NVIDIA's runtime and by CDI."""
    root = variables.muster_device_hardware_root
    detected(name="hardware", kind="jetson", root=root)
    if variables.accelerator_apt_repositories:
        files = repository_files(variables.accelerator_apt_repositories)
        place_files(name="package repositories", files=files)
    toolkit = dict.fromkeys(TOOLKIT, variables.jetson_toolkit_version)
    pinned_packages(name="container toolkit", packages=toolkit, together=True)
    if variables.jetson_packages:
        pinned_packages(name="packages", packages=variables.jetson_packages)
    runtime_mode(name="mode of the container runtime")
    generated_cdi(name="CDI", mode="csv", path=CDI)
    working(
        name="smoke test",
        kind="jetson",
        test=variables.jetson_smoke_test,
        seconds=math.ceil(variables.accelerator_test_timeout),
        root=root,
    )
