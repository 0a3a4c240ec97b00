"""One axis of time for everything on the page, with long idle stretches cut out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST_IDLE = 300.0
"""Seconds without any event that are always drawn in full."""
_IDLE_SHARE = 3
_BREAK_WIDTH = 4.0
_TICKS = 7
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True)
class Stretch:
    """A part of the axis; times in seconds, places in percent of the axis."""

    begin: float
    end: float
    left: float
    width: float
    idle: bool = False

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.begin


@dataclass(frozen=True)
class Tick:
    """A mark on the axis: where, in percent, and its text, the time since the beginning."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """Maps wall time, in seconds since 1970 UTC, to places from 0 to 100."""

    stretches: tuple[Stretch, ...]

    @property
    def begin(self) -> float:
        """Wall time of its left end."""
        return self.stretches[0].begin

    @property
    def end(self) -> float:
        """Wall time of its right end."""
        return self.stretches[-1].end

    @property
    def breaks(self) -> list[Stretch]:
        """The idle stretches that are not drawn in full."""
        return [stretch for stretch in self.stretches if stretch.idle]

    def place(self, at: float) -> float:
        """Where a time lies, in percent of the axis; times outside lie on its ends."""
        at = min(max(at, self.begin), self.end)
        stretch = next(s for s in self.stretches if at <= s.end)
        share = (at - stretch.begin) / stretch.seconds if stretch.seconds else 0.0
        return round(stretch.left + share * stretch.width, 3)

    def ticks(self) -> list[Tick]:
        """Marks at round times since the beginning; none inside a break."""
        drawn = sum(s.seconds for s in self.stretches if not s.idle)
        step = next((s for s in _STEPS if drawn / s <= _TICKS), _STEPS[-1])
        ticks: list[Tick] = []
        for stretch in self.stretches:
            if stretch.idle:
                continue
            number = -int(-(stretch.begin - self.begin) // step)  # rounded up
            while (at := self.begin + number * step) <= stretch.end:
                place = self.place(at)
                # Two marks that are too near, on both sides of a break, would overlap.
                if not ticks or place - ticks[-1].place >= 100 / _TICKS / 2:
                    ticks.append(Tick(place, elapsed(at - self.begin)))
                number += 1
        return ticks


def make_axis(times: Iterable[float]) -> Axis:
    """An axis over all these times; long stretches between two of them are cut out."""
    known = sorted(times) or [0.0]
    begin, end = known[0], max(known[-1], known[0] + 1.0)
    known.append(end)
    limit = max(LONGEST_IDLE, (end - begin) / _IDLE_SHARE)
    gaps = [(a, b) for a, b in itertools.pairwise(known) if b - a > limit]
    edges = [begin, *itertools.chain.from_iterable(gaps), end]
    drawn = (end - begin) - sum(b - a for a, b in gaps)
    room = 100 - _BREAK_WIDTH * len(gaps)
    return Axis(tuple(_stretches(edges, room / drawn if drawn else 0.0)))


def _stretches(edges: Sequence[float], scale: float) -> Iterable[Stretch]:
    left = 0.0
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        idle = number % 2 == 1
        width = _BREAK_WIDTH if idle else (end - begin) * scale
        yield Stretch(begin, end, left, width, idle)
        left += width


def elapsed(seconds: float) -> str:
    """Time since the beginning: ``0:05``, ``12:00``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def lasting(seconds: float) -> str:
    """A length of time for people: ``0.35 s``, ``12.4 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds:.2g} s" if seconds else "0 s"
    if seconds < 99.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s"
