"""The hardware watchdog: it restarts a device that hangs."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.watchdog.operations import settings
from roles.watchdog.variables import Variables


@deploy("watchdog")
def watchdog(variables: Variables) -> None:
    """Have the watchdog of a device watch over it."""
    settings(
        name="watchdog",
        runtime=variables.watchdog_runtime,
        reboot=variables.watchdog_reboot,
        device=variables.watchdog_device,
    )
