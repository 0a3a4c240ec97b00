"""Findings about a device: what was looked at, how bad it is, and how to mend it. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

DISK = (0.05, 0.15)
"""Shares of free space, or of free files, below which it is a problem, or a warning."""
MEMORY = (0.05, 0.10)
CLOCK = (10.0, 1.0)
"""Seconds of offset beyond which it is a problem, or a warning."""
CERTIFICATE = (7.0, 30.0)
"""Days left below which it is a problem, or a warning."""
GUARD_SECONDS = 1800.0
"""How long a switch may be unconfirmed: no strategy has reason to wait longer."""

_LOG = "journalctl --unit {0} --lines 50"
_ABOUT_INVENTORY = re.compile(r"\bmuster (?:enroll|provision|reboot|status|k3s [a-z-]+)\b")
"""Commands in a remedy that read the default inventory unless they are told another one."""


class Severity(str, Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param check: what was looked at, a word of :data:`CHECKS`.
    :param what: what was found, in words.
    :param remedy: what to do about it; "" where nothing is to be done.
    """

    check: str
    severity: Severity
    what: str
    remedy: str = ""


CHECKS = (
    "ssh", "host_key", "login", "sudo", "python", "clock", "disk", "memory", "runtime",
    "k3s", "accelerator", "registry", "certificate", "guard", "program", "units", "release",
)  # fmt: skip
"""Everything that is looked at, in the order in which it is told."""


@dataclass(frozen=True)
class Expected:
    """What a device should be like.

    :param accelerator: kind that the inventory says it has, None if it says nothing.
    :param k3s_role: what it is in its cluster of K3s, "" if it is no node.
    :param k3s_version: version that it is to run there.
    :param registry_ca: whether the inventory says which CA signed its registry's certificate.
    :param program: SHA-256 of this checkout's device program.
    :param units: the same of its units by name.
    :param quarantined: why the journal has it in quarantine, by model.
    :param strict: whether its host key is checked at all.
    """

    device: str
    runtime: str | None = None
    accelerator: str | None = None
    program: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    quarantined: Mapping[str, str] = field(default_factory=dict)
    strict: bool = True
    registry_ca: bool = False
    k3s_role: str = ""
    k3s_version: str = ""


def ok(check: str, what: str) -> Finding:
    """Something is as it should be."""
    return Finding(check, Severity.OK, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Something will do harm later, or may."""
    return Finding(check, Severity.WARNING, what, remedy)


def problem(check: str, what: str, remedy: str) -> Finding:
    """Something does harm now."""
    return Finding(check, Severity.PROBLEM, what, remedy)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in the order of :data:`CHECKS`."""
    return sorted(findings, key=lambda finding: CHECKS.index(finding.check))


def for_inventory(finding: Finding, path: str) -> Finding:
    """The same with remedies that can be typed as shown where another inventory was named.

    :param path: of the inventory, as it was given.
    """
    option = f" -i {shlex.quote(path)}"
    remedy = _ABOUT_INVENTORY.sub(lambda command: command[0] + option, finding.remedy)
    return replace(finding, remedy=remedy)


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity of some findings."""
    order = list(Severity)
    return max((each.severity for each in findings), key=order.index, default=Severity.OK)


def graded(value: float, limits: tuple[float, float], *, below: bool) -> Severity:
    """Compare a figure with limits for a problem and for a warning.

    :param below: whether small figures are the bad ones.
    """
    for limit, severity in zip(limits, (Severity.PROBLEM, Severity.WARNING), strict=True):
        if (value < limit) if below else (value > limit):
            return severity
    return Severity.OK


def unmeasured(check: str, measured: Any) -> Finding | None:
    """What to say where a part could not be measured; None where it was."""
    if isinstance(measured, Mapping) and set(measured) == {"error"}:
        return warning(check, f"can't be measured: {measured['error']}", "look at the device")
    return None


def size(number: float) -> str:
    """Bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit in ("B", "KiB") else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def span(seconds: float) -> str:
    """A duration in words."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
