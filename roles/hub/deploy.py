"""The message broker: installed, configured as one document, bridged to the one above it."""

from __future__ import annotations

import math
from pathlib import Path
from shlex import quote

from pyinfra import host
from pyinfra.api.deploy import deploy

from roles.hub.broker import CONFIGURATION, FOLDER, OPTIONAL, broker_files
from roles.hub.variables import Variables
from roles.operations import File, absent_files, enable_unit, packages, place_files
from roles.templates import render

_UNIT = "/etc/systemd/system/mosquitto.service.d/50-muster.conf"
_CHECK = (Path(__file__).parent / "check_broker.sh").read_text(encoding="utf-8")


@deploy("hub")
def hub(variables: Variables) -> None:
    """Bring the broker of a device to what the variables say."""
    seconds = math.ceil(variables.hub_start_timeout)
    device = host.data.get("inventory_device", host.name)
    files = broker_files(variables, device)
    packages(name="packages", names=variables.hub_packages)
    place_files(
        name="unit",
        files=[File(_UNIT, render("hub/unit.conf"))],
        then="systemctl daemon-reload",
    )
    place_files(
        name="broker",
        files=files,
        check=f"configuration={quote(CONFIGURATION)} folder={quote(FOLDER)}\n{_CHECK}",
        then=_restart(seconds),
        seconds=2 * seconds + 120,
    )
    # After the restart: the broker that ran before may have needed them.
    names = {file.path for file in files}
    absent_files(name="files of former settings", paths=[p for p in OPTIONAL if p not in names])
    enable_unit(name="broker runs", unit="mosquitto.service")


def _restart(seconds: int) -> str:
    # systemd gives up on what was started too often, as it may have been before; the unit is ready
    # when the broker has opened its listeners and read what waits
    return (
        "systemctl reset-failed mosquitto.service 2>/dev/null\n"
        f"timeout {seconds} systemctl restart mosquitto.service || {{ journalctl"
        " --unit mosquitto.service --lines 5 --no-pager --output cat >&2; exit 1; }"
    )
