"""``inspect`` names the images that a device may go back to, those of all models."""

from __future__ import annotations

import json

from device_stand_ins import Device, Release


def test_every_kept_release_counts(dev: Device, old: Release) -> None:
    new = dev.release("1.1")
    dev.roll_out(new, 2)
    expected = sorted(
        json.loads((dev.state / "releases" / release.id / "variant.json").read_text())["image"]
        for release in (old, new)
    )
    assert len(set(expected)) == 2
    assert dev.ok("inspect", model=None)["images"] == expected
    assert dev.ok("inspect")["images"] == expected


def test_a_device_without_releases_holds_nothing(dev: Device) -> None:
    assert dev.ok("inspect", model=None)["images"] == []
