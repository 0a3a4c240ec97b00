"""Thousands of rollouts in which everything may go wrong at once; a seed makes each one anew.

``MUSTER_DRILLS`` sets how many are run, ``MUSTER_DRILL_SEED`` runs one of them alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from drill import Drill, make_release, strategy
from memory_journal import ControllerKilledError, Life, MemoryJournal, WatchedFleet

from muster.fleet.interface import Order, Verb
from muster.fleet.simulated import Fault, FaultKind, Quality, SimulatedDevice
from muster.hooks.interface import HookResult
from muster.rollout import decide
from muster.rollout.decide import EXIT_OK, EXIT_ROLLBACK_FAILED
from muster.rollout.machine import (
    BEFORE_SWITCH,
    FINAL_ROLLOUT,
    GOOD,
    SETTLED,
    DeviceState,
    RolloutState,
    WaveState,
)
from muster.rollout.records import RequestKind
from muster.windows import MaintenanceWindow, opens_in, time_zone

D, R, W, K, Q = DeviceState, RolloutState, WaveState, RequestKind, Quality

NUMBER = int(os.environ.get("MUSTER_DRILLS", "5000"))
SEED = os.environ.get("MUSTER_DRILL_SEED")
CHUNKS = 20
"""Tests into which the drills are cut, so that several processes share them."""

NEW, OLD = make_release("2.0"), make_release("1.0")
WINDOWS = (("00:10", "00:00"), ("01:20", "01:02"), ("05:45", "05:31"), ("19:15", "19:00"))
"""Closed for some minutes near the beginning of the simulation, in one of the zones each."""
ZONES = (None, "Europe/Vienna", "America/New_York", "Asia/Kolkata")


ANNOUNCED = {
    Verb.STAGE: {D.STAGING},
    Verb.SWITCH: {D.SWITCHING, D.SOAKING},
    Verb.PROBE: {D.SOAKING, D.COMMITTED},
    Verb.CONFIRM: {D.CONFIRMING},
    Verb.REVERT: {D.ROLLING_BACK},
}
"""What the journal must say of a device before it gets an order."""


class FlakyHooks:
    """Hooks that fail now and then, but not for ever."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._failures = chance, 2
        self._results: list[HookResult] = []

    def call(self, hook: str, _event: object) -> None:
        fails = self._failures > 0 and self._chance.random() < 0.2
        self._failures -= fails
        self._results.append(HookResult(hook, not fails, "not today"))

    def finished(self) -> list[HookResult]:
        results, self._results = self._results, []
        return results


class RandomDrill:
    """One rollout with all that goes wrong in it, made from a seed alone."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.life = Life()
        self.journal = MemoryJournal(self.life)
        self.drill = Drill(self.journal, NEW, OLD)  # type: ignore[arg-type]
        self.document = self._strategy()
        self.strategy = strategy(**self.document)
        devices = [self._device(index) for index in range(self.chance.randint(1, 7))]
        self.names = [device.name for device in devices]
        self.before = {device.name: device.current for device in devices}
        self.qualities = {name: self._quality() for name in self.names}
        self.turns_bad = {
            name: self.chance.uniform(5, 100) for name in self.names if self.happens(0.05)
        }
        self.faults = self._faults()
        self.fleet = WatchedFleet(devices, self._behaves, self.faults)
        self.fleet.life, self.journal.now = self.life, self.fleet.now
        self.fleet.watch = self._watch
        self.hooks = FlakyHooks(self.chance) if self.happens(0.2) else None
        self.facts = self.drill.facts(self.fleet)
        self.last_switch_at = -1e9
        self.deaths = 0

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def _strategy(self) -> dict[str, Any]:
        chance, happens = self.chance, self.happens
        sizes = [chance.choice([1, 2, "25%", "50%"]) for _ in range(chance.randint(0, 2))]
        waves = [
            {
                "size": size,
                "soak": chance.choice([0, 0, 20, 60]),
                "approval": happens(0.15),
            }
            for size in [*sizes, "rest"]
        ]
        document: dict[str, Any] = {
            "waves": waves,
            "max_parallel": chance.choice([1, 2, 3, 50]),
            "failure_budget": {
                "max_failed": chance.choice([0, 0, 1, "50%", "100%"]),
                "max_unreachable": chance.choice([0, "50%", "100%"]),
                "on_breach": chance.choice(
                    ["pause", "abort", "roll_back_wave", "roll_back_rollout"]
                ),
            },
            "offline": {
                "policy": chance.choice(["defer", "defer", "fail"]),
                "deadline": chance.choice([0, 0, 60, 300]),
            },
            "lock_deadline": chance.choice([15, 60]),
        }
        if happens(0.2):
            document["pull_concurrency"] = chance.randint(1, 2)
        if happens(0.2):
            document["rate_per_minute"] = chance.choice([0.5, 2, 10])
        if happens(0.1):
            opens, closes = chance.choice(WINDOWS)
            document["maintenance_window"] = [{"opens": opens, "closes": closes}]
        if happens(0.1):
            document["switch"] = "blue_green"
        return document

    def _device(self, index: int) -> SimulatedDevice:
        chance, happens = self.chance, self.happens
        current = None if happens(0.05) else NEW.id if happens(0.05) else OLD.id
        return SimulatedDevice(
            f"d{index:04d}",
            takes=chance.choice([0.1, 0.1, 1.0, 4.0, 20.0]),
            timezone=chance.choice(ZONES),
            switch_modes=("recreate",) if happens(0.2) else ("recreate", "blue_green"),
            current=current,
            last_good=current,
            releases={current} if current else set(),
            generation=1,
            reachable_from=chance.uniform(1, 400) if happens(0.08) else 0.0,
            registry_from=chance.uniform(1, 60) if happens(0.08) else 0.0,
            locked_until=chance.uniform(1, 120) if happens(0.08) else 0.0,
            disk_free=0 if happens(0.02) else 8 * 1024**3,
            broken={OLD.id} if happens(0.04) else set(),
        )

    def _quality(self) -> Quality:
        return self.chance.choice(list(Q)) if self.happens(0.12) else Q.GOOD

    def _faults(self) -> list[Fault]:
        chance = self.chance
        verbs = [*Verb, Verb.SWITCH, Verb.CONFIRM]
        return [
            Fault(
                chance.choice(self.names),
                chance.choice(verbs),
                chance.choice(list(FaultKind)),
                chance.randint(1, 3),
                chance.choice([5.0, 60.0, 400.0]),
            )
            for _ in range(chance.choice([0, 0, 1, 2, 5]))
        ]

    def _behaves(self, device: str, release: str | None) -> Quality:
        if release != NEW.id:
            return Q.GOOD
        if self.fleet.now() > self.turns_bad.get(device, float("inf")):
            return Q.WRONG
        return self.qualities[device]

    def _watch(self, order: Order, now: float) -> None:
        """What a strategy limits is limited at every moment, and announced in the journal."""
        record = self.journal.record(self.snapshot.rollout.id, order.device)
        if order.verb in ANNOUNCED:
            assert record.state in ANNOUNCED[order.verb], f"{order.verb} of {record}"
            assert order.document.get("generation") in {None, record.generation}, str(record)
        starts = [o for o in self.fleet.under_way.values() if o.verb in {Verb.STAGE, Verb.SWITCH}]
        assert len(starts) <= self.strategy.max_parallel, "more than max_parallel"
        limit = self.strategy.pull_concurrency
        if order.verb is Verb.STAGE and limit is not None:
            sites = [self.facts[o.device].site for o in starts if o.verb is Verb.STAGE]
            assert max(map(sites.count, sites)) <= limit, "more than pull_concurrency"
        if order.verb is Verb.SWITCH and not order.document.get("extend"):
            device = self.fleet.devices[order.device]
            if device.generation == order.document["generation"]:
                return  # a repetition, after trouble
            rate = self.strategy.rate_per_minute
            if rate is not None:
                assert now - self.last_switch_at > 60 / rate - 1e-3, "faster than the rate"
            self.last_switch_at = now
            zone = time_zone(device.timezone or "UTC")
            windows: tuple[MaintenanceWindow, ...] = self.strategy.maintenance_window
            assert opens_in(windows, zone, self.fleet.wall_time()) == 0, "outside the window"

    # -- the play -----------------------------------------------------------------------------

    def play(self) -> None:
        """Let controllers and people come and go until the rollout has ended, and look at it."""
        self.snapshot = self.drill.prepare(self.fleet, self.strategy)
        self._people_interfere()
        resumed = True
        for number in range(40):
            state = self._drive(number)
            if state in FINAL_ROLLOUT:
                break
            if state is None and self.happens(0.1):
                resumed = False
                break
            self._person_decides(state, number)
        else:
            raise AssertionError("the rollout never ended")
        self.fleet.let_guards_act()
        self._check_devices()
        if resumed:
            self._check_report()

    def _people_interfere(self) -> None:
        for _ in range(self.chance.choice([0, 0, 0, 1, 2])):
            kind = self.chance.choice([*K, K.PAUSE, K.APPROVE])
            self.journal.ask(self.snapshot.rollout.id, kind, at=self.chance.uniform(0, 150))

    def _drive(self, number: int) -> RolloutState | None:
        """One controller's work; None when it died."""
        dies = self.happens(0.4) and number < 4
        self.life.left = self.chance.randint(0, self.chance.choice([20, 150])) if dies else None
        self.fleet.turns = 0
        self.last_switch_at = -1e9  # a rate is kept by each controller
        wait = number == 0 and bool(self.journal._asked) and self.happens(0.3)
        if wait:  # somebody who may not come otherwise
            self.journal.ask(self.snapshot.rollout.id, K.APPROVE, at=400)
            self.journal.ask(self.snapshot.rollout.id, K.APPROVE, at=1400)
            self.journal.ask(self.snapshot.rollout.id, K.REJECT, at=2400)
        try:
            state = self.drill.drive(
                self.snapshot,
                self.fleet,
                facts=self.facts,
                hooks=self.hooks,
                wait_for_approval=wait,
            )
        except ControllerKilledError:
            self.deaths += 1
            state = None
        self.fleet.abandon(obeyed=self.happens(0.5))
        return state

    def _person_decides(self, state: RolloutState | None, number: int) -> None:
        name = self.snapshot.rollout.id
        self.fleet.pass_time(self.chance.choice([0, 0, 5, 60, 500]))
        if state is R.AWAITING_APPROVAL and self.happens(0.8 if number < 20 else 1):
            self.journal.ask(name, K.APPROVE if self.happens(0.85) else K.REJECT)
        elif state is not None and self.happens(0.1):
            self.journal.ask(name, self.chance.choice([K.ABORT, K.ROLL_BACK]))

    # -- the end ------------------------------------------------------------------------------

    def _check_devices(self) -> None:
        """Every device runs the new release or its last good one, and nothing is open there."""
        for name, device in self.fleet.devices.items():
            assert device.phase == "idle", f"{name} is {device.phase}"
            assert device.guard_deadline is None, name
            assert device.current in {OLD.id, NEW.id, None}, name
            if OLD.id not in device.broken:
                assert device.current == device.last_good, name
            elif not self.faults and not self.deaths and device.current == OLD.id:
                assert device.last_good == OLD.id, f"{name} serves nothing, but could"
            if device.current == NEW.id != self.before[name]:
                assert self.qualities[name] is Q.GOOD, f"{name} keeps a bad release"

    def _check_report(self) -> None:
        loaded = self.journal.load(self.snapshot.rollout.id)
        taken = {fault.device for fault in self.faults if fault.kind is FaultKind.TAKEN_OVER}
        for record in loaded.devices:
            current = self.fleet.devices[record.device].current
            where = f"{record} runs {current}"
            assert record.state in SETTLED | BEFORE_SWITCH, where
            if loaded.rollout.state in {R.SUCCEEDED, R.SUCCEEDED_WITH_DEFERRED}:
                assert record.state in SETTLED, where
            if record.device in taken:
                continue
            if record.state in GOOD:
                assert current == NEW.id, where
            elif (
                record.state not in {D.LOST, D.QUARANTINED} and self.before[record.device] != NEW.id
            ):
                assert current != NEW.id, where
        if loaded.rollout.state is R.SUCCEEDED:
            assert {wave.state for wave in loaded.waves} <= {W.PASSED}
        if loaded.rollout.state is R.ROLLED_BACK:
            failed = {wave.index for wave in loaded.waves if wave.state is W.FAILED}
            whole = loaded.rollout.take_back == "roll_back_rollout"
            for record in loaded.devices:
                if whole or record.wave in failed:
                    assert record.state is not D.COMMITTED or record.previous is None, str(record)
        assert loaded.rollout.exit_code == decide.exit_code(loaded.rollout.state, loaded.devices)
        if {D.LOST, D.QUARANTINED} & {record.state for record in loaded.devices}:
            assert loaded.rollout.exit_code == EXIT_ROLLBACK_FAILED
        if loaded.rollout.exit_code == EXIT_OK:
            left_out = {r.device for r in loaded.devices if r.state is D.REJECTED}
            for name in self.fleet.devices.keys() - left_out - taken:
                assert self.fleet.devices[name].current == NEW.id, name


def seeds(chunk: int) -> Iterator[int]:
    if SEED is not None:
        yield from [int(SEED)] if chunk == 0 else []
    else:
        yield from range(chunk, NUMBER, CHUNKS)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_goes_wrong_every_device_ends_well(chunk: int) -> None:
    for seed in seeds(chunk):
        drill = RandomDrill(seed)
        try:
            drill.play()
        except Exception as error:
            pytest.fail(f"MUSTER_DRILL_SEED={seed}: {type(error).__name__}: {error}")
