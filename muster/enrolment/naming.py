"""Which device of the inventory a target is, and what a new one is called. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from muster.enrolment.targets import Target
from muster.inventory import Device

_VENDOR_NAMES = re.compile(
    r"(localhost|raspberrypi|debian|ubuntu|jetson|nvidia|tegra|linux|coral|orangepi|armbian|dietpi"
    r"|rock|odroid|beaglebone|buildroot|openwrt|mendel)([-.].*)?|desktop-.*|ip-.*|[0-9a-f]{12}",
    re.IGNORECASE,
)
"""Host names that images come with: half of a fleet has them."""
_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def known_device(target: Target, devices: Sequence[Device]) -> Device | None:
    """The device of an inventory that a target means: by its name, else by its address."""
    wanted = target.name or target.host
    by_name = next((device for device in devices if device.name == wanted), None)
    if by_name is not None or target.name:
        return by_name
    return next(
        (
            device
            for device in devices
            if device.address == target.host and target.port in (None, device.port)
        ),
        None,
    )


def choose_name(target: Target, found: Mapping[str, Any], site: str, taken: Collection[str]) -> str:
    """Name of a device that is new in the inventory.

    The operator's word, else the name at which it is reached, else its own host name unless it is
    one that images come with, else its site and address.

    :param found: what the device said about itself.
    :param taken: names that other devices have.
    """
    if target.name:
        return target.name
    if not re.fullmatch(r"[\d.]+|.*:.*", target.host):
        return target.host
    own = str(found.get("hostname") or "").split(".")[0].lower()
    if own not in taken and _HOST_NAME.fullmatch(own) and not _VENDOR_NAMES.fullmatch(own):
        return own
    place = re.sub(r"[^0-9a-z]+", "-", target.host.lower()).strip("-")
    head = site.removeprefix("site_").replace("_", "-")
    return f"{head}-{place}"


def cloned_from(
    name: str, found: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> str:
    """Why a device is no device of its own, "" if it is one.

    :param found: the facts of this device.
    :param others: the facts of devices by name.
    """
    machine = found.get("machine_id")
    for other, facts in others.items():
        if other != name and machine and facts.get("machine_id") == machine:
            return (
                f"same machine-id as {other}: either it has moved (then `muster enroll"
                f" {other}=ADDRESS`), or both run a copied image (then remove /etc/machine-id and"
                " /etc/ssh/ssh_host_* on one, run systemd-machine-id-setup and ssh-keygen -A)"
            )
    return ""


_KEPT_MEMORY = 0.05  # a new kernel leaves a little more or less: that is the same device


def facts_of(
    found: Mapping[str, Any], fingerprint: str, old: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The facts that the inventory keeps of a device.

    :param fingerprint: of its host key.
    :param old: what the inventory has; figures that hardly changed stay.
    """
    memory = int(found.get("memory") or 0) >> 20
    before = (old or {}).get("memory_mib")
    if isinstance(before, int) and abs(before - memory) <= memory * _KEPT_MEMORY:
        memory = before
    facts = {
        "model": found.get("model"),
        "arch": found.get("arch"),
        "memory_mib": memory,
        "accelerators": [str(each.get("kind")) for each in found.get("accelerators") or []],
        "serial": found.get("serial"),
        "machine_id": found.get("machine_id"),
        "host_key": fingerprint,
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [])}
