"""Simulated devices on a virtual clock: the contract of the device program without any device.

A simulation, for tests of decisions and for planning drills; it never stands for a real device.
Hours of rollout pass in milliseconds, and everything that happens is a function of its input.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from muster.fleet.interface import Answer, Order, Trouble, Verb


class Quality(str, Enum):
    """How a release behaves on a simulated device."""

    GOOD = "good"
    NEVER_READY = "never_ready"
    WRONG = "wrong"
    """Ready, but every request but those for readiness fails."""
    CANNOT_PULL = "cannot_pull"


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


@dataclass(frozen=True)
class Fault:
    """``kind`` happens to the ``nth`` order (from 1) of ``verb`` that ``device`` gets."""

    device: str
    verb: Verb
    kind: FaultKind
    nth: int = 1


@dataclass
class SimulatedDevice:
    """State of one device, as its device program would keep it.

    :param takes: seconds that each verb takes; a probe takes its duration besides.
    """

    name: str
    arch: str = "amd64"
    memory: int = 4 * 1024**3
    disk_free: int = 8 * 1024**3
    accelerators: tuple[str, ...] = ()
    reachable: bool = True
    takes: float = 0.1
    current: str | None = None
    previous: str | None = None
    last_good: str | None = None
    generation: int = 0
    rollout: str | None = None
    phase: str = "idle"
    guard_deadline: float | None = None
    releases: set[str] = field(default_factory=set)
    last_outcome: dict[str, Any] | None = None

    def guard(self, now: float) -> None:
        """Go back if the confirmation did not come in time."""
        if self.guard_deadline is not None and now >= self.guard_deadline:
            self.go_back("no confirmation in time")

    def boot(self) -> None:
        """Start after a power cut: an unconfirmed switch is undone."""
        if self.phase != "idle":
            self.go_back("restarted before the confirmation")

    def go_back(self, reason: str) -> None:
        """Return to the last good release."""
        failed, self.current = self.current, self.last_good
        self.phase, self.guard_deadline = "idle", None
        self._outcome("reverted", failed, reason)

    def _outcome(self, outcome: str, release: str | None, reason: str) -> None:
        self.last_outcome = {
            "generation": self.generation,
            "outcome": outcome,
            "release": release,
            "reason": reason,
            "at": 0.0,
        }

    def obey(self, verb: Verb, order: Mapping[str, Any], now: float, quality: Quality) -> Any:
        """Carry out one order; returns the answer document."""
        return {
            Verb.INSPECT: self._inspect,
            Verb.STAGE: self._stage,
            Verb.SWITCH: self._switch,
            Verb.PROBE: self._probe,
            Verb.CONFIRM: self._confirm,
            Verb.REVERT: self._revert,
        }[verb](order, now, quality)

    def _inspect(self, order: Mapping[str, Any], now: float, _quality: Quality) -> dict[str, Any]:
        armed = self.guard_deadline is not None
        current = self.current
        return {
            "ok": True,
            "arch": self.arch,
            "memory": self.memory,
            "disk_free": self.disk_free,
            "runtime": {"name": "docker", "version": "20.10.24", "ready": True},
            "accelerators": [{"kind": kind, "driver": None} for kind in self.accelerators],
            "model": {
                "name": order["model"],
                "current": {"id": current, "serving": True} if current else None,
                "previous": self.previous,
                "last_good": self.last_good,
                "generation": self.generation,
                "rollout": self.rollout,
                "phase": self.phase,
                "guard": {
                    "armed": armed,
                    "remaining": self.guard_deadline - now if self.guard_deadline else None,
                },
                "releases": sorted(self.releases),
                "last_outcome": self.last_outcome,
            },
        }

    def _stage(self, order: Mapping[str, Any], _now: float, quality: Quality) -> dict[str, Any]:
        if quality is Quality.CANNOT_PULL:
            return _error("pull_failed", "manifest unknown")
        self.releases.add(order["release_id"])
        return {"ok": True, "staged": True, "already": False, "pulled": True}

    def _switch(self, order: Mapping[str, Any], now: float, quality: Quality) -> dict[str, Any]:
        same = (order["generation"], order["rollout"]) == (self.generation, self.rollout)
        if order.get("extend"):
            if not same or self.phase != "switched":
                return _error("not_armed", "no unconfirmed switch of this generation")
            self.guard_deadline = now + order["confirm_timeout"]
            return {"ok": True, "guard_remaining": order["confirm_timeout"]}
        if not same and order["generation"] <= self.generation:
            return _error("stale_generation", f"generation {self.generation} is here already")
        if not same and self.phase != "idle":
            return _error("unfinished_switch", f"generation {self.generation} is unconfirmed")
        if order["release_id"] not in self.releases:
            return _error("unknown_release", "not staged")
        if not same:
            self.generation, self.rollout = order["generation"], order["rollout"]
            self.previous, self.current = self.current, order["release_id"]
            self.phase = "switched"
            self.guard_deadline = now + order["confirm_timeout"]
        elif self.phase == "idle":
            return _error("not_armed", "this switch is over")
        ready = quality is not Quality.NEVER_READY
        return {"ok": True, "generation": self.generation, "ready": ready, "detail": "not ready"}

    def _probe(self, order: Mapping[str, Any], _now: float, quality: Quality) -> dict[str, Any]:
        def status(check: Mapping[str, Any]) -> int:
            if quality is Quality.NEVER_READY:
                return 503
            return 500 if quality is Quality.WRONG and "ready" not in check["path"] else 200

        return {
            "ok": True,
            "restarts": 0,
            "measurements": {
                check["name"]: [
                    {"at": at, "status": status(check), "latency": 0.001, "body": "", "error": None}
                    for at in (0.0, order["duration"])
                ]
                for check in order["checks"]
            },
        }

    def _confirm(self, order: Mapping[str, Any], _now: float, _q: Quality) -> dict[str, Any]:
        if (order["generation"], order["rollout"]) != (self.generation, self.rollout):
            return _error("stale_generation", f"generation {self.generation} is here")
        if self.phase == "idle" and self.last_good != self.current:
            return _error("not_armed", "went back already")
        if self.phase == "idle" and (self.last_outcome or {}).get("outcome") == "reverted":
            return _error("not_armed", "went back already")
        self.phase, self.guard_deadline, self.last_good = "idle", None, self.current
        self._outcome("confirmed", self.current, "")
        return {"ok": True, "release": self.current, "last_good": self.current, "pruned": []}

    def _revert(self, order: Mapping[str, Any], _now: float, _q: Quality) -> dict[str, Any]:
        if order["generation"] is not None and order["generation"] < self.generation:
            return _error("stale_generation", f"generation {self.generation} is here")
        came_from, to = self.current, order["to"]
        if to is not None and self.phase == "idle" and self.current != to:
            self.previous, self.current, self.last_good = self.current, to, to
            self._outcome("reverted", came_from, order["reason"])
        elif self.phase != "idle":
            self.go_back(order["reason"])
        return {
            "ok": True,
            "reverted": came_from != self.current,
            "from": came_from,
            "to": self.current,
            "ready": self.current is not None,
            "seconds": 0.1,
        }


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
        self._faults = {(f.device, f.verb, f.nth): f.kind for f in faults}
        self._given: Counter[tuple[str, Verb]] = Counter()
        self._clock = 0.0
        self._heap: list[tuple[float, int, Order]] = []
        self._number = itertools.count()

    def submit(self, order: Order) -> None:
        """Put an order on its way; it is carried out when the clock gets there."""
        device = self.devices[order.device]
        takes = device.takes
        if order.verb is Verb.PROBE:
            takes += float(order.document["duration"])
        if not device.reachable:
            takes = min(order.timeout, 10.0)
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

    def close(self) -> None:
        """Forget what is under way."""
        self._heap.clear()

    def let_guards_act(self) -> None:
        """Let so much time pass that every armed guard has acted."""
        for device in self.devices.values():
            device.guard(float("inf"))

    def _carry_out(self, order: Order) -> Answer:
        device = self.devices[order.device]
        device.guard(self._clock)
        if not device.reachable:
            return _lost(order)
        self._given[order.device, order.verb] += 1
        self.commands[order.device] += 1
        fault = self._faults.get((order.device, order.verb, self._given[order.device, order.verb]))
        if fault is FaultKind.ORDER_LOST:
            return _lost(order)
        release = order.document.get("release_id") or device.current
        quality = self._quality(device.name, release)
        document = device.obey(order.verb, order.document, self._clock, quality)
        if fault is FaultKind.POWER_CUT:
            device.boot()
        if fault is FaultKind.GONE:
            device.reachable = False
        if fault is not None:
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


def _error(code: str, message: str) -> dict[str, Any]:
    return {"ok": False, "error": {"code": code, "message": message, "detail": {}}}
