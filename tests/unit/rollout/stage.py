"""A rollout of a few simulated devices on a journal in memory, for tests that read like scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from drill import Drill, bad, strategy
from memory_journal import ControllerKilledError, Life, MemoryJournal, WatchedFleet

from muster.fleet.interface import Order, Verb
from muster.fleet.simulated import Fault, Quality, SimulatedDevice
from muster.rollout.events import EventKind
from muster.rollout.machine import DeviceState as D
from muster.rollout.machine import RolloutState as R
from muster.rollout.records import DeviceRecord, Snapshot
from muster.rollout.records import RequestKind as K


class Stage:
    """A rollout of a few devices, with a person who asks things of it at set times."""

    def __init__(
        self,
        number: int = 4,
        quality: Quality = Quality.GOOD,
        faults: Sequence[Fault] = (),
        **changes: Any,
    ) -> None:
        self.life = Life()
        self.journal = MemoryJournal(self.life)
        self.drill = Drill(self.journal)  # type: ignore[arg-type]
        self.fleet = WatchedFleet(
            self.drill.devices(number), bad(self.drill.release, quality), faults
        )
        self.fleet.life, self.journal.now = self.life, self.fleet.now
        self.orders: list[tuple[float, Order]] = []
        self.fleet.watch = lambda order, now: self.orders.append((now, order))
        self.snapshot: Snapshot = self.drill.prepare(self.fleet, strategy(**changes))

    def ask(
        self, kind: K, at: float | None = None, reason: str = "", wave: int | None = None
    ) -> None:
        self.journal.ask(self.snapshot.rollout.id, kind, reason, wave, at)

    def run(self, **options: Any) -> R:
        self.fleet.turns = 0
        return self.drill.drive(self.snapshot, self.fleet, **options)

    def device(self, number: int) -> SimulatedDevice:
        return self.fleet.devices[f"d{number:04d}"]

    def record(self, number: int) -> DeviceRecord:
        return next(d for d in self.loaded.devices if d.device == f"d{number:04d}")

    def texts(self) -> list[str]:
        """Decisions, in plain words."""
        return [e.data["text"] for e in self.journal.seen if e.kind is EventKind.DECISION]

    def begun(self, verb: Verb) -> list[tuple[float, str]]:
        """When each order of a verb was given, and to which device."""
        return [(at, order.device) for at, order in self.orders if order.verb is verb]

    @property
    def loaded(self) -> Snapshot:
        return self.journal.load(self.snapshot.rollout.id)

    @property
    def code(self) -> int | None:
        return self.loaded.rollout.exit_code

    def states(self, wave: int | None = None) -> set[D]:
        return {d.state for d in self.loaded.devices if wave in {None, d.wave}}

    def running(self) -> set[str | None]:
        return {device.current for device in self.fleet.devices.values()}

    def switches(self) -> list[tuple[float, str]]:
        """When each switch was ordered, and of which device."""
        return [
            (at, order.device)
            for at, order in self.orders
            if order.verb is Verb.SWITCH and not order.document.get("extend")
        ]


def killed_everywhere(make: Callable[[], Stage], **options: Any) -> list[Stage]:
    """One rollout for everything that a controller does, after which it dies."""
    stages = []
    for left in range(2000):
        stage = make()
        stage.life.left = left
        try:
            stage.run(**options)
        except ControllerKilledError:
            stage.fleet.abandon(obeyed=left % 2 == 0)
            stages.append(stage)
            continue
        return stages
    raise AssertionError("the rollout never ended")
