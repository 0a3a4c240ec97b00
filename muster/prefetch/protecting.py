"""What clearing a site's registry must leave there: decided from answers and the journal alone.

A device may go back to whatever it holds, with or without the registry; but a disk that was wiped,
or a release that is staged again, needs the registry. So everything stays that a device of the site
holds or may hold, and what a rollout is about to bring it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.prefetch.choosing import digest_in, images_of
from muster.release import Release
from muster.rollout.machine import FINAL_ROLLOUT, DeviceState, RolloutState
from muster.rollout.records import DeviceRecord, RolloutRecord

_NEVER_FETCHED = {DeviceState.PENDING, DeviceState.REJECTED}
_WELL_ENDED = {RolloutState.SUCCEEDED, RolloutState.SUCCEEDED_WITH_DEFERRED}


@dataclass(frozen=True)
class Remembered:
    """What the journal knows of releases; not of tasks such as reboots.

    :param rollouts: newest first.
    :param of_device: the rollouts that each device of the site was in, and what became of it.
    """

    rollouts: tuple[RolloutRecord, ...] = ()
    of_device: Mapping[str, tuple[tuple[RolloutRecord, DeviceRecord], ...]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Protection:
    """What stays.

    :param digests: of images, ``sha256:...``.
    :param unsure: why it can't be told what some devices hold, by device.
    """

    digests: frozenset[str]
    unsure: Mapping[str, str]


def protect(seen: Mapping[str, Mapping[str, Any] | str], remembered: Remembered) -> Protection:
    """Tell what stays.

    :param seen: answer to ``inspect`` of each device of the site, about any model, or the reason
        why there is none.
    """
    digests: set[str] = set()
    unsure: dict[str, str] = {}
    known = _known(remembered.rollouts)
    for device, answer in seen.items():
        history = remembered.of_device.get(device, ())
        if isinstance(answer, str):
            digests |= _may_hold(history, known)
            if not history:
                unsure[device] = f"{answer}; and it was in no rollout of this journal"
        elif "images" not in answer:
            digests |= _may_hold(history, known)
            unsure[device] = "its device program is an older one: provision it"
        else:
            digests |= {digest_in(image) for image in answer["images"]}
            # What is on its way there, or was until the device was lost.
            digests |= _digests(_release(rollout) for rollout, _ in history[:1])
    digests |= _digests(_about_to_come(remembered.rollouts))
    return Protection(frozenset(digests), unsure)


def _known(rollouts: Iterable[RolloutRecord]) -> dict[str, Release]:
    return {rollout.release_id: _release(rollout) for rollout in rollouts}


def _release(rollout: RolloutRecord) -> Release:
    return Release.from_canonical(rollout.release_document)


def _digests(releases: Iterable[Release]) -> set[str]:
    return {digest_in(image) for release in releases for image in images_of(release)}


def _may_hold(
    history: Iterable[tuple[RolloutRecord, DeviceRecord]], known: Mapping[str, Release]
) -> set[str]:
    """All that a device can ever have been given."""
    releases = []
    for rollout, record in history:
        if record.state not in _NEVER_FETCHED:
            releases.append(_release(rollout))
        if record.previous is not None and record.previous in known:
            releases.append(known[record.previous])
    return _digests(releases)


def _about_to_come(rollouts: Iterable[RolloutRecord]) -> Iterable[Release]:
    """Releases of unfinished rollouts, and the newest of each model that ended well: devices that
    were away catch up to it."""
    caught_up: set[str] = set()
    for rollout in rollouts:
        if rollout.state not in FINAL_ROLLOUT:
            yield _release(rollout)
        elif rollout.state in _WELL_ENDED and rollout.model not in caught_up:
            caught_up.add(rollout.model)
            yield _release(rollout)
