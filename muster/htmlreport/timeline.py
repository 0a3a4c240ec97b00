"""The states of devices over time, and which devices are shown and which folded away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from muster.htmlreport.axis import Axis, lasting
from muster.rollout.events import Event, EventKind
from muster.rollout.machine import GOOD, SETTLED, DeviceState, WaveState
from muster.rollout.records import DeviceRecord
from muster.rollout.words import words

OPEN_ROWS = 25
"""Up to so many rows of one kind are shown; more are folded."""

_AT_REST = (
    {state.value for state in SETTLED}
    | {DeviceState.PENDING.value, DeviceState.STAGED.value}
    | {WaveState.PASSED.value, WaveState.FAILED.value}
)
_LETTER = 1.1
_PADDING = 0.9
"""Percent of the axis, on a screen of common width."""


@dataclass(frozen=True)
class Bar:
    """A state on the axis; ``left`` and ``width`` in percent of it.

    :param label: the state's name where there is room for it, else empty.
    :param resting: nothing was done in it.
    """

    state: str
    left: float
    width: float
    seconds: float
    label: str
    resting: bool

    @property
    def text(self) -> str:
        """The state with how long it lasted."""
        return f"{words(self.state)} {lasting(self.seconds)}"


@dataclass(frozen=True)
class Row:
    """One device; ``downtime`` and ``recovery`` in seconds, None where not measured."""

    device: str
    variant: str
    state: str
    reason: str
    bars: tuple[Bar, ...]
    commands: int
    downtime: float | None
    recovery: float | None

    @property
    def spoken(self) -> str:
        """What the bars show, for people who can't see them."""
        return ", ".join(bar.text for bar in self.bars if not bar.resting)


@dataclass(frozen=True)
class Fold:
    """Rows with the same end; folded away where there are many."""

    state: str
    rows: tuple[Row, ...]
    is_open: bool


def bars(changes: Sequence[tuple[float, str]], axis: Axis) -> tuple[Bar, ...]:
    """The states of one device or wave as bars.

    :param changes: when it came to which state, in order.
    """
    found = []
    for number, (at, state) in enumerate(changes):
        end = changes[number + 1][0] if number + 1 < len(changes) else axis.end
        if state == DeviceState.PENDING.value:
            continue
        left = axis.place(at)
        width = round(axis.place(end) - left, 3)
        resting = state in _AT_REST
        fits = width >= len(state) * _LETTER + _PADDING
        label = words(state) if fits and not resting else ""
        found.append(Bar(state, left, width, max(0.0, end - at), label, resting))
    return tuple(found)


def device_changes(events: Iterable[Event]) -> dict[str, list[tuple[float, str]]]:
    """When each device came to which state."""
    changes: dict[str, list[tuple[float, str]]] = {}
    for event in events:
        if event.kind is EventKind.DEVICE:
            changes.setdefault(event.device, []).append((event.at, str(event.data["to"])))
    return changes


def wave_changes(events: Iterable[Event]) -> dict[int, list[tuple[float, str]]]:
    """When each wave came to which state."""
    changes: dict[int, list[tuple[float, str]]] = {}
    for event in events:
        if event.kind is EventKind.WAVE and event.wave is not None:
            changes.setdefault(event.wave, []).append((event.at, str(event.data["to"])))
    return changes


@dataclass(frozen=True)
class Known:
    """What is known of the devices beside their records, by device."""

    axis: Axis
    changes: Mapping[str, list[tuple[float, str]]]
    commands: Mapping[str, int]
    downtimes: Mapping[str, float]
    recoveries: Mapping[str, float]


def row(record: DeviceRecord, known: Known) -> Row:
    """The row of one device."""
    name = record.device
    return Row(
        name,
        record.variant,
        record.state.value,
        record.reason,
        bars(known.changes.get(name, ()), known.axis),
        known.commands.get(name, 0),
        known.downtimes.get(name),
        known.recoveries.get(name),
    )


def folds(records: Sequence[DeviceRecord], known: Known, *, many: bool) -> tuple[Fold, ...]:
    """Devices by their end, those in trouble first.

    :param many: the page has many devices: those that ended well are folded whatever their number.
    """
    by_state: dict[DeviceState, list[Row]] = {}
    for record in records:
        by_state.setdefault(record.state, []).append(row(record, known))
    ordered = sorted(by_state, key=severity)
    return tuple(
        Fold(
            state.value,
            tuple(by_state[state]),
            len(by_state[state]) <= OPEN_ROWS and not (many and state in GOOD),
        )
        for state in ordered
    )


_BY_SEVERITY = (
    DeviceState.QUARANTINED,
    DeviceState.ROLLBACK_FAILED,
    DeviceState.LOST,
    DeviceState.ROLLING_BACK,
    DeviceState.ROLLED_BACK,
    DeviceState.REJECTED,
    DeviceState.DEFERRED,
    DeviceState.SWITCHING,
    DeviceState.SOAKING,
    DeviceState.CONFIRMING,
    DeviceState.STAGING,
    DeviceState.PREFLIGHT,
    DeviceState.STAGED,
    DeviceState.PENDING,
    DeviceState.COMMITTED,
    DeviceState.ALREADY_CURRENT,
)


def severity(state: DeviceState) -> int:
    """Where a state stands in lists: trouble first, then what is under way, then what is well."""
    return _BY_SEVERITY.index(state)
