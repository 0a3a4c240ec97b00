"""Which registries are filled, and with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from release_documents import release_document

from muster.errors import InputError
from muster.inventory import Device, Inventory
from muster.prefetch import choosing
from muster.release import Release

ONE, TWO = ("models/digits@sha256:" + digit * 64 for digit in "12")


def device(name: str, site: str | None = "site_x", hardware: str = "hw_a", **more: Any) -> Device:
    groups = ("all", *([site] if site else []), hardware)
    return Device(name, name, 22, site, hardware, groups, more)


def release(**images: str) -> Release:
    variants = {name: {"image": image} for name, image in images.items()}
    return Release.model_validate(release_document(variants=variants))


def inventory(*devices: Device, limited_to: tuple[Device, ...] | None = None) -> Inventory:
    return Inventory(Path("hosts.yml"), devices if limited_to is None else limited_to, devices)


HOST = device("reg", registry_enabled=True)
OTHER = device("other-reg", "site_y", registry_enabled="yes")


def test_the_registry_of_a_site_is_found_although_a_limit_leaves_it_out() -> None:
    cam = device("cam")
    found = choosing.registry_hosts(inventory(HOST, cam, OTHER, limited_to=(cam,)), ["site_x"])
    assert found == {"site_x": [HOST]}
    assert choosing.registry_hosts(inventory(cam)) == {}
    assert choosing.registry_hosts(inventory(device("off", registry_enabled=False))) == {}


@pytest.mark.parametrize("name", ["x", "site_x"])
def test_sites_are_named_with_or_without_prefix(name: str) -> None:
    assert choosing.named_sites(inventory(HOST, OTHER), [name, "x"]) == ["site_x"]
    assert choosing.named_sites(inventory(HOST, OTHER), []) == ["site_x", "site_y"]


def test_sites_that_can_not_be_filled_are_told_all_at_once() -> None:
    known = inventory(HOST, device("cam", "site_harbour"))
    with pytest.raises(InputError) as caught:
        choosing.named_sites(known, ["harbor", "harbour"])
    first, second = caught.value.problems
    assert "no device is in site_harbor" in first
    assert "site_harbour" in first
    assert "no device of site_harbour is a registry: set registry_enabled" in second
    with pytest.raises(InputError, match="no site has a registry of its own"):
        choosing.named_sites(inventory(device("cam")), [])


def test_only_what_the_devices_of_a_site_take_is_copied_each_once() -> None:
    both = release(hw_a=ONE, hw_b=TWO, hw_c=ONE)
    cams = [device("one"), device("two", hardware="hw_c")]
    assert choosing.images_of(both, cams) == [ONE]
    assert choosing.images_of(both) == [ONE, TWO]
    assert choosing.images_of(both, [device("strange", hardware="hw_z")]) == []
