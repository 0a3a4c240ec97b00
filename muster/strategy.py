"""The strategy document, and the plan that it makes of a set of devices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from muster.errors import InputError
from muster.fields import (
    Document,
    Duration,
    Location,
    PositiveDuration,
    Problems,
    Share,
    Strict,
    describe,
    format_duration,
    percentage,
)
from muster.release import Release, select_variant

CANARY = "canary"
REST = "rest"


def _parse_wave_size(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (value in (CANARY, REST) or percentage(value)):
        return value
    raise ValueError(
        "expected a number of devices, a percentage such as 25%, canary or rest,"
        f" got {describe(value)}"
    )


WaveSize = Annotated[
    int | str,
    BeforeValidator(_parse_wave_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^(canary|rest|100%|[0-9]{1,2}(\.[0-9]{1,6})?%)$"},
            ],
            "examples": ["canary", 5, "25%", "rest"],
        }
    ),
]


def _only_recreate(value: Any) -> Any:
    if value == "blue_green":
        raise ValueError("expected recreate, got 'blue_green', which is not supported yet")
    return value


class WaveRule(Strict):
    """How many devices one wave takes, and how long it is watched."""

    size: WaveSize
    """``canary``: one device for each variant; a number of devices; a percentage of all planned
    devices, rounded up; ``rest``: all that are left. Sizes are not cumulative."""
    soak: Duration = 0.0
    """How long the wave is watched after its last device was confirmed, before the next starts."""
    name: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    """Name in reports; without it the size."""


class FailureBudget(Strict):
    """What a wave tolerates. Failed and unreachable devices are counted separately, within each
    wave; percentages are of the wave's devices, rounded down. More than that is a breach."""

    max_failed: Share = 0
    """How many devices of a wave may fail after their switch, as a count or a percentage."""
    max_unreachable: Share = "50%"
    """How many devices of a wave may be out of reach before their switch."""
    on_breach: Literal["pause", "abort", "roll_back_wave", "roll_back_rollout"] = "roll_back_wave"
    """What a breach does."""

    def breach(self, *, devices: int, failed: int, unreachable: int) -> str | None:
        """Say which limit a wave breaches; None while it is within its budget.

        :param devices: number of devices of the wave.
        :param failed: how many of them failed.
        :param unreachable: how many of them were out of reach before their switch.
        """
        for what, count, limit in (
            ("failed", failed, self.max_failed),
            ("unreachable", unreachable, self.max_unreachable),
        ):
            percent = percentage(limit)
            allowed = int(limit) if percent is None else math.floor(percent * devices / 100)
            if count > allowed:
                share = "" if percent is None else f" ({limit})"
                return f"{count} of {devices} devices {what}, at most {allowed}{share} allowed"
        return None


class Offline(Strict):
    """What becomes of devices that are out of reach before their switch."""

    policy: Literal["defer", "fail"] = "defer"
    """``defer``: left out and named at the end; ``fail``: counted as failed."""


_CONFIRM_TIMEOUT = 240.0


def _default_confirm_timeout(values: dict[str, Any]) -> float:
    needed = values["healthy_deadline"] + values["min_healthy_time"] + 2 * values["command_margin"]
    return max(_CONFIRM_TIMEOUT, float(needed))


class Strategy(Document):
    """How a rollout is cut into waves, what it tolerates and what it does on a breach."""

    kind: Literal["Strategy"] = "Strategy"
    """Kind of document."""
    waves: Annotated[tuple[WaveRule, ...], Field(min_length=1)] = (
        WaveRule(size=CANARY, soak=60.0),
        WaveRule(size="10%", soak=30.0),
        WaveRule(size="50%", soak=30.0),
        WaveRule(size=REST),
    )
    """The waves in order. ``canary`` may only come first; the last must be ``rest``, unless the
    percentages reach 100 %, so that no device is forgotten."""
    spread_by: Literal["site", "none"] = "site"
    """``site``: each wave takes a like share of every site; ``none``: devices in order of name."""
    max_parallel: Annotated[int, Field(ge=1)] = 50
    """How many devices of a wave are worked on at once."""
    min_healthy_time: PositiveDuration = 10.0
    """How long the gates of a device must hold before it is confirmed."""
    healthy_deadline: PositiveDuration = 120.0
    """How long a device may take from its switch until it is ready."""
    progress_deadline: PositiveDuration = 900.0
    """How long a wave may go without any of its devices getting a step further."""
    pull_deadline: PositiveDuration = 600.0
    """How long a device may take to pull the image."""
    probe_interval: PositiveDuration = 2.0
    """Time between two samples of a gate."""
    command_margin: PositiveDuration = 30.0
    """Time allowed for a command to reach a device and its answer to come back."""
    confirm_timeout: PositiveDuration = Field(default_factory=_default_confirm_timeout)
    """How long a device waits for its confirmation before it reverts by itself. Without it 4m, or
    what the other clocks need: ``healthy_deadline + min_healthy_time + 2 * command_margin``."""
    failure_budget: FailureBudget = FailureBudget()
    """What a wave tolerates."""
    offline: Offline = Offline()
    """What becomes of devices that are out of reach before their switch."""
    switch: Annotated[Literal["recreate"], BeforeValidator(_only_recreate)] = "recreate"
    """How a device goes over: ``recreate`` stops the old release, then starts the new."""
    retain_releases: Annotated[int, Field(ge=1)] = 3
    """How many releases a device keeps besides the current, the previous and the last good one."""

    @field_validator("waves")
    @classmethod
    def _waves_take_all(cls, waves: tuple[WaveRule, ...]) -> tuple[WaveRule, ...]:
        problems: list[tuple[Location, str]] = []
        last = len(waves) - 1
        for index, rule in enumerate(waves):
            if rule.size == CANARY and index > 0:
                problems.append(((index, "size"), "expected canary only in the first wave"))
            if rule.size == REST and index < last:
                problems.append(((index, "size"), "expected rest only in the last wave"))
        share = sum(percentage(rule.size) or 0 for rule in waves)
        if waves[last].size != REST and share < 100:
            text = (
                "expected rest in the last wave, or percentages that reach 100% together,"
                f" got {float(share):g}%: devices would be left out"
            )
            problems.append(((last, "size"), text))
        if problems:
            raise Problems(problems)
        return waves

    @model_validator(mode="after")
    def _clocks_agree(self) -> Strategy:
        if problems := list(self._clock_problems()):
            raise Problems(problems)
        return self

    def _clock_problems(self) -> Iterable[tuple[Location, str]]:
        for low, high, may_equal in (
            ("min_healthy_time", "healthy_deadline", False),
            ("healthy_deadline", "progress_deadline", False),
            ("pull_deadline", "progress_deadline", True),
            ("probe_interval", "min_healthy_time", True),
        ):
            less, more = getattr(self, low), getattr(self, high)
            if less > more or (less == more and not may_equal):
                relation = "at most" if may_equal else "less than"
                text = f"expected {relation} {high} ({format_duration(more)})"
                yield (low,), f"{text}, got {format_duration(less)}"
        needed = self.healthy_deadline + self.min_healthy_time + self.command_margin
        if self.confirm_timeout <= needed:
            text = (
                f"expected more than healthy_deadline ({format_duration(self.healthy_deadline)})"
                f" + min_healthy_time ({format_duration(self.min_healthy_time)})"
                f" + command_margin ({format_duration(self.command_margin)})"
                f" = {format_duration(needed)}, got {format_duration(self.confirm_timeout)}"
            )
            yield ("confirm_timeout",), text


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
            )
            for index, wave in enumerate(value["waves"])
        )
        return cls(waves, dict(value["rejected"]))


def plan(devices: Iterable[PlanDevice], release: Release, strategy: Strategy) -> Plan:
    """Cut devices into waves.

    The same devices give the same plan, in whatever order they come. Waves that would be empty
    are left out.

    :raises InputError: two devices have the same name.
    """
    by_name = sorted(devices, key=lambda device: device.name)
    names = [device.name for device in by_name]
    if twice := sorted({a for a, b in itertools.pairwise(names) if a == b}):
        raise InputError([f"{name}: expected every device once, got it again" for name in twice])
    rejected: dict[str, str] = {}
    variants: dict[str, str] = {}
    for device in by_name:
        selected = select_variant(release, device.groups)
        if isinstance(selected, str):
            rejected[device.name] = selected
        else:
            variants[device.name] = selected[0]
    queue = [device for device in by_name if device.name in variants]
    if strategy.spread_by == "site":
        # First by variant, so that what a wave takes of a site is not all of one kind.
        queue = _interleave(queue, lambda device: variants[device.name])
        queue = _interleave(queue, lambda device: device.site or "")
    return Plan(tuple(_waves(queue, variants, strategy.waves)), rejected)


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
    queue: list[PlanDevice], variants: Mapping[str, str], rules: Sequence[WaveRule]
) -> Iterable[Wave]:
    total, index = len(queue), 0
    for rule in rules:
        if rule.size == CANARY:
            taken = _canaries(queue, variants)
        else:
            taken = queue[: _count(rule.size, total)]
        if not taken:
            continue
        chosen = {device.name for device in taken}
        queue = [device for device in queue if device.name not in chosen]
        members = tuple(PlannedDevice(device.name, variants[device.name]) for device in taken)
        yield Wave(index, rule.name or str(rule.size), members, rule.soak)
        index += 1


def _count(size: int | str, total: int) -> int:
    if isinstance(size, int):
        return size
    percent = percentage(size)
    return total if percent is None else math.ceil(percent * total / 100)


def _canaries(queue: Sequence[PlanDevice], variants: Mapping[str, str]) -> list[PlanDevice]:
    """Take one device of each variant, from different sites where that is possible."""
    taken: list[PlanDevice] = []
    for variant in sorted(set(variants.values())):
        candidates = [device for device in queue if variants[device.name] == variant]
        sites = [device.site for device in taken]
        taken.append(min(candidates, key=lambda device: sites.count(device.site)))
    return taken
