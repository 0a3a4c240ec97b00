"""Events and records of rollouts that never were, for tests of what is told of them."""

from __future__ import annotations

from typing import Any

from drill import make_release, strategy

from muster.rollout.events import Event, EventKind
from muster.rollout.machine import DeviceState, RolloutState, WaveState
from muster.rollout.records import DeviceRecord, RolloutRecord, Snapshot, WaveRecord

START = 1_780_000_000.0
"""Wall time at which every story begins; times in stories are seconds after it."""


def moved(
    at: float, device: str, to: str, before: str = "", reason: str = "", wave: int = 0, **data: Any
) -> Event:
    data = {"from": before, "to": to, "reason": reason, **data}
    return Event(EventKind.DEVICE, "r", START + at, device, wave, data)


def waved(at: float, wave: int, to: str, reason: str = "") -> Event:
    data = {"from": "", "to": to, "reason": reason}
    return Event(EventKind.WAVE, "r", START + at, "", wave, data)


def ran(at: float, to: str, before: str = "running", reason: str = "") -> Event:
    data = {"from": before, "to": to, "reason": reason}
    return Event(EventKind.ROLLOUT, "r", START + at, data=data)


def decided(at: float, text: str, device: str = "", **data: Any) -> Event:
    return Event(EventKind.DECISION, "r", START + at, device, data={"text": text, **data})


def answered(at: float, device: str, step: str = "switch", **data: Any) -> Event:
    data = {"step": step, "seconds": 1.0, "trouble": None, "message": "", **data}
    return Event(EventKind.ANSWER, "r", START + at, device, 0, data)


def gated(
    at: float, device: str, gate: str = "live", verdict: str = "passed", reason: str = "", **f: Any
) -> Event:
    data = {"gate": gate, "verdict": verdict, "reason": reason or f"{gate}: {verdict}"}
    return Event(EventKind.GATE, "r", START + at, device, 0, data | {"figures": f})


def device(name: str, state: str = "pending", wave: int | None = 0, **more: Any) -> DeviceRecord:
    return DeviceRecord(name, wave, "hw_a", DeviceState(state), **more)


def wave(index: int, name: str, state: str = "pending", **more: Any) -> WaveRecord:
    return WaveRecord(index, name, state=WaveState(state), **more)


def snapshot(
    devices: list[DeviceRecord],
    waves: list[WaveRecord] | None = None,
    state: str = "running",
    reason: str = "",
    **changes: Any,
) -> Snapshot:
    release = make_release()
    rollout = RolloutRecord(
        "r",
        "rollout",
        release.model,
        release.id,
        release.canonical,
        strategy(**changes).model_dump(mode="json"),
        "inventories/here",
        RolloutState(state),
        reason=reason,
        created=START,
        controller="ops@bastion",
    )
    return Snapshot(rollout, waves or [wave(0, "canary")], devices)
