"""What fstab should say. Pure: text in, text out."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ON_DISK = ("btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "vfat", "xfs")
_ATIME = ("atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime")
_TAKEN_OUT = "# taken out by the role storage: "
_LINE = re.compile(r"^(\s*\S+\s+)(\S+)(\s+)(\S+)(\s+)(\S+)(.*)$")


def adjusted(lines: Sequence[str], *, noatime: bool, swap: bool) -> list[str]:
    """What the lines of an fstab should be.

    :param noatime: whether filesystems on disks get the option ``noatime``.
    :param swap: whether swap stays.
    """
    return [_line(line, noatime=noatime, swap=swap) for line in lines]


def _line(line: str, *, noatime: bool, swap: bool) -> str:
    match = None if line.lstrip().startswith("#") else _LINE.match(line)
    if match is None:
        return line
    kind = match[4]
    if kind == "swap":
        return line if swap else _TAKEN_OUT + line
    if not noatime or kind not in _ON_DISK:
        return line
    given = match[6].split(",")
    options = [option for option in given if option not in _ATIME]
    if given == [*options, "noatime"]:
        return line
    return "".join((*match.group(1, 2, 3, 4, 5), ",".join([*options, "noatime"]), match[7]))


def changed_mounts(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Mount points whose options have changed."""
    pairs = zip(before, after, strict=True)
    found = [_LINE.match(new) for old, new in pairs if old != new and not new.startswith("#")]
    return [match[2] for match in found if match]
