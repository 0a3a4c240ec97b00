"""What spares the disk of a device, above all an SD card."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api.deploy import deploy

from roles.facts import FACT_SECONDS, InContainer
from roles.operations import File, enable_unit, packages, place_files
from roles.storage.operations import mounts, no_disk_swap, remove_own, zram
from roles.storage.settings import (
    LOGS_SCRIPT,
    LOGS_UNIT,
    TMP_UNIT,
    journald_file,
    logs_files,
    tmp_file,
    zram_file,
)
from roles.storage.variables import Variables

# the package's folder lists are of no use where they are not saved
_SAVE = File(
    "/etc/apt/apt.conf.d/90muster-logs",
    f'// written by the role storage\nDPkg::Post-Invoke {{ "{LOGS_SCRIPT} save || true"; }};\n',
)


@deploy("storage")
def storage(variables: Variables) -> None:
    """Have a device write less to its disk."""
    container = host.get_fact(InContainer, _timeout=FACT_SECONDS)
    place_files(
        name="limits of the journal",
        files=[journald_file(variables)],
        then="systemctl restart systemd-journald.service",
    )
    swap = variables.storage_swap
    if variables.storage_noatime or swap != "keep":
        mounts(
            name="options of disks",
            noatime=variables.storage_noatime,
            swap=swap == "keep",
            apply=not container,
        )
    if swap == "zram":
        # Its configuration comes first, so that the package does not make a device of its own size.
        place_files(name="compressed swap", files=[zram_file(variables)])
        packages(name="compressed swap in memory", names=["systemd-zram-generator"])
    if swap != "keep" and not container:
        no_disk_swap(name="swap on disks")
    if swap == "zram" and not container:
        zram(name="compressed swap in use")
    _in_memory(variables)


def _in_memory(variables: Variables) -> None:
    unwanted = []
    if variables.storage_tmp:
        place_files(
            name="temporary files in memory",
            files=[tmp_file(variables.storage_tmp)],
            then="systemctl daemon-reload",
        )
        enable_unit(name="temporary files from the next start", unit="tmp.mount", active=False)
    else:
        unwanted.append(TMP_UNIT)
    if variables.storage_logs:
        place_files(
            name="logs in memory",
            files=[*logs_files(variables.storage_logs), _SAVE],
            then="systemctl daemon-reload",
        )
        enable_unit(name="logs from the next start", unit="muster-logs.service", active=False)
    else:
        unwanted += [_SAVE.path, LOGS_UNIT, LOGS_SCRIPT]
    remove_own(name="what is on the disk again", paths=unwanted)
