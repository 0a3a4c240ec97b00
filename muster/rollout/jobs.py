"""What a rollout is about, as far as the engine must know: a release, or a task.

Both go through the same states. They differ in what a device is told at each step, in whether it
fits, and in what its answers to ``probe`` mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from muster.fleet.interface import Order
from muster.gates import Assessment, Verdict, assess_probe, could_not_measure
from muster.release import Release, misfits
from muster.rollout.decide import RUN
from muster.rollout.orders import Orders
from muster.rollout.records import RolloutRecord
from muster.rollout.task_orders import TaskOrders
from muster.strategy import Strategy
from muster.tasks import Task, task_misfits


class OrderBuilder(Protocol):
    """Builds what a device is told at each step."""

    def inspect(self, device: str) -> Order: ...

    def stage(self, device: str, variant: str, registry: str | None) -> Order: ...

    def switch(self, device: str, generation: int) -> Order: ...

    def extend(self, device: str, generation: int) -> Order: ...

    def probe(self, device: str, duration: float) -> Order: ...

    def confirm(self, device: str, generation: int) -> Order: ...

    def revert(self, device: str, generation: int, to: str | None, reason: str) -> Order: ...


class Job(Protocol):
    """What is done to the devices of a rollout."""

    @property
    def id(self) -> str:
        """What a device has when it is done."""

    @property
    def done(self) -> str:
        """What devices do or are then, after their number: ``run the release``."""

    @property
    def restarts_for(self) -> float:
        """Seconds for which a device may be out of reach in its switch, because it restarts; 0
        where a guard takes back what is out of reach."""

    @property
    def orders(self) -> OrderBuilder:
        """The orders of this rollout."""

    def misfits(self, variant: str, inspected: Mapping[str, Any]) -> list[str]:
        """Why a device can't take it; empty when it can."""

    def assess(self, answer: Mapping[str, Any]) -> list[Assessment]:
        """What an answer to ``probe`` means."""

    def unmeasured(self, reason: str) -> list[Assessment]:
        """The same where there was no answer."""


@dataclass(frozen=True)
class ReleaseJob:
    """Bring a release to devices."""

    release: Release
    strategy: Strategy
    rollout: RolloutRecord

    done = RUN
    restarts_for = 0.0

    @property
    def id(self) -> str:
        """Id of the release."""
        return self.release.id

    @cached_property
    def orders(self) -> OrderBuilder:
        """What the device program's commands read."""
        signature = self.rollout.signature
        return Orders(self.rollout.id, self.release, self.strategy, signature=signature)

    def misfits(self, variant: str, inspected: Mapping[str, Any]) -> list[str]:
        """See :func:`muster.release.misfits`."""
        back = self.rollout.kind == "rollback"
        return misfits(self.release, variant, inspected, mode=self.strategy.switch, back=back)

    def assess(self, answer: Mapping[str, Any]) -> list[Assessment]:
        """The verdict of each gate of the release."""
        return assess_probe(answer, self.release.gates)

    def unmeasured(self, reason: str) -> list[Assessment]:
        """Every gate could not be measured."""
        return [could_not_measure(gate, reason) for gate in self.release.gates]


@dataclass(frozen=True)
class TaskJob:
    """Do something to devices as a whole."""

    task: Task
    strategy: Strategy
    rollout: RolloutRecord

    @property
    def id(self) -> str:
        """Id of the task."""
        return self.task.id

    @property
    def done(self) -> str:
        """As the task words it."""
        return self.task.done

    @property
    def restarts_for(self) -> float:
        """As long as the strategy lets a device take until it is healthy."""
        return self.strategy.healthy_deadline

    @cached_property
    def orders(self) -> OrderBuilder:
        """What the device program's commands read for a task."""
        return TaskOrders(self.rollout.id, self.task, self.strategy)

    def misfits(self, _variant: str, inspected: Mapping[str, Any]) -> list[str]:
        """See :func:`muster.tasks.task_misfits`."""
        return task_misfits(self.task, inspected)

    def assess(self, answer: Mapping[str, Any]) -> list[Assessment]:
        """Every model has to be ready all the time, and no unit may have failed that had not."""
        return assess_device(answer)

    def unmeasured(self, reason: str) -> list[Assessment]:
        """Nothing could be measured."""
        return [Assessment("models", Verdict.ERROR, f"models: could not be measured, {reason}")]


def assess_device(answer: Mapping[str, Any]) -> list[Assessment]:
    """What a device's answer to ``probe`` of a task means.

    :param answer: ``models``: how often each was not ready and why, out of ``samples``;
        ``failed_units``: those that had not failed before; ``old_firmware``: what a firmware task
        should have brought further; ``k3s``: the same of a node that was upgraded.
    """
    models, samples = answer["models"], answer["samples"]
    bad = {name: seen for name, seen in models.items() if seen["unready"]}
    figures = {"models": len(models), "not_ready": len(bad), "not_ready_at_most": 0}
    if not samples:
        found = [Assessment("models", Verdict.INCONCLUSIVE, "models: nothing was measured")]
    elif bad:
        told = "; ".join(f"{name}: {seen['problem']}" for name, seen in sorted(bad.items()))
        found = [Assessment("models", Verdict.FAILED, f"models: {told}", figures)]
    else:
        text = f"models: {len(models)} ready in {samples} samples"
        found = [Assessment("models", Verdict.PASSED, text, figures)]
    failed: Sequence[str] = answer["failed_units"]
    verdict = Verdict.FAILED if failed else Verdict.PASSED
    text = f"units: failed since: {', '.join(failed)}" if failed else "units: none failed since"
    limits = {"failed": len(failed), "failed_at_most": 0}
    found.append(Assessment("units", verdict, text, limits))
    if (node := answer.get("k3s")) is not None:
        found.append(_assess_node(node, samples))
    if old := answer["old_firmware"]:
        told = ", ".join(f"{each['device']} {each['current']}" for each in old)
        found.append(Assessment("firmware", Verdict.FAILED, f"firmware: still old: {told}"))
    return found


def _assess_node(node: Mapping[str, Any], samples: int) -> Assessment:
    figures = {"not_ready": node["unready"], "not_ready_at_most": 0}
    if node["unready"]:
        return Assessment("k3s", Verdict.FAILED, f"k3s: {node['problem']}", figures)
    if not samples:
        return Assessment("k3s", Verdict.INCONCLUSIVE, "k3s: nothing was measured")
    return Assessment("k3s", Verdict.PASSED, f"k3s: Ready in {samples} samples", figures)


def job_of(work: Release | Task, strategy: Strategy, rollout: RolloutRecord) -> Job:
    """What a rollout is about, from its document."""
    if isinstance(work, Task):
        return TaskJob(work, strategy, rollout)
    return ReleaseJob(work, strategy, rollout)
