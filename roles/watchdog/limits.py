"""What watchdogs can count to."""

from __future__ import annotations

from roles.watchdog.facts import FoundWatchdog

_RASPBERRY_PI = "Broadcom BCM2835"
_RASPBERRY_PI_SECONDS = 15  # 20 bits that count 16 microseconds each


def limit(found: FoundWatchdog) -> int | None:
    """Seconds that a watchdog can count to, None if nobody knows."""
    if found.identity.startswith(_RASPBERRY_PI):
        # newer drivers do not say so: they feed it in between, but not while the device hangs
        return _RASPBERRY_PI_SECONDS
    return found.max_timeout or None


def problem(found: FoundWatchdog | None, times: dict[str, float]) -> str | None:
    """What is wrong with times that a watchdog is to be set to.

    :param times: seconds by name of the variable.
    """
    longest = limit(found) if found else None
    if found is None or longest is None:
        return None
    wrong = [f"{name} is {seconds:g} s" for name, seconds in times.items() if seconds > longest]
    if not wrong:
        return None
    return (
        f"expected at most {longest} s, which is what this watchdog ({found.identity}) counts to:"
        f" {', '.join(wrong)}"
    )
