"""Findings about the device as a computer: clock, disks, memory, runtime, accelerator, units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from muster.doctor.findings import (
    _LOG,
    CLOCK,
    DISK,
    MEMORY,
    Expected,
    Finding,
    Severity,
    graded,
    ok,
    problem,
    size,
    span,
    unmeasured,
    warning,
)

_PROVISION = "muster provision --limit {0}"
_MATCHED = {"nvidia": "libnvidia-ml", "hailo": "libhailort"}
"""Libraries that must be of the same version as the driver."""
_TEXT_ONLY = ("/boot", "/boot/firmware")  # may be mounted read-only by intent


def clock_offset(measured: Mapping[str, Any], sent: float, received: float) -> float:
    """Seconds that the device's clock is certainly ahead (or behind, below 0).

    What the way there and back may have taken is no offset.

    :param sent: our clock before the question was sent.
    :param received: our clock after the answer had come.
    """
    highest, lowest = measured["began"] - sent, measured["ended"] - received
    return float(min(max(0.0, lowest), highest) if highest >= 0 else highest)


def clock(measured: Mapping[str, Any], sent: float, received: float) -> Finding:
    """Whether the clock is right, and stays so."""
    offset = clock_offset(measured, sent, received)
    severity = graded(abs(offset), CLOCK, below=False)
    if severity is not Severity.OK:
        what = f"is {span(abs(offset))} {'ahead' if offset > 0 else 'behind'}"
        return Finding("clock", severity, what, "chronyc tracking; chronyc makestep")
    state = measured.get("clock") or {}
    if gap := unmeasured("clock", state):
        return gap
    if state.get("service") is None and state.get("synchronized") is not True:
        return warning(
            "clock",
            "agrees with this machine's, but nothing keeps it so",
            "muster provision brings chrony",
        )
    return ok("clock", "agrees with this machine's")


def disk(measured: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether there is room, and whether it can be written to."""
    disks = measured.get("disks")
    if gap := unmeasured("disk", disks):
        yield gap
        return
    bad = False
    for each in disks or ():
        path = each["path"]
        if each["read_only"] and path not in _TEXT_ONLY:
            bad = True
            yield problem(
                "disk", f"{path} is read-only", "dmesg: the disk or SD card fails; replace it"
            )
        shares = {"space": each["free"] / each["size"]}
        if each["files"]:
            shares["files"] = each["files_free"] / each["files"]
        for kind, share in shares.items():
            severity = graded(share, DISK, below=True)
            if severity is not Severity.OK:
                bad = True
                left = (
                    f"{size(each['free'])} of {size(each['size'])}" if kind == "space" else "files"
                )
                yield Finding(
                    "disk", severity, f"{path} has {share:.0%} left ({left})", _room(path)
                )
    if not bad:
        least = min((each["free"] / each["size"] for each in disks or ()), default=1.0)
        yield ok("disk", f"{least:.0%} free, at the least")


def _room(path: str) -> str:
    if path.startswith("/var/lib/"):
        return "docker system df, or that of its runtime; remove images that no release needs"
    return f"du -xh -d 2 {path} | sort -h | tail; journalctl --vacuum-size=50M"


def memory(measured: Mapping[str, Any]) -> Finding:
    """Whether there is memory left."""
    figures = measured.get("memory") or {}
    if gap := unmeasured("memory", figures):
        return gap
    total, available = figures.get("total"), figures.get("available")
    if not total or available is None:
        return ok("memory", "not told by the kernel")
    severity = graded(available / total, MEMORY, below=True)
    what = f"{size(available)} of {size(total)} available"
    remedy = "" if severity is Severity.OK else "ps -eo rss,args --sort=-rss | head"
    return Finding("memory", severity, what, remedy)


def runtime(measured: Mapping[str, Any], expected: Expected) -> Finding:
    """Whether the container runtime answers, and is the one that the inventory says."""
    found = measured.get("runtime") or {}
    if gap := unmeasured("runtime", found):
        return gap
    name = found.get("name")
    if found.get("version") is None:
        unit = found.get("unit")
        state = f" ({unit} is {found.get('state')})" if unit else ""
        remedy = f"systemctl restart {unit}; {_LOG.format(unit)}" if unit else f"{name} info"
        return problem("runtime", f"{name} does not answer{state}", remedy)
    if expected.runtime and expected.runtime != name:
        what = f"{name} {found['version']} answers, the inventory says {expected.runtime}"
        return warning("runtime", what, _PROVISION.format(expected.device))
    return ok("runtime", f"{name} {found['version']} answers")


def accelerator(measured: Mapping[str, Any], expected: Expected) -> Iterator[Finding]:
    """Whether the accelerator is there, and driver, library and container devices fit it."""
    found, cdi = measured.get("accelerators"), measured.get("cdi")
    if gap := unmeasured("accelerator", found) or unmeasured("accelerator", cdi):
        yield gap
        return
    bad = False
    kinds = {each["kind"] for each in found or ()}
    if expected.accelerator and expected.accelerator not in kinds:
        bad = True
        there = ", ".join(sorted(kinds)) or "none"
        what = f"the inventory says {expected.accelerator}, the device has {there}"
        yield problem("accelerator", what, "check that it is plugged in: lspci, lsusb, dmesg")
    for each in found or ():
        if _lacks_node(each):
            bad = True
            what = f"{each['model'] or each['kind']} has no device node: its driver is not loaded"
            yield problem("accelerator", what, "dmesg; dkms status; " + _PROVISION.format(
                expected.device))  # fmt: skip
        elif each.get("working") is False:
            bad = True
            what = f"{each['model'] or each['kind']} failed its smoke test when it was provisioned"
            yield problem("accelerator", what, _PROVISION.format(expected.device))
    libraries = measured.get("libraries") or {}
    for each in found or ():
        for what, version in _versions(each, libraries):
            if version and each["driver"] and version != each["driver"]:
                bad = True
                what = f"driver {each['driver']}, but {what} {version}: containers will fail"
                yield problem("accelerator", what, "install both of one version, hold them, reboot")
                break
    for each in cdi or ():
        if each["damaged"] or each["missing"]:
            bad = True
            what = "can't be read" if each["damaged"] else f"names {', '.join(each['missing'])}"
            what = f"{each['file']} {what}{', which is not there' if each['missing'] else ''}"
            yield problem("accelerator", what, _PROVISION.format(expected.device))
    if not bad:
        words = [
            f"{each['model'] or each['kind']}, driver {each['driver']}" for each in found or ()
        ]
        yield ok("accelerator", "; ".join(words) or "none")


def _versions(
    each: Mapping[str, Any], libraries: Mapping[str, str]
) -> Iterator[tuple[str, str | None]]:
    """What must be of the driver's version, and of which it is."""
    kind = each["kind"]
    if kind in _MATCHED:
        yield _MATCHED[kind], each.get("library") or libraries.get(kind)
    if kind == "hailo":
        yield "firmware", each.get("firmware")


def _lacks_node(each: Mapping[str, Any]) -> bool:
    # The Edge TPU on USB is reached by its bus, which a listing may not name.
    return each["device"] is None and "USB" not in str(each["model"])


def units(measured: Mapping[str, Any], expected: Expected) -> Iterator[Finding]:
    """Units that failed."""
    found = measured.get("units") or {}
    if gap := unmeasured("units", found):
        yield gap
        return
    failed = found.get("failed") or []
    for unit in failed:
        severity = Severity.PROBLEM if unit.startswith("muster-") else Severity.WARNING
        remedy = f"{_LOG.format(unit)}; systemctl reset-failed {unit}"
        yield Finding("units", severity, f"{unit} failed", remedy)
    if measured.get("restart_required") is True:
        remedy = f"muster reboot {expected.device}"
        yield warning("units", "an update waits for a restart", remedy)
    elif not failed:
        yield ok("units", "none failed")
