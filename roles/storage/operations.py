"""Operations of the role storage."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.facts import FACT_SECONDS
from roles.operations import File, place_files
from roles.storage.facts import DiskSwap, Fstab, OwnFiles, ZramInUse
from roles.storage.fstab import adjusted, changed_mounts

_FSTAB = "/etc/fstab"
_SWAP_UNITS = ["dphys-swapfile.service"]
# Somebody else's mistake, such as a disk that is not plugged in, must not stop us; ours must.
_CHECK = f"""mistakes() {{ findmnt --verify --tab-file "$1" 2>&1 | grep -F '[E]' | sort; }}
before=$(mistakes {_FSTAB}) after=$(mistakes "$(newest {_FSTAB})")
[ "$before" = "$after" ] || {{ echo "$after" >&2; exit 1; }}"""


@operation()
def mounts(noatime: bool, swap: bool, apply: bool = True) -> Iterator[StringCommand]:
    """
    Change options of disks and swap in fstab.

    findmnt checks it first. The former fstab comes back when a disk can't be mounted again so.

    + noatime: whether reading a file writes nothing
    + swap: whether swap stays
    + apply: whether mounts change now
    """
    before = host.get_fact(Fstab, path=_FSTAB, _timeout=FACT_SECONDS)
    after = adjusted(before, noatime=noatime, swap=swap)
    if not before:
        host.noop("there is no fstab")
        return
    then = ["systemctl daemon-reload"]
    if apply:
        for place in map(quote, changed_mounts(before, after)):
            then.append(f"{{ ! mountpoint -q {place} || mount -o remount {place}; }}")
    yield from place_files._inner(
        files=[File(_FSTAB, "\n".join(after) + "\n")], check=_CHECK, then=" && ".join(then)
    )


@operation()
def no_disk_swap() -> Iterator[StringCommand]:
    """Take swap on disks out of use, now and at the next start."""
    found = host.get_fact(DiskSwap, units=_SWAP_UNITS, _timeout=FACT_SECONDS)
    if not found:
        host.noop("no disk has swap in use")
        return
    for name in found:
        if name.startswith("/"):
            yield StringCommand("swapoff", QuoteString(name))
        else:
            yield StringCommand("systemctl", "disable", "--quiet", "--now", QuoteString(name))


@operation()
def zram() -> Iterator[StringCommand]:
    """Swap to compressed memory. A new size counts from the next start on."""
    if host.get_fact(ZramInUse, device="/dev/zram0", _timeout=FACT_SECONDS):
        host.noop("swap is in compressed memory")
        return
    yield StringCommand("systemctl", "daemon-reload")
    yield StringCommand("systemctl", "start", "dev-zram0.swap")


@operation()
def remove_own(paths: list[str]) -> Iterator[StringCommand]:
    """
    Remove files of this role that are not wanted any more; those of others stay.

    + paths: absolute paths
    """
    found = host.get_fact(OwnFiles, paths=paths, _timeout=FACT_SECONDS) if paths else []
    if not found:
        host.noop("there is nothing of ours to remove")
        return
    yield StringCommand("rm", "--", *[QuoteString(path) for path in found])
    yield StringCommand("systemctl", "daemon-reload")
