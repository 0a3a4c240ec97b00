"""Which release a device that was left behind takes next. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from muster.release import Release, may_follow
from muster.rollout.machine import RolloutState
from muster.rollout.records import RolloutRecord

_WELL = frozenset({RolloutState.SUCCEEDED, RolloutState.SUCCEEDED_WITH_DEFERRED})


def newest_of_each(rollouts: Iterable[RolloutRecord]) -> dict[str, RolloutRecord]:
    """The newest rollout of each release that ended well there, newest first, by release id.

    :param rollouts: newest first.
    """
    newest: dict[str, RolloutRecord] = {}
    for record in rollouts:
        newest.setdefault(record.release_id, record)
    return {name: record for name, record in newest.items() if record.state in _WELL}


def meant_for(
    device: str, rollouts: Iterable[RolloutRecord], members: Mapping[str, Collection[str]]
) -> dict[str, RolloutRecord]:
    """Likewise, of the rollouts that a device was meant to be in.

    :param members: names of the devices of each rollout that had a limit, by its id.
    """
    return newest_of_each(r for r in rollouts if r.limit is None or device in members[r.id])


def way_to_newest(
    current: str | None, releases: Sequence[Release], takes: Callable[[Release], bool]
) -> list[str]:
    """The shortest way of a device to the newest release that it may take.

    A device that missed several releases goes over those between only where ``requires_from`` of a
    later one asks for it.

    :param current: id of the release that it runs; None for nothing.
    :param releases: those that were rolled out well, newest first.
    :param takes: whether a release has a variant for the device.
    :returns: release ids in order, each newer than the one before and than what it runs; empty when
        it runs the newest that it can reach.
    """
    newer = itertools.takewhile(lambda release: release.id != current, releases)
    fitting = {release.id: release for release in newer if takes(release)}
    ways: dict[str | None, list[str]] = {current: []}
    queue: deque[str | None] = deque([current])
    while queue:
        here = queue.popleft()
        for name, release in fitting.items():
            if name == here:
                break  # what comes after is older
            if name not in ways and may_follow(release.requires_from, here):
                ways[name] = [*ways[here], name]
                queue.append(name)
    for name in fitting:
        if name in ways:
            return ways[name]
    return []
