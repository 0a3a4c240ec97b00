"""``revert``, the guard and the boot unit: every way back."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from device_stand_ins import REGISTRY, TIMER, UNIT, Device, Release, device, in_child


@pytest.fixture
def new(dev: Device, old: Release) -> Release:
    """A release that the device has switched to, unconfirmed."""
    release = dev.release("2.0")
    dev.stage(release)
    assert dev.switch(release, 2)["ready"]
    return release


def test_an_unconfirmed_switch_goes_back_to_the_last_good_release(
    dev: Device, old: Release, new: Release
) -> None:
    answer = dev.revert(2)
    assert answer["reverted"]
    assert (answer["from"], answer["to"]) == (new.id, old.id)
    assert answer["ready"]
    assert 0 <= answer["ready_after"] <= answer["seconds"]
    dev.assert_rests_on(old)
    outcome = dev.model()["last_outcome"]
    assert outcome["outcome"] == "reverted"
    assert outcome["generation"] == 2
    assert outcome["release"] == new.id
    assert outcome["reason"] == "gate failed"
    assert dev.link("previous") is None, "as it was before the switch"


def test_reverting_again_changes_nothing(dev: Device, old: Release, new: Release) -> None:
    dev.revert(2)
    before = dev.snapshot()
    answer = dev.revert(2)
    assert answer["reverted"] is False
    assert (answer["from"], answer["to"], answer["ready"]) == (old.id, old.id, True)
    assert dev.snapshot() == before


def test_the_first_release_that_fails_leaves_nothing_running(dev: Device) -> None:
    release = dev.release("1.0")
    dev.stage(release)
    dev.switch(release, 1)
    answer = dev.revert(1)
    assert answer["reverted"]
    assert (answer["from"], answer["to"]) == (release.id, None)
    assert answer["ready"] is False
    dev.assert_rests_on(None)
    assert UNIT not in dev.world.read()["active"]


def test_a_release_that_does_not_stop_is_killed(dev: Device, old: Release, new: Release) -> None:
    with dev.world.change() as content:
        content["unstoppable"] = [new.id]
    assert dev.revert(2)["ready"]
    dev.assert_rests_on(old)


def test_going_back_asks_no_registry(dev: Device, old: Release, new: Release) -> None:
    with dev.world.change() as content:
        content["pull_error"] = "registry_unreachable"
    assert dev.revert(2)["ready"]


def test_a_confirmed_device_goes_to_a_retained_release(
    dev: Device, old: Release, new: Release
) -> None:
    dev.confirm(2)
    answer = dev.revert(2, to=old.id)
    assert answer["reverted"]
    assert (answer["from"], answer["to"], answer["ready"]) == (new.id, old.id, True)
    dev.assert_rests_on(old)
    assert dev.link("previous") == new.id
    outcome = dev.model()["last_outcome"]
    assert (outcome["outcome"], outcome["generation"]) == ("reverted", 2)
    before = dev.snapshot()
    assert dev.revert(2, to=old.id)["reverted"] is False
    assert dev.snapshot() == before


def test_a_release_that_is_not_here_is_refused(dev: Device, old: Release) -> None:
    before = dev.snapshot()
    document = {"generation": None, "rollout": None, "to": "9.9-0123456789ab", "reason": "x"}
    assert dev.fails("revert", **document)["code"] == "unknown_release"
    assert dev.snapshot() == before


def test_an_unconfirmed_switch_goes_to_last_good_and_nowhere_else(
    dev: Device, old: Release, new: Release
) -> None:
    error = dev.fails("revert", to=new.id, reason="x")
    assert error["code"] == "unfinished_switch"
    assert dev.model()["phase"] == "switched"
    assert dev.revert(2, to=old.id)["reverted"]
    dev.assert_rests_on(old)


@pytest.mark.parametrize("other", [{"generation": 1}, {"generation": 2, "rollout": "other"}])
def test_a_stale_revert_is_refused(dev: Device, new: Release, other: dict[str, Any]) -> None:
    error = dev.fails("revert", **({"rollout": "r1", "reason": "x"} | other))
    assert error["code"] == "stale_generation"
    assert dev.link("current") == new.id


def test_anybody_may_revert_by_hand(dev: Device, old: Release, new: Release) -> None:
    assert dev.revert(None)["reverted"]
    dev.assert_rests_on(old)


def test_a_switch_that_was_given_up_before_it_came_does_not_begin(
    dev: Device, old: Release
) -> None:
    late = dev.release("2.0")
    dev.stage(late)
    assert dev.revert(2)["reverted"] is False
    error = dev.fails("switch", **dev.switch_document(late, 2))
    assert error["code"] == "stale_generation"
    dev.assert_rests_on(old)
    outcome = dev.model()["last_outcome"]
    assert (outcome["outcome"], outcome["generation"]) == ("cancelled", 2)
    assert dev.switch(late, 3)["ready"]


def test_a_newer_controller_takes_back_what_an_older_one_left(
    dev: Device, old: Release, new: Release
) -> None:
    assert dev.revert(7)["reverted"]
    dev.assert_rests_on(old)
    assert dev.model()["generation"] == 7
    assert dev.fails("switch", **dev.switch_document(new, 7))["code"] == "stale_generation"


# Going back may fail too


def test_going_back_in_vain_is_tried_again_by_the_guard_and_then_left_to_the_unit(
    dev: Device, old: Release, new: Release
) -> None:
    with dev.world.change() as content:
        content["sick"] = [old.id]
    error = dev.fails("revert", generation=2, rollout="r2", reason="gate", healthy_deadline=5)
    assert error["code"] == "revert_failed"
    assert error["detail"] == {"to": old.id, "attempts": 1}
    model = dev.model()
    assert model["phase"] == "reverting"
    assert model["guard"]["armed"]
    assert model["last_outcome"]["outcome"] == "revert_failed"
    assert dev.link("current") == old.id
    for attempts in (2, 3):
        answer = dev.guard()
        assert answer is not None
        assert answer["error"]["detail"]["attempts"] == attempts
    model = dev.model()
    assert model["phase"] == "idle"
    assert model["last_outcome"]["outcome"] == "revert_failed"
    assert model["last_outcome"]["generation"] == 2
    assert TIMER not in dev.world.read()["active"]
    assert UNIT in dev.world.read()["active"], "it goes on restarting the old release"
    assert dev.link("current") == dev.link("last_good") == old.id
    before = dev.snapshot()
    assert dev.guard() is None
    assert dev.snapshot() == before
    with dev.world.change() as content:
        content["sick"] = []
    assert dev.switch(new, 3)["ready"], "a new switch may repair it"


def test_going_back_may_succeed_at_the_second_attempt(
    dev: Device, old: Release, new: Release
) -> None:
    with dev.world.change() as content:
        content["sick"] = [old.id]
    dev.fails("revert", generation=2, rollout="r2", reason="gate", healthy_deadline=5)
    with dev.world.change() as content:
        content["sick"] = []
    assert dev.guard() == {"ok": True, "was": "reverting", "now": "idle"}
    dev.assert_rests_on(old)
    assert dev.model()["last_outcome"]["outcome"] == "reverted"


def test_a_runtime_that_is_down_does_not_keep_the_link_from_going_back(
    dev: Device, old: Release, new: Release
) -> None:
    with dev.world.change() as content:
        content["runtime_down"] = True
    error = dev.fails("revert", generation=2, rollout="r2", reason="gate", healthy_deadline=5)
    assert error["code"] == "revert_failed"
    assert dev.link("current") == old.id
    for _ in range(5):  # the guard does not give up on a release that it could not even try
        dev.guard()
    assert dev.model()["guard"]["armed"]
    with dev.world.change() as content:
        content["runtime_down"] = False
    dev.guard()
    dev.assert_rests_on(old)
    assert dev.model()["last_outcome"]["outcome"] == "reverted"


def test_a_full_disk_does_not_stop_the_way_back(
    dev: Device, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state can't be written, so the guard does the same again until it can."""
    full = OSError(device.errno.ENOSPC, "No space left on device")

    def write(path: str, data: bytes) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(device, "write_file", write)
        patch.setattr(device, "free_bytes", lambda path: 0)
        assert dev.revert(2)["ready"]
        assert dev.world.running() == [old.id]
        assert dev.link("current") == old.id
    gone = f"muster-digits-{new.id}"
    assert gone not in dev.world.read()["containers"], "it may be what filled the disk"
    assert device.Store(str(dev.state.parent), "digits").load().phase == "switched"
    started = dev.world.read()["started"]
    dev.clock.offset += 1000
    dev.guard()
    dev.assert_rests_on(old)
    assert dev.world.read()["started"] == started, "it was left running"


def test_the_space_set_aside_is_used_when_there_is_no_other(
    dev: Device, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = dev.state / "reserve"
    assert reserve.stat().st_size == device.RESERVE
    real_write = device.write_file

    def write(path: str, data: bytes) -> None:
        if reserve.exists():
            raise OSError(device.errno.ENOSPC, "No space left on device")
        real_write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(device, "write_file", write)
        assert dev.revert(2)["ready"]
    assert not reserve.exists()
    dev.assert_rests_on(old)
    dev.switch(new, 3)
    assert reserve.stat().st_size == device.RESERVE


# The guard


def test_the_guard_waits_for_the_deadline_and_then_goes_back(
    dev: Device, old: Release, new: Release
) -> None:
    before = dev.snapshot()
    dev.clock.offset += 55
    assert dev.guard() is None
    assert dev.snapshot() == before
    dev.clock.offset += 6
    assert dev.guard() == {"ok": True, "was": "switched", "now": "idle"}
    dev.assert_rests_on(old)
    outcome = dev.model()["last_outcome"]
    assert (outcome["outcome"], outcome["reason"]) == (
        "reverted",
        "the switch was not confirmed in time",
    )


def test_the_guard_of_a_device_without_the_model_does_nothing(dev: Device) -> None:
    assert dev.guard() is None
    assert not dev.state.exists()


def test_another_boot_means_that_the_deadline_has_passed(
    dev: Device, old: Release, new: Release
) -> None:
    dev.reboot()
    dev.clock.offset -= 30  # the clock of the new boot says nothing about the old one's
    dev.guard()
    dev.assert_rests_on(old)


def hanging(dev: Device, point: str, action: Any) -> int:
    """Run an action in a child process that hangs at a checkpoint; return when it does."""
    ready, told = os.pipe()

    def hang(name: str) -> None:
        if name == point:
            os.write(told, b"x")
            signal.pause()

    pid = in_child(action, hang)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    return pid


@pytest.mark.parametrize("point", ["switch:created", "switch:switching", "switch:started"])
def test_the_guard_kills_a_switch_that_hangs_past_the_deadline(
    dev: Device, old: Release, point: str
) -> None:
    release = dev.release("2.0")
    dev.stage(release)
    pid = hanging(dev, point, lambda: dev.switch(release, 2))
    before = dev.snapshot()
    assert dev.guard() is None, "in time: it may be at work"
    assert dev.snapshot() == before
    assert dev.model()["generation"] == 2
    assert dev.fails("confirm", generation=2, rollout="r2")["code"] == "busy"
    dev.clock.offset += 61
    dev.guard()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    dev.guard()
    dev.assert_rests_on(old)


def test_the_guard_leaves_a_revert_that_is_at_work_alone(
    dev: Device, old: Release, new: Release
) -> None:
    pid = hanging(dev, "revert:previous", lambda: dev.revert(2))
    dev.clock.offset += 61
    assert dev.guard() is None
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    dev.clock.offset += device.WORK_LIMIT
    dev.guard()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    dev.guard()
    dev.assert_rests_on(old)


def test_nobody_is_killed_for_another_ones_record(
    dev: Device, old: Release, new: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pid is given to another program after a while; its start tells them apart."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append(pid))
    lock = device.Lock(str(dev.state / "lock"), "switch", dev.clock)
    record = {"pid": os.getppid(), "boot": dev.clock.boot(), "command": "switch", "until": 0.0}
    for wrong in ({"start": "1"}, {"start": None}, {"start": "1", "boot": "other"}):
        (dev.state / "lock").write_text(device.json.dumps(record | wrong))
        lock.kill_holder()
    (dev.state / "lock").write_text("nonsense")
    lock.kill_holder()
    assert killed == []


# The boot unit


def test_a_confirmed_release_comes_back_after_a_power_cut(dev: Device, old: Release) -> None:
    dev.power_cut()
    assert dev.boot() == {"ok": True, "started": ["digits"]}
    dev.assert_rests_on(old)


def test_an_unconfirmed_release_does_not_come_back(dev: Device, old: Release, new: Release) -> None:
    dev.power_cut()
    dev.boot()
    dev.assert_rests_on(old)
    assert dev.world.read()["started"][-1] == old.id
    assert "restarted" in dev.model()["last_outcome"]["reason"]


def test_a_restart_of_the_boot_unit_leaves_a_guarded_switch_alone(
    dev: Device, old: Release, new: Release
) -> None:
    before = dev.snapshot()
    assert dev.boot()["ok"]
    assert dev.snapshot() == before


def test_a_switch_whose_guard_is_gone_goes_back(dev: Device, old: Release, new: Release) -> None:
    """As after a restart of user space alone, which keeps the boot id."""
    dev.world.power_cut()
    assert dev.boot()["ok"]
    dev.assert_rests_on(old)


def test_inspect_starts_a_guard_that_is_gone(dev: Device, old: Release, new: Release) -> None:
    with dev.world.change() as content:
        content["active"].remove(TIMER)
    assert dev.model()["guard"]["armed"]


def test_a_boot_without_the_runtime_is_finished_by_the_guard(
    dev: Device, old: Release, new: Release
) -> None:
    dev.power_cut()
    with dev.world.change() as content:
        content["runtime_down"] = True
    answer = dev.boot()
    assert answer["error"]["code"] == "internal"
    assert dev.link("current") == old.id
    active = dev.world.read()["active"]
    assert TIMER in active
    assert UNIT in active, "it starts the old release as soon as the runtime is there"
    with dev.world.change() as content:
        content["runtime_down"] = False
    dev.guard()
    dev.assert_rests_on(old)


def test_one_damaged_model_does_not_keep_the_others_from_starting(
    dev: Device, old: Release
) -> None:
    other = dev.state.with_name("a-first")
    other.mkdir()
    (other / "releases").write_text("not a folder")
    dev.power_cut()
    answer = dev.boot()
    assert "a-first" in answer["error"]["message"]
    dev.assert_rests_on(old)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"phase": "flying"}',
        '{"phase": "reverting"}',
        '{"phase": "reverting", "plan": {}}',
        '{"phase": "switched", "deadline": {"at": "noon"}}',
        '{"phase": "switched", "deadline": 5}',
        '{"before": []}',
    ],
)
@pytest.mark.parametrize("by_boot", [True, False])
def test_a_damaged_state_counts_as_unconfirmed(
    dev: Device, old: Release, new: Release, content: str, by_boot: bool
) -> None:
    (dev.state / "state.json").write_text(content)
    error = dev.fails("confirm", generation=2, rollout="r2", retain=3)
    assert error["code"] == "internal"
    assert "damaged" in error["message"]
    if by_boot:
        dev.power_cut()
        dev.boot()
    else:
        model = dev.model()
        assert model["phase"] == "reverting"
        assert model["guard"]["armed"]
        dev.guard()
    dev.assert_rests_on(old)
    assert (dev.state / "state.json.damaged").read_text() == content


def test_a_damaged_state_of_a_confirmed_release_changes_nothing_that_serves(
    dev: Device, old: Release
) -> None:
    (dev.state / "state.json").write_text("")
    started = dev.world.read()["started"]
    dev.guard()
    dev.assert_rests_on(old)
    assert dev.world.read()["started"] == started


def test_a_lost_link_is_mended_at_boot(dev: Device, old: Release) -> None:
    (dev.state / "current").unlink()
    (dev.state / "current").symlink_to("releases/9.9-0123456789ab")
    dev.power_cut()
    dev.boot()
    dev.assert_rests_on(old)


# What the unit of the model does


def test_the_unit_runs_the_current_release_and_nothing_else(
    dev: Device, old: Release, new: Release
) -> None:
    with dev.world.change() as content:
        content["containers"][f"muster-digits-{old.id}"]["running"] = True
    command = device.prepare_run(dev.host, "digits")
    assert command == ["attach", f"muster-digits-{new.id}"]
    assert dev.world.running() == [new.id]


def test_the_unit_makes_its_container_when_it_is_gone_or_spoilt(dev: Device, old: Release) -> None:
    name = f"muster-digits-{old.id}"
    for spoil in ({"broken": "port is taken"}, {"spec": "other"}, None):
        with dev.world.change() as content:
            if spoil is None:
                content["containers"] = {}
            else:
                content["containers"][name] |= spoil | {"running": False}
        assert device.prepare_run(dev.host, "digits") == ["attach", name]
        made = dev.world.read()["containers"][name]
        assert not made["broken"]
        assert made["spec"] != "other"


def test_a_damaged_file_does_not_end_what_serves(dev: Device, old: Release) -> None:
    """Nor what has served: its container says all that is needed."""
    (dev.state / "releases" / old.id / "release.json").write_text("")
    dev.power_cut()
    assert dev.boot()["ok"]
    dev.assert_rests_on(old)


def test_a_container_stays_when_there_is_nothing_to_make_another_from(
    dev: Device, old: Release
) -> None:
    name = f"muster-digits-{old.id}"
    with dev.world.change() as content:
        content["images"] = []
        content["containers"][name] |= {"running": False, "spec": "other"}
    assert device.prepare_run(dev.host, "digits") == ["attach", name]
    assert dev.world.read()["containers"][name]["spec"] == "other"


def test_a_container_that_runs_is_left_alone(dev: Device, old: Release) -> None:
    """As when the attached command died, or this program was updated meanwhile."""
    name = f"muster-digits-{old.id}"
    with dev.world.change() as content:
        content["containers"][name] |= {"spec": "other"}
    assert device.prepare_run(dev.host, "digits") == ["attach", name]
    assert dev.world.running() == [old.id]


def test_the_unit_never_pulls(dev: Device, old: Release) -> None:
    with dev.world.change() as content:
        content["images"], content["containers"] = [], {}
    with pytest.raises(device.Failure):
        device.prepare_run(dev.host, "digits")
    assert f"{REGISTRY}/{old.image}" not in dev.world.read()["images"]


def test_without_a_current_release_there_is_nothing_to_run(dev: Device) -> None:
    dev.stage(dev.release("1.0"))
    assert device.prepare_run(dev.host, "digits") is None
    assert device.run(dev.host, "digits") == device.EXIT_NOTHING_TO_RUN
