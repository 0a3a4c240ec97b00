"""The plan that a strategy makes of a set of devices: waves in order. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from muster.errors import InputError
from muster.fields import percentage
from muster.release import Release
from muster.strategy import CANARY, REST, Ramp, Strategy, WaveRule
from muster.tasks import Task, select_kind


@dataclass(frozen=True)
class PlanDevice:
    """A device, as far as a plan needs it."""

    name: str
    site: str | None
    groups: tuple[str, ...]


class PlannedDevice(NamedTuple):
    """A device in a wave."""

    name: str
    variant: str


@dataclass(frozen=True)
class Wave:
    """One batch of devices."""

    index: int
    """Position in the plan, from 0."""
    name: str
    devices: tuple[PlannedDevice, ...]
    soak: float
    """Seconds."""
    approval: bool = False
    """Whether a person has to approve before it begins."""


@dataclass(frozen=True)
class Plan:
    """What a rollout will do: waves in order, and the devices that it leaves out."""

    waves: tuple[Wave, ...]
    rejected: Mapping[str, str]
    """Reason for each device that no variant fits, by device name."""

    @property
    def devices(self) -> tuple[PlannedDevice, ...]:
        """All devices of all waves, in order."""
        return tuple(device for wave in self.waves for device in wave.devices)

    def to_json(self) -> dict[str, Any]:
        """Give the plan as plain JSON values, for the journal."""
        return {
            "waves": [
                {
                    "name": wave.name,
                    "soak": wave.soak,
                    "approval": wave.approval,
                    "devices": [list(device) for device in wave.devices],
                }
                for wave in self.waves
            ],
            "rejected": dict(self.rejected),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Read back what :meth:`to_json` gave."""
        waves = tuple(
            Wave(
                index,
                wave["name"],
                tuple(PlannedDevice(name, variant) for name, variant in wave["devices"]),
                wave["soak"],
                wave["approval"],
            )
            for index, wave in enumerate(value["waves"])
        )
        return cls(waves, dict(value["rejected"]))


def plan(
    devices: Iterable[PlanDevice],
    release: Release | Task,
    strategy: Strategy,
    matching: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """Cut devices into waves.

    The same devices give the same plan, in whatever order they come. Waves that would be empty
    are left out.

    :param release: what is rolled out, a release or a task.
    :param matching: names of the devices that each ``pattern`` of the strategy selects.
    :raises InputError: two devices have the same name.
    """
    by_name = sorted(devices, key=lambda device: device.name)
    names = [device.name for device in by_name]
    if twice := sorted({a for a, b in itertools.pairwise(names) if a == b}):
        raise InputError([f"{name}: expected every device once, got it again" for name in twice])
    rejected: dict[str, str] = {}
    variants: dict[str, str] = {}
    for device in by_name:
        variant, reason = select_kind(release, device.groups)
        if reason:
            rejected[device.name] = reason
        else:
            variants[device.name] = variant
    queue = [device for device in by_name if device.name in variants]
    if strategy.spread_by == "site":
        # First by variant, so that what a wave takes of a site is not all of one kind.
        queue = _interleave(queue, lambda device: variants[device.name])
        queue = _interleave(queue, lambda device: device.site or "")
    return Plan(tuple(_waves(queue, variants, rules_of(strategy, len(queue)), matching)), rejected)


def rules_of(strategy: Strategy, total: int) -> Sequence[WaveRule]:
    """The waves of a strategy, with a ramp written out for ``total`` devices."""
    return strategy.waves if strategy.ramp is None else tuple(_ramp(strategy.ramp, total))


def _ramp(ramp: Ramp, total: int) -> Iterator[WaveRule]:
    if ramp.canary:
        yield WaveRule(size=CANARY, soak=ramp.soak)
    largest, left, size = max(1, _count(ramp.max, total)), total, Fraction(ramp.base)
    while left > 0:
        taken = min(math.floor(size), largest)
        left -= taken
        yield WaveRule(size=taken if left > 0 else REST, soak=ramp.soak, name=f"ramp {taken}")
        # a Fraction, so that the sizes are the same on every machine
        size = min(size * Fraction(str(ramp.factor)), Fraction(largest))


def _interleave(
    devices: Sequence[PlanDevice], group: Callable[[PlanDevice], str]
) -> list[PlanDevice]:
    """Mix groups so that every stretch of the result holds a like share of each.

    Each device is put at its relative place in its own group. Taking turns instead would take
    small groups whole before large ones are half done.
    """
    members: dict[str, list[PlanDevice]] = {}
    for device in devices:
        members.setdefault(group(device), []).append(device)
    placed = [
        (Fraction(2 * place + 1, 2 * len(own)), name, place, device)
        for name, own in members.items()
        for place, device in enumerate(own)
    ]
    return [device for *_, device in sorted(placed, key=lambda entry: entry[:3])]


def _waves(
    queue: list[PlanDevice],
    variants: Mapping[str, str],
    rules: Sequence[WaveRule],
    matching: Mapping[str, Collection[str]] | None,
) -> Iterable[Wave]:
    everybody, index = queue, 0
    for rule in rules:
        candidates, total = queue, len(everybody)
        if rule.pattern is not None:
            matched = set((matching or {})[rule.pattern])
            candidates = [device for device in queue if device.name in matched]
            total = sum(device.name in matched for device in everybody)
        if rule.size == CANARY:
            taken = _canaries(candidates, variants)
        else:
            taken = candidates[: total if rule.size is None else _count(rule.size, total)]
        if not taken:
            continue
        chosen = {device.name for device in taken}
        queue = [device for device in queue if device.name not in chosen]
        members = tuple(PlannedDevice(device.name, variants[device.name]) for device in taken)
        yield Wave(index, rule.title, members, rule.soak, rule.approval)
        index += 1


def _count(size: int | str, total: int) -> int:
    if isinstance(size, int):
        return size
    percent = percentage(size)
    return total if percent is None else math.ceil(percent * total / 100)


def _canaries(queue: Sequence[PlanDevice], variants: Mapping[str, str]) -> list[PlanDevice]:
    """Take one device of each variant, from different sites where that is possible."""
    taken: list[PlanDevice] = []
    for variant in sorted({variants[device.name] for device in queue}):
        candidates = [device for device in queue if variants[device.name] == variant]
        sites = [device.site for device in taken]
        taken.append(min(candidates, key=lambda device: sites.count(device.site)))
    return taken
