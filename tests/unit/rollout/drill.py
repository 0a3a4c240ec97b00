"""A rollout over simulated devices, from documents to the state in which it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from muster.fleet.simulated import Quality, SimulatedDevice, SimulatedFleet
from muster.planning import PlanDevice, plan
from muster.release import Release
from muster.rollout.engine import Engine
from muster.rollout.events import Event
from muster.rollout.journal import Journal
from muster.rollout.machine import RolloutState
from muster.rollout.prepare import new_rollout
from muster.rollout.records import DeviceRecord, Snapshot
from muster.rollout.work import DeviceFacts
from muster.strategy import Strategy


def make_release(version: str = "2.0", **changes: Any) -> Release:
    document: dict[str, Any] = {
        "model": "digits",
        "version": version,
        "variants": {
            "hw_a": {"image": "models/digits@sha256:" + "a" * 64},
            "hw_b": {"image": "models/digits@sha256:" + "b" * 64},
        },
        "gates": [
            {"name": "ready", "type": "readiness"},
            {"name": "live", "type": "http", "path": "/v2/health/live"},
        ],
    }
    return Release.model_validate(document | changes)


@dataclass
class Recorder:
    events: list[Event] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def tick(self) -> None:
        pass


@dataclass
class Drill:
    """Everything that one simulated rollout needs."""

    journal: Journal
    release: Release = field(default_factory=make_release)
    old: Release = field(default_factory=lambda: make_release("1.0"))

    def devices(self, number: int, release: Release | None = None) -> list[SimulatedDevice]:
        current = (release or self.old).id
        return [
            SimulatedDevice(
                f"d{index:04d}",
                takes=0.1 + index / 100,
                current=current,
                last_good=current,
                releases={current},
                generation=1,
            )
            for index in range(number)
        ]

    def prepare(self, fleet: SimulatedFleet, strategy: Strategy, **options: Any) -> Snapshot:
        names = sorted(fleet.devices)
        members = [
            PlanDevice(name, f"site_{index % 2}", ("hw_a" if index % 3 else "hw_b",))
            for index, name in enumerate(names)
        ]
        snapshot = new_rollout(
            self.release, strategy, plan(members, self.release, strategy), "inventory", **options
        )
        self.journal.create(snapshot)
        return snapshot

    def facts(self, fleet: SimulatedFleet, **facts: Any) -> dict[str, DeviceFacts]:
        """What an inventory says: devices belong to two sites by turns."""
        return {
            name: DeviceFacts(site=f"site_{index % 2}", **facts)
            for index, name in enumerate(sorted(fleet.devices))
        }

    def drive(
        self,
        snapshot: Snapshot,
        fleet: SimulatedFleet,
        observer: Recorder | None = None,
        **options: Any,
    ) -> RolloutState:
        snapshot = self.journal.load(snapshot.rollout.id)
        lease = self.journal.acquire(snapshot.rollout, [d.device for d in snapshot.devices])
        try:
            strategy = Strategy.model_validate(snapshot.rollout.strategy)
            release = self.release
            if snapshot.rollout.release_id != release.id:
                release = Release.from_canonical(snapshot.rollout.release_document)
            observers = [observer] if observer else []
            if "facts" not in options:
                options["facts"] = self.facts(fleet)
            engine = Engine(
                snapshot,
                release,
                strategy,
                fleet,
                self.journal,
                lease,
                observers=observers,
                **options,
            )
            return engine.run()
        finally:
            self.journal.release(lease)

    def records(self, snapshot: Snapshot) -> dict[str, DeviceRecord]:
        return {d.device: d for d in self.journal.load(snapshot.rollout.id).devices}


def bad(release: Release, kind: Quality) -> Callable[[str, str | None], Quality]:
    """A release that behaves like ``kind`` on every device; all others are good."""
    return lambda _device, name: kind if name == release.id else Quality.GOOD


def strategy(**changes: Any) -> Strategy:
    document: dict[str, Any] = {
        "waves": [{"size": 1}, {"size": "50%"}, {"size": "rest"}],
        "min_healthy_time": 5,
        "healthy_deadline": 30,
        "confirm_timeout": 90,
        "command_margin": 10,
    }
    return Strategy.model_validate(document | changes)
