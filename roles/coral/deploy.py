"""Coral Edge TPU: kernel modules, library, access, CDI."""

from __future__ import annotations

import math

from pyinfra.api.deploy import deploy
from pyinfra.operations import server

from roles.accelerators.access import rules_file, take_up
from roles.accelerators.operations import (
    cdi_devices,
    detected,
    pinned_packages,
    repository_files,
    working,
)
from roles.accelerators.seen import CORAL_USB
from roles.coral.operations import kernel_fits, kernel_modules
from roles.coral.variables import Variables
from roles.operations import place_files


@deploy("coral")
def coral(variables: Variables) -> None:
    """Bring the TPU of a device to where containers get it."""
    root = variables.muster_device_hardware_root
    package, limit = variables.coral_gasket_package, variables.coral_gasket_kernel_limit
    detected(name="hardware", kind="coral", root=root)
    kernel_fits(name="kernel", package=package, limit=limit, root=root)
    if variables.accelerator_apt_repositories:
        files = repository_files(variables.accelerator_apt_repositories)
        place_files(name="package repositories", files=files)
    server.group(name="group", group=variables.coral_group, system=True)
    place_files(
        name="access",
        files=[rules_file("coral", _rules(variables.coral_group))],
        then=take_up("apex usb", variables.coral_group, "/dev/apex_*"),
    )
    pinned_packages(name="packages", packages=variables.coral_packages)
    kernel_modules(
        name="kernel modules",
        package=package,
        version=variables.coral_gasket_version,
        limit=limit,
        root=root,
    )
    cdi_devices(name="CDI", kind="coral", root=root)
    working(
        name="smoke test",
        kind="coral",
        test=variables.coral_smoke_test,
        seconds=math.ceil(variables.accelerator_test_timeout),
        root=root,
    )


def _rules(group: str) -> list[str]:
    access = f'GROUP="{group}", MODE="0660"'
    usb = [identity.split(":") for identity in CORAL_USB]
    return [
        f'SUBSYSTEM=="apex", {access}',
        *(
            f'SUBSYSTEM=="usb", ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}",'
            f" {access}"
            for vendor, product in usb
        ),
    ]
