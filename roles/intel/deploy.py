"""Intel GPU and NPU: libraries, access, CDI."""

from __future__ import annotations

import math

from pyinfra.api.deploy import deploy
from pyinfra.operations import server

from roles.accelerators.access import rules_file, take_up
from roles.accelerators.operations import cdi_devices, detected, look, repository_files, working
from roles.accelerators.seen import find
from roles.intel.operations import packages_of_makes, smoke_test
from roles.intel.variables import Variables
from roles.operations import place_files


@deploy("intel")
def intel(variables: Variables) -> None:
    """Bring the GPU and the NPU of a device to where containers get them."""
    root, group = variables.muster_device_hardware_root, variables.intel_group
    # What is on the bus does not change while this runs.
    found = find("intel", look(root))
    tests = {"gpu": variables.intel_gpu_smoke_test, "npu": variables.intel_npu_smoke_test}
    detected(name="hardware", kind="intel", root=root)
    if variables.accelerator_apt_repositories:
        files = repository_files(variables.accelerator_apt_repositories)
        place_files(name="package repositories", files=files)
    packages_of_makes(
        name="packages",
        packages={"gpu": variables.intel_gpu_packages, "npu": variables.intel_npu_packages},
        root=root,
    )
    server.group(name="group", group=group, system=True)
    place_files(
        name="access",
        files=[rules_file("intel", _rules(group))],
        then=take_up("drm accel", group, "/dev/dri/renderD* /dev/accel/accel*"),
    )
    cdi_devices(name="CDI", kind="intel", root=root)
    working(
        name="smoke test",
        kind="intel",
        test=smoke_test({each.make for each in found}, tests),
        seconds=math.ceil(variables.accelerator_test_timeout),
        root=root,
    )


def _rules(group: str) -> list[str]:
    access = f'GROUP="{group}", MODE="0660"'
    return [
        f'SUBSYSTEM=="drm", KERNEL=="renderD*", {access}',
        f'SUBSYSTEM=="accel", KERNEL=="accel*", {access}',
    ]
