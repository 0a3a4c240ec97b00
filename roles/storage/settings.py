"""The files of the role storage. Pure: knows no device."""

from __future__ import annotations

from pathlib import Path

from roles.operations import File
from roles.storage.variables import Variables
from roles.templates import render

JOURNALD = "/etc/systemd/journald.conf.d/50-muster.conf"
ZRAM = "/etc/systemd/zram-generator.conf"
TMP_UNIT = "/etc/systemd/system/tmp.mount"
LOGS_UNIT = "/etc/systemd/system/muster-logs.service"
LOGS_SCRIPT = "/usr/local/sbin/muster-logs"
_LOGS = (Path(__file__).parent / "logs_in_memory.sh").read_text(encoding="utf-8")
_MIB = 1 << 20


def journald_file(variables: Variables) -> File:
    """Limits of the journal."""
    text = render(
        "storage/journald.conf",
        storage=variables.storage_journal,
        max_size=variables.storage_journal_max_size,
        max_age=int(variables.storage_journal_max_age),
        sync=int(variables.storage_journal_sync),
    )
    return File(JOURNALD, text)


def zram_file(variables: Variables) -> File:
    """Compressed swap. Older versions know the two deprecated keys alone, newer ones both forms."""
    size = variables.storage_zram_size
    lines = ["# written by the role storage", "[zram0]"]
    if size is None:
        lines.append("zram-size = min(ram / 2, 4096)")
    else:
        mib = max(size // _MIB, 1)
        lines += [f"zram-size = {mib}", "zram-fraction = 1.0", f"max-zram-size = {mib}"]
    # before any swap on a disk
    lines.append("swap-priority = 100")
    return File(ZRAM, "\n".join(lines) + "\n")


def tmp_file(size: int) -> File:
    """A /tmp in memory."""
    return File(TMP_UNIT, render("storage/tmp.mount", size=size))


def logs_files(size: int) -> list[File]:
    """A /var/log in memory."""
    unit = render("storage/muster-logs.service", size=size, script=LOGS_SCRIPT)
    return [File(LOGS_SCRIPT, _LOGS, "755"), File(LOGS_UNIT, unit)]
