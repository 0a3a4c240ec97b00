"""One simulated device: the contract of the device program as a state machine, without any device.

A simulation for tests and planning drills; it never stands for a real device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from muster.fleet.interface import Verb

DISK_FLOOR = 64 * 1024**2
"""Bytes that must be free to stage a release."""
GUARD_SECONDS = 5.0
"""How often the guard tries to go back."""
REVERT_ATTEMPTS = 3
"""How often a device tries to go back before it gives up."""


class Quality(str, Enum):
    """How a release behaves on a simulated device."""

    GOOD = "good"
    NEVER_READY = "never_ready"
    WRONG = "wrong"
    """Ready, but every request but those for readiness fails."""
    CANNOT_PULL = "cannot_pull"
    FLAPPING = "flapping"
    """Right and wrong answers by turns, within one probe."""
    SILENT = "silent"
    """Nothing was measured: no gate can say anything."""


@dataclass
class SimulatedDevice:
    """State of one device, as its device program would keep it; times are of the virtual clock.

    :param takes: seconds that each verb takes; a probe takes its duration besides.
    :param reachable_from: until then it can't be reached.
    :param registry_from: until then the registry of its site is down.
    :param locked_until: until then an application holds its lock.
    :param broken: ids of releases that don't get ready any more when it goes back to them.
    :param release: what the last switch was for; ``going_to``: what it goes back to.
    """

    name: str
    arch: str = "amd64"
    memory: int = 4 * 1024**3
    memory_available: int | None = 3 * 1024**3
    disk_free: int = 8 * 1024**3
    accelerators: tuple[str, ...] = ()
    timezone: str | None = None
    switch_modes: tuple[str, ...] = ("recreate",)
    reachable: bool = True
    reachable_from: float = 0.0
    registry_from: float = 0.0
    locked_until: float = 0.0
    takes: float = 0.1
    current: str | None = None
    previous: str | None = None
    last_good: str | None = None
    generation: int = 0
    rollout: str | None = None
    phase: str = "idle"
    guard_deadline: float | None = None
    releases: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    last_outcome: dict[str, Any] | None = None
    release: str | None = None
    going_to: str | None = None
    why: str = ""
    failures: int = 0

    def guard(self, now: float) -> None:
        """Go back if the confirmation did not come in time, or a way back has failed before."""
        while self.guard_deadline is not None and now >= self.guard_deadline:
            at = self.guard_deadline
            self.go_back("no confirmation in time", at)

    def boot(self, now: float) -> None:
        """Start after a power cut: an unconfirmed switch is undone."""
        if self.phase != "idle":
            self.go_back("restarted before the confirmation", now)

    def take_over(self, now: float) -> None:
        """Be given another generation, by another controller, on the last good release."""
        while self.phase != "idle":
            self.go_back("undone by another controller", now)
        self.generation, self.rollout, self.release = self.generation + 1, "another", self.current
        self._outcome("confirmed", self.current, "")

    def go_back(self, reason: str, now: float = 0.0, to: str | None = None) -> bool:
        """Try to return to a release, by default the last good one; whether that worked.

        What was begun goes on, whatever the new reason; what failed too often is given up.
        """
        if self.phase != "reverting":
            self.phase, self.why, self.failures = "reverting", reason, 0
            self.going_to = to or self.last_good
        failed = self.current
        if failed != self.going_to:
            self.previous, self.current = failed, self.going_to
        if self.current in self.broken:
            self.failures += 1
            self.guard_deadline = now + GUARD_SECONDS
            if self.failures >= REVERT_ATTEMPTS:
                self.phase, self.guard_deadline = "idle", None
            self._outcome("revert_failed", failed, self.why)
            return False
        self.phase, self.guard_deadline, self.last_good = "idle", None, self.current
        self._outcome("reverted", failed, self.why)
        return True

    def serves(self) -> bool:
        """Whether it runs a release that answers."""
        return self.current is not None and self.current not in self.broken

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
            "memory_available": self.memory_available,
            "disk_free": self.disk_free,
            "runtime": {"name": "docker", "version": "20.10.24", "ready": True},
            "accelerators": [{"kind": kind, "driver": None} for kind in self.accelerators],
            "timezone": self.timezone,
            "switch_modes": list(self.switch_modes),
            "model": {
                "name": order["model"],
                "current": {"id": current, "serving": self.serves()} if current else None,
                "previous": self.previous,
                "last_good": self.last_good,
                "generation": self.generation,
                "rollout": self.rollout,
                "phase": self.phase,
                "guard": {
                    "armed": armed,
                    "remaining": self.guard_deadline - now if self.guard_deadline else None,
                },
                "lock": self._lock(now),
                "releases": sorted(self.releases),
                "last_outcome": self.last_outcome,
            },
        }

    def _lock(self, now: float) -> dict[str, Any]:
        held = now < self.locked_until
        return {"held": held, "holder": "inspection-line" if held else None}

    def _stage(self, order: Mapping[str, Any], now: float, quality: Quality) -> dict[str, Any]:
        release = order["release_id"]
        if release in self.releases:
            return {"ok": True, "staged": True, "already": True, "pulled": False}
        if self.disk_free < DISK_FLOOR:
            return _error("no_space", "the disk is full: free some, or prune")
        if now < self.registry_from:
            return _error("registry_unreachable", "the registry does not answer")
        if quality is Quality.CANNOT_PULL:
            return _error("pull_failed", "manifest unknown")
        self.releases.add(release)
        return {"ok": True, "staged": True, "already": False, "pulled": True}

    def _switch(self, order: Mapping[str, Any], now: float, quality: Quality) -> dict[str, Any]:
        same = (order["generation"], order["rollout"]) == (self.generation, self.rollout)
        if order.get("extend"):
            if not same or self.phase != "switched":
                return _error("not_armed", "no unconfirmed switch of this generation")
            self.guard_deadline = now + order["confirm_timeout"]
            return {"ok": True, "guard_remaining": order["confirm_timeout"]}
        release = order["release_id"]
        if order.get("mode", "recreate") not in self.switch_modes:
            return _error("bad_input", f"mode: {order['mode']} needs the proxy")
        same = same and release == self.release
        if not same and order["generation"] <= self.generation:
            return _error("stale_generation", f"generation {self.generation} is here already")
        if self.phase == "reverting" or (not same and self.phase != "idle"):
            return _error("unfinished_switch", f"generation {self.generation} is {self.phase}")
        if same:
            outcome = (self.last_outcome or {}).get("outcome") if self.phase == "idle" else None
            detail = f"{outcome}: {(self.last_outcome or {}).get('reason')}" if outcome else ""
            ready = quality is not Quality.NEVER_READY and outcome in {None, "confirmed"}
            return self._switched(ready, detail)
        if release not in self.releases:
            return _error("unknown_release", "not staged")
        if now < self.locked_until:
            lock = self._lock(now)
            message = f"{lock['holder']} holds /run/muster/{order['model']}.lock"
            return _error("locked", message, {"holder": lock["holder"]})
        self.generation, self.rollout, self.release = order["generation"], order["rollout"], release
        self.previous, self.current = self.current, release
        self.phase, self.guard_deadline = "switched", now + order["confirm_timeout"]
        return self._switched(quality is not Quality.NEVER_READY, "")

    def _switched(self, ready: bool, detail: str) -> dict[str, Any]:
        return {
            "ok": True,
            "generation": self.generation,
            "ready": ready,
            "downtime": 0.5,
            "detail": detail or "not ready",
        }

    def _probe(self, order: Mapping[str, Any], _now: float, quality: Quality) -> dict[str, Any]:
        def status(check: Mapping[str, Any], number: int) -> int:
            if quality is Quality.NEVER_READY or not self.serves():
                return 503
            if quality is Quality.FLAPPING:
                return 500 if number % 2 else 200
            return 500 if quality is Quality.WRONG and "ready" not in check["path"] else 200

        times = () if quality is Quality.SILENT else (0.0, order["duration"])
        return {
            "ok": True,
            "restarts": 0,
            "measurements": {
                check["name"]: [
                    {
                        "at": at,
                        "status": status(check, number),
                        "latency": 0.001,
                        "body": "",
                        "error": None,
                    }
                    for number, at in enumerate(times)
                ]
                for check in order["checks"]
            },
        }

    def _confirm(self, order: Mapping[str, Any], _now: float, _q: Quality) -> dict[str, Any]:
        if refusal := self._refuse_stale(order):
            return refusal
        if self.phase == "switched" and order["generation"] == self.generation:
            self.phase, self.guard_deadline, self.last_good = "idle", None, self.current
            self._outcome("confirmed", self.current, "")
        elif (
            order["generation"] > self.generation
            or self.phase != "idle"
            or (self.last_outcome or {}).get("outcome") != "confirmed"
        ):
            return _error("not_armed", "there is no switch to confirm")
        return {"ok": True, "release": self.release, "last_good": self.last_good, "pruned": []}

    def _revert(self, order: Mapping[str, Any], now: float, _q: Quality) -> dict[str, Any]:
        to, came_from = order["to"], self.current
        if refusal := self._refuse_stale(order):
            return refusal
        if to is not None and to not in self.releases:
            return _error("unknown_release", f"release {to} is not on this device")
        fenced = order["generation"] is not None and order["generation"] > self.generation
        if fenced:  # it must not begin after all
            self.generation, self.rollout, self.release = order["generation"], order["rollout"], ""
            if self.phase == "idle":
                self._outcome("cancelled", None, order["reason"])
        target = self.going_to if self.phase == "reverting" else self.last_good
        if self.phase != "idle" and to not in {None, target}:
            return _error("unfinished_switch", f"it goes back to {target}, not to {to}")
        goes = self.phase != "idle" or to not in {None, came_from} or to not in {None, target}
        if goes and not self.go_back(order["reason"], now, to):
            failures = f"failed {self.failures} of {REVERT_ATTEMPTS} times"
            return _error("revert_failed", f"{self.current} is not ready ({failures})")
        return {
            "ok": True,
            "reverted": goes,
            "from": came_from,
            "to": self.current,
            "ready": self.serves(),
            "seconds": 0.1,
        }

    def _refuse_stale(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        generation, rollout = order["generation"], order.get("rollout")
        if generation is None or generation > self.generation:
            return None
        if generation == self.generation and rollout in {None, self.rollout}:
            return None
        return _error("stale_generation", f"{self.generation} of {self.rollout} is the latest here")


def _error(code: str, message: str, detail: Mapping[str, Any] | None = None) -> dict[str, Any]:
    error = {"code": code, "message": message, "detail": dict(detail or {})}
    return {"ok": False, "error": error}
