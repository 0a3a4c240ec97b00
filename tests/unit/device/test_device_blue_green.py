"""Switches behind the proxy, which nobody notices."""

from __future__ import annotations

from typing import Any

import pytest
from device_stand_ins import Device, Release, device, seen_checkpoints


@pytest.fixture
def dev(dev: Device) -> Device:
    dev.provision(proxy=True)
    dev.mode = "blue_green"
    return dev


@pytest.fixture
def new(dev: Device, old: Release) -> Release:
    """A release that is staged beside it."""
    release = dev.release("2.0")
    dev.stage(release)
    return release


def answers_meanwhile(dev: Device, action: Any) -> list[str | None]:
    """Who answered at every checkpoint of an action."""
    seen: list[str | None] = []
    original = device.checkpoint
    device.checkpoint = lambda name: seen.append(dev.answer())
    try:
        action()
    finally:
        device.checkpoint = original
    return seen


def test_the_new_release_takes_over_without_a_gap(dev: Device, old: Release, new: Release) -> None:
    answer: dict[str, Any] = {}
    seen = answers_meanwhile(dev, lambda: answer.update(dev.switch(new, 2)))
    assert seen[0] == old.id
    assert seen[-1] == new.id
    assert set(seen) == {old.id, new.id}
    assert answer["ready"]
    assert answer["downtime"] == 0.0
    assert answer["previous"] == old.id
    assert dev.world.running() == [new.id], "the old one is stopped, not removed"
    assert dev.links() == {"current": new.id, "previous": old.id, "last_good": old.id}
    dev.confirm(2)
    dev.assert_rests_on(new)


def test_every_step_has_a_checkpoint(dev: Device, old: Release, new: Release) -> None:
    assert seen_checkpoints(lambda: dev.switch(new, 2)) == [
        "switch:arming",
        "switch:guarded",
        "switch:created",
        "switch:switching",
        "switch:beside",
        "switch:ready",
        "switch:previous",
        "switch:current",
        "proxy:written",
        "switch:moved",
        "stop:drained",
        "stop:stopped",
        "switch:switched",
    ]
    assert seen_checkpoints(lambda: dev.revert(2)) == [
        "revert:reverting",
        "revert:guarded",
        "revert:current",
        "revert:previous",
        "revert:beside",
        "proxy:written",
        "revert:started",
        "stop:drained",
        "stop:stopped",
        "revert:last_good",
        "revert:idle",
    ]


def test_the_requests_go_back_without_a_gap(dev: Device, old: Release, new: Release) -> None:
    dev.switch(new, 2)
    seen = answers_meanwhile(dev, lambda: dev.revert(2))
    assert (seen[0], seen[-1], set(seen)) == (new.id, old.id, {old.id, new.id})
    dev.assert_rests_on(old)


@pytest.mark.parametrize("spoil", ["sick", "crashing"])
def test_a_release_that_never_gets_ready_gets_no_request(
    dev: Device, old: Release, new: Release, spoil: str
) -> None:
    with dev.world.change() as content:
        content[spoil] = [new.id]
    answer: dict[str, Any] = {}
    seen = answers_meanwhile(dev, lambda: answer.update(dev.switch(new, 2)))
    assert set(seen) == {old.id}
    assert (answer["ready"], answer["downtime"]) == (False, None)
    assert dev.world.running() == [old.id]
    assert dev.link("current") == old.id, "what serves comes back after a power cut"
    error = dev.fails("confirm", generation=2, rollout="r2", retain=3)
    assert error["code"] == "not_armed"
    started = dev.world.read()["started"]
    reverted = dev.revert(2)
    assert (reverted["from"], reverted["to"]) == (new.id, old.id)
    assert dev.world.read()["started"] == started, "the old one never stopped"
    dev.assert_rests_on(old)


def test_open_requests_are_answered_first(
    dev: Device, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def open_requests(self: Any, slot: str) -> int:
        nonlocal asked
        asked += slot == "blue"
        assert dev.world.serving("blue") == old.id, "it is not stopped yet"
        return int(slot == "blue" and asked < 30)

    monkeypatch.setattr(device.Proxy, "open_requests", open_requests)
    start = dev.clock.now()
    assert dev.switch(new, 2, drain_deadline=10)["detail"] == "ready"
    assert 2.8 < dev.clock.now() - start < 9


@pytest.mark.parametrize("drain_deadline", [0, 3])
def test_open_requests_have_no_longer_than_the_drain_deadline(
    dev: Device, old: Release, new: Release, drain_deadline: int
) -> None:
    with dev.world.change() as content:
        content["open"] = {"blue": 2}
    start = dev.clock.now()
    answer = dev.switch(new, 2, drain_deadline=drain_deadline)
    assert drain_deadline <= dev.clock.now() - start < drain_deadline + 2
    assert answer["ready"]
    assert "2 requests were still open" in answer["detail"]
    assert dev.world.read()["cut_off"] == 2


def test_draining_ends_before_the_guard_comes(dev: Device, old: Release, new: Release) -> None:
    with dev.world.change() as content:
        content["open"] = {"blue": 2}
    answer = dev.switch(new, 2, drain_deadline=100, healthy_deadline=20, confirm_timeout=30)
    assert answer["guard_remaining"] > 0


def test_slots_take_turns(dev: Device, old: Release, new: Release) -> None:
    dev.switch(new, 2)
    dev.confirm(2)
    third = dev.release("3.0")
    dev.roll_out(third, 3)
    assert dev.world.serving("blue") == third.id
    assert dev.revert(3, to=old.id)["ready"], "it lost its slot to another"
    dev.assert_rests_on(old)
    assert dev.revert(3, to=new.id)["ready"]
    dev.assert_rests_on(new)


def test_the_same_release_again_is_started_anew(dev: Device, old: Release) -> None:
    answer = dev.switch(old, 2)
    assert answer["ready"]
    assert answer["downtime"] is not None
    dev.confirm(2)
    dev.assert_rests_on(old)


def test_a_failed_release_that_does_not_answer_is_stopped_first(
    dev: Device, old: Release, new: Release
) -> None:
    dev.switch(new, 2)
    with dev.world.change() as content:
        content["sick"] = [new.id]
    assert "revert:stopped" in seen_checkpoints(lambda: dev.revert(2))
    dev.assert_rests_on(old)


def test_the_second_attempt_to_go_back_has_the_device_for_itself(
    dev: Device, old: Release, new: Release
) -> None:
    dev.switch(new, 2)
    with dev.world.change() as content:
        content["sick"] = [old.id]
    error = dev.fails("revert", generation=2, rollout="r2", reason="gate", healthy_deadline=5)
    assert error["code"] == "revert_failed"
    assert dev.answer() == new.id, "better than nothing"
    with dev.world.change() as content:
        content["sick"] = []
    assert "revert:stopped" in seen_checkpoints(dev.guard)
    dev.assert_rests_on(old)


def test_going_back_in_vain_ends(dev: Device, old: Release, new: Release) -> None:
    dev.switch(new, 2)
    with dev.world.change() as content:
        content["sick"] = [old.id]
    dev.fails("revert", generation=2, rollout="r2", reason="gate", healthy_deadline=5)
    for _ in range(device.REVERT_ATTEMPTS - 1):
        dev.guard()
    model = dev.model()
    assert (model["phase"], model["last_outcome"]["outcome"]) == ("idle", "revert_failed")
    assert dev.guard() is None
    with dev.world.change() as content:
        content["sick"] = []
    assert dev.switch(new, 3)["ready"]
