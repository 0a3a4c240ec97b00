"""Devices that can't go back: sent once to the last good release, set aside, and never exit 0."""

from __future__ import annotations

import pytest
from stage import Stage, killed_everywhere

from muster.fleet.interface import Verb
from muster.fleet.simulated import Fault, FaultKind, Quality
from muster.rollout.decide import EXIT_ROLLBACK_FAILED
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import RequestKind

D, R, K = DeviceState, RolloutState, RequestKind


def scene(quality: Quality = Quality.WRONG, number: int = 4, **changes: object) -> Stage:
    """The old release does not get ready any more on the first device."""
    stage = Stage(number, quality, **changes)
    first = next(d.device for d in stage.loaded.devices if d.wave == 0)
    stage.fleet.devices[first].broken = {stage.drill.old.id}
    return stage


@pytest.mark.parametrize("on_breach", ["pause", "abort", "roll_back_wave", "roll_back_rollout"])
def test_a_device_that_cannot_go_back_stops_the_rollout_whatever_its_budget(on_breach: str) -> None:
    budget = {"max_failed": "100%", "on_breach": on_breach}
    stage = scene(failure_budget=budget, waves=[{"size": 2}, {"size": "rest"}])
    stage.fleet._quality = lambda device, release: (
        Quality.WRONG if (device, release) == ("d0000", stage.drill.release.id) else Quality.GOOD
    )
    state = stage.run()
    assert state in {R.ABORTED, R.ROLLBACK_FAILED}
    assert stage.code == EXIT_ROLLBACK_FAILED
    assert stage.record(0).state is D.QUARANTINED
    assert "is not ready" in stage.record(0).reason
    assert stage.states(1) <= {D.PENDING, D.STAGED}


def test_a_confirmed_device_that_cannot_go_back_serves_its_last_good_release_again() -> None:
    stage = scene(Quality.GOOD, waves=[{"size": 1}, {"size": "rest"}])
    stage.ask(K.ROLL_BACK, at=9)
    assert stage.run() is R.ROLLBACK_FAILED
    assert stage.code == EXIT_ROLLBACK_FAILED
    record = stage.record(0)
    assert record.state is D.QUARANTINED
    assert f"it serves {stage.drill.release.id} again" in record.reason
    device = stage.device(0)
    assert (device.current, device.phase) == (stage.drill.release.id, "idle")


def test_a_device_that_goes_back_at_the_second_try_is_well() -> None:
    stage = Stage(2, Quality.WRONG)
    device = stage.device(0)
    device.broken = {stage.drill.old.id}

    class Mending(set[str]):
        """Does not get ready the first time."""

        asked = 0

        def __contains__(self, release: object) -> bool:
            if release == stage.drill.old.id and device.phase == "reverting":
                self.asked += 1
                return self.asked <= 1
            return False

    device.broken = Mending()
    assert stage.run() is R.ROLLED_BACK
    assert stage.record(0).state is D.ROLLED_BACK
    assert device.current == stage.drill.old.id


def test_quarantine_survives_the_controller() -> None:
    for stage in killed_everywhere(lambda: scene(number=2)):
        assert stage.run() is R.ROLLBACK_FAILED
        assert stage.code == EXIT_ROLLBACK_FAILED
        assert D.QUARANTINED in stage.states()
        assert {device.phase for device in stage.fleet.devices.values()} == {"idle"}


@pytest.mark.parametrize("kind", list(FaultKind))
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_faults_on_the_way_back_end_well(kind: FaultKind, nth: int) -> None:
    fault = Fault("d0000", Verb.REVERT, kind, nth)
    stage = Stage(2, Quality.WRONG, [fault], waves=[{"size": "rest"}])
    assert stage.run() in {R.ROLLED_BACK, R.ROLLBACK_FAILED}
    stage.fleet.let_guards_act()
    assert stage.running() == {stage.drill.old.id}


def test_rolling_back_survives_the_controller() -> None:
    def make() -> Stage:
        waves = [{"size": 1}, {"size": "rest", "soak": 5}]
        stage = Stage(3, waves=waves, failure_budget={"on_breach": "roll_back_rollout"})
        stage.fleet._quality = lambda device, release: (
            Quality.WRONG
            if (device, release) == ("d0002", stage.drill.release.id)
            else Quality.GOOD
        )
        return stage

    stages = killed_everywhere(make)
    assert len(stages) > 40
    for stage in stages:
        stage.fleet.pass_time(3)
        assert stage.run() is R.ROLLED_BACK
        assert stage.running() == {stage.drill.old.id}
        assert {device.phase for device in stage.fleet.devices.values()} == {"idle"}
