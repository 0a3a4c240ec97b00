"""What gates measured, against their limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from muster.htmlreport.axis import Axis, lasting
from muster.rollout.events import Event, EventKind

AT_MOST, AT_LEAST = "_at_most", "_at_least"
_WITHOUT_LIMIT = ("latency",)
_SECONDS = frozenset({"latency", "seconds"})
_NAMES = {
    "failures": "failed samples",
    "cases_right": "cases right",
}
_CELLS_ACROSS, _CELLS_UP = 400, 100


@dataclass(frozen=True)
class Point:
    """One measurement on one device; ``left`` and ``up`` in percent of the plot.

    :param number: how many measurements lie on this very spot.
    """

    device: str
    left: float
    up: float
    value: str
    verdict: str
    beyond: bool
    number: int = 1


@dataclass(frozen=True)
class Limit:
    """A limit; ``up`` in percent of the plot's height."""

    up: float
    text: str


@dataclass(frozen=True)
class Plot:
    """One value over the time of the rollout.

    :param points: those within the limit first, so that the others lie on top.
    :param scale: texts of the vertical axis with their places in percent.
    :param beyond: how many of all measurements are on the wrong side of the limit.
    """

    title: str
    measure: str
    points: tuple[Point, ...]
    limits: tuple[Limit, ...]
    scale: tuple[tuple[float, str], ...]
    total: int
    beyond: int
    median: str
    worst: str


@dataclass(frozen=True)
class Reading:
    """One number at one time on one device, with its limits."""

    at: float
    device: str
    value: float
    verdict: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def beyond(self) -> bool:
        """It is on the wrong side of a limit."""
        over = self.at_most is not None and self.value > self.at_most
        return over or (self.at_least is not None and self.value < self.at_least)


def gate_readings(events: Iterable[Event]) -> dict[tuple[str, str], list[Reading]]:
    """Every number that a gate measured and that has a limit, by gate and name of the number."""
    found: dict[tuple[str, str], list[Reading]] = {}
    for event in events:
        if event.kind is not EventKind.GATE:
            continue
        figures = event.data.get("figures") or {}
        for name in figures:
            value, most, least = (
                _number(figures.get(name + suffix)) for suffix in ("", AT_MOST, AT_LEAST)
            )
            if value is None or (most is None and least is None and name not in _WITHOUT_LIMIT):
                continue
            verdict = str(event.data["verdict"])
            reading = Reading(event.at, event.device, value, verdict, most, least)
            found.setdefault((str(event.data["gate"]), name), []).append(reading)
    return found


def make_plot(title: str, name: str, readings: Sequence[Reading], axis: Axis) -> Plot:
    """Lay readings out on the axis of time.

    :param name: what was measured, such as ``latency``; it tells the unit.
    """
    limits = sorted({x for r in readings for x in (r.at_most, r.at_least) if x is not None})
    values = sorted(reading.value for reading in readings)
    whole = name not in _SECONDS
    top = _round_up(max([*values, *limits]) * (1 if whole else 1.05) or 1.0, whole=whole)
    at_least = any(reading.at_least is not None for reading in readings)
    return Plot(
        title,
        _NAMES.get(name, name.replace("_", " ")),
        tuple(_points(readings, name, top, axis)),
        tuple(
            Limit(round(100 * x / top, 2), f"{_limit_word(readings, x)} {told(name, x)}")
            for x in limits
        ),
        tuple((100 * part / 2, told(name, top * part / 2)) for part in range(3)),
        len(readings),
        sum(reading.beyond for reading in readings),
        told(name, values[len(values) // 2]),
        told(name, values[0] if at_least else values[-1]),
    )


def _limit_word(readings: Iterable[Reading], limit: float) -> str:
    return "at most" if any(r.at_most == limit for r in readings) else "at least"


def _points(readings: Iterable[Reading], name: str, top: float, axis: Axis) -> list[Point]:
    """Points that can't be told apart are drawn once."""
    spots: dict[tuple[int, int, bool], Point] = {}
    for reading in readings:
        left, up = axis.place(reading.at), 100 * reading.value / top
        spot = (
            round(left * _CELLS_ACROSS / 100),
            round(up * _CELLS_UP / 100),
            reading.beyond,
        )
        if known := spots.get(spot):
            spots[spot] = replace(known, number=known.number + 1)
        else:
            value = told(name, reading.value)
            spots[spot] = Point(
                reading.device, left, round(up, 2), value, reading.verdict, reading.beyond
            )
    return sorted(spots.values(), key=lambda point: point.beyond)


def told(name: str, value: float) -> str:
    """A number with its unit: a latency below a second in milliseconds."""
    if name not in _SECONDS:
        return f"{value:.6g}"
    return f"{value * 1000:.3g} ms" if 0 < value < 1 else lasting(value)


def _round_up(value: float, *, whole: bool) -> float:
    """The next round number above; half of it is round too, and whole where counts are shown."""
    steps = (2, 4, 6, 8, 10, 20) if whole else (1, 2, 5, 10)
    power = 10.0 ** max(math.floor(math.log10(value)), 0 if whole else -9)
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
