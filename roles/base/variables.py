"""Inputs of the role base."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from muster.fields import Duration, Size
from roles.variables import PackageName, RoleVariables, variable

Server = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]+$")]
Parameter = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*/-]+$")]
ParameterValue = Annotated[str, StringConstraints(pattern=r"^[^\n]*$")] | int | float
Line = Annotated[str, StringConstraints(pattern=r'^[^\n"]+$')]


class Variables(RoleVariables):
    """What every device needs before anything else."""

    base_packages: list[PackageName] = variable(
        ["ca-certificates"], "packages that every device has", shown_type="list of names"
    )
    base_time_servers: Annotated[list[Server], Field(min_length=1)] = variable(
        ["2.debian.pool.ntp.org"],
        "NTP servers or pools; at a site without internet its own",
        shown_type="list of names or addresses",
    )
    base_time_set_clock: bool = variable(
        True,
        "whether chrony sets the clock; never done in a container, which has the clock of its host",
    )
    base_journald_storage: Literal["persistent", "volatile", "auto"] = variable(
        "persistent",
        "where the journal is; `volatile` (memory) spares an SD card and forgets at a restart",
        shown_type="`persistent`, `volatile` or `auto`",
    )
    base_journald_max_size: Size = variable(
        "200MiB", "most that the journal may take", unit="bytes", shown_type="size"
    )
    base_journald_max_age: Duration = variable(
        "30d", "age at which entries go; 0 for none", unit="seconds", shown_type="duration"
    )
    base_sysctl: dict[Parameter, ParameterValue] = variable(
        {},
        "kernel parameters; written but not applied in a container, which has its host's kernel",
        shown_type="mapping of parameter to value",
    )
    base_watchdog: Duration = variable(
        "30s",
        "time after which a hardware watchdog restarts a device that hangs; 0 for none",
        unit="seconds",
        shown_type="duration",
    )
    base_unattended_upgrades: bool = variable(
        True, "whether the device installs security updates by itself, without restarting"
    )
    base_unattended_upgrades_origins: list[Line] = variable(
        [
            "origin=Debian,codename=${distro_codename},label=Debian-Security",
            "origin=Ubuntu,archive=${distro_codename}-security",
        ],
        "patterns of where such updates come from",
        shown_type="list of text",
    )
    base_unattended_upgrades_hold: list[Line] = variable(
        ["containerd", "containerd.io", "docker-ce", "docker.io", "runc"],
        "packages that never change by themselves, as patterns: a restart of the container runtime"
        " would stop models",
        shown_type="list of text",
    )
    base_unattended_upgrades_hold_drivers: list[Line] = variable(
        [],
        "further such packages: drivers and libraries that must match each other",
        shown_type="list of text",
    )
