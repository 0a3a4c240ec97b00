"""Rollouts over simulated devices: where devices and rollout end, and how they get there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drill import Drill, Recorder, bad, make_release, strategy

from muster.fleet.interface import Answer, Trouble, Verb
from muster.fleet.simulated import Fault, FaultKind, Quality, SimulatedDevice, SimulatedFleet
from muster.rollout.events import EventKind
from muster.rollout.machine import DeviceState, RolloutState, WaveState

D, R, W = DeviceState, RolloutState, WaveState


def ends(
    drill: Drill, fleet: SimulatedFleet, **changes: object
) -> tuple[object, dict[str, D], int]:
    snapshot = drill.prepare(fleet, strategy(**changes))
    state = drill.drive(snapshot, fleet)
    loaded = drill.journal.load(snapshot.rollout.id)
    assert loaded.rollout.exit_code is not None
    return state, {d.device: d.state for d in loaded.devices}, loaded.rollout.exit_code


def running(fleet: SimulatedFleet) -> dict[str, str | None]:
    return {name: device.current for name, device in fleet.devices.items()}


def test_a_good_release_ends_on_every_device(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(8))
    state, devices, code = ends(drill, fleet)
    assert (state, code) == (R.SUCCEEDED, 0)
    assert set(devices.values()) == {D.COMMITTED}
    assert set(running(fleet).values()) == {drill.release.id}


def test_a_device_gets_five_commands(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(8))
    ends(drill, fleet)
    assert set(fleet.commands.values()) == {5}


def test_waves_come_one_after_another(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(8))
    recorder = Recorder()
    snapshot = drill.prepare(fleet, strategy())
    drill.drive(snapshot, fleet, recorder)
    order = [(e.wave, e.data["to"]) for e in recorder.events if e.kind is EventKind.WAVE]
    assert order == [(w, s) for w in (0, 1, 2) for s in ("updating", "passed")]
    committed = [
        e.wave
        for e in recorder.events
        if e.kind is EventKind.DEVICE and e.data["to"] == "committed"
    ]
    assert committed == sorted(committed)  # type: ignore[type-var]


@pytest.mark.parametrize("kind", [Quality.NEVER_READY, Quality.WRONG])
def test_a_bad_release_stops_at_the_canary_and_goes_back(drill: Drill, kind: Quality) -> None:
    fleet = SimulatedFleet(drill.devices(8), bad(drill.release, kind))
    state, devices, code = ends(drill, fleet)
    assert (state, code) == (R.ROLLED_BACK, 3)
    assert sorted(devices.values()) == sorted([D.ROLLED_BACK] + [D.PENDING] * 7)
    assert set(running(fleet).values()) == {drill.old.id}
    assert sum(device.generation == 2 for device in fleet.devices.values()) == 1


def test_a_release_that_cannot_be_pulled_touches_nothing(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(4), bad(drill.release, Quality.CANNOT_PULL))
    state, devices, code = ends(drill, fleet)
    assert (state, code) == (R.ROLLED_BACK, 3)
    assert sorted(devices.values()) == sorted([D.REJECTED] + [D.PENDING] * 3)
    assert all(device.generation == 1 for device in fleet.devices.values())


@pytest.mark.parametrize(
    ("on_breach", "expected", "code"),
    [
        ("roll_back_wave", {0: {D.COMMITTED}, 1: {D.ROLLED_BACK}, 2: {D.PENDING}}, 3),
        ("roll_back_rollout", {0: {D.ROLLED_BACK}, 1: {D.ROLLED_BACK}, 2: {D.PENDING}}, 3),
        ("abort", {0: {D.COMMITTED}, 1: {D.ROLLED_BACK, D.COMMITTED}, 2: {D.PENDING}}, 3),
        ("pause", {0: {D.COMMITTED}, 1: {D.ROLLED_BACK, D.COMMITTED}, 2: {D.PENDING}}, 5),
    ],
)
def test_what_a_breach_does(
    drill: Drill, on_breach: str, expected: dict[int, set[D]], code: int
) -> None:
    devices = drill.devices(8)
    snapshot_fleet = SimulatedFleet(devices)
    snapshot = drill.prepare(snapshot_fleet, strategy(failure_budget={"on_breach": on_breach}))
    victim = next(d.device for d in drill.journal.load(snapshot.rollout.id).devices if d.wave == 1)
    fleet = SimulatedFleet(
        devices,
        lambda device, release: (
            Quality.WRONG if (device, release) == (victim, drill.release.id) else Quality.GOOD
        ),
    )
    drill.drive(snapshot, fleet)
    loaded = drill.journal.load(snapshot.rollout.id)
    for wave, states in expected.items():
        assert {d.state for d in loaded.devices if d.wave == wave} == states
    assert loaded.rollout.exit_code == code
    for record in loaded.devices:
        wants_new = record.state is D.COMMITTED
        assert (running(fleet)[record.device] == drill.release.id) is wants_new


def test_a_paused_rollout_goes_on_when_resumed(drill: Drill) -> None:
    devices = drill.devices(8)
    snapshot = drill.prepare(
        SimulatedFleet(devices), strategy(failure_budget={"on_breach": "pause"})
    )
    victim = snapshot.devices[0].device
    fleet = SimulatedFleet(
        devices,
        lambda d, r: Quality.WRONG if d == victim and r == drill.release.id else Quality.GOOD,
    )
    assert drill.drive(snapshot, fleet) is R.PAUSED
    assert drill.drive(snapshot, fleet) is R.SUCCEEDED
    loaded = drill.journal.load(snapshot.rollout.id)
    assert loaded.rollout.exit_code == 3  # one device was rolled back: never 0
    states = {d.device: d.state for d in loaded.devices}
    assert states.pop(victim) is D.ROLLED_BACK
    assert set(states.values()) == {D.COMMITTED}


def test_a_failure_within_budget_is_no_breach(drill: Drill) -> None:
    devices = drill.devices(8)
    fleet = SimulatedFleet(
        devices,
        lambda d, r: Quality.WRONG if d == "d0003" and r == drill.release.id else Quality.GOOD,
    )
    state, states, code = ends(drill, fleet, failure_budget={"max_failed": 1})
    assert (state, code) == (R.SUCCEEDED, 3)
    assert states.pop("d0003") is D.ROLLED_BACK
    assert set(states.values()) == {D.COMMITTED}
    assert running(fleet)["d0003"] == drill.old.id


def test_an_unreachable_device_is_deferred_and_the_rest_goes_on(drill: Drill) -> None:
    devices = drill.devices(8)
    devices[5].reachable = False
    state, states, code = ends(drill, SimulatedFleet(devices))
    assert (state, code) == (R.SUCCEEDED_WITH_DEFERRED, 6)
    assert states.pop("d0005") is D.DEFERRED
    assert set(states.values()) == {D.COMMITTED}


def test_a_device_that_is_gone_after_its_switch_goes_back_by_itself(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(4), faults=[Fault("d0000", Verb.SWITCH, FaultKind.GONE)])
    state, states, code = ends(drill, fleet)
    assert states["d0000"] is D.LOST
    assert (state, code) == (R.ROLLBACK_FAILED, 4)  # nobody has seen it go back
    fleet.let_guards_act()
    assert running(fleet)["d0000"] == drill.old.id


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("kind", [FaultKind.ORDER_LOST, FaultKind.ANSWER_LOST])
def test_a_broken_link_is_overcome(drill: Drill, verb: Verb, kind: FaultKind) -> None:
    fleet = SimulatedFleet(drill.devices(4), faults=[Fault("d0002", verb, kind)])
    state, _, code = ends(drill, fleet)
    assert (state, code) == (R.SUCCEEDED, 0)
    assert set(running(fleet).values()) == {drill.release.id}


@pytest.mark.parametrize("verb", [Verb.SWITCH, Verb.PROBE])
def test_a_power_cut_before_the_confirmation_is_a_failure(drill: Drill, verb: Verb) -> None:
    fleet = SimulatedFleet(drill.devices(4), faults=[Fault("d0002", verb, FaultKind.POWER_CUT)])
    snapshot = drill.prepare(fleet, strategy())
    drill.drive(snapshot, fleet)
    records = drill.records(snapshot)
    assert records["d0002"].state is D.ROLLED_BACK
    assert "restarted before" in records["d0002"].reason
    assert running(fleet)["d0002"] == drill.old.id


def test_a_power_cut_after_the_confirmation_is_none(drill: Drill) -> None:
    fleet = SimulatedFleet(
        drill.devices(4), faults=[Fault("d0002", Verb.CONFIRM, FaultKind.POWER_CUT)]
    )
    state, _, _ = ends(drill, fleet)
    assert state is R.SUCCEEDED
    assert running(fleet)["d0002"] == drill.release.id


def test_a_device_that_runs_the_release_is_left_alone(drill: Drill) -> None:
    devices = drill.devices(3, drill.release)
    fleet = SimulatedFleet(devices)
    state, states, code = ends(drill, fleet)
    assert (state, code) == (R.SUCCEEDED, 0)
    assert set(states.values()) == {D.ALREADY_CURRENT}
    assert all(device.generation == 1 for device in devices)


def test_a_device_that_does_not_fit_is_rejected_before_any_pull(drill: Drill) -> None:
    drill.release = make_release(
        variants={
            "hw_a": {
                "image": "models/digits@sha256:" + "a" * 64,
                "requires": {"accelerator": "coral"},
            },
            "hw_b": {"image": "models/digits@sha256:" + "b" * 64},
        }
    )
    fleet = SimulatedFleet(drill.devices(3))
    _, states, _ = ends(drill, fleet)
    rejected = {name for name, state in states.items() if state is D.REJECTED}
    assert rejected == {"d0001", "d0002"}
    assert all(fleet.commands[name] == 1 for name in rejected)


def test_a_failing_soak_takes_the_confirmed_release_back(drill: Drill) -> None:
    devices = drill.devices(2)
    probes = {"count": 0}

    class TurnsBad(SimulatedFleet):
        def _carry_out(self, order):  # type: ignore[no-untyped-def]
            if order.verb is Verb.PROBE and order.document["duration"] == 60:
                probes["count"] += 1
                self._quality = bad(drill.release, Quality.WRONG)
            return super()._carry_out(order)

    fleet = TurnsBad(devices)
    state, states, code = ends(drill, fleet, waves=[{"size": 1, "soak": 60}, {"size": "rest"}])
    assert probes["count"] == 1
    assert (state, code) == (R.ROLLED_BACK, 3)
    assert sorted(states.values()) == sorted([D.ROLLED_BACK, D.STAGED])
    assert set(running(fleet).values()) == {drill.old.id}


def test_the_next_wave_is_staged_while_one_soaks(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(4))
    recorder = Recorder()
    snapshot = drill.prepare(fleet, strategy(waves=[{"size": 1, "soak": 60}, {"size": "rest"}]))
    drill.drive(snapshot, fleet, recorder)
    happened = [
        (e.wave, e.data["to"])
        for e in recorder.events
        if e.kind in {EventKind.DEVICE, EventKind.WAVE}
    ]
    assert happened.index((1, "staged")) < happened.index((0, "passed"))
    assert happened.index((1, "switching")) > happened.index((0, "passed"))


def test_one_slow_device_delays_nobody_else(drill: Drill) -> None:
    devices = drill.devices(6)
    devices[3].takes = 4.0
    fleet = SimulatedFleet(devices)
    recorder = Recorder()
    snapshot = drill.prepare(fleet, strategy(waves=[{"size": "rest"}]))
    drill.drive(snapshot, fleet, recorder)
    committed = [e.device for e in recorder.events if e.data.get("to") == "committed"]
    assert committed[-1] == "d0003"
    assert fleet.now() == pytest.approx(5 * 4.0 + 5)  # the slowest device, not the sum


def test_no_more_than_max_parallel_at_once(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(10))
    recorder = Recorder()
    snapshot = drill.prepare(fleet, strategy(waves=[{"size": "rest"}], max_parallel=3))
    drill.drive(snapshot, fleet, recorder)
    at_work: set[str] = set()
    most = 0
    for event in recorder.events:
        if event.kind is EventKind.DEVICE:
            busy = event.data["to"] not in {"staged", "committed"}
            (at_work.add if busy else at_work.discard)(event.device)
            most = max(most, len(at_work))
    assert most == 3


def test_a_device_that_another_controller_took_over_is_not_waited_for(drill: Drill) -> None:
    class TakenOver(SimulatedFleet):
        def _carry_out(self, order):  # type: ignore[no-untyped-def]
            if order.verb is Verb.PROBE:
                self.devices["d0000"].generation, self.devices["d0000"].rollout = 9, "other"
                return replace(super()._carry_out(order), document={}, trouble=Trouble.UNREACHABLE)
            return super()._carry_out(order)

    fleet = TakenOver(drill.devices(1))
    snapshot = drill.prepare(fleet, strategy())
    assert drill.drive(snapshot, fleet) is R.ROLLBACK_FAILED
    record = drill.records(snapshot)["d0000"]
    assert (record.state, "rollout other took over" in record.reason) == (D.LOST, True)
    assert fleet.now() < 30


def test_a_wave_without_a_device_that_runs_the_release_does_not_pass(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(4), bad(drill.release, Quality.CANNOT_PULL))
    state, states, code = ends(drill, fleet, failure_budget={"max_failed": "100%"})
    assert (state, code) == (R.ROLLED_BACK, 3)
    assert sorted(states.values()) == sorted([D.REJECTED] + [D.PENDING] * 3)


def test_what_a_device_refused_is_told(drill: Drill) -> None:
    class Refuses(SimulatedFleet):
        def _carry_out(self, order):  # type: ignore[no-untyped-def]
            if order.verb is Verb.SWITCH:
                message = "switch: memory limit is too small"
                return Answer("d0000", Verb.SWITCH, {}, Trouble.REFUSED, "no", message)
            return super()._carry_out(order)

    fleet = Refuses(drill.devices(1))
    snapshot = drill.prepare(fleet, strategy())
    assert drill.drive(snapshot, fleet) is R.ROLLED_BACK
    record = drill.records(snapshot)["d0000"]
    assert (record.state, record.failed) == (D.REJECTED, True)
    assert "memory limit is too small" in record.reason
    ended = drill.journal.load(snapshot.rollout.id).rollout
    assert "before any device had switched" in ended.reason


def test_a_rollout_ends_as_soon_as_nothing_is_left_to_do(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(1), bad(drill.release, Quality.CANNOT_PULL))
    ends(drill, fleet)
    assert fleet.now() < 1


def test_a_display_that_breaks_does_not_end_the_rollout(drill: Drill) -> None:
    class FullDisk(Recorder):
        def event(self, event: object) -> None:
            raise OSError(28, "No space left on device")

    fleet = SimulatedFleet(drill.devices(3))
    snapshot = drill.prepare(fleet, strategy())
    assert drill.drive(snapshot, fleet, FullDisk()) is R.SUCCEEDED


def test_a_first_release_that_fails_leaves_nothing_running(drill: Drill) -> None:
    fleet = SimulatedFleet([SimulatedDevice("d0000")], bad(drill.release, Quality.WRONG))
    state, states, code = ends(drill, fleet)
    assert (state, code) == (R.ROLLED_BACK, 3)
    assert states == {"d0000": D.ROLLED_BACK}
    assert fleet.devices["d0000"].current is None
