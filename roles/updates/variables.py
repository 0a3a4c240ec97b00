"""Inputs of the role updates."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from muster.fields import Duration
from roles.variables import RoleVariables, variable

Line = Annotated[str, StringConstraints(pattern=r'^[^\n"]+$')]
TimeOfDay = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class Variables(RoleVariables):
    """Security updates of a device."""

    updates_automatic: bool = variable(
        True, "whether the device installs security updates by itself, without restarting"
    )
    updates_origins: list[Line] = variable(
        [
            "origin=Debian,codename=${distro_codename},label=Debian-Security",
            "origin=Ubuntu,archive=${distro_codename}-security",
        ],
        "patterns of where such updates come from",
        shown_type="list of text",
    )
    updates_hold: list[Line] = variable(
        ["containerd", "containerd.io", "crun", "docker-ce", "docker.io", "podman", "runc"],
        "packages that never change by themselves, as patterns: a restart of the container runtime"
        " would stop models",
        shown_type="list of text",
    )
    updates_hold_drivers: list[Line] = variable(
        [],
        "further such packages: drivers and libraries that must match each other",
        shown_type="list of text",
    )
    updates_at: TimeOfDay = variable(
        "06:00",
        "when it does, in the device's time zone; text, in quotes",
        shown_type='`"HH:MM"`',
    )
    updates_spread: Duration = variable(
        "1h",
        "how much later a device may begin, so that not all ask the mirror at once",
        unit="seconds",
        shown_type="duration",
    )
