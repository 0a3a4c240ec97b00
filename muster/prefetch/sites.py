"""Filling and clearing the registries of the sites of an inventory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.errors import MusterError
from muster.fields import format_size
from muster.inventory import Device, Inventory
from muster.prefetch import working
from muster.prefetch.choosing import images_of, registry_hosts
from muster.prefetch.protecting import Protection, Remembered, protect
from muster.prefetch.working import Outcome, Told
from muster.release import Release
from muster.rollout import controller
from muster.rollout.journal import Journal
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import Snapshot

_TO_COME = {
    DeviceState.PENDING,
    DeviceState.PREFLIGHT,
    DeviceState.STAGING,
    DeviceState.STAGED,
    DeviceState.DEFERRED,
}
_GOES_ON = {
    RolloutState.PLANNED,
    RolloutState.RUNNING,
    RolloutState.PAUSED,
    RolloutState.AWAITING_APPROVAL,
}
_EVERYTHING = 100_000
"""Rollouts of the journal that are looked at: all of them."""


@dataclass(frozen=True)
class Filled:
    """What became of one registry.

    :param images: that it was asked for.
    """

    site: str | None
    images: tuple[str, ...]
    outcome: Outcome

    @property
    def text(self) -> str:
        """One line for people."""
        host, number = self.outcome.host, len(self.images)
        what = f"{host} ({self.site or 'no site'})"
        if self.outcome.error:
            return f"{what} could not be filled: {self.outcome.error}"
        copied = len(self.outcome.result["copied"])
        if not copied:
            return f"{what} had {'the image' if number == 1 else f'all {number} images'} already"
        size = format_size(self.outcome.result["copied_bytes"])
        return f"{what}: {copied} of {number} images copied, {size} in {self.outcome.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "site": self.site,
            "host": self.outcome.host,
            "images": list(self.images),
            "copied": list(self.outcome.result.get("copied", ())),
            "copied_bytes": self.outcome.result.get("copied_bytes", 0),
            "seconds": self.outcome.seconds,
            "error": self.outcome.error or None,
        }


@dataclass(frozen=True)
class Ahead:
    """What was done ahead of a rollout.

    :param told: one line for each registry.
    :param lacking: why a device may find that its registry lacks the release, by device.
    """

    told: tuple[str, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)


def fill(
    inventory: Inventory,
    wanted: Mapping[str | None, Sequence[str]],
    told: Told = lambda _host, _how: None,
    *,
    verify: bool = False,
) -> list[Filled]:
    """Have the registries of sites hold images.

    :param wanted: images by site; nothing is done where there are none.
    """
    hosts = registry_hosts(inventory, [site for site, images in wanted.items() if images])
    devices = [device for members in hosts.values() for device in members]
    if not devices:
        return []
    requests = {d.name: working.fill_request(wanted[d.site], verify=verify) for d in devices}
    with controller.connected_fleet(devices) as fleet:
        outcomes = working.carry_out(fleet, requests, told)
    sites = {device.name: device.site for device in devices}
    return [Filled(sites[o.host], tuple(wanted[sites[o.host]]), o) for o in outcomes]


def images_for_sites(
    inventory: Inventory, release: Release, sites: Iterable[str | None], *, every: bool
) -> dict[str | None, list[str]]:
    """The images that the devices of each site take.

    :param every: those of all variants, whatever the devices are.
    """
    members = inventory.known or inventory.devices
    return {
        site: images_of(release, None if every else [d for d in members if d.site == site])
        for site in sites
    }


def needed(
    snapshot: Snapshot, release: Release, devices: Iterable[Device]
) -> dict[str | None, list[str]]:
    """The images that a rollout is still to bring, by site."""
    sites = {device.name: device.site for device in devices}
    wanted: dict[str | None, list[str]] = {}
    for record in snapshot.devices:
        if record.state in _TO_COME and record.variant in release.variants:
            images = wanted.setdefault(sites.get(record.device), [])
            image = release.variants[record.variant].image
            if image not in images:
                images.append(image)
    return wanted


def fill_ahead(
    snapshot: Snapshot,
    inventory: Inventory,
    told: Told = lambda _host, _how: None,
    fill: Callable[..., list[Filled]] = fill,
) -> Ahead:
    """Fill the registries of the sites of a rollout, before its first wave.

    A registry that can't be filled does not fail the rollout: it may hold what is needed, and a
    device that it can't serve is deferred.
    """
    if snapshot.rollout.is_task or snapshot.rollout.state not in _GOES_ON:
        return Ahead()
    wanted = needed(snapshot, controller.release_of(snapshot.rollout), inventory.devices)
    if not registry_hosts(inventory, wanted):
        return Ahead()
    done = fill(inventory, wanted, told)
    filled = {each.site for each in done if not each.outcome.error}
    reasons = {each.site: each.text for each in done if each.outcome.error}
    return Ahead(
        tuple(each.text for each in done),
        {
            device.name: reasons[device.site]
            for device in inventory.devices
            if device.site in reasons and device.site not in filled
        },
    )


def protection(journal: Journal, inventory: Inventory, site: str | None) -> Protection:
    """Ask every device of a site what it holds, and the journal for the rest."""
    devices = [d for d in inventory.known or inventory.devices if d.site == site]
    names = [device.name for device in devices]
    with controller.connected_fleet(devices) as fleet:
        seen = controller.survey(fleet, names, None)
    # Asked last: what was begun meanwhile is in it.
    return protect(seen, remembered(journal, names))


def remembered(journal: Journal, devices: Collection[str]) -> Remembered:
    """What the journal knows of some devices."""
    rollouts = journal.rollouts(limit=_EVERYTHING)
    return Remembered(
        tuple(rollout for rollout in rollouts if not rollout.is_task),
        {
            device: tuple(
                (rollout, record)
                for rollout, record in journal.of_device(device, limit=_EVERYTHING)
                if not rollout.is_task
            )
            for device in devices
        },
    )


def clear(
    inventory: Inventory,
    digests: Mapping[str | None, Collection[str]],
    newer: float,
    told: Told = lambda _host, _how: None,
    *,
    dry: bool,
) -> dict[str | None, list[Outcome]]:
    """Remove from the registries of sites what need not stay.

    :param digests: what stays, by site.
    :param newer: seconds; what was copied, or asked for, less long ago stays too.
    """
    hosts = registry_hosts(inventory, digests)
    devices = [device for members in hosts.values() for device in members]
    requests = {
        d.name: working.clear_request(list(digests[d.site]), newer, dry=dry) for d in devices
    }
    with controller.connected_fleet(devices) as fleet:
        outcomes = {o.host: o for o in working.carry_out(fleet, requests, told)}
    return {site: [outcomes[d.name] for d in members] for site, members in hosts.items()}


def stored(inventory: Inventory, sites: Iterable[str | None]) -> dict[str, Mapping[str, Any] | str]:
    """What the registries of sites hold, or why they don't say, by host."""
    hosts = registry_hosts(inventory, sites)
    devices = [device for members in hosts.values() for device in members]
    with controller.connected_fleet(devices) as fleet:
        return working.ask_status(fleet, [device.name for device in devices])


def refuse_unsure(site: str | None, found: Protection) -> None:
    """Stop where nobody can tell what a device holds.

    :raises MusterError: naming the devices.
    """
    if found.unsure:
        lines = [f"  {name}: {why}" for name, why in sorted(found.unsure.items())]
        raise MusterError(
            "\n".join(
                [
                    f"{site or 'no site'}: it can't be told what these devices may go back to, so"
                    " nothing was removed:",
                    *lines,
                    "bring them back, or use --force to count on what the journal knows",
                ]
            )
        )
