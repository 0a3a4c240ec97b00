"""Decisions as tables of plain values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.fleet.interface import Answer, Trouble, Verb
from muster.gates import Assessment, Verdict
from muster.rollout import decide, machine
from muster.rollout.decide import Attempt
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import DeviceRecord, WaveRecord
from muster.strategy import FailureBudget

D, R = DeviceState, RolloutState
MINE = Attempt("mine", "2.0-new", 5)


def seen(**changes: Any) -> dict[str, Any]:
    model: dict[str, Any] = {
        "current": {"id": "1.0-old", "serving": True},
        "previous": None,
        "last_good": "1.0-old",
        "generation": 4,
        "rollout": "earlier",
        "phase": "idle",
        "guard": {"armed": False, "remaining": None},
        "releases": [],
        "last_outcome": None,
    }
    return {"model": model | changes}


def ours(**changes: Any) -> dict[str, Any]:
    return seen(generation=5, rollout="mine", **changes)


def outcome(kind: str, generation: int = 5) -> dict[str, Any]:
    return {"outcome": kind, "generation": generation, "release": "2.0-new", "reason": "why"}


NEW = {"id": "2.0-new", "serving": True}
SILENT = {"id": "2.0-new", "serving": False}


def on_k3s(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "runtime": {"name": "k3s"}}


@pytest.mark.parametrize(
    ("answer", "misfits", "expected"),
    [
        (seen(), [], D.STAGING),
        (seen(current=None, last_good=None), [], D.STAGING),
        (seen(), ["too small"], D.REJECTED),
        (seen(current=NEW), ["too small"], D.ALREADY_CURRENT),
        (seen(current=SILENT), [], D.ALREADY_CURRENT),
        (on_k3s(seen(current=SILENT)), [], D.STAGING),
        (on_k3s(seen(current=NEW)), [], D.ALREADY_CURRENT),
        (seen(phase="switched"), [], D.DEFERRED),
        (seen(phase="reverting"), [], D.DEFERRED),
        # Resumed: the device is further than the journal knew.
        (ours(phase="switched"), [], D.SOAKING),
        (ours(phase="confirming"), [], D.CONFIRMING),
        (ours(current=NEW, last_good="2.0-new"), [], D.COMMITTED),
        (ours(last_outcome=outcome("reverted")), [], D.ROLLED_BACK),
        (ours(last_outcome=outcome("cancelled")), [], D.STAGING),
    ],
)
def test_preflight(answer: dict[str, Any], misfits: list[str], expected: D) -> None:
    assert decide.preflight(MINE, answer, misfits).state is expected


@pytest.mark.parametrize(
    ("state", "answer", "expected"),
    [
        (D.SWITCHING, seen(), D.PREFLIGHT),
        (D.SWITCHING, ours(phase="arming"), D.SWITCHING),
        (D.SWITCHING, ours(phase="switching"), D.SWITCHING),
        (D.SWITCHING, ours(phase="switched"), D.SOAKING),
        (D.SWITCHING, ours(last_outcome=outcome("cancelled")), D.PREFLIGHT),
        (D.SOAKING, ours(phase="switched"), D.SOAKING),
        (D.SOAKING, ours(last_outcome=outcome("reverted")), D.ROLLED_BACK),
        (D.SOAKING, ours(phase="reverting"), D.ROLLING_BACK),
        (D.CONFIRMING, ours(phase="switched"), D.SOAKING),
        (D.CONFIRMING, ours(last_good="2.0-new", last_outcome=outcome("confirmed")), D.COMMITTED),
        (D.LOST, ours(phase="switched"), D.ROLLING_BACK),
        (D.LOST, ours(last_outcome=outcome("reverted")), D.ROLLED_BACK),
        (D.LOST, ours(last_good="2.0-new", last_outcome=outcome("confirmed")), D.COMMITTED),
        (D.LOST, seen(), D.ROLLED_BACK),
        (D.ROLLING_BACK, ours(last_good="2.0-new"), D.ROLLING_BACK),
        (D.ROLLING_BACK, ours(last_outcome=outcome("reverted")), D.ROLLED_BACK),
        (D.ROLLING_BACK, ours(last_outcome=outcome("revert_failed")), D.ROLLING_BACK),
        # Somebody else switched it meanwhile.
        (D.SOAKING, seen(generation=6, rollout="other"), D.LOST),
        (D.SOAKING, seen(generation=5, rollout="other"), D.LOST),
        (D.SWITCHING, seen(generation=5, rollout="other"), D.REJECTED),
        # Its state was lost, and its own guard has mended it.
        (D.SOAKING, seen(generation=0, rollout=None), D.ROLLED_BACK),
        (D.CONFIRMING, seen(generation=0, rollout=None), D.ROLLED_BACK),
    ],
)
def test_reconcile_believes_the_device(state: D, answer: dict[str, Any], expected: D) -> None:
    assert decide.reconcile(state, MINE, answer).state is expected


def test_whatever_a_device_says_is_in_the_table() -> None:
    """Every state that may be reconciled, every phase and outcome that a device may tell."""
    states = machine.UNCONFIRMED | {D.LOST, D.ROLLING_BACK, D.PREFLIGHT}
    for state, phase, kind, generation, rollout, good in itertools.product(
        states,
        ["idle", "arming", "switching", "switched", "confirming", "reverting"],
        [None, "confirmed", "reverted", "revert_failed", "cancelled"],
        [0, 4, 5, 6],
        ["mine", "other"],
        ["1.0-old", "2.0-new"],
    ):
        answer = seen(
            phase=phase,
            generation=generation,
            rollout=rollout,
            last_good=good,
            last_outcome=None if kind is None else outcome(kind, generation),
        )
        if state is D.PREFLIGHT:
            following = decide.preflight(MINE, answer, []).state
        else:
            following = decide.reconcile(state, MINE, answer).state
        known = following is state or machine.allowed(machine.DEVICE_TRANSITIONS, state, following)
        assert known, (state, answer, following)


def refused(verb: Verb, code: str) -> Answer:
    return Answer("d", verb, trouble=Trouble.REFUSED, code=code, message="no")


def unreachable(verb: Verb) -> Answer:
    return Answer("d", verb, trouble=Trouble.UNREACHABLE, message="gone")


@pytest.mark.parametrize(
    ("answer", "policy", "state", "failed", "out_of_reach"),
    [
        (Answer("d", Verb.STAGE), "defer", D.STAGED, False, False),
        (refused(Verb.STAGE, "pull_failed"), "defer", D.REJECTED, True, False),
        (refused(Verb.STAGE, "bad_signature"), "defer", D.REJECTED, True, False),
        (refused(Verb.STAGE, "no_space"), "defer", D.REJECTED, True, False),
        # Not the release's fault, and nothing was touched.
        (refused(Verb.STAGE, "registry_unreachable"), "defer", D.DEFERRED, False, True),
        (unreachable(Verb.STAGE), "defer", D.DEFERRED, False, True),
        (unreachable(Verb.STAGE), "fail", D.DEFERRED, True, False),
    ],
)
def test_after_stage(
    answer: Answer, policy: str, state: D, failed: bool, out_of_reach: bool
) -> None:
    following = decide.after_stage(answer, policy)
    assert (following.state, following.failed, following.unreachable) == (
        state,
        failed,
        out_of_reach,
    )


def test_after_switch() -> None:
    assert decide.after_switch(refused(Verb.SWITCH, "busy")) is None
    assert decide.after_switch(unreachable(Verb.SWITCH)) is None
    ready = decide.after_switch(Answer("d", Verb.SWITCH, {"ready": True}))
    assert ready is not None
    assert ready.state is D.SOAKING
    held = Answer("d", Verb.SWITCH, trouble=Trouble.REFUSED, code="locked", message="by camera")
    locked = decide.after_switch(held)
    assert locked == decide.Next(D.STAGED, "waits for an application: by camera")
    not_ready = decide.after_switch(Answer("d", Verb.SWITCH, {"ready": False, "detail": "503"}))
    assert not_ready == decide.Next(D.ROLLING_BACK, "503", failed=True)


def assessments(*verdicts: Verdict) -> list[Assessment]:
    return [Assessment(f"g{n}", verdict, f"g{n}: {verdict}") for n, verdict in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("verdicts", "tries", "state", "failed", "pause"),
    [
        ([Verdict.PASSED, Verdict.PASSED], 0, D.CONFIRMING, False, False),
        ([Verdict.PASSED, Verdict.FAILED], 0, D.ROLLING_BACK, True, False),
        ([Verdict.ERROR, Verdict.FAILED], 9, D.ROLLING_BACK, True, False),
        ([Verdict.ERROR, Verdict.PASSED], 0, D.SOAKING, False, False),
        # Could not measure: never a pass, never the model's failure; a person decides.
        ([Verdict.ERROR, Verdict.PASSED], decide.MAX_TRIES, D.ROLLING_BACK, False, True),
        ([Verdict.INCONCLUSIVE], decide.MAX_TRIES, D.ROLLING_BACK, False, True),
    ],
)
def test_after_probe(
    verdicts: list[Verdict], tries: int, state: D, failed: bool, pause: bool
) -> None:
    following = decide.after_probe(assessments(*verdicts), tries)
    assert (following.state, following.failed, following.pause) == (state, failed, pause)


@pytest.mark.parametrize(
    ("state", "answer", "expected"),
    [
        (D.SOAKING, unreachable(Verb.PROBE), D.LOST),
        (D.SOAKING, refused(Verb.PROBE, "internal"), D.ROLLING_BACK),
        (D.ROLLING_BACK, unreachable(Verb.REVERT), D.LOST),
        (D.ROLLING_BACK, refused(Verb.REVERT, "internal"), D.ROLLBACK_FAILED),
    ],
)
def test_out_of_tries(state: D, answer: Answer, expected: D) -> None:
    following = decide.out_of_tries(state, answer)
    assert following.state is expected
    assert following.failed


def test_after_revert() -> None:
    back = {"ready": True, "to": "1.0-old"}
    assert decide.after_revert(Answer("d", Verb.REVERT, back)) == decide.Next(D.ROLLED_BACK)
    nothing = {"ready": False, "to": None}  # there was no release before this one
    assert decide.after_revert(Answer("d", Verb.REVERT, nothing)) == decide.Next(D.ROLLED_BACK)
    assert decide.after_revert(unreachable(Verb.REVERT)) is None
    for answer in (
        refused(Verb.REVERT, "revert_failed"),
        Answer("d", Verb.REVERT, back | {"ready": False}),
    ):
        following = decide.after_revert(answer)
        assert following is not None
        assert following.state is D.ROLLBACK_FAILED


def devices(failed: int, unreachable: int, total: int) -> list[DeviceRecord]:
    return [
        DeviceRecord(f"d{n}", 0, failed=n < failed, unreachable=failed <= n < failed + unreachable)
        for n in range(total)
    ]


@pytest.mark.parametrize(
    ("budget", "failed", "unreachable", "accepted", "breached"),
    [
        ({"max_failed": 0}, 0, 0, 0, False),
        ({"max_failed": 0}, 1, 0, 0, True),
        ({"max_failed": 1}, 1, 0, 0, False),  # a breach means more than
        ({"max_failed": "10%"}, 1, 0, 0, False),
        ({"max_failed": "10%"}, 2, 0, 0, True),
        ({"max_failed": 0}, 1, 0, 1, False),  # accepted by resuming
        ({"max_failed": 0}, 2, 0, 1, True),  # but not what failed since
        ({"max_failed": 0, "max_unreachable": 2}, 0, 2, 0, False),
        ({"max_failed": 9, "max_unreachable": 2}, 0, 3, 0, True),
        ({"max_failed": 9, "max_unreachable": 2}, 0, 4, 2, False),
        ({"max_failed": 9, "max_unreachable": 2}, 0, 5, 2, True),
    ],
)
def test_breach(
    budget: dict[str, Any], failed: int, unreachable: int, accepted: int, breached: bool
) -> None:
    wave = WaveRecord(0, "w", accepted_failed=accepted, accepted_unreachable=accepted)
    count = decide.tally(devices(failed, unreachable, 10))
    reason = decide.breach(count, FailureBudget.model_validate(budget), wave)
    assert (reason is not None) is breached


def test_the_share_of_devices_in_no_wave_is_of_the_whole_rollout() -> None:
    budget = FailureBudget.model_validate({"max_unreachable": "50%"})
    left_out = decide.tally(devices(0, 4, 4))
    assert decide.breach(left_out, budget) is not None
    assert decide.breach(left_out, budget, total=8) is None
    assert "4 of 7 devices unreachable" in (decide.breach(left_out, budget, total=7) or "")


records = st.builds(
    DeviceRecord,
    st.text("ab", min_size=1, max_size=3),
    state=st.sampled_from(D),
    failed=st.booleans(),
    unreachable=st.booleans(),
)


@given(st.lists(records, max_size=12))
def test_a_tally_counts_each_device_once(given_records: list[DeviceRecord]) -> None:
    count = decide.tally(given_records)
    assert count.devices == len(given_records)
    assert count.failed == len([r for r in given_records if r.failed])
    assert count.unreachable == len([r for r in given_records if r.unreachable])
    assert count.settled == len([r for r in given_records if r.state in machine.SETTLED])
    assert count.is_settled is all(r.state in machine.SETTLED for r in given_records)
    assert count.good == len([r for r in given_records if r.state in machine.GOOD])
    assert count.committed == len([r for r in given_records if r.state is D.COMMITTED])
    assert count.deferred == len([r for r in given_records if r.state is D.DEFERRED])
    # A rejected device that counts as failed is told as failed, not twice.
    rejected = [r for r in given_records if r.state is D.REJECTED and not r.failed]
    assert count.rejected == len(rejected)
    quarantined = [r.device for r in given_records if r.state is D.QUARANTINED]
    assert sorted(count.quarantined) == sorted(quarantined)


@given(st.lists(st.tuples(records, st.sampled_from(D), st.booleans(), st.booleans()), max_size=8))
def test_a_tally_that_is_kept_up_is_the_same_as_one_counted_anew(
    moves: list[tuple[DeviceRecord, D, bool, bool]],
) -> None:
    present = [record for record, *_ in moves]
    count = decide.tally(present)
    for record, state, failed, unreachable in moves:
        count.count(record, -1)
        record.state, record.failed, record.unreachable = state, failed, unreachable
        count.count(record, 1)
    again = decide.tally(present)
    for each in (count, again):
        each.quarantined.sort()
    assert count == again
    for record in present:
        count.count(record, -1)
    assert count == decide.Tally()


def counted(*states: D, failed: int = 0, unreachable: int = 0) -> decide.Tally:
    """A wave with devices in these states, of which the last ones failed or were out of reach."""
    found = [DeviceRecord(f"d{n}", 0, state=state) for n, state in enumerate(states)]
    for record in found[len(found) - failed :]:
        record.failed = True
    for record in found[len(found) - unreachable :]:
        record.unreachable = True
    return decide.tally(found)


def test_a_device_that_could_not_go_back_stops_the_rollout() -> None:
    assert decide.cannot_go_back(counted(D.COMMITTED, D.ROLLED_BACK, failed=1)) is None
    reason = decide.cannot_go_back(counted(D.QUARANTINED, D.COMMITTED, D.QUARANTINED))
    assert reason == "could not go back, and is quarantined: d0, d2"


@pytest.mark.parametrize(
    ("count", "accepted", "proves_nothing"),
    [
        (counted(D.ROLLED_BACK, D.DEFERRED, failed=1), False, True),
        (counted(D.DEFERRED, D.DEFERRED, unreachable=2), False, True),
        (counted(D.ROLLED_BACK, D.COMMITTED), False, False),
        (counted(D.ALREADY_CURRENT, D.ROLLED_BACK, failed=1), False, False),
        # Nobody failed and nobody was away: all were rejected, as the plan could not know.
        (counted(D.REJECTED, D.REJECTED), False, False),
        (counted(D.ROLLED_BACK, failed=1), True, False),
    ],
)
def test_a_wave_of_which_no_device_runs_the_release_proves_nothing(
    count: decide.Tally, accepted: bool, proves_nothing: bool
) -> None:
    reason = decide.nothing_gained(count, WaveRecord(0, "w", accepted_failed=int(accepted)))
    assert reason == (f"0 of {count.devices} devices run the release" * proves_nothing or None)


@pytest.mark.parametrize(
    ("count", "accepted", "text"),
    [
        (counted(D.COMMITTED, D.ALREADY_CURRENT), 0, "2 of 2 devices run the release"),
        (
            counted(D.COMMITTED, D.DEFERRED, D.REJECTED, D.ROLLED_BACK, failed=1),
            0,
            "1 of 4 devices run the release, 1 failed, 1 deferred, 1 rejected (within budget)",
        ),
        (
            counted(D.COMMITTED, D.REJECTED, failed=1),  # told as failed, not twice
            0,
            "1 of 2 devices run the release, 1 failed (within budget)",
        ),
        (
            counted(D.COMMITTED, D.ROLLED_BACK, failed=1),
            1,
            "1 of 2 devices run the release, 1 failed (accepted by resuming)",
        ),
    ],
)
def test_a_wave_that_passed_says_how(count: decide.Tally, accepted: int, text: str) -> None:
    assert decide.passed_reason(count, WaveRecord(0, "w", accepted_failed=accepted)) == text


def test_how_a_rollout_ends_that_came_through_its_waves() -> None:
    def ended(*states: D) -> tuple[R, str]:
        return decide.rollout_outcome(
            [DeviceRecord(f"d{n}", state=state) for n, state in enumerate(states)]
        )

    assert ended(D.COMMITTED, D.ALREADY_CURRENT, D.REJECTED) == (
        R.SUCCEEDED,
        "2 of 3 devices run the release",
    )
    assert ended(D.COMMITTED, D.DEFERRED) == (
        R.SUCCEEDED_WITH_DEFERRED,
        "1 of 2 devices run the release; deferred: d1",
    )


@pytest.mark.parametrize(
    ("states", "state", "reason"),
    [
        ([D.ROLLED_BACK, D.PENDING], R.ROLLED_BACK, "1 device went back to what ran before"),
        ([D.ROLLED_BACK] * 2, R.ROLLED_BACK, "2 devices went back to what ran before"),
        ([D.PENDING], R.ROLLED_BACK, "stopped before any device had switched"),
        ([D.ROLLED_BACK, D.LOST], R.ROLLBACK_FAILED, "not known to be back: d1"),
        ([D.QUARANTINED, D.ROLLED_BACK], R.ROLLBACK_FAILED, "not known to be back: d0"),
    ],
)
def test_how_a_rollout_ends_that_was_taken_back(states: list[D], state: R, reason: str) -> None:
    found = [DeviceRecord(f"d{n}", state=device) for n, device in enumerate(states)]
    assert decide.rollback_outcome(found) == (state, reason)


# A device that changes its state too often


def test_who_goes_round_in_circles_is_given_up_where_its_guard_may_be_armed() -> None:
    for state in (*machine.UNCONFIRMED, D.ROLLING_BACK, D.PREFLIGHT):
        lost = decide.round_in_circles(state, decide.Next(D.STAGED, "why"))
        assert (lost.state, lost.failed, lost.for_good) == (D.LOST, True, True)
        assert lost.reason == "went round in circles, at last to staged: why"


@pytest.mark.parametrize("state", sorted({*machine.SETTLED, D.ROLLBACK_FAILED}))
def test_who_comes_to_an_end_did_not_go_round_in_circles(state: D) -> None:
    following = decide.Next(state, "why", unreachable=True)
    assert decide.round_in_circles(D.SWITCHING, following) is following


def test_circles_are_left_on_ways_that_are_in_the_table() -> None:
    """From each state, whatever was decided: allowed, and after a few steps at an end."""
    # Who is seen again after it had come to rest begins anew; the rest must end.
    begins = {
        state: {
            decide.round_in_circles(state, decide.Next(following)).state
            for following in machine.DEVICE_TRANSITIONS.get(state, frozenset())
        }
        for state in D
    }
    for state, following in begins.items():
        assert following <= machine.DEVICE_TRANSITIONS.get(state, frozenset()), state
    here = {state for state in D if state not in machine.SETTLED}
    for _ in range(5):
        here = {following for state in here for following in begins[state] - machine.SETTLED}
    assert not here


@pytest.mark.parametrize(
    ("state", "devices", "code"),
    [
        (R.SUCCEEDED, [D.COMMITTED, D.ALREADY_CURRENT, D.REJECTED], 0),
        (R.SUCCEEDED, [D.COMMITTED, D.ROLLED_BACK], 3),
        (R.SUCCEEDED, [D.COMMITTED, D.LOST], 4),
        (R.SUCCEEDED_WITH_DEFERRED, [D.COMMITTED, D.DEFERRED], 6),
        (R.SUCCEEDED_WITH_DEFERRED, [D.DEFERRED, D.ROLLED_BACK], 3),
        (R.ROLLED_BACK, [D.ROLLED_BACK, D.PENDING], 3),
        (R.ROLLED_BACK, [D.PENDING], 3),
        (R.ROLLBACK_FAILED, [D.QUARANTINED], 4),
        (R.PAUSED, [D.QUARANTINED], 5),
        (R.AWAITING_APPROVAL, [D.COMMITTED, D.ROLLED_BACK], 5),
        (R.ABORTED, [D.COMMITTED], 1),
    ],
)
def test_exit_codes(state: R, devices: list[D], code: int) -> None:
    records = [DeviceRecord(f"d{n}", state=device) for n, device in enumerate(devices)]
    assert decide.exit_code(state, records) == code


def test_only_a_confirmed_device_with_an_earlier_release_is_taken_back() -> None:
    def device(state: D, previous: str | None = "1.0", wave: int = 1) -> DeviceRecord:
        return DeviceRecord("d", wave, state=state, previous=previous)

    assert decide.is_taken_back(device(D.COMMITTED), "roll_back_wave", 1)
    assert not decide.is_taken_back(device(D.COMMITTED, wave=0), "roll_back_wave", 1)
    assert decide.is_taken_back(device(D.COMMITTED, wave=0), "roll_back_rollout", 1)
    assert not decide.is_taken_back(device(D.COMMITTED, None), "roll_back_rollout", 1)
    assert not decide.is_taken_back(device(D.ALREADY_CURRENT), "roll_back_rollout", 1)
    assert not decide.is_taken_back(device(D.COMMITTED), "pause", 1)
