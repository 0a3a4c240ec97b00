"""Inputs of the role storage."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from muster.fields import Duration, Size
from roles.variables import RoleVariables, variable


class Variables(RoleVariables):
    """What wears the disk of a device, and what fills it up."""

    storage_journal: Literal["persistent", "volatile", "auto"] = variable(
        "persistent",
        "where the journal is; `volatile` (memory) spares an SD card and forgets at a restart",
        shown_type="`persistent`, `volatile` or `auto`",
    )
    storage_journal_max_size: Size = variable(
        "200MiB", "most that the journal may take", unit="bytes", shown_type="size"
    )
    storage_journal_max_age: Duration = variable(
        "30d", "age at which entries go; 0 for none", unit="seconds", shown_type="duration"
    )
    storage_journal_sync: Duration = variable(
        "5m",
        "time after which entries are on the disk; errors are at once",
        unit="seconds",
        shown_type="duration",
    )
    storage_noatime: bool = variable(
        False, "whether reading a file writes nothing: `noatime` for the disks in fstab"
    )
    storage_swap: Literal["keep", "none", "zram"] = variable(
        "keep",
        "`zram`: compressed memory instead of swap on a disk; `none`: no swap; `keep`: as it is",
        shown_type="`keep`, `none` or `zram`",
    )
    storage_zram_size: Size | None = variable(
        None,
        "size of the compressed swap, half of the memory but at most 4 GiB if null",
        unit="bytes",
        shown_type="size",
    )
    storage_tmp: Size | None = variable(
        None,
        "size of a /tmp in memory, from the next start on; on the disk if null",
        unit="bytes",
        shown_type="size",
    )
    storage_logs: Size | None = variable(
        None,
        "size of a /var/log in memory, from the next start on; on the disk if null",
        unit="bytes",
        shown_type="size",
    )

    @field_validator("storage_zram_size")
    @classmethod
    def _is_of_use(cls, value: int | None, info: ValidationInfo) -> int | None:
        swap = info.data.get("storage_swap", "zram")
        if value is not None and swap != "zram":
            raise ValueError(
                f"expected storage_swap to be zram where its size is given, got {swap}"
            )
        return value

    @field_validator("storage_logs")
    @classmethod
    def _agrees_with_journal(cls, value: int | None, info: ValidationInfo) -> int | None:
        journal = info.data.get("storage_journal", "volatile")
        if value is not None and journal == "persistent":
            raise ValueError(
                "expected storage_journal to be volatile where /var/log is in memory,"
                " got persistent"
            )
        return value
