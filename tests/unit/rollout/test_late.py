"""Devices that are away during their wave, and come back while the rollout still waits for them."""

from __future__ import annotations

import pytest
from stage import Stage, killed_everywhere

from muster.fleet.interface import Order, Verb
from muster.fleet.simulated import Fault, FaultKind, Quality
from muster.rollout.decide import EXIT_DEFERRED, EXIT_ROLLED_BACK
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import RequestKind

D, R, K = DeviceState, RolloutState, RequestKind

TOLERANT = {"max_unreachable": "100%", "max_failed": "100%"}


def scene(number: int = 4, *, back_at: float = 300, wait: float = 600, **changes: object) -> Stage:
    """The last device is away until ``back_at``."""
    changes = {"failure_budget": TOLERANT, "waves": [{"size": "rest"}]} | changes
    stage = Stage(number, offline={"deadline": wait}, **changes)
    stage.device(number - 1).reachable_from = back_at
    return stage


def test_a_device_that_comes_back_in_time_is_caught_up() -> None:
    stage = scene()
    assert stage.run() is R.SUCCEEDED
    assert stage.code == 0
    assert stage.running() == {stage.drill.release.id}
    assert stage.record(3).unreachable is False
    assert 300 < stage.fleet.now() < 400
    assert "1 deferred devices are waited for, for 10m" in stage.texts()


def test_a_device_that_stays_away_is_named_at_the_end() -> None:
    stage = scene(back_at=5000)
    assert stage.run() is R.SUCCEEDED_WITH_DEFERRED
    assert stage.code == EXIT_DEFERRED
    assert "deferred: d0003" in stage.loaded.rollout.reason
    assert 600 < stage.fleet.now() < 800


def test_without_a_deadline_nobody_waits() -> None:
    stage = scene(wait=0)
    assert stage.run() is R.SUCCEEDED_WITH_DEFERRED
    assert stage.fleet.now() < 120


def test_a_bad_release_on_a_late_device_goes_back_and_is_never_exit_0() -> None:
    stage = scene()
    quality = stage.fleet._quality
    stage.fleet._quality = lambda device, release: (
        Quality.WRONG
        if device == "d0003" and release == stage.drill.release.id
        else quality(device, release)
    )
    assert stage.run() is R.SUCCEEDED
    assert stage.code == EXIT_ROLLED_BACK
    assert stage.record(3).state is D.ROLLED_BACK
    assert stage.device(3).current == stage.drill.old.id


def test_a_late_device_that_leaves_again_is_waited_for_again() -> None:
    fault = Fault("d0003", Verb.INSPECT, FaultKind.AWAY, nth=2, seconds=100)
    stage = scene(back_at=120)
    stage.fleet._faults[fault.device, fault.verb, fault.nth] = fault
    assert stage.run() is R.SUCCEEDED
    assert stage.record(3).state is D.COMMITTED
    assert stage.fleet.now() > 220


def test_many_late_devices_keep_to_max_parallel() -> None:
    stage = scene(12, max_parallel=2)
    for number in range(4, 12):
        stage.device(number).reachable_from = 700.0
    most = 0

    def watch(order: Order, now: float) -> None:
        nonlocal most
        busy = [o for o in stage.fleet.under_way.values() if o.verb is not Verb.INSPECT]
        most = max(most, len(busy))

    stage.fleet.watch = watch
    assert stage.run() is R.SUCCEEDED
    assert most <= 2


def test_the_window_counts_for_late_devices_too() -> None:
    stage = scene(maintenance_window=[{"opens": "23:00", "closes": "00:02"}])
    assert stage.run() is R.SUCCEEDED
    assert [at + 1e-3 >= 23 * 3600 for at, device in stage.switches() if device == "d0003"] == [
        True
    ]


@pytest.mark.parametrize(
    ("kind", "state", "exit_state"),
    [
        (K.PAUSE, R.PAUSED, R.SUCCEEDED),
        (K.ABORT, R.ABORTED, None),
        (K.ROLL_BACK, R.ROLLED_BACK, None),
    ],
)
def test_people_may_end_the_wait(kind: K, state: R, exit_state: R | None) -> None:
    stage = scene()
    stage.ask(kind, at=200)
    assert stage.run() is state
    assert stage.fleet.now() < 280
    if exit_state is not None:
        assert stage.run() is exit_state
        assert stage.running() == {stage.drill.release.id}


def test_late_devices_are_caught_up_by_the_next_controller() -> None:
    stages = killed_everywhere(lambda: scene(2, back_at=60))
    assert len(stages) > 30
    for stage in stages:
        assert stage.run() is R.SUCCEEDED, stage.loaded
        assert stage.running() == {stage.drill.release.id}
        assert stage.code == 0
