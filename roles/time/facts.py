"""What the role time asks a device."""

from __future__ import annotations

from pyinfra.api import FactBase


class RealTimeClock(FactBase[bool]):
    """Whether the device has a clock that goes on without power."""

    def command(self) -> str:
        return "ls /sys/class/rtc 2>/dev/null; true"

    @staticmethod
    def default() -> bool:
        return False

    def process(self, output: list[str]) -> bool:
        return any(line.startswith("rtc") for line in output)
