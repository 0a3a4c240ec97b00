"""Every transition of a rollout: checked against the tables, written, and told to who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from muster.rollout import decide
from muster.rollout.decide import Next
from muster.rollout.events import Event, EventKind
from muster.rollout.journal import Journal
from muster.rollout.machine import (
    DEVICE_TRANSITIONS,
    FINAL_ROLLOUT,
    ROLLOUT_TRANSITIONS,
    WAITING_ROLLOUT,
    WAVE_TRANSITIONS,
    RolloutState,
    WaveState,
    allowed,
)
from muster.rollout.records import DeviceRecord, Snapshot, WaveRecord


class Observer(Protocol):
    """Somebody who watches a rollout; it never changes it."""

    def event(self, event: Event) -> None:
        """Something happened and is in the journal."""

    def tick(self) -> None:
        """Time went by."""


class Ledger:
    """The records of one rollout, and what of them is not in the journal yet.

    Nothing that it notes may be acted on before :meth:`write` has returned.
    """

    def __init__(
        self, snapshot: Snapshot, journal: Journal, observers: Sequence[Observer] = ()
    ) -> None:
        self.rollout, self.waves = snapshot.rollout, snapshot.waves
        self.devices = {record.device: record for record in snapshot.devices}
        self._journal, self._observers = journal, list(observers)
        self._events: list[Event] = []
        self._changed_devices: dict[str, DeviceRecord] = {}
        self._changed_waves: dict[int, WaveRecord] = {}

    def move_device(self, record: DeviceRecord, following: Next) -> None:
        """Take a device to its next state."""
        old = record.state
        if not allowed(DEVICE_TRANSITIONS, old, following.state):
            raise AssertionError(f"{record.device}: no transition {old} -> {following.state}")
        record.state, record.reason = following.state, following.reason
        record.failed = record.failed or following.failed
        record.unreachable = record.unreachable or following.unreachable
        self.touch(record)
        data = {"from": old.value, "to": record.state.value, "reason": record.reason}
        self.note(EventKind.DEVICE, data | _counting(record), record)

    def move_wave(self, wave: WaveRecord, state: WaveState, reason: str) -> None:
        """Take a wave to its next state."""
        if not allowed(WAVE_TRANSITIONS, wave.state, state):
            raise AssertionError(f"wave {wave.index}: no transition {wave.state} -> {state}")
        data = {"from": wave.state.value, "to": state.value, "reason": reason}
        wave.state, wave.reason = state, reason
        self.touch(wave)
        self.note(EventKind.WAVE, data, wave)

    def move_rollout(self, state: RolloutState, reason: str) -> None:
        """Take the rollout to its next state; where it rests it gets its exit code."""
        rollout = self.rollout
        if not allowed(ROLLOUT_TRANSITIONS, rollout.state, state):
            raise AssertionError(f"rollout: no transition {rollout.state} -> {state}")
        data = {"from": rollout.state.value, "to": state.value, "reason": reason}
        rollout.state, rollout.reason = state, reason
        rollout.exit_code = None
        if state in FINAL_ROLLOUT | WAITING_ROLLOUT:
            rollout.exit_code = decide.exit_code(state, self.devices.values())
        self.note(EventKind.ROLLOUT, data)

    def touch(self, record: DeviceRecord | WaveRecord) -> None:
        """Have a changed record written."""
        if isinstance(record, DeviceRecord):
            self._changed_devices[record.device] = record
        else:
            self._changed_waves[record.index] = record

    def note(
        self,
        kind: EventKind,
        data: Mapping[str, Any],
        about: DeviceRecord | WaveRecord | None = None,
    ) -> None:
        """Have something told, and written."""
        device, wave = "", None
        if isinstance(about, DeviceRecord):
            device, wave = about.device, about.wave
        elif about is not None:
            wave = about.index
        at = round(time.time(), 3)
        self._events.append(Event(kind, self.rollout.id, at, device, wave, data))

    def say(self, text: str, about: DeviceRecord | WaveRecord | None = None) -> None:
        """Note a decision, in plain words."""
        counting = _counting(about) if isinstance(about, DeviceRecord) else {}
        self.note(EventKind.DECISION, {"text": text} | counting, about)

    def write(self) -> None:
        """Write what changed in one transaction, then tell it."""
        if not (self._changed_devices or self._changed_waves or self._events):
            return
        events, self._events = self._events, []
        self._journal.write(
            self.rollout, self._changed_waves.values(), self._changed_devices.values(), events
        )
        self._changed_devices, self._changed_waves = {}, {}
        for event in events:
            self.tell(lambda observer, event=event: observer.event(event))  # type: ignore[misc]

    def tell(self, what: Callable[[Observer], None]) -> None:
        """Tell every observer; one whose output is gone is left alone from then on."""
        for observer in list(self._observers):
            try:
                what(observer)
            except OSError:  # a full disk or a closed pipe must not end a rollout half-way
                self._observers.remove(observer)


def _counting(record: DeviceRecord) -> dict[str, Any]:
    """What a device counts as against the budget, for who watches; empty when it counts not."""
    counts = {"failed": record.failed, "unreachable": record.unreachable}
    return {name: True for name, so in counts.items() if so}
