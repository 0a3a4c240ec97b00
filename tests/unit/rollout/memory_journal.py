"""A journal in memory, and controllers that die at it: for thousands of drills in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from muster.fleet.interface import Answer, Order
from muster.fleet.simulated import SimulatedFleet
from muster.rollout.events import Event
from muster.rollout.leases import Lease
from muster.rollout.records import (
    ControlRequest,
    DeviceRecord,
    RequestKind,
    RolloutRecord,
    Snapshot,
    WaveRecord,
)

T = TypeVar("T", RolloutRecord, WaveRecord, DeviceRecord)


class ControllerKilledError(Exception):
    """The controller is dead; nothing that it had not written or sent is ever known."""


class EndlessError(AssertionError):
    """The engine goes round without an end."""


@dataclass
class Life:
    """How many more things a controller does before it dies; None: it does not.

    :param turns: how often it may wait for an answer until that counts as endless.
    """

    left: int | None = None
    turns: int = 50_000

    def spend(self) -> None:
        """Do one thing more, or die."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise ControllerKilledError


def _copy(record: T) -> T:
    return type(record)(**vars(record))


class MemoryJournal:
    """The part of a journal that an engine and its tests use.

    :param now: the clock by which requests come.
    """

    def __init__(self, life: Life | None = None) -> None:
        self.life = life or Life()
        self.now: Callable[[], float] = lambda: 0.0
        self.seen: list[Event] = []
        self._rollouts: dict[str, RolloutRecord] = {}
        self._waves: dict[str, dict[int, WaveRecord]] = {}
        self._devices: dict[str, dict[str, DeviceRecord]] = {}
        self._asked: list[ControlRequest] = []
        self._number = 0

    def close(self) -> None:
        pass

    def create(self, snapshot: Snapshot) -> None:
        name = snapshot.rollout.id
        snapshot.rollout.created = 1.0
        self._rollouts[name] = _copy(snapshot.rollout)
        self._waves[name] = {w.index: _copy(w) for w in snapshot.waves}
        self._devices[name] = {d.device: _copy(d) for d in snapshot.devices}

    def write(
        self,
        rollout: RolloutRecord,
        waves: Iterable[WaveRecord] = (),
        devices: Iterable[DeviceRecord] = (),
        events: Sequence[Event] = (),
    ) -> None:
        self.life.spend()
        self._rollouts[rollout.id] = _copy(rollout)
        for wave in waves:
            self._waves[rollout.id][wave.index] = _copy(wave)
        for device in devices:
            self._devices[rollout.id][device.device] = _copy(device)
        self.seen += events
        self.life.spend()

    def load(self, rollout_id: str) -> Snapshot:
        return Snapshot(
            _copy(self._rollouts[rollout_id]),
            [_copy(wave) for wave in self._waves[rollout_id].values()],
            [_copy(device) for device in self._devices[rollout_id].values()],
        )

    def record(self, rollout_id: str, device: str) -> DeviceRecord:
        return self._devices[rollout_id][device]

    def events(self, _rollout_id: str, device: str | None = None) -> list[Event]:
        return [event for event in self.seen if device in {None, event.device}]

    def ask(
        self,
        rollout_id: str,
        kind: RequestKind,
        reason: str = "",
        wave: int | None = None,
        at: float | None = None,
    ) -> None:
        self._number += 1
        at = self.now() if at is None else at
        request = ControlRequest(self._number, rollout_id, kind, "ada@desk", reason, at, wave)
        self._asked.append(request)

    def requests(self, rollout_id: str) -> list[ControlRequest]:
        if not self._asked:
            return []
        return [r for r in self._asked if r.rollout == rollout_id and r.at <= self.now()]

    def handled(self, request: ControlRequest) -> None:
        self.life.spend()
        self._asked = [each for each in self._asked if each.id != request.id]

    def acquire(self, rollout: RolloutRecord, _devices: Sequence[str]) -> Lease:
        return Lease("token", rollout.id, "ada@desk")

    def heartbeat(self, lease: Lease) -> None:
        pass

    def release(self, lease: Lease) -> None:
        pass


class WatchedFleet(SimulatedFleet):
    """A simulated fleet whose controller may die, and must not go round for ever.

    :param watch: called with each order and the time at which it is given.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.life = Life()
        self.turns = 0
        self.watch: Callable[[Order, float], None] = lambda _order, _now: None
        self.under_way: dict[str, Order] = {}

    def submit(self, order: Order) -> None:
        self.life.spend()
        if order.device in self.under_way:
            raise AssertionError(f"{order.device} got two orders at once")
        self.under_way[order.device] = order
        self.watch(order, self.now())
        super().submit(order)

    def next_answer(self, timeout: float | None) -> Answer | None:
        self.turns += 1
        if self.turns > self.life.turns:
            raise EndlessError(f"more than {self.life.turns} turns")
        answer = super().next_answer(timeout)
        if answer is not None:
            del self.under_way[answer.device]
        return answer

    def abandon(self, *, obeyed: bool) -> None:
        """The controller is gone; what was under way is obeyed, or lost on the way."""
        if obeyed:
            self.finish()
        self.close()
        self.under_way.clear()
        self.turns = 0
