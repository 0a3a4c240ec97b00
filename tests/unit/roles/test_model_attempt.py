"""One device on its way to a release, over a simulated one."""

from __future__ import annotations

from typing import Any

import pytest
from release_documents import IMAGE, release_document

from muster.fleet.interface import Answer, Order, Verb
from muster.fleet.simulated import Fault, FaultKind, Quality, SimulatedDevice, SimulatedFleet
from muster.release import Release
from muster.rollout.machine import DeviceState as D
from muster.rollout.orders import Orders
from muster.strategy import Strategy
from roles.model.attempt import Attempt

OLD = "1.0-aaaaaaaaaaaa"
GATES = [
    {"name": "ready", "type": "readiness"},
    {"name": "live", "type": "http", "path": "/v2/health/live"},
]
GOALS = (D.STAGED, D.SOAKING, D.CONFIRMING, D.COMMITTED)
"""Where the operations stage, switch, gate and confirm lead to."""


class Trial:
    """An attempt at a release on one simulated device that runs an older one."""

    def __init__(
        self, quality: Quality = Quality.GOOD, *faults: Fault, requires: Any = None, **device: Any
    ) -> None:
        variant = {"image": IMAGE, "requires": requires or {}}
        self.release = Release.model_validate(
            release_document(variants={"hw_coral": variant}, gates=GATES)
        )
        state = {"current": OLD, "last_good": OLD, "releases": {OLD}, "generation": 6} | device
        self.device = SimulatedDevice("a", **state)
        self.fleet = SimulatedFleet(
            [self.device],
            lambda _name, id_: quality if id_ == self.release.id else Quality.GOOD,
            faults,
        )
        self.orders: list[Order] = []
        self.said: list[str] = []
        self.strategy = Strategy()
        self.attempt = Attempt(
            "a",
            "hw_coral",
            Orders("pyinfra-1", self.release, self.strategy),
            self.call,
            say=self.said.append,
            pause=self.wait,
            now=self.fleet.now,
        )

    def call(self, order: Order) -> Answer:
        self.orders.append(order)
        self.fleet.submit(order)
        answer = self.fleet.next_answer(None)
        assert answer is not None
        return answer

    def wait(self, seconds: float) -> None:
        assert self.fleet.next_answer(seconds) is None

    def begin(self) -> Attempt:
        self.attempt.begin(self.call(Order("a", Verb.INSPECT, {"model": "digits"}, 1.0)).document)
        self.orders.clear()
        return self.attempt

    def run(self) -> list[bool]:
        """Lead the device to each goal in turn, as far as it goes."""
        reached = []
        self.begin()
        for goal in GOALS:
            reached.append(self.attempt.advance(goal))
            if not reached[-1]:
                break
        return reached

    @property
    def verbs(self) -> list[Verb]:
        return [order.verb for order in self.orders]


def test_good_release_is_confirmed_with_one_order_for_each_step() -> None:
    trial = Trial()
    assert trial.run() == [True] * 4
    assert trial.verbs == [Verb.STAGE, Verb.SWITCH, Verb.PROBE, Verb.CONFIRM]
    assert (trial.device.last_good, trial.device.generation) == (trial.release.id, 7)
    assert trial.device.rollout == "pyinfra-1"
    assert trial.said == ["passed: ready: ready in 2 of 2 samples; live: 2 of 2 answers right"]


def test_device_that_was_not_looked_at_is_looked_at_first() -> None:
    trial = Trial()
    assert trial.attempt.advance(D.STAGED)
    assert trial.verbs == [Verb.INSPECT, Verb.STAGE]


@pytest.mark.parametrize(
    ("quality", "step", "why"),
    [
        (Quality.NEVER_READY, 2, "not ready"),
        (Quality.WRONG, 3, "live: 2 of 2 answers wrong"),
    ],
)
def test_bad_release_goes_back_at_once_and_says_why(quality: Quality, step: int, why: str) -> None:
    trial = Trial(quality)
    assert trial.run() == [True] * (step - 1) + [False]
    assert trial.attempt.state is D.ROLLED_BACK
    assert trial.verbs[-1] is Verb.REVERT
    assert (trial.device.current, trial.device.phase) == (OLD, "idle")
    assert why in trial.attempt.failure
    assert trial.attempt.failure.endswith(f"; it runs {OLD} again")
    assert why in trial.said[-1]


def test_device_at_rest_gets_no_order_whatever_it_is_told() -> None:
    trial = Trial(Quality.WRONG)
    trial.run()
    trial.orders.clear()
    assert [trial.attempt.advance(goal) for goal in GOALS] == [False] * 4
    assert not trial.orders


def test_failed_way_back_is_told_as_such() -> None:
    trial = Trial(Quality.WRONG)
    call = trial.attempt._call

    def broken(order: Order) -> Answer:
        answer = call(order)
        if order.verb is Verb.REVERT:
            return Answer("a", order.verb, dict(answer.document) | {"ready": False})
        return answer

    trial.attempt._call = broken
    trial.run()
    assert trial.attempt.state is D.ROLLBACK_FAILED
    assert "COULD NOT GO BACK" in trial.attempt.failure


def test_image_that_cannot_be_pulled_touches_nothing() -> None:
    trial = Trial(Quality.CANNOT_PULL)
    assert trial.run() == [False]
    assert trial.attempt.failure == "stage: manifest unknown"
    assert (trial.device.current, trial.device.generation) == (OLD, 6)


def test_device_that_does_not_fit_is_at_rest_before_any_order() -> None:
    trial = Trial(requires={"accelerator": "coral", "arch": ["arm64"]})
    attempt = trial.begin()
    assert attempt.state is D.REJECTED
    assert attempt.at_rest
    assert attempt.failure == (
        "architecture amd64, needed arm64; accelerator coral not found, it has none"
    )


def test_device_that_runs_the_release_needs_nothing() -> None:
    trial = Trial()
    trial.device.current = trial.device.last_good = trial.release.id
    assert trial.begin().state is D.ALREADY_CURRENT


def test_device_that_runs_the_release_but_does_not_serve_fails() -> None:
    trial = Trial()
    trial.device.current = trial.release.id
    seen = trial.call(Order("a", Verb.INSPECT, {"model": "digits"}, 1.0)).document
    seen["model"]["current"]["serving"] = False  # type: ignore[index]
    trial.attempt.begin(seen)
    assert trial.attempt.state is D.REJECTED
    assert "does not serve" in trial.attempt.failure


def test_unfinished_switch_of_another_is_left_alone() -> None:
    trial = Trial(phase="switched", rollout="other")
    assert trial.begin().state is D.DEFERRED
    assert "rollout other is not finished" in trial.attempt.failure


# -- trouble on the way: by the time of the next operation it is known what came of it


@pytest.mark.parametrize("kind", [FaultKind.ORDER_LOST, FaultKind.ANSWER_LOST])
@pytest.mark.parametrize("verb", [Verb.STAGE, Verb.SWITCH, Verb.PROBE, Verb.CONFIRM])
def test_broken_link_is_survived_at_every_step(verb: Verb, kind: FaultKind) -> None:
    trial = Trial(Quality.GOOD, Fault("a", verb, kind))
    assert trial.run() == [True] * 4
    assert trial.device.last_good == trial.release.id


@pytest.mark.parametrize("kind", [FaultKind.ORDER_LOST, FaultKind.ANSWER_LOST])
def test_broken_link_on_the_way_back_is_survived(kind: FaultKind) -> None:
    trial = Trial(Quality.WRONG, Fault("a", Verb.REVERT, kind))
    trial.run()
    assert trial.attempt.state is D.ROLLED_BACK
    assert "live: 2 of 2 answers wrong" in trial.attempt.failure
    assert trial.device.current == OLD


@pytest.mark.parametrize("verb", [Verb.SWITCH, Verb.PROBE])
def test_power_cut_before_the_confirmation_is_a_failure(verb: Verb) -> None:
    trial = Trial(Quality.GOOD, Fault("a", verb, FaultKind.POWER_CUT))
    assert not trial.run()[-1]
    assert trial.attempt.state is D.ROLLED_BACK
    assert "restarted before the confirmation" in trial.attempt.failure


@pytest.mark.parametrize("verb", [Verb.SWITCH, Verb.PROBE])
def test_lost_device_fails_and_goes_back_by_itself(verb: Verb) -> None:
    trial = Trial(Quality.GOOD, Fault("a", verb, FaultKind.GONE))
    assert not trial.run()[-1]
    assert trial.attempt.state is D.LOST
    assert "its guard takes it back" in trial.attempt.failure
    trial.fleet.let_guards_act()
    assert trial.device.current == OLD


def test_device_that_is_lost_before_its_switch_fails_untouched() -> None:
    trial = Trial(Quality.GOOD, Fault("a", Verb.STAGE, FaultKind.GONE))
    assert trial.run() == [False]
    assert trial.attempt.state is D.DEFERRED
    assert trial.device.generation == 6


@pytest.mark.parametrize("goal", GOALS[:3])
def test_another_controller_that_takes_over_wins(goal: D) -> None:
    trial = Trial()
    trial.begin().advance(goal)
    trial.device.generation, trial.device.rollout = 99, "other"
    assert not trial.attempt.advance(D.COMMITTED)
    assert "rollout other took over" in trial.attempt.failure
    assert trial.device.generation == 99


def test_model_that_restarts_while_it_is_watched_fails() -> None:
    trial = Trial()
    call = trial.attempt._call

    def restarting(order: Order) -> Answer:
        answer = call(order)
        extra = {"restarts": 2} if order.verb is Verb.PROBE else {}
        return Answer("a", order.verb, dict(answer.document) | extra)

    trial.attempt._call = restarting
    trial.run()
    assert trial.attempt.state is D.ROLLED_BACK
    assert "restarted 2 times" in trial.attempt.failure


# -- waiting for other devices


def waiting(goal: D) -> Trial:
    trial = Trial()
    trial.begin().advance(goal)
    return trial


@pytest.mark.parametrize("goal", [D.SOAKING, D.CONFIRMING])
def test_device_that_waits_too_long_goes_back_by_itself(goal: D) -> None:
    trial = waiting(goal)
    trial.wait(trial.strategy.confirm_timeout + 1)
    assert not trial.attempt.advance(D.COMMITTED)
    assert trial.attempt.failure == "went back by itself: no confirmation in time"


@pytest.mark.parametrize("goal", [D.SOAKING, D.CONFIRMING])
def test_guard_is_kept_from_acting_while_a_device_waits(goal: D) -> None:
    trial = waiting(goal)
    for _ in range(9):
        trial.wait(trial.strategy.confirm_timeout / 3)
        assert trial.attempt.hold(goal)
    assert trial.attempt.advance(D.COMMITTED)
    assert not trial.attempt.hold(goal)


def test_guard_that_is_about_to_act_is_extended_before_the_probe() -> None:
    trial = waiting(D.SOAKING)
    trial.wait(trial.strategy.confirm_timeout - 20)
    trial.orders.clear()
    assert trial.attempt.advance(D.CONFIRMING)
    assert [order.document.get("extend") for order in trial.orders] == [True, None]


def test_device_that_cannot_be_held_is_found_out_by_the_next_step() -> None:
    trial = waiting(D.CONFIRMING)
    trial.device.go_back("somebody reverted it")
    assert trial.attempt.hold(D.CONFIRMING)
    assert not trial.attempt.advance(D.COMMITTED)
    assert trial.attempt.failure == "went back by itself: somebody reverted it"
