"""Operations of the role watchdog."""

from __future__ import annotations

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.guarded import refuse
from roles.operations import File, place_files
from roles.watchdog.facts import Watchdog
from roles.watchdog.limits import problem

_SETTINGS = "/etc/systemd/system.conf.d/50-muster.conf"


@operation()
def settings(runtime: float, reboot: float, device: str | None = None) -> Iterator[StringCommand]:
    """
    Have systemd feed the hardware watchdog.

    Without a watchdog the settings are written and nothing else happens. One that can't count so
    far is an error, and the device stays as it is.

    + runtime: seconds after which it restarts a device that hangs, 0 for never
    + reboot: seconds after which it does so when a restart hangs, 0 for never
    + device: its device node

    **Example:**

    .. code:: python

        settings(name="watchdog", runtime=14, reboot=14)
    """
    found = host.get_fact(Watchdog, device=device or "/dev/watchdog0", _timeout=FACT_SECONDS)
    if wrong := problem(found, {"watchdog_runtime": runtime, "watchdog_reboot": reboot}):
        yield from refuse._inner(reason=wrong)
        return
    lines = ["# written by the role watchdog", "[Manager]"]
    lines.append(f"RuntimeWatchdogSec={int(runtime) or 'off'}")
    lines.append(f"RebootWatchdogSec={int(reboot) or 'off'}")
    if device:
        lines.append(f"WatchdogDevice={device}")
    yield from place_files._inner(
        files=[File(_SETTINGS, "\n".join(lines) + "\n")], then="systemctl daemon-reexec"
    )
