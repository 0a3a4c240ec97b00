"""What the role watchdog asks a device."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from pyinfra.api import FactBase


@dataclass(frozen=True)
class FoundWatchdog:
    """A hardware watchdog.

    :param identity: as its driver calls it.
    :param max_timeout: seconds that it can count to, 0 if the driver does not say.
    """

    identity: str
    max_timeout: int


class Watchdog(FactBase[FoundWatchdog | None]):
    """The watchdog behind a device node, None if there is none."""

    def command(self, device: str = "/dev/watchdog0") -> str:
        folder = quote(f"/sys/class/watchdog/{device.rsplit('/', 1)[1]}")
        return (
            f"[ ! -e {quote(device)} ] || [ ! -d {folder} ] || "
            f"(cd {folder} && echo identity $(cat identity) && echo max $(cat max_timeout))"
            " 2>/dev/null; true"
        )

    @staticmethod
    def default() -> FoundWatchdog | None:
        return None

    def process(self, output: list[str]) -> FoundWatchdog | None:
        values = dict(line.partition(" ")[::2] for line in output)
        if "identity" not in values:
            return None
        limit = values.get("max", "")
        return FoundWatchdog(values["identity"], int(limit) if limit.isdigit() else 0)
