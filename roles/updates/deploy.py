"""Security updates by themselves, but of nothing that would stop a model."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.operations import File, packages, place_files
from roles.templates import render
from roles.updates.variables import Variables

_PERIODIC = "/etc/apt/apt.conf.d/20auto-upgrades"
_SETTINGS = "/etc/apt/apt.conf.d/52unattended-upgrades-muster"
_TIMER = "/etc/systemd/system/apt-daily-upgrade.timer.d/50-muster.conf"


@deploy("updates")
def updates(variables: Variables) -> None:
    """Have a device install security updates."""
    if variables.updates_automatic:
        packages(name="security updates", names=["unattended-upgrades"])
    place_files(
        name="security updates",
        files=apt_files(variables),
        # apt does not start with a file that it can't read
        check=" && ".join(
            f'apt-config -c "$(newest {path})" dump >/dev/null' for path in (_PERIODIC, _SETTINGS)
        ),
    )
    place_files(
        name="time of security updates",
        files=[File(_TIMER, _timer(variables))],
        then="systemctl daemon-reload && systemctl try-restart apt-daily-upgrade.timer",
    )


def apt_files(variables: Variables) -> list[File]:
    """What apt, unattended-upgrades and needrestart read."""
    switch = int(variables.updates_automatic)
    periodic = (
        "// written by the role updates\n"
        f'APT::Periodic::Update-Package-Lists "{switch}";\n'
        f'APT::Periodic::Unattended-Upgrade "{switch}";\n'
    )
    settings = render(
        "updates/unattended-upgrades",
        origins=variables.updates_origins,
        hold=[*variables.updates_hold, *variables.updates_hold_drivers],
    )
    # Where needrestart is installed (Ubuntu), it restarts services after an update of a library.
    restarts = (
        "# written by the role updates\n"
        "$nrconf{override_rc}->{qr(^(containerd|docker|podman|muster-))} = 0;\n"
    )
    return [
        File(_PERIODIC, periodic),
        File(_SETTINGS, settings),
        File("/etc/needrestart/conf.d/50-muster.conf", restarts),
    ]


def _timer(variables: Variables) -> str:
    return (
        "# written by the role updates\n[Timer]\n"
        # an empty time takes back what the package says
        f"OnCalendar=\nOnCalendar=*-*-* {variables.updates_at}\n"
        f"RandomizedDelaySec={int(variables.updates_spread)}\n"
    )
