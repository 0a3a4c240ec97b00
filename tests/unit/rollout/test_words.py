from __future__ import annotations

import pytest
from drill import Drill, Recorder, bad, strategy
from stories import decided, gated, moved, ran, waved

from muster.fleet.simulated import Quality, SimulatedFleet
from muster.rollout.events import Event
from muster.rollout.words import STOPPING, Fate, sentence, stopping


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (waved(0, 0, "updating"), "wave 1 (canary) begins"),
        (waved(0, 0, "failed", "1 of 1 failed"), "wave 1 (canary) failed: 1 of 1 failed"),
        (waved(0, 0, "awaiting_approval"), "wave 1 (canary) waits for approval"),
        (waved(0, 7, "passed"), "wave 8 passed"),
        (ran(0, "running", "planned"), "the rollout begins"),
        (ran(0, "running", "paused"), "the rollout goes on"),
        (ran(0, "awaiting_approval"), "the rollout waits for approval"),
        (ran(0, "rolling_back", reason="why"), "the rollout goes back: why"),
        (decided(0, "as it was said"), "as it was said"),
        (moved(0, "a", "committed"), None),
        (gated(0, "a"), None),
    ],
)
def test_events_in_plain_words(event: Event, told: str | None) -> None:
    assert sentence(event, {0: "canary"}) == told


def test_a_state_that_is_not_known_is_told_by_its_name() -> None:
    assert sentence(waved(0, 0, "quite_new"), {}) == "wave 1 is quite new"
    assert sentence(ran(0, "quite_new"), {}) == "the rollout is quite new"


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (moved(0, "a", "rejected", reason="no disk"), "a is rejected: no disk"),
        (moved(0, "a", "rolled_back", "lost", "by itself"), "a is back on the earlier release"),
        (moved(0, "a", "rolled_back", "rolling_back"), None),
        (moved(0, "a", "committed"), None),
    ],
)
def test_what_became_of_a_device(event: Event, told: str | None) -> None:
    fate = Fate.of(event)
    if told is None:
        assert fate is None
    else:
        assert fate is not None
        assert fate.sentence(3).startswith(told)


def test_devices_that_went_the_same_way_are_told_together() -> None:
    fates = [
        Fate.of(moved(at, name, "rolling_back", reason=f"live: {at}.5 ms, at most 3 ms"))
        for at, name in enumerate("abcd")
    ]
    first = fates[0]
    assert first is not None
    for fate in fates[1:]:
        assert fate is not None
        assert fate.key == first.key
        first.join(fate)
    told = first.sentence(2)
    assert (
        told == "a, b and 2 more are sent back: live: 0.5 ms, at most 3 ms (figures of the first)"
    )


def test_another_reason_is_another_fate() -> None:
    keys = {
        fate.key
        for reason in ("not ready", "wrong")
        if (fate := Fate.of(moved(0, "a", "rolling_back", reason=reason)))
    }
    assert len(keys) == 2


def test_stopping_is_known_by_what_the_engine_says(drill: Drill) -> None:
    """The engine's own words: the live display goes by them."""
    fleet, recorder = SimulatedFleet(drill.devices(2)), Recorder()
    snapshot = drill.prepare(fleet, strategy(failure_budget={"on_breach": "pause"}))
    fleet._quality = bad(drill.release, Quality.WRONG)
    drill.drive(snapshot, fleet, recorder)
    reasons = [reason for event in recorder.events if (reason := stopping(event))]
    assert reasons == ["wave 1 failed: 1 of 1 devices failed, at most 0 allowed"]


def test_other_decisions_stop_nothing() -> None:
    assert stopping(decided(0, "wave 1 approved by ops")) is None
    assert stopping(decided(0, f"the link is down: {STOPPING}")) == "the link is down"
