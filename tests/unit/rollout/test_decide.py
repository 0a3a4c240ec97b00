"""Decisions as tables of plain values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    ("answer", "misfits", "expected"),
    [
        (seen(), [], D.STAGING),
        (seen(current=None, last_good=None), [], D.STAGING),
        (seen(), ["too small"], D.REJECTED),
        (seen(current=NEW), ["too small"], D.ALREADY_CURRENT),
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
        ({"max_failed": 0, "max_unreachable": 2}, 0, 2, 0, False),
        ({"max_failed": 9, "max_unreachable": 2}, 0, 3, 0, True),
    ],
)
def test_breach(
    budget: dict[str, Any], failed: int, unreachable: int, accepted: int, breached: bool
) -> None:
    wave = WaveRecord(0, "w", accepted_failed=accepted)
    reason = decide.breach(
        devices(failed, unreachable, 10), 10, FailureBudget.model_validate(budget), wave
    )
    assert (reason is not None) is breached


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
