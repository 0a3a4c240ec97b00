"""The orders of a task: pure builders of what the device program reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from muster.fleet.interface import Order, Verb
from muster.strategy import Strategy
from muster.tasks import PROGRAM, Task

_REASON_LENGTH = 500
"""Characters; see :mod:`muster.rollout.orders`."""


@dataclass(frozen=True)
class TaskOrders:
    """Builds the orders of one rollout of a task.

    :param rollout: its id, which fences the task on every device.
    """

    rollout: str
    task: Task
    strategy: Strategy

    def inspect(self, device: str) -> Order:
        """Ask a device what it is and where it stands."""
        return self._order(device, Verb.INSPECT, {}, 0.0)

    def stage(self, device: str, _variant: str, _registry: str | None) -> Order:
        """Prepare what can be prepared, touching nothing that serves."""
        return self._order(device, Verb.STAGE, {}, self.strategy.pull_deadline)

    def switch(self, device: str, generation: int) -> Order:
        """Do it. A device that restarts has until ``healthy_deadline`` to be back."""
        return self._fenced(device, Verb.SWITCH, generation)

    def extend(self, device: str, generation: int) -> Order:
        """Nothing to extend: no guard ends a task. A repetition tells that it stands."""
        return self._fenced(device, Verb.SWITCH, generation)

    def probe(self, device: str, duration: float) -> Order:
        """Watch the device's models for ``duration`` seconds."""
        document = {
            "duration": duration,
            "interval": self.strategy.probe_interval,
            "healthy_deadline": self.strategy.healthy_deadline,
        }
        return self._order(device, Verb.PROBE, document, duration + self.strategy.healthy_deadline)

    def confirm(self, device: str, generation: int) -> Order:
        """Have it count as done."""
        return self._fenced(device, Verb.CONFIRM, generation)

    def revert(self, device: str, generation: int, _to: str | None, reason: str) -> Order:
        """Have the device serve as before, where that can be done."""
        return self._fenced(device, Verb.REVERT, generation, reason=reason[:_REASON_LENGTH])

    def _fenced(self, device: str, verb: Verb, generation: int, **more: object) -> Order:
        deadline = self.strategy.healthy_deadline
        document = {"generation": generation, "rollout": self.rollout, **more}
        return self._order(device, verb, {**document, "healthy_deadline": deadline}, deadline)

    def _order(
        self, device: str, verb: Verb, document: Mapping[str, object], takes: float
    ) -> Order:
        return Order(
            device,
            verb,
            {"task": self.task.document, **document},
            takes + self.strategy.command_margin,
            PROGRAM,
        )
