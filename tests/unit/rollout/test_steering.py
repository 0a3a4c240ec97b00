"""What people ask of a rollout: approve, reject, pause, resume, abort, take everything back."""

from __future__ import annotations

import pytest
from memory_journal import ControllerKilledError
from stage import Stage, killed_everywhere

from muster.fleet.interface import Order, Verb
from muster.fleet.simulated import Quality
from muster.rollout.decide import EXIT_OTHER, EXIT_PAUSED, EXIT_ROLLED_BACK
from muster.rollout.machine import DeviceState, RolloutState, WaveState
from muster.rollout.records import RequestKind

D, R, W, K = DeviceState, RolloutState, WaveState, RequestKind

APPROVED_SECOND = [{"size": 1}, {"size": "rest", "approval": True}]


# -- approval --------------------------------------------------------------------------------


def test_a_run_ends_where_a_wave_needs_approval_with_its_devices_staged() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    assert stage.run() is R.AWAITING_APPROVAL
    assert stage.code == EXIT_PAUSED
    assert stage.loaded.waves[1].state is W.AWAITING_APPROVAL
    assert stage.states(0) == {D.COMMITTED}
    assert stage.states(1) == {D.STAGED}
    assert len(stage.switches()) == 1


def test_nobody_approves_by_resuming() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.run()
    assert stage.run() is R.AWAITING_APPROVAL
    assert len(stage.switches()) == 1


def test_an_approved_wave_goes_on_when_resumed_and_names_who_approved() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.run()
    stage.ask(K.APPROVE)
    assert stage.run() is R.SUCCEEDED
    assert stage.code == 0
    assert stage.loaded.waves[1].approval == "approved by ada@desk"
    assert stage.running() == {stage.drill.release.id}


def test_a_controller_that_waits_goes_on_when_somebody_approves() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.ask(K.APPROVE, at=500)
    assert stage.run(wait_for_approval=True) is R.SUCCEEDED
    assert stage.fleet.now() > 500
    assert all(at >= 500 for at, _ in stage.switches()[1:])


def test_who_approves_too_early_approves_nothing() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.ask(K.APPROVE, at=0)
    assert stage.run() is R.AWAITING_APPROVAL
    assert not stage.journal.requests(stage.snapshot.rollout.id)


@pytest.mark.parametrize("waits", [False, True])
def test_a_rejected_wave_ends_the_rollout_and_keeps_what_passed(waits: bool) -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.ask(K.REJECT, at=300)
    state = stage.run(wait_for_approval=waits)
    if not waits:
        assert state is R.AWAITING_APPROVAL
        stage.fleet.pass_time(300)
        state = stage.run()
    assert (state, stage.code) == (R.ABORTED, EXIT_OTHER)
    assert stage.loaded.rollout.reason == "rejected by ada@desk"
    assert stage.states(0) == {D.COMMITTED}
    assert stage.running() == {stage.drill.release.id, stage.drill.old.id}


def test_the_first_wave_may_need_approval_too() -> None:
    stage = Stage(waves=[{"size": "rest", "approval": True}])
    assert stage.run() is R.AWAITING_APPROVAL
    assert stage.switches() == []
    stage.ask(K.APPROVE)
    assert stage.run() is R.SUCCEEDED


def test_each_wave_is_approved_on_its_own() -> None:
    waves = [{"size": 1}, {"size": 1, "approval": True}, {"size": "rest", "approval": True}]
    stage = Stage(waves=waves)
    for number in (1, 2):
        assert stage.run() is R.AWAITING_APPROVAL
        assert len(stage.switches()) == number
        stage.ask(K.APPROVE)
    assert stage.run() is R.SUCCEEDED


@pytest.mark.parametrize("waits", [False, True])
def test_two_people_who_approve_one_wave_do_not_approve_the_next(waits: bool) -> None:
    waves = [{"size": 1}, {"size": 1, "approval": True}, {"size": "rest", "approval": True}]
    stage = Stage(waves=waves)
    if waits:
        stage.ask(K.APPROVE, at=300)
        stage.ask(K.APPROVE, at=300)
        stage.ask(K.PAUSE, at=900)
        assert stage.run(wait_for_approval=True) is R.PAUSED
    else:
        assert stage.run() is R.AWAITING_APPROVAL
        stage.ask(K.APPROVE)
        stage.ask(K.APPROVE)
        assert stage.run() is R.AWAITING_APPROVAL
    assert [wave.approval for wave in stage.loaded.waves] == [
        "",
        "approved by ada@desk",
        "required",
    ]
    assert len(stage.switches()) == 2


def test_an_approval_of_another_wave_counts_for_nothing() -> None:
    waves = [{"size": 1}, {"size": 1, "approval": True}, {"size": "rest", "approval": True}]
    stage = Stage(waves=waves)
    assert stage.run() is R.AWAITING_APPROVAL
    stage.ask(K.APPROVE, wave=2)
    assert stage.run() is R.AWAITING_APPROVAL
    assert len(stage.switches()) == 1
    assert "approval by ada@desk counts for nothing: no wave waits for it" in stage.texts()
    stage.ask(K.APPROVE, wave=1)
    assert stage.run() is R.AWAITING_APPROVAL
    assert len(stage.switches()) == 2


def test_an_approval_that_met_a_pause_counts_when_resumed() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.ask(K.PAUSE, at=100)
    assert stage.run(wait_for_approval=True) is R.PAUSED
    stage.ask(K.APPROVE)  # asked while it still waited, and seen by nobody
    assert stage.run() is R.SUCCEEDED


def test_approval_counts_where_nothing_is_left_to_stage() -> None:
    stage = Stage(2, waves=APPROVED_SECOND)
    second = next(d.device for d in stage.loaded.devices if d.wave == 1)
    device = stage.fleet.devices[second]
    device.current = device.last_good = stage.drill.release.id  # somebody brought it there by hand
    assert stage.run() is R.AWAITING_APPROVAL
    stage.ask(K.APPROVE)
    assert stage.run() is R.SUCCEEDED


def test_a_rollout_paused_while_it_waits_for_approval_waits_again_when_resumed() -> None:
    stage = Stage(waves=APPROVED_SECOND)
    stage.ask(K.PAUSE, at=100)
    assert stage.run(wait_for_approval=True) is R.PAUSED
    assert stage.run() is R.AWAITING_APPROVAL
    stage.ask(K.APPROVE)
    assert stage.run() is R.SUCCEEDED


# -- pause -----------------------------------------------------------------------------------


def test_a_paused_rollout_lets_devices_under_way_come_to_rest() -> None:
    stage = Stage(8)
    stage.ask(K.PAUSE, at=12, reason="lunch")
    assert stage.run() is R.PAUSED
    assert stage.code == EXIT_PAUSED
    assert stage.loaded.rollout.reason == "paused by ada@desk: lunch"
    assert stage.states() <= {D.COMMITTED, D.STAGED, D.PREFLIGHT, D.STAGING, D.PENDING}
    assert {d.phase for d in stage.fleet.devices.values()} == {"idle"}
    assert stage.run() is R.SUCCEEDED


def test_what_was_asked_before_a_resume_does_not_pause_it_again() -> None:
    stage = Stage(4)
    stage.ask(K.PAUSE, at=1)
    stage.ask(K.PAUSE, at=2)
    assert stage.run() is R.PAUSED
    stage.fleet.pass_time(10)
    assert stage.run() is R.SUCCEEDED


# -- abort -----------------------------------------------------------------------------------


def test_an_aborted_rollout_finishes_what_is_under_way_and_keeps_it() -> None:
    stage = Stage(8, waves=[{"size": 2}, {"size": "rest"}], max_parallel=2)
    stage.ask(K.ABORT, at=3, reason="wrong release")
    assert stage.run() is R.ABORTED
    assert stage.code == EXIT_OTHER
    assert stage.loaded.rollout.reason == "aborted by ada@desk: wrong release"
    assert stage.states(0) == {D.COMMITTED}
    assert stage.states(1) == {D.PENDING}
    assert {d.phase for d in stage.fleet.devices.values()} == {"idle"}


@pytest.mark.parametrize("at", [0, 1, 3, 6, 8, 12, 16, 20, 40])
def test_abort_with_roll_back_takes_every_device_back(at: float) -> None:
    stage = Stage(6, waves=[{"size": 2, "soak": 30}, {"size": "rest", "soak": 30}])
    stage.ask(K.ROLL_BACK, at=at)
    assert stage.run() is R.ROLLED_BACK
    assert stage.code == EXIT_ROLLED_BACK
    assert stage.running() == {stage.drill.old.id}
    assert D.COMMITTED not in stage.states()


@pytest.mark.parametrize(
    ("kind", "state", "left"),
    [(K.ABORT, R.ABORTED, {"1.0", "2.0"}), (K.ROLL_BACK, R.ROLLED_BACK, {"1.0"})],
)
@pytest.mark.parametrize("waiting", [R.PAUSED, R.AWAITING_APPROVAL])
def test_a_rollout_that_waits_can_be_ended(waiting: R, kind: K, state: R, left: set[str]) -> None:
    stage = Stage(waves=APPROVED_SECOND)
    if waiting is R.PAUSED:
        stage.ask(K.PAUSE, at=50)
    assert stage.run(wait_for_approval=waiting is R.PAUSED) is waiting
    stage.ask(kind)
    assert stage.run() is state
    assert {str(current).rpartition("-")[0] for current in stage.running()} == left


def test_of_two_who_end_a_rollout_the_first_counts() -> None:
    stage = Stage(4)
    stage.ask(K.ABORT, at=3)
    stage.ask(K.ROLL_BACK, at=3)
    assert stage.run() is R.ABORTED
    assert not stage.journal.requests(stage.snapshot.rollout.id)


def test_a_rollout_that_nobody_has_begun_can_be_aborted() -> None:
    stage = Stage(4)
    stage.ask(K.ABORT)
    assert stage.run() is R.ABORTED
    assert stage.switches() == []


# -- a controller that dies ------------------------------------------------------------------


def test_approval_survives_the_controller() -> None:
    def make() -> Stage:
        stage = Stage(2, waves=APPROVED_SECOND)
        stage.ask(K.APPROVE, at=30)
        return stage

    stages = killed_everywhere(make, wait_for_approval=True)
    assert len(stages) > 20
    for stage in stages:
        stage.fleet.pass_time(20)
        if stage.run() is R.AWAITING_APPROVAL:  # asked for before there was anything to approve
            stage.ask(K.APPROVE)
            assert stage.run() is R.SUCCEEDED
        assert stage.loaded.rollout.state is R.SUCCEEDED
        assert stage.running() == {stage.drill.release.id}


@pytest.mark.parametrize(("kind", "state"), [(K.ABORT, R.ABORTED), (K.ROLL_BACK, R.ROLLED_BACK)])
def test_the_end_that_a_person_asked_for_survives_the_controller(kind: K, state: R) -> None:
    def make() -> Stage:
        stage = Stage(3, waves=[{"size": 1, "soak": 20}, {"size": "rest"}])
        stage.ask(kind, at=8)
        return stage

    for stage in killed_everywhere(make):
        stage.fleet.pass_time(10)
        assert stage.run() is state
        if kind is K.ROLL_BACK:
            assert stage.running() == {stage.drill.old.id}
        assert {d.phase for d in stage.fleet.devices.values()} == {"idle"}


def test_a_soak_that_fails_takes_all_of_its_wave_back_also_those_that_are_still_watched() -> None:
    stage = Stage(4, waves=[{"size": "rest", "soak": 60}])
    stage.fleet.devices["d0000"].takes = 5.0  # is watched longest
    first = "d0000"

    def quality(device: str, release: str | None) -> Quality:
        late = device != first and stage.fleet.now() > 20
        return Quality.WRONG if late and release == stage.drill.release.id else Quality.GOOD

    stage.fleet._quality = quality
    assert stage.run() is R.ROLLED_BACK
    assert stage.running() == {stage.drill.old.id}


def test_no_more_than_max_parallel_after_a_resume() -> None:
    stage = Stage(10, waves=[{"size": "rest"}], max_parallel=2)
    most = 0

    def watch(order: Order, _now: float) -> None:
        nonlocal most
        begun = [o for o in stage.fleet.under_way.values() if o.verb is not Verb.INSPECT]
        most = max(most, len(begun))

    stage.fleet.watch = watch
    stage.life.left = 20
    with pytest.raises(ControllerKilledError):
        stage.run()
    stage.fleet.abandon(obeyed=True)
    assert stage.run() is R.SUCCEEDED
    assert most == 2


# -- a breach where waves need approval ------------------------------------------------------

THREE_WAVES = [
    {"size": 1},
    {"size": 2, "soak": 30, "approval": True},
    {"size": "rest", "approval": True},
]
OUTCOMES = [
    ("pause", R.PAUSED, 5, {D.COMMITTED}, {D.ROLLED_BACK, D.COMMITTED}),
    ("abort", R.ABORTED, 3, {D.COMMITTED}, {D.ROLLED_BACK, D.COMMITTED}),
    ("roll_back_wave", R.ROLLED_BACK, 3, {D.COMMITTED}, {D.ROLLED_BACK}),
    ("roll_back_rollout", R.ROLLED_BACK, 3, {D.ROLLED_BACK}, {D.ROLLED_BACK}),
]


def breached(on_breach: str) -> Stage:
    """The second wave is approved, and one of its devices fails its soak."""
    stage = Stage(5, waves=THREE_WAVES, failure_budget={"on_breach": on_breach})
    victim = next(d.device for d in stage.loaded.devices if d.wave == 1)
    new = stage.drill.release.id

    def quality(device: str, release: str | None) -> Quality:
        confirmed = stage.fleet.devices[device].last_good == new
        return Quality.WRONG if (device, release) == (victim, new) and confirmed else Quality.GOOD

    stage.fleet._quality = quality
    for at in (20, 200):
        stage.ask(K.APPROVE, at=at)
    return stage


@pytest.mark.parametrize(("on_breach", "state", "code", "first", "second"), OUTCOMES)
def test_a_breach_in_an_approved_wave(
    on_breach: str, state: R, code: int, first: set[D], second: set[D]
) -> None:
    stage = breached(on_breach)
    assert stage.run(wait_for_approval=True) is state
    assert stage.code == code
    assert [stage.states(wave) for wave in (0, 1)] == [first, second]
    assert stage.states(2) <= {D.PENDING, D.STAGED}  # staged ahead, and never switched
    if state is R.PAUSED:
        assert stage.run() is R.AWAITING_APPROVAL  # the failure is accepted, the last wave is not
        stage.ask(K.APPROVE)
        assert stage.run() is R.SUCCEEDED
        assert stage.code == EXIT_ROLLED_BACK


@pytest.mark.parametrize(("on_breach", "state", "code", "first", "second"), OUTCOMES[1:])
def test_a_breach_in_an_approved_wave_survives_the_controller(
    on_breach: str, state: R, code: int, first: set[D], second: set[D]
) -> None:
    stages = killed_everywhere(lambda: breached(on_breach), wait_for_approval=True)
    assert len(stages) > 40
    for stage in stages:
        stage.fleet.pass_time(2)
        assert stage.run(wait_for_approval=True) is state
        assert stage.code == code
        assert [stage.states(wave) for wave in (0, 1)] == [first, second]
        assert {d.phase for d in stage.fleet.devices.values()} == {"idle"}
