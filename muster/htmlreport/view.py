"""From the records of a rollout to all that its page shows. Pure: no clock, no disk."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo

from muster.htmlreport.axis import Axis, lasting, make_axis
from muster.htmlreport.decisions import Decision, decisions
from muster.htmlreport.plots import Plot, Reading, gate_readings, make_plot
from muster.htmlreport.timeline import (
    OPEN_ROWS,
    Bar,
    Fold,
    Known,
    bars,
    device_changes,
    folds,
    severity,
    wave_changes,
)
from muster.rollout import report
from muster.rollout.events import Event, EventKind
from muster.rollout.machine import FINAL_ROLLOUT, GOOD, DeviceState, RolloutState
from muster.rollout.records import RolloutRecord, Snapshot, WaveRecord
from muster.rollout.words import wave_label, without_numbers, words

R = RolloutState

_TONES = {
    R.SUCCEEDED: "good",
    R.SUCCEEDED_WITH_DEFERRED: "warn",
    R.ROLLED_BACK: "bad",
    R.ROLLBACK_FAILED: "bad",
    R.ABORTED: "bad",
}
_EXIT_CODES = {
    0: "succeeded",
    1: "other",
    3: "rolled back",
    4: "rollback failed, or a device is quarantined or unaccounted for",
    5: "paused or waiting for approval",
    6: "finished with deferred devices",
}


@dataclass(frozen=True)
class Count:
    """How many devices ended in one state."""

    state: str
    number: int
    percent: float


@dataclass(frozen=True)
class Figure:
    """One figure of the head: its name, its value and what else is to know of it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class WaveView:
    """One wave, or the devices that are in none (``index`` None).

    :param took: from its turn until its last device came to rest, as text; empty if it had none.
    """

    index: int | None
    title: str
    state: str
    reason: str
    devices: int
    soak: str
    took: str
    slowest: str
    counts: tuple[Count, ...]
    bars: tuple[Bar, ...]
    folds: tuple[Fold, ...]


@dataclass(frozen=True)
class Failure:
    """A gate that did not pass, for reasons that are alike but for their numbers.

    :param reason: that of the first device.
    :param varies: others have other numbers.
    """

    gate: str
    verdict: str
    reason: str
    varies: bool
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """All that the page shows; times of the decisions in seconds since 1970 UTC.

    :param tone: ``good``, ``warn`` or ``bad``: how it ended.
    """

    title: str
    outcome: str
    tone: str
    reason: str
    facts: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]
    counts: tuple[Count, ...]
    waves: tuple[WaveView, ...]
    axis: Axis
    states: tuple[str, ...]
    plots: tuple[Plot, ...]
    failures: tuple[Failure, ...]
    times: tuple[Plot, ...]
    decisions: tuple[Decision, ...]
    zone: tzinfo

    def clock(self, at: float) -> str:
        """Wall time of a day, to the second."""
        return datetime.fromtimestamp(at, self.zone).strftime("%Y-%m-%d %H:%M:%S")

    def iso(self, at: float) -> str:
        """Wall time for machines."""
        return datetime.fromtimestamp(at, self.zone).isoformat(timespec="milliseconds")

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return sum(count.number for count in self.counts)


def make_page(snapshot: Snapshot, events: Sequence[Event], zone: tzinfo = timezone.utc) -> Page:
    """Prepare the page of a rollout, finished or not.

    :param zone: time zone of all times on the page.
    """
    rollout = snapshot.rollout
    axis = make_axis([event.at for event in events] or [rollout.created])
    known = Known(
        axis,
        device_changes(events),
        report.commands(events),
        report.downtimes(events),
        report.recoveries(events),
    )
    waves = _waves(snapshot, events, known)
    readings = gate_readings(events)
    ends = rollout.state in FINAL_ROLLOUT
    return Page(
        title=f"{rollout.kind.replace('_', '-').capitalize()} of {rollout.about}",
        outcome=words(rollout.state.value) if ends else f"{words(rollout.state.value)} (not ended)",
        tone=_tone(snapshot),
        reason=rollout.reason,
        facts=_facts(rollout, axis, zone),
        figures=_figures(snapshot, known),
        counts=_counts(Counter(d.state.value for d in snapshot.devices)),
        waves=waves,
        axis=axis,
        states=_states(waves),
        plots=tuple(
            make_plot(gate, name, found, axis) for (gate, name), found in sorted(readings.items())
        ),
        failures=_failures(events),
        times=_times(events, known),
        decisions=tuple(decisions(events, {w.index: w.name for w in snapshot.waves})),
        zone=zone,
    )


def _tone(snapshot: Snapshot) -> str:
    tone = _TONES.get(snapshot.rollout.state, "warn")
    # A rollout may succeed within its budget although some devices went back.
    if tone == "good" and snapshot.rollout.exit_code:
        return "warn"
    return tone


def _facts(rollout: RolloutRecord, axis: Axis, zone: tzinfo) -> tuple[tuple[str, str], ...]:
    def clock(at: float) -> str:
        return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M:%S %Z")

    code = rollout.exit_code
    return (
        ("rollout", rollout.id),
        *_subject(rollout),
        ("began", clock(axis.begin)),
        ("last event", clock(axis.end)),
        ("took", lasting(axis.end - axis.begin)),
        ("exit code", "none yet" if code is None else f"{code} ({_EXIT_CODES.get(code, 'other')})"),
        ("controller", rollout.controller),
        ("inventory", rollout.inventory + (f", limit {rollout.limit}" if rollout.limit else "")),
    )


def _subject(rollout: RolloutRecord) -> tuple[tuple[str, str], ...]:
    if rollout.is_task:
        return (("task", rollout.release_id),)
    return (
        ("model", rollout.model),
        ("release", rollout.release_id),
        ("switch", str(rollout.strategy.get("switch", "recreate")).replace("_", "-")),
        ("signed", "yes" if rollout.signature else "no"),
    )


def _figures(snapshot: Snapshot, known: Known) -> tuple[Figure, ...]:
    total = len(snapshot.devices)
    good = sum(d.state in GOOD for d in snapshot.devices)
    failed = sum(d.failed for d in snapshot.devices)
    commands = [known.commands.get(d.device, 0) for d in snapshot.devices]
    passed = sum(wave.state.value == "passed" for wave in snapshot.waves)
    most = max(commands, default=0)
    task = snapshot.rollout.is_task
    what = "devices done" if task else "devices on the release"
    switching = (
        ()
        if task
        else (
            _spread("downtime of a device", known.downtimes),
            _spread("failed gate to old release ready", known.recoveries),
        )
    )
    return (
        Figure(what, f"{good} of {total}", f"{failed} failed"),
        Figure("waves passed", f"{passed} of {len(snapshot.waves)}"),
        Figure("time", lasting(known.axis.end - known.axis.begin), "first to last event"),
        Figure("SSH commands", str(sum(commands)), f"at most {most} on a device"),
        *switching,
    )


def _spread(name: str, seconds: Mapping[str, float]) -> Figure:
    if not seconds:
        return Figure(name, "none", "nothing measured")
    worst = max(seconds, key=lambda device: seconds[device])
    middle = lasting(statistics.median(seconds.values()))
    note = f"longest {lasting(seconds[worst])} ({worst}), {len(seconds)} measured"
    return Figure(name, f"{middle} median", note)


def _counts(states: Mapping[str, int]) -> tuple[Count, ...]:
    total = sum(states.values())
    ordered = sorted(states, key=lambda state: severity(DeviceState(state)), reverse=True)
    return tuple(Count(s, states[s], round(100 * states[s] / total, 3)) for s in ordered)


def _waves(snapshot: Snapshot, events: Sequence[Event], known: Known) -> tuple[WaveView, ...]:
    times = {figures.index: figures for figures in report.wave_figures(snapshot, events)}
    changes = wave_changes(events)
    many = len(snapshot.devices) > OPEN_ROWS
    groups: list[tuple[WaveRecord | None, int | None]] = [(w, w.index) for w in snapshot.waves]
    if any(device.wave is None for device in snapshot.devices):
        groups.append((None, None))
    names = {wave.index: wave.name for wave in snapshot.waves}
    views = []
    for wave, index in groups:
        own = [device for device in snapshot.devices if device.wave == index]
        figures = times.get(index) if index is not None else None
        title = "in no wave" if index is None else wave_label(index, names)
        views.append(
            WaveView(
                index,
                title[:1].upper() + title[1:],
                wave.state.value if wave else "",
                wave.reason if wave else "",
                len(own),
                lasting(wave.soak) if wave and wave.soak else "none",
                lasting(figures.seconds) if figures else "",
                f"{figures.slowest_device}, {lasting(figures.slowest)}" if figures else "",
                _counts(Counter(device.state.value for device in own)),
                bars(changes.get(index, ()), known.axis) if index is not None else (),
                folds(own, known, many=many),
            )
        )
    return tuple(views)


def _states(waves: Sequence[WaveView]) -> tuple[str, ...]:
    """The states of devices that the timeline shows, for its legend."""
    seen = {bar.state for w in waves for fold in w.folds for row in fold.rows for bar in row.bars}
    seen |= {bar.state for wave in waves for bar in wave.bars}
    order = [state.value for state in DeviceState]
    return tuple(sorted(seen, key=lambda s: (order.index(s) if s in order else len(order), s)))


def _failures(events: Sequence[Event]) -> tuple[Failure, ...]:
    first: dict[tuple[str, str, str], str] = {}
    told: dict[tuple[str, str, str], tuple[set[str], dict[str, None]]] = {}
    for event in events:
        if event.kind is EventKind.GATE and event.data["verdict"] != "passed":
            reason = str(event.data["reason"])
            key = (str(event.data["gate"]), str(event.data["verdict"]), without_numbers(reason))
            reasons, devices = told.setdefault(key, ({reason}, {}))
            if not devices:
                first[key] = reason
            reasons.add(reason)
            devices[event.device] = None
    return tuple(
        Failure(gate, verdict, first[gate, verdict, alike], len(reasons) > 1, tuple(devices))
        for (gate, verdict, alike), (reasons, devices) in told.items()
    )


def _times(events: Sequence[Event], known: Known) -> tuple[Plot, ...]:
    """Downtime of each switch, and how long going back took, over the time of the rollout."""
    down = [
        Reading(e.at, e.device, float(e.data["downtime"]), "")
        for e in events
        if e.kind is EventKind.ANSWER and isinstance(e.data.get("downtime"), (int, float))
    ]
    back = [
        Reading(e.at, e.device, known.recoveries[e.device], "")
        for e in events
        if e.kind is EventKind.DEVICE
        and e.data["to"] == DeviceState.ROLLED_BACK.value
        and e.device in known.recoveries
    ]
    plots = []
    if down:
        plots.append(make_plot("downtime of each switch", "seconds", down, known.axis))
    if back:
        plots.append(make_plot("failed gate to old release ready", "seconds", back, known.axis))
    return tuple(plots)
