"""Which registries are filled, and with what: decided from the inventory and the release alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from muster.ansible_values import suggest
from muster.connection import truth
from muster.errors import InputError
from muster.inventory import SITE_PREFIX, Device, Inventory
from muster.release import Release, select_variant

SWITCH = "registry_enabled"
"""Variable that makes a device the registry of its site."""


def is_registry(variables: Mapping[str, Any]) -> bool:
    """Whether a device is the registry of its site."""
    return truth(variables.get(SWITCH, False)) is True


def registry_hosts(
    inventory: Inventory, sites: Iterable[str | None] | None = None
) -> dict[str | None, list[Device]]:
    """The devices that are registries, by site, also those that a limit left out.

    :param sites: only these; all if None.
    """
    wanted = None if sites is None else set(sites)
    found: dict[str | None, list[Device]] = {}
    for device in inventory.known or inventory.devices:
        if is_registry(device.variables) and (wanted is None or device.site in wanted):
            found.setdefault(device.site, []).append(device)
    return found


def named_sites(inventory: Inventory, names: Sequence[str]) -> list[str | None]:
    """Sites as people name them, with or without the prefix of their groups; all without names.

    :raises InputError: no such site, or one that has no registry of its own.
    """
    hosts = registry_hosts(inventory)
    if not names:
        if hosts:
            return list(hosts)
        raise InputError(
            f"{inventory.path}: no site has a registry of its own: set {SWITCH} for one of its"
            " devices"
        )
    known = {device.site for device in inventory.known or inventory.devices} - {None}
    found: list[str | None] = []
    problems = []
    for name in names:
        site = name if name.startswith(SITE_PREFIX) else SITE_PREFIX + name
        if site not in known:
            hint = suggest(site, [each for each in known if each])
            problems.append(f"{inventory.path}: --site {name}: no device is in {site}{hint}")
        elif site not in hosts:
            problems.append(
                f"{inventory.path}: --site {name}: no device of {site} is a registry: set {SWITCH}"
                " for one"
            )
        elif site not in found:
            found.append(site)
    if problems:
        raise InputError(problems)
    return found


def images_of(release: Release, devices: Iterable[Device] | None = None) -> list[str]:
    """The images of a release, each once.

    :param devices: only what these devices take; every variant if None.
    """
    variants = release.variants
    names = list(variants)
    if devices is not None:
        chosen = [select_variant(release, device.groups) for device in devices]
        taken = {found[0] for found in chosen if not isinstance(found, str)}
        names = [name for name in names if name in taken]
    return list(dict.fromkeys(variants[name].image for name in names))


def digest_in(image: str) -> str:
    """The digest of an image that is named with one."""
    return image.rpartition("@")[2]
