"""What the live display shows, from a rollout's events and the time. Pure: nothing is drawn here.

``Picture`` takes the events in; ``Picture.view`` gives the rows for one moment and one height.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from muster.fields import percentage
from muster.rollout.events import Event, EventKind
from muster.rollout.machine import BEFORE_SWITCH, SETTLED, DeviceState, RolloutState, WaveState
from muster.rollout.records import Snapshot
from muster.rollout.words import Fate, sentence, stopping
from muster.strategy import Strategy

D, R, W = DeviceState, RolloutState, WaveState

LOG_LINES = 6
WAVE_ROWS = 6
_NAMED = 2

_TROUBLE = frozenset({D.ROLLING_BACK, D.LOST, D.ROLLBACK_FAILED, D.QUARANTINED, D.ROLLED_BACK})
_AT_WORK = frozenset({D.PREFLIGHT, D.STAGING, D.SWITCHING, D.SOAKING, D.CONFIRMING})
_TURN = frozenset({W.UPDATING, W.SOAKING, W.AWAITING_APPROVAL})


@dataclass(frozen=True)
class WaveRow:
    """One wave; ``settled`` of its ``devices`` need nothing more."""

    index: int
    name: str
    state: str
    settled: int
    devices: int
    budget: str
    clock: str


@dataclass(frozen=True)
class DeviceRow:
    """One device.

    :param wave: index of its wave, None if it is in none.
    :param seconds: how long it is in its state; None where that says nothing or is not known.
    :param clocks: the times left until something happens by itself, the nearest first, in words.
    :param gates: verdict of each gate that was measured since its switch, by name.
    """

    device: str
    wave: int | None
    variant: str
    state: str
    seconds: float | None
    clocks: tuple[str, ...]
    gates: Mapping[str, str]
    note: str


@dataclass(frozen=True)
class View:
    """All that is shown at one moment.

    :param seconds: since the display began.
    :param stopping: why nothing new is started; empty if it is.
    :param under_way: how many devices are at work.
    :param hidden_waves: how many waves had no room, likewise ``hidden`` for devices by state.
    :param log: what was decided last, with its wall time.
    """

    state: str
    seconds: float
    stopping: str
    under_way: int
    waves: tuple[WaveRow, ...]
    hidden_waves: int
    counts: Mapping[str, int]
    devices: tuple[DeviceRow, ...]
    hidden: Mapping[str, int]
    log: tuple[tuple[float, str], ...]


@dataclass
class _Device:
    wave: int | None
    variant: str
    state: DeviceState
    note: str
    failed: bool
    unreachable: bool
    since: float | None = None
    guard: float | None = None
    """When its guard was armed, or given its full time again."""
    gates: dict[str, str] = field(default_factory=dict)


@dataclass
class _Wave:
    name: str
    soak: float
    state: WaveState
    members: list[str]
    since: float
    progress: float
    accepted_failed: int = 0
    accepted_unreachable: int = 0


class Picture:
    """What is known of a rollout that is watched.

    :param now: wall time in seconds since 1970 UTC, as in the events.
    """

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._strategy = Strategy.model_validate(snapshot.rollout.strategy)
        self._state, self._began = snapshot.rollout.state, now
        self._stopping = ""
        self._devices = {
            d.device: _Device(d.wave, d.variant, d.state, d.reason, d.failed, d.unreachable)
            for d in snapshot.devices
        }
        self._waves = {
            w.index: _Wave(
                w.name,
                w.soak,
                w.state,
                [d.device for d in snapshot.devices if d.wave == w.index],
                now,
                now,
                w.accepted_failed,
                w.accepted_unreachable,
            )
            for w in snapshot.waves
        }
        self._names = {w.index: w.name for w in snapshot.waves}
        self._log: deque[tuple[float, str] | Fate] = deque(maxlen=LOG_LINES)

    def take(self, event: Event) -> None:
        """Take one event in."""
        device = self._devices.get(event.device)
        if device is not None:
            device.failed |= bool(event.data.get("failed"))
            device.unreachable |= bool(event.data.get("unreachable"))
        if event.kind is EventKind.DEVICE and device is not None:
            self._move_device(device, event)
        elif event.kind is EventKind.GATE and device is not None:
            device.gates[str(event.data["gate"])] = str(event.data["verdict"])
        elif event.kind is EventKind.ANSWER and device is not None:
            if event.data.get("step") == "extend" and event.data.get("trouble") is None:
                device.guard = event.at
        elif event.kind is EventKind.WAVE and event.wave in self._waves:
            wave = self._waves[event.wave]
            wave.state, wave.since = W(event.data["to"]), event.at
            wave.progress = event.at
        elif event.kind is EventKind.ROLLOUT:
            self._move_rollout(event)
        self._stopping = stopping(event) or self._stopping
        self._note(event)

    def _move_device(self, device: _Device, event: Event) -> None:
        device.state, device.note = D(event.data["to"]), str(event.data["reason"])
        device.since = event.at
        if device.state is D.SWITCHING:
            device.guard, device.gates = event.at, {}
        elif device.state in SETTLED - {D.LOST}:
            device.guard = None
        if device.wave is not None:
            self._waves[device.wave].progress = event.at

    def _move_rollout(self, event: Event) -> None:
        before, self._state = self._state, R(event.data["to"])
        self._stopping = ""
        if before is R.PAUSED and self._state is R.RUNNING:
            # A person who resumes accepts what failed until now.
            for wave in self._waves.values():
                if wave.state is not W.PASSED:
                    own = [self._devices[name] for name in wave.members]
                    wave.accepted_failed = sum(d.failed for d in own)
                    wave.accepted_unreachable = sum(d.unreachable for d in own)

    def _note(self, event: Event) -> None:
        fate = Fate.of(event)
        if fate is not None:
            last = self._log[-1] if self._log else None
            if isinstance(last, Fate) and last.key == fate.key:
                last.join(fate)
            else:
                self._log.append(fate)
        text = sentence(event, self._names)
        if text is not None:
            self._log.append((event.at, text))

    def view(self, now: float, room: int) -> View:
        """What to show at a time.

        :param room: how many rows of devices there is room for.
        """
        shown, hidden = self._chosen(room)
        waves = self._wave_rows(now)
        return View(
            self._state.value,
            max(0.0, now - self._began),
            self._stopping,
            sum(d.state in _AT_WORK | {D.ROLLING_BACK} for d in self._devices.values()),
            tuple(waves),
            len(self._waves) - len(waves),
            Counter(d.state.value for d in self._devices.values()),
            tuple(self._device_row(name, now) for name in shown),
            Counter(self._devices[name].state.value for name in hidden),
            tuple((e.at, e.sentence(_NAMED)) if isinstance(e, Fate) else e for e in self._log),
        )

    # -- waves ------------------------------------------------------------------------------

    def _wave_rows(self, now: float) -> list[WaveRow]:
        """The waves around the one whose turn it is."""
        indexes = list(self._waves)
        turn = next((i for i in indexes if self._waves[i].state is not W.PASSED), len(indexes) - 1)
        first = max(0, min(turn - 1, len(indexes) - WAVE_ROWS))
        return [self._wave_row(i, self._waves[i], now) for i in indexes[first : first + WAVE_ROWS]]

    def _wave_row(self, index: int, wave: _Wave, now: float) -> WaveRow:
        own = [self._devices[name] for name in wave.members]
        settled = sum(d.state in SETTLED for d in own)
        return WaveRow(
            index,
            wave.name,
            wave.state.value,
            settled,
            len(own),
            self._budget(wave, own) if wave.state not in {W.PENDING, W.STAGING} else "",
            self._wave_clock(wave, now),
        )

    def _budget(self, wave: _Wave, own: list[_Device]) -> str:
        budget, total = self._strategy.failure_budget, len(own)
        failed = sum(d.failed for d in own) - wave.accepted_failed
        unreachable = sum(d.unreachable for d in own) - wave.accepted_unreachable
        return (
            f"failed {failed} of {_allowed(budget.max_failed, total)} allowed,"
            f" unreachable {unreachable} of {_allowed(budget.max_unreachable, total)}"
        )

    def _wave_clock(self, wave: _Wave, now: float) -> str:
        if wave.state is W.SOAKING:
            return f"soak {left(wave.since + wave.soak - now)} left"
        if wave.state is W.AWAITING_APPROVAL:
            return f"waits for {left(now - wave.since)}"
        deadline = self._strategy.progress_deadline
        stuck = wave.state is W.UPDATING and now - wave.progress > deadline / 2
        if stuck and self._state is R.RUNNING:
            return f"no progress: fails in {left(wave.progress + deadline - now)}"
        return ""

    # -- devices ----------------------------------------------------------------------------

    def _chosen(self, room: int) -> tuple[list[str], list[str]]:
        """The devices to show, in their order, and the others."""
        names = list(self._devices)
        if len(names) <= room:
            return names, []
        ranked = sorted(names, key=self._rank)
        # Trouble must not push what is at work off the screen.
        trouble = [n for n in ranked if self._devices[n].state in _TROUBLE][: max(1, room // 2)]
        others = [n for n in ranked if n not in set(trouble)]
        chosen = set(trouble + others[: room - len(trouble)])
        return [n for n in names if n in chosen], [n for n in names if n not in chosen]

    def _rank(self, name: str) -> tuple[int, float]:
        device = self._devices[name]
        newest_first = -(device.since or 0.0)
        if device.state in _TROUBLE:
            return 1 if device.state is not D.ROLLING_BACK else 0, newest_first
        if device.state in _AT_WORK:
            return 0, newest_first
        wave = self._waves.get(device.wave) if device.wave is not None else None
        if wave is not None and wave.state in _TURN:
            return 2 if device.state in BEFORE_SWITCH else 3, 0.0
        return 4, 0.0

    def _device_row(self, name: str, now: float) -> DeviceRow:
        device = self._devices[name]
        seconds = None
        if device.since is not None and device.state in _AT_WORK | {D.ROLLING_BACK, D.LOST}:
            seconds = max(0.0, now - device.since)
        return DeviceRow(
            name,
            device.wave,
            device.variant,
            device.state.value,
            seconds,
            self._device_clocks(device, now),
            dict(device.gates),
            device.note,
        )

    def _device_clocks(self, device: _Device, now: float) -> tuple[str, ...]:
        strategy, since = self._strategy, device.since
        clocks = []
        if since is not None:
            limit = {
                D.STAGING: ("pulled within {}", strategy.pull_deadline),
                D.SWITCHING: ("ready within {}", strategy.healthy_deadline),
                D.SOAKING: ("gates {} more", strategy.min_healthy_time),
                D.ROLLING_BACK: ("back within {}", strategy.healthy_deadline),
            }.get(device.state)
            if limit is not None:
                clocks.append(limit[0].format(left(since + limit[1] - now)))
        if device.guard is not None and device.state is not D.ROLLING_BACK:
            remaining = device.guard + strategy.confirm_timeout - now
            clocks.append(f"guard {left(remaining)}" if remaining > 0 else "its guard has acted")
        return tuple(clocks)


def _allowed(limit: int | str, total: int) -> int:
    percent = percentage(limit)
    return int(limit) if percent is None else math.floor(percent * total / 100)


def left(seconds: float) -> str:
    """A length of time, never below zero: ``45 s``, ``4:05 min``, ``2:00:00 h``."""
    whole = math.ceil(max(0.0, seconds))
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
