"""Simulated devices on a virtual clock: the contract of the device program without any device.

A simulation, for tests of decisions and for planning drills; it never stands for a real device.
Hours of rollout pass in milliseconds, and everything that happens is a function of its input.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.simulated_device import Quality, SimulatedDevice

__all__ = ["Fault", "FaultKind", "Quality", "SimulatedDevice", "SimulatedFleet"]

BEGINNING = 1767225600.0
"""Wall time at which a simulation begins: 2026-01-01 00:00 UTC, a Thursday."""


class FaultKind(str, Enum):
    """What goes wrong with one order."""

    ORDER_LOST = "order_lost"
    """The link breaks before the device has the order."""
    ANSWER_LOST = "answer_lost"
    """The device obeys, then the link breaks."""
    POWER_CUT = "power_cut"
    """The device obeys, loses power before it answers, and starts again."""
    GONE = "gone"
    """The device obeys; from then on it can't be reached, but lives on."""
    AWAY = "away"
    """The device obeys; then it can't be reached for some time, but lives on."""
    TAKEN_OVER = "taken_over"
    """Before the order comes, another controller undoes what is open, and takes the device."""


@dataclass(frozen=True)
class Fault:
    """``kind`` happens to the ``nth`` order (from 1) of ``verb`` that ``device`` gets.

    :param seconds: how long a device is ``AWAY``.
    """

    device: str
    verb: Verb
    kind: FaultKind
    nth: int = 1
    seconds: float = 60.0


class SimulatedFleet:
    """A :class:`muster.fleet.interface.Fleet` on a virtual clock.

    :param quality: how each release behaves, by device and release id.
    """

    def __init__(
        self,
        devices: Iterable[SimulatedDevice],
        quality: Callable[[str, str | None], Quality] = lambda _device, _release: Quality.GOOD,
        faults: Iterable[Fault] = (),
    ) -> None:
        self.devices = {device.name: device for device in devices}
        self.commands: Counter[str] = Counter()
        self._quality = quality
        self._faults = {(f.device, f.verb, f.nth): f for f in faults}
        self._given: Counter[tuple[str, Verb]] = Counter()
        self._clock = 0.0
        self._heap: list[tuple[float, int, Order]] = []
        self._number = itertools.count()

    def submit(self, order: Order) -> None:
        """Put an order on its way; it is carried out when the clock gets there."""
        reachable = self._is_reachable(self.devices[order.device])
        takes = min(self._takes(order) if reachable else 10.0, order.timeout)
        heapq.heappush(self._heap, (self._clock + takes, next(self._number), order))

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Advance the clock to the next answer, at most by ``timeout`` virtual seconds."""
        until = float("inf") if timeout is None else self._clock + timeout
        if not self._heap or self._heap[0][0] > until:
            if timeout is not None:
                self._clock = until
            return None
        self._clock, _, order = heapq.heappop(self._heap)
        return self._carry_out(order)

    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self._clock

    def wall_time(self) -> float:
        """Virtual seconds since 1970 UTC; the simulation begins on 1 January 2026."""
        return BEGINNING + self._clock

    def close(self) -> None:
        """Forget what is under way."""
        self._heap.clear()

    def finish(self) -> None:
        """Have the orders that are under way obeyed, though nobody waits for the answers."""
        while self._heap:
            self._clock, _, order = heapq.heappop(self._heap)
            self._carry_out(order)

    def pass_time(self, seconds: float) -> None:
        """Let time go by without a controller."""
        self._clock += seconds
        for device in self.devices.values():
            device.guard(self._clock)

    def let_guards_act(self) -> None:
        """Let so much time pass that every armed guard has acted."""
        for device in self.devices.values():
            device.guard(float("inf"))

    def _takes(self, order: Order) -> float:
        """Seconds; what takes longer than the order's time limit is obeyed without an answer."""
        watched = float(order.document["duration"]) if order.verb is Verb.PROBE else 0.0
        return self.devices[order.device].takes + watched

    def _is_reachable(self, device: SimulatedDevice) -> bool:
        return device.reachable and self._clock >= device.reachable_from

    def _carry_out(self, order: Order) -> Answer:
        device = self.devices[order.device]
        device.guard(self._clock)
        if not self._is_reachable(device):
            return _lost(order)
        self._given[order.device, order.verb] += 1
        self.commands[order.device] += 1
        fault = self._faults.get((order.device, order.verb, self._given[order.device, order.verb]))
        kind = fault.kind if fault is not None else None
        if kind is FaultKind.ORDER_LOST:
            return _lost(order)
        if kind is FaultKind.TAKEN_OVER:
            device.take_over(self._clock)
        release = order.document.get("release_id") or device.current
        quality = self._quality(device.name, release)
        document = device.obey(order.verb, order.document, self._clock, quality)
        if kind is FaultKind.POWER_CUT:
            device.boot(self._clock)
        if kind is FaultKind.GONE:
            device.reachable = False
        if fault is not None and kind is FaultKind.AWAY:
            device.reachable_from = self._clock + fault.seconds
        if kind not in {None, FaultKind.TAKEN_OVER} or self._takes(order) > order.timeout:
            return _lost(order)
        if not document["ok"]:
            error = document["error"]
            return Answer(
                order.device,
                order.verb,
                document,
                trouble=Trouble.REFUSED,
                code=error["code"],
                message=f"{order.verb.value}: {error['message']}",
                seconds=device.takes,
            )
        return Answer(order.device, order.verb, document, seconds=device.takes)


def _lost(order: Order) -> Answer:
    return Answer(
        order.device, order.verb, trouble=Trouble.UNREACHABLE, message="the link is cut", seconds=10
    )
