"""Packages, time, journal, kernel parameters, watchdog and security updates."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api.deploy import deploy

from roles.base.variables import Variables
from roles.facts import FACT_SECONDS, InContainer
from roles.operations import File, enable_unit, packages, place_files
from roles.templates import render

_JOURNALD = "/etc/systemd/journald.conf.d/50-muster.conf"
_SYSCTL = "/etc/sysctl.d/90-muster.conf"
_WATCHDOG = "/etc/systemd/system.conf.d/50-muster.conf"
_PERIODIC = "/etc/apt/apt.conf.d/20auto-upgrades"
_UNATTENDED = "/etc/apt/apt.conf.d/52unattended-upgrades-muster"


@deploy("base")
def base(variables: Variables) -> None:
    """Bring a device to what every later role relies on."""
    container = host.get_fact(InContainer, _timeout=FACT_SECONDS)
    wanted = [*variables.base_packages, "chrony"]
    if variables.base_unattended_upgrades:
        wanted.append("unattended-upgrades")
    # First, so that chrony never runs without it: in a container it would set its host's clock.
    _time(variables, container)
    packages(name="packages", names=wanted)
    enable_unit(name="time service", unit="chrony.service")
    place_files(
        name="limits of the journal",
        files=[File(_JOURNALD, _journald(variables))],
        then="systemctl restart systemd-journald.service",
    )
    place_files(
        name="kernel parameters",
        files=[File(_SYSCTL, _sysctl(variables))],
        then=None if container else f"sysctl -q -p {_SYSCTL}",
    )
    place_files(
        name="watchdog",
        files=[File(_WATCHDOG, _watchdog(variables))],
        then="systemctl daemon-reexec",
    )
    place_files(name="security updates", files=_upgrades(variables))


def _time(variables: Variables, container: bool) -> None:
    set_clock = variables.base_time_set_clock and not container
    servers = variables.base_time_servers
    options = "-F 1" if set_clock else "-F 1 -x"
    place_files(
        name="time",
        files=[
            File(
                "/etc/chrony/chrony.conf",
                render("base/chrony.conf", servers=servers, set_clock=set_clock),
            ),
            File("/etc/default/chrony", f'# written by the role base\nDAEMON_OPTS="{options}"\n'),
        ],
        then="! systemctl cat chrony.service >/dev/null 2>&1 || systemctl restart chrony.service",
    )


def _journald(variables: Variables) -> str:
    return render(
        "base/journald.conf",
        storage=variables.base_journald_storage,
        max_size=variables.base_journald_max_size,
        max_age=int(variables.base_journald_max_age),
    )


def _sysctl(variables: Variables) -> str:
    parameters = sorted(variables.base_sysctl.items())
    lines = [f"{name} = {value}" for name, value in parameters]
    return "\n".join(["# written by the role base", *lines]) + "\n"


def _watchdog(variables: Variables) -> str:
    seconds = int(variables.base_watchdog)
    return f"# written by the role base\n[Manager]\nRuntimeWatchdogSec={seconds or 'off'}\n"


def _upgrades(variables: Variables) -> list[File]:
    switch = int(variables.base_unattended_upgrades)
    periodic = (
        "// written by the role base\n"
        f'APT::Periodic::Update-Package-Lists "{switch}";\n'
        f'APT::Periodic::Unattended-Upgrade "{switch}";\n'
    )
    settings = render(
        "base/unattended-upgrades",
        origins=variables.base_unattended_upgrades_origins,
        hold=[
            *variables.base_unattended_upgrades_hold,
            *variables.base_unattended_upgrades_hold_drivers,
        ],
    )
    return [File(_PERIODIC, periodic), File(_UNATTENDED, settings)]
