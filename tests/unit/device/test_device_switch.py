"""``switch`` and ``confirm``: the way forward, its guard and its fences."""

from __future__ import annotations

from typing import Any

import pytest
from device_stand_ins import REGISTRY, TIMER, UNIT, Device, device


def test_the_first_release_is_served_and_confirmed(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    answer = dev.switch(release, 1)
    assert answer["generation"] == 1
    assert answer["ready"]
    assert answer["ready_after"] >= 0
    assert answer["downtime"] is None, "nothing served before"
    assert answer["previous"] is None
    assert 0 < answer["guard_remaining"] <= 60
    assert dev.links() == {"current": release.id, "previous": None, "last_good": None}
    assert dev.model()["guard"]["armed"]
    assert dev.confirm(1) == {
        "ok": True,
        "release": release.id,
        "last_good": release.id,
        "pruned": [],
    }
    dev.assert_rests_on(release)
    model = dev.model()
    assert model["current"] == {
        "id": release.id,
        "version": "1.0",
        "digest": release.digest,
        "serving": True,
    }
    assert model["last_outcome"]["outcome"] == "confirmed"
    assert model["last_outcome"]["generation"] == 1
    assert model["last_outcome"]["release"] == release.id


def test_the_next_release_takes_over(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    answer = dev.switch(new, 2)
    assert answer["previous"] == old.id
    assert answer["downtime"] >= 0
    assert dev.world.running() == [new.id]
    assert dev.links() == {"current": new.id, "previous": old.id, "last_good": old.id}
    dev.confirm(2)
    assert dev.links() == {"current": new.id, "previous": old.id, "last_good": new.id}
    kept = {container["release"] for container in dev.world.read()["containers"].values()}
    assert kept == {old.id, new.id}, "the old one's container stays, for a quick way back"


def test_a_release_that_never_gets_ready_is_told_and_left_to_the_controller(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    with dev.world.change() as content:
        content["sick"] = [new.id]
    answer = dev.switch(new, 2)
    assert answer["ready"] is False
    assert answer["ready_after"] is None
    assert answer["downtime"] is None
    assert "503" in answer["detail"]
    assert answer["guard_remaining"] > 0
    assert dev.link("current") == new.id
    assert dev.model()["phase"] == "switched"


def test_a_release_that_crashes_is_told_with_its_restarts(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with dev.world.change() as content:
        content["crashing"] = [release.id]
    answer = dev.switch(release, 1)
    assert answer["ready"] is False
    assert "restarted 5 times" in answer["detail"]


def test_what_the_runtime_says_of_a_failed_start_is_told(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with dev.world.change() as content:
        content["crashing"] = [release.id]
    seen = device.Container("c", release.id, False, "", "no such device: /dev/apex_0")
    with monkeypatch.context() as patch:
        patch.setattr(device.Model, "ensure_container", lambda self, release, slot: seen)
        patch.setattr("device_stand_ins.StandInRuntime.inspect", lambda self, name: seen)
        patch.setattr("device_stand_ins.StandInSystemd.start", lambda self, unit: None)
        patch.setattr("device_stand_ins.StandInSystemd.is_active", lambda self, unit: True)
        answer = dev.switch(release, 1)
    assert "no such device: /dev/apex_0" in answer["detail"]


def test_an_answer_on_the_port_is_not_enough(dev: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else may have the port; the container itself must run."""
    release = dev.release("1.0")
    dev.stage(release)
    monkeypatch.setattr(device, "http_request", lambda *a, **k: {"status": 200, "error": None})
    with dev.world.change() as content:
        content["crashing"] = [release.id]
    answer = dev.switch(release, 1)
    assert answer["ready"] is False
    assert "something else answers" in answer["detail"]


def test_the_answer_comes_before_the_guard_does(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with dev.world.change() as content:
        content["sick"] = [release.id]
    answer = dev.switch(release, 1, healthy_deadline=30, confirm_timeout=30.1)
    assert answer["guard_remaining"] > 0


# The guard comes first


@pytest.mark.parametrize("trouble", ["refused", "inactive", "boot unit"])
def test_without_a_guard_nothing_is_touched(
    dev: Device, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    started = dev.world.read()["started"]
    with dev.world.change() as content:
        if trouble == "refused":
            content["refused_units"] = [TIMER]
        elif trouble == "boot unit":
            content["enabled"] = []
    if trouble == "inactive":
        monkeypatch.setattr(device.Systemd, "is_active", lambda self, unit: False, raising=True)
        monkeypatch.setattr("device_stand_ins.StandInSystemd.is_active", lambda self, unit: False)
    assert dev.fails("switch", **dev.switch_document(new, 2))["code"] == "guard_failed"
    assert dev.world.read()["started"] == started
    monkeypatch.undo()
    dev.assert_rests_on(old)
    outcome = dev.model()["last_outcome"]
    assert (outcome["outcome"], outcome["generation"]) == ("cancelled", 2)


def test_a_container_that_can_not_be_made_costs_nothing(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    started = dev.world.read()["started"]

    def refuse(*arguments: Any) -> None:
        raise device.Failure("runtime_unavailable", "could not create container")

    monkeypatch.setattr("device_stand_ins.StandInRuntime.create", refuse)
    assert dev.fails("switch", **dev.switch_document(new, 2))["code"] == "runtime_unavailable"
    assert dev.world.read()["started"] == started
    dev.assert_rests_on(old)


def test_the_guard_is_armed_before_anything_that_serves_is_touched(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    stopped: list[bool] = []

    def stop(self: Any, unit: str) -> None:
        if unit == UNIT:
            stopped.append(TIMER in dev.world.read()["active"])

    monkeypatch.setattr("device_stand_ins.StandInSystemd.stop", stop)
    dev.switch(new, 2)
    assert stopped == [True]


def test_a_full_disk_stops_a_switch_before_anything_is_touched(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    (dev.state / "reserve").unlink()
    before = dev.snapshot()
    full = OSError(device.errno.ENOSPC, "No space left on device")

    def write(path: str, data: bytes) -> None:
        raise full

    monkeypatch.setattr(device, "write_file", write)
    assert dev.fails("switch", **dev.switch_document(new, 2))["code"] == "no_space"
    monkeypatch.undo()
    assert dev.snapshot() == before


# Fences


def test_repeating_a_switch_returns_its_state(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    first = dev.switch(release, 1)
    before = dev.snapshot()
    again = dev.switch(release, 1)
    assert dev.snapshot() == before
    assert again | {"guard_remaining": 0} == first | {"guard_remaining": 0}
    dev.confirm(1)
    confirmed = dev.switch(release, 1)
    assert (confirmed["ready"], confirmed["outcome"]) == (True, "confirmed")
    assert confirmed["guard_remaining"] == 0


def test_repeating_a_switch_that_was_undone_does_not_begin_it_again(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    dev.switch(new, 2)
    dev.revert(2)
    answer = dev.switch(new, 2)
    assert (answer["ready"], answer["outcome"]) == (False, "reverted")
    assert "gate failed" in answer["detail"]
    dev.assert_rests_on(old)


@pytest.mark.parametrize(
    "other",
    [
        {"generation": 4},
        {"rollout": "other"},
        {"release": "2.0"},
        {"generation": 4, "rollout": "r4"},
    ],
)
def test_an_overtaken_controller_is_refused(dev: Device, other: dict[str, Any]) -> None:
    releases = {version: dev.release(version) for version in ("1.0", "2.0")}
    for release in releases.values():
        dev.stage(release)
    dev.switch(releases["1.0"], 5)
    before = dev.snapshot()
    document = dev.switch_document(releases[other.pop("release", "1.0")], 5) | other
    error = dev.fails("switch", **document)
    assert error["code"] == "stale_generation"
    assert error["detail"]["generation"] == 5
    assert dev.snapshot() == before


def test_another_switch_must_be_finished_first(dev: Device) -> None:
    first, second = dev.release("1.0"), dev.release("2.0")
    dev.stage(first)
    dev.stage(second)
    dev.switch(first, 1)
    error = dev.fails("switch", **dev.switch_document(second, 2))
    assert error["code"] == "unfinished_switch"
    assert error["detail"]["rollout"] == "r1"
    assert error["detail"]["remaining"] > 0
    dev.confirm(1)
    assert dev.switch(second, 2)["ready"]


def test_what_is_not_here_is_not_switched_to(dev: Device) -> None:
    release = dev.release("1.0")
    assert dev.fails("switch", **dev.switch_document(release, 1))["code"] == "unknown_release"
    dev.stage(release)
    with dev.world.change() as content:
        content["images"] = []
    error = dev.fails("switch", **dev.switch_document(release, 1))
    assert error["code"] == "unknown_release"
    assert f"{REGISTRY}/{release.image}" in error["message"]
    assert dev.model()["generation"] == 0


def test_a_runtime_that_is_down_is_found_before_the_switch(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with dev.world.change() as content:
        content["runtime_down"] = True
    error = dev.fails("switch", **dev.switch_document(release, 1))
    assert error["code"] == "runtime_unavailable"


def test_two_at_once_do_not_mix(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    with device.Model(dev.host, "digits").locked("confirm"):
        error = dev.fails("switch", **dev.switch_document(release, 1))
        assert error["code"] == "busy"
        assert "`muster-device confirm`" in error["message"]
    assert dev.switch(release, 1)["ready"]


# Extend


def test_the_guard_can_be_extended(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    dev.clock.offset += 50
    extend = {"generation": 1, "rollout": "r1", "extend": True}
    assert 59 < dev.ok("switch", **extend, confirm_timeout=60)["guard_remaining"] <= 60
    dev.clock.offset += 50
    assert dev.guard() is None
    assert dev.link("current") == release.id
    shorter = dev.ok("switch", **extend, confirm_timeout=1)["guard_remaining"]
    assert shorter > 5, "extending never shortens"
    dev.clock.offset += 50
    error = dev.fails("switch", **extend, confirm_timeout=60)
    assert error["code"] == "not_armed", "too late: the guard is on its way"


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"generation": 2}, "not_armed"),
        ({"generation": 1, "rollout": "other"}, "stale_generation"),
    ],
)
def test_only_the_own_switch_is_extended_or_confirmed(
    dev: Device, other: dict[str, Any], code: str
) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    before = dev.snapshot()
    document = {"generation": 1, "rollout": "r1"} | other
    assert dev.fails("confirm", **document)["code"] == code
    assert dev.fails("switch", **document, extend=True, confirm_timeout=60)["code"] == code
    assert dev.snapshot() == before


# Confirm


def test_confirming_again_changes_nothing(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    first = dev.confirm(1)
    before = dev.snapshot()
    assert dev.confirm(1) == first
    assert dev.snapshot() == before


def test_a_confirmation_that_comes_too_late_is_refused(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    dev.switch(new, 2)
    dev.clock.offset += 61
    error = dev.fails("confirm", generation=2, rollout="r2", retain=3)
    assert error["code"] == "not_armed"
    dev.guard()
    error = dev.fails("confirm", generation=2, rollout="r2", retain=3)
    assert error["code"] == "not_armed"
    assert "reverted" in error["message"]
    dev.assert_rests_on(old)


def test_a_stale_confirmation_is_refused(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    dev.switch(new, 2)
    error = dev.fails("confirm", generation=1, rollout="r1", retain=3)
    assert error["code"] == "stale_generation"
    assert dev.model()["phase"] == "switched"


def test_a_confirmation_survives_trouble_with_pruning(
    dev: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, next_one = (dev.release(version) for version in ("1.0", "2.0", "3.0"))
    dev.roll_out(old, 1)
    dev.roll_out(new, 2)
    dev.stage(next_one)
    dev.switch(next_one, 3)

    def refuse(*arguments: Any) -> None:
        raise device.Failure("runtime_unavailable", "docker does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("device_stand_ins.StandInRuntime.remove_image", refuse)
        assert dev.confirm(3, retain=0)["pruned"] == []
    dev.assert_rests_on(next_one)
    assert dev.ok("prune", retain=0)["pruned"] == [old.id]


# Prune


def test_pruning_keeps_what_is_in_use_and_the_newest(dev: Device) -> None:
    releases = [dev.release(f"{number}.0") for number in range(1, 7)]
    for generation, release in enumerate(releases[:3], start=1):
        dev.roll_out(release, generation)
    for release in releases[3:]:
        dev.stage(release)
    # current 3.0, previous 2.0; spare: 1.0, 4.0, 5.0, 6.0
    assert dev.ok("prune", retain=2)["pruned"] == [releases[0].id, releases[3].id]
    assert dev.model()["releases"] == [releases[n].id for n in (1, 2, 4, 5)]
    images = {f"{REGISTRY}/{releases[n].image}" for n in (1, 2, 4, 5)}
    assert set(dev.world.read()["images"]) == images
    before = dev.snapshot()
    assert dev.ok("prune", retain=2)["pruned"] == []
    assert dev.snapshot() == before
    dev.ok("prune", retain=0)
    assert dev.model()["releases"] == [releases[1].id, releases[2].id]


def test_pruning_keeps_what_an_unconfirmed_switch_may_need(dev: Device) -> None:
    first, second, third = (dev.release(version) for version in ("1.0", "2.0", "3.0"))
    dev.roll_out(first, 1)
    dev.roll_out(second, 2)
    dev.stage(third)
    dev.switch(third, 3)
    assert dev.ok("prune", retain=0)["pruned"] == []
    dev.revert(3)
    assert dev.links() == {"current": second.id, "previous": first.id, "last_good": second.id}


def test_an_image_that_another_release_needs_stays(dev: Device) -> None:
    first = dev.release("1.0")
    second = dev.release("2.0", image=first.image)
    third = dev.release("3.0")
    for generation, release in enumerate((first, third, second), start=1):
        dev.roll_out(release, generation)
    assert dev.ok("prune", retain=0)["pruned"] == [first.id]
    assert f"{REGISTRY}/{first.image}" in dev.world.read()["images"]


def test_pruning_waits_for_a_stage(dev: Device) -> None:
    dev.stage(dev.release("1.0"))
    with device.Model(dev.host, "digits").stage_locked("stage", 0.0):
        assert dev.fails("prune", retain=0)["code"] == "busy"
