"""What fences stale commands when files are damaged, and what time it goes by."""

from __future__ import annotations

import os
import time

import pytest
from device_stand_ins import Device, Release


@pytest.fixture
def new(dev: Device, old: Release) -> Release:
    """A release that the device has switched to, unconfirmed."""
    release = dev.release("2.0")
    dev.stage(release)
    assert dev.switch(release, 2)["ready"]
    return release


@pytest.mark.parametrize("content", ["", '{"generation": 2, "phase"', None])
@pytest.mark.parametrize("fence", [True, False])
def test_a_damaged_state_still_refuses_older_generations(
    dev: Device, old: Release, new: Release, content: str | None, fence: bool
) -> None:
    if not fence:  # as a program that did not write it leaves it
        (dev.state / "generation").unlink()
    if content is None:
        (dev.state / "state.json").unlink()
    else:
        (dev.state / "state.json").write_text(content)
    dev.guard()
    if not fence and not content:
        return  # nothing is left to tell it by, but it served all the time
    assert dev.model()["generation"] == 2
    error = dev.fails("switch", **dev.switch_document(new, 1))
    assert error["code"] == "stale_generation"
    if fence:
        assert dev.model()["rollout"] == "r2"
        assert dev.ok("revert", generation=2, rollout="r2", reason="gate")["ok"]
    assert dev.switch(new, 3)["ready"]
    dev.confirm(3)
    dev.assert_rests_on(new)


def test_a_power_cut_between_fence_and_state_harms_nothing(dev: Device, old: Release) -> None:
    """The fence is written first; the state decides as long as it is whole."""
    (dev.state / "generation").write_text('{"generation": 2, "rollout": "r2"}')
    assert dev.model()["generation"] == 1
    dev.assert_rests_on(old)
    late = dev.release("2.0")
    dev.stage(late)
    assert dev.switch(late, 2)["ready"]


@pytest.mark.parametrize("jump", [366 * 86400, -366 * 86400])
def test_the_time_of_day_does_not_matter(
    dev: Device, old: Release, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """As when a device without a battery for its clock finds a time server during a switch."""
    real_time, real_gmtime = time.time, time.gmtime
    release = dev.release("2.0")
    dev.stage(release)
    assert dev.switch(release, 2)["ready"]
    monkeypatch.setattr(time, "time", lambda: real_time() + jump)
    monkeypatch.setattr(time, "gmtime", lambda at=None: real_gmtime(at or real_time() + jump))
    for path in dev.state.rglob("*"):  # nor what the files say
        os.utime(path, (real_time() + jump, real_time() + jump), follow_symlinks=False)
    before = dev.model()["guard"]["remaining"]
    assert 50 < before <= 60
    dev.clock.offset += 55
    assert dev.guard() is None
    assert dev.link("current") == release.id
    extend = {"generation": 2, "rollout": "r2", "extend": True, "confirm_timeout": 60}
    assert 59 < dev.ok("switch", **extend)["guard_remaining"] <= 60
    dev.clock.offset += 61
    assert dev.guard() == {"ok": True, "was": "switched", "now": "idle"}
    dev.assert_rests_on(old)
    assert dev.switch(release, 3)["ready"]
    dev.confirm(3)
    dev.assert_rests_on(release)
