"""The strategy document: how a rollout is cut into waves, and what it tolerates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

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
from muster.windows import MaintenanceWindow

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
                {
                    "type": "string",
                    "pattern": r"^(canary|rest|100%|(?!0{1,2}(\.0+)?%)[0-9]{1,2}(\.[0-9]{1,6})?%)$",
                },
            ],
            "examples": ["canary", 5, "25%", "rest"],
        }
    ),
]


class WaveRule(Strict):
    """Which devices one wave takes, and how long it is watched."""

    size: WaveSize | None = None
    """``canary``: one device for each variant; a number of devices; a percentage of all planned
    devices, rounded up; ``rest``: all that are left. Sizes are not cumulative."""
    pattern: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """Only devices that this Ansible pattern selects, such as ``site_north:&hw_coral``; ``size``
    then counts among them, and without it the wave takes all of them that are left."""
    soak: Duration = 0.0
    """How long the wave is watched after its last device was confirmed, before the next starts."""
    approval: bool = False
    """Whether a person has to approve (``muster approve``) before this wave begins."""
    name: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    """Name in reports; without it the size, or the pattern."""

    @model_validator(mode="after")
    def _takes_something(self) -> WaveRule:
        if self.size is None and self.pattern is None:
            raise ValueError("expected size, pattern or both, got neither")
        return self

    @property
    def title(self) -> str:
        """What people call this wave."""
        parts = (str(part) for part in (self.size, self.pattern) if part is not None)
        return self.name or " of ".join(parts)[:60]


class Ramp(Strict):
    """Waves that grow by a factor: ``base``, ``base * factor``, ..., at most ``max``."""

    base: Annotated[int, Field(ge=1)] = 1
    """Number of devices of the first wave after the canary."""
    factor: Annotated[float, Field(gt=1, le=100)] = 2.0
    """How many times as large each wave is as the one before it."""
    max: WaveSize = "50%"
    """Largest wave, as a number of devices or a percentage of all planned devices."""
    soak: Duration = 30.0
    """How long each wave is watched."""
    canary: bool = True
    """Whether one device for each variant goes first."""

    @field_validator("max")
    @classmethod
    def _is_a_number(cls, value: int | str) -> int | str:
        if value in (CANARY, REST):
            raise ValueError(f"expected a number of devices or a percentage, got {value!r}")
        return value


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
            if count <= 0:  # no limit is below none
                continue
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
    catch_up: Literal["latest", "none"] = "latest"
    """``latest``: ``muster catch-up`` brings a deferred device to the newest release that it may
    take; ``none``: it is left alone."""
    deadline: Duration = 0.0
    """How long the rollout itself waits, after its last wave, for deferred devices to return."""


_CONFIRM_TIMEOUT = 240.0
_LONGEST = 7 * 86400.0
"""Seconds; devices refuse to watch, or to wait for, anything longer."""
_ON_DEVICES = (
    "min_healthy_time",
    "healthy_deadline",
    "pull_deadline",
    "drain_deadline",
    "confirm_timeout",
)


def _default_confirm_timeout(values: dict[str, Any]) -> float:
    needed = values["healthy_deadline"] + values["min_healthy_time"] + 2 * values["command_margin"]
    if values["switch"] == "blue_green":
        needed += values["drain_deadline"]
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
    ramp: Ramp | None = None
    """Waves that grow, instead of ``waves``."""
    spread_by: Literal["site", "none"] = "site"
    """``site``: each wave takes a like share of every site; ``none``: devices in order of name."""
    max_parallel: Annotated[int, Field(ge=1)] = 50
    """How many devices of a wave are worked on at once."""
    pull_concurrency: Annotated[int, Field(ge=1)] | None = None
    """How many devices of one site pull at once; without it no limit but ``max_parallel``."""
    rate_per_minute: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] | None = None
    """How many switches begin in a minute at most, 0.001 or more; without it no limit."""
    maintenance_window: tuple[MaintenanceWindow, ...] = ()
    """When devices may switch, by their own time zone (``muster_timezone``); staging may happen at
    any time. Without it always."""
    lock_deadline: PositiveDuration = 600.0
    """How long a switch waits for an application that holds the device's lock
    (``/run/muster/<model>.lock``), before the device is deferred."""
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
    switch: Literal["recreate", "blue_green"] = "recreate"
    """How a device goes over. ``recreate`` stops the old release, then starts the new;
    ``blue_green`` starts the new one beside the old, waits for it, and moves the traffic: it needs
    ``muster_device_proxy`` on the device, and memory for both."""
    drain_deadline: PositiveDuration = 10.0
    """How long open requests to the old release may take with ``blue_green``."""
    confirm_timeout: PositiveDuration = Field(default_factory=_default_confirm_timeout)
    """How long a device waits for its confirmation before it reverts by itself. Without it 4m, or
    what the other clocks need: ``healthy_deadline + min_healthy_time + 2 * command_margin``, and
    ``drain_deadline`` with ``blue_green``."""
    failure_budget: FailureBudget = FailureBudget()
    """What a wave tolerates."""
    offline: Offline = Offline()
    """What becomes of devices that are out of reach before their switch."""
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
            if rule.size == REST and rule.pattern is None and index < last:
                problems.append(((index, "size"), "expected rest only in the last wave"))
        whole = [rule for rule in waves if rule.pattern is None]
        share = sum(percentage(rule.size) or 0 for rule in whole if rule.size is not None)
        if waves[last].pattern is not None:
            text = "expected rest in the last wave, without a pattern: devices would be left out"
            problems.append(((last, "pattern"), text))
        elif waves[last].size != REST and share < 100:
            text = (
                "expected rest in the last wave, or percentages that reach 100% together,"
                f" got {float(share):g}%: devices would be left out"
            )
            problems.append(((last, "size"), text))
        if problems:
            raise Problems(problems)
        return waves

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Strategy:
        problems = list(self._clock_problems())
        if self.ramp is not None and self.waves != type(self).model_fields["waves"].default:
            problems.append((("ramp",), "expected either waves or ramp, got both"))
        if problems:
            raise Problems(problems)
        return self

    def _clock_problems(self) -> Iterable[tuple[Location, str]]:
        clocks: list[tuple[Location, float]] = [((n,), getattr(self, n)) for n in _ON_DEVICES]
        clocks += [(("waves", index, "soak"), rule.soak) for index, rule in enumerate(self.waves)]
        clocks += [] if self.ramp is None else [(("ramp", "soak"), self.ramp.soak)]
        for place, seconds in clocks:
            if seconds > _LONGEST:
                text = f"expected at most {format_duration(_LONGEST)}, got"
                yield place, f"{text} {format_duration(seconds)}"
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
        drain = self.drain_deadline if self.switch == "blue_green" else 0.0
        needed = self.healthy_deadline + self.min_healthy_time + self.command_margin + drain
        if self.confirm_timeout <= needed:
            text = (
                f"expected more than healthy_deadline ({format_duration(self.healthy_deadline)})"
                f" + min_healthy_time ({format_duration(self.min_healthy_time)})"
                f" + command_margin ({format_duration(self.command_margin)})"
                + (f" + drain_deadline ({format_duration(drain)})" if drain else "")
                + f" = {format_duration(needed)}, got {format_duration(self.confirm_timeout)}"
            )
            yield ("confirm_timeout",), text
