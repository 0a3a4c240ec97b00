"""Inputs of the role watchdog."""

from __future__ import annotations

from muster.fields import Duration
from roles.variables import AbsolutePath, RoleVariables, variable


class Variables(RoleVariables):
    """The hardware watchdog of a device."""

    watchdog_runtime: Duration = variable(
        "30s",
        "time after which the watchdog restarts a device that hangs; 0 for never",
        unit="seconds",
        shown_type="duration",
    )
    watchdog_reboot: Duration = variable(
        "10m",
        "time after which it does so when a restart itself hangs; 0 for never",
        unit="seconds",
        shown_type="duration",
    )
    watchdog_device: AbsolutePath | None = variable(
        None, "device node, where it is not the first watchdog", shown_type="path"
    )
