"""Hailo accelerator: driver, library and firmware of one version, access, CDI."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyinfra.api.deploy import deploy
from pyinfra.operations import server

from roles.accelerators.access import rules_file, take_up
from roles.accelerators.operations import (
    cdi_devices,
    detected,
    look,
    pinned_packages,
    repository_files,
    working,
)
from roles.accelerators.seen import find
from roles.hailo.operations import collection, packages_fit
from roles.hailo.variables import Variables
from roles.operations import File, absent_files, place_files

_PREFERENCE = "/etc/apt/preferences.d/muster-hailo"


@deploy("hailo")
def hailo(variables: Variables) -> None:
    """Bring the Hailo accelerator of a device to where containers get it."""
    root, group = variables.muster_device_hardware_root, variables.hailo_group
    # What is on the bus does not change while this runs.
    own = collection(find("hailo", look(root)), variables.hailo_version)
    packages = variables.hailo_packages or own
    detected(name="hardware", kind="hailo", root=root)
    packages_fit(name="choice of packages", packages=sorted(packages), root=root)
    if variables.accelerator_apt_repositories:
        files = repository_files(variables.accelerator_apt_repositories)
        place_files(name="package repositories", files=files)
    if variables.hailo_version:
        place_files(
            name="preference",
            files=[_preference(variables.hailo_version, [*own, *variables.hailo_hold])],
        )
    else:
        absent_files(name="no preference", paths=[_PREFERENCE])
    server.group(name="group", group=group, system=True)
    pinned_packages(name="packages", packages=packages, hold=variables.hailo_hold)
    place_files(
        name="access",
        files=[rules_file("hailo", [f'SUBSYSTEM=="hailo_chardev", GROUP="{group}", MODE="0660"'])],
        then=take_up("hailo_chardev", group, "/dev/hailo*"),
    )
    cdi_devices(name="CDI", kind="hailo", root=root)
    working(
        name="smoke test",
        kind="hailo",
        test=variables.hailo_smoke_test,
        seconds=math.ceil(variables.accelerator_test_timeout),
        root=root,
    )


def _preference(version: str, packages: Sequence[str]) -> File:
    """Have apt take what comes along in the same version, and not in the newest."""
    # Packages have revisions of their own: 4.20.0 and 4.20.0-1 belong together.
    upstream = version.rstrip("*").partition("-")[0]
    text = f"Package: {' '.join(packages)}\nPin: version {upstream}*\nPin-Priority: 1001\n"
    return File(_PREFERENCE, f"# written by the role hailo\n{text}")
