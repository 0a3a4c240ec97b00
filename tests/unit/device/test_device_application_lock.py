"""The lock of an application that must not be switched."""

from __future__ import annotations

import fcntl
import os

from device_stand_ins import Device


def test_an_application_that_holds_the_lock_is_not_disturbed(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    lock = dev.root / "run/muster/digits.lock"
    assert lock.stat().st_mode & 0o777 == 0o644, "whoever can read it can hold it"
    before = dev.snapshot()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        found = lock.stat()
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        (dev.root / "proc/locks").write_text(
            f"1: FLOCK  ADVISORY  WRITE 4711 {place}1 0 EOF\n"
            f"2: FLOCK  ADVISORY  READ  4712 {place} 0 EOF\n"
            f"2: -> FLOCK ADVISORY  WRITE 4713 {place} 0 EOF\n"
        )
        dev.stage(new)
        error = dev.fails("switch", **dev.switch_document(new, 2))
        assert error["code"] == "locked"
        assert error["detail"] == {"holder": "a process that has ended (pid 4712)"}
        (dev.root / "proc/4712").mkdir()
        (dev.root / "proc/4712/comm").write_text("classifier\n")
        model = dev.model()
        assert model["lock"] == {"held": True, "holder": "classifier (pid 4712)"}
        assert model["generation"] == 1
    after = dev.snapshot()
    assert (after["links"], after["files"]["state.json"]) == (
        before["links"],
        before["files"]["state.json"],
    )
    assert dev.model()["lock"] == {"held": False, "holder": None}, "that it exists means nothing"
    assert dev.switch(new, 2)["ready"]


def test_what_has_begun_is_finished_whatever_is_locked(dev: Device) -> None:
    old, new = dev.release("1.0"), dev.release("2.0")
    dev.roll_out(old, 1)
    dev.stage(new)
    first = dev.switch(new, 2)
    with (dev.root / "run/muster/digits.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert dev.switch(new, 2)["ready"] == first["ready"], "the same again"
        dev.clock.offset += 61
        dev.guard()
        dev.assert_rests_on(old)
        assert dev.revert(2, to=old.id)["ready"]
