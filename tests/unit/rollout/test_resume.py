"""The controller dies at every state that the journal knows; another one goes on, or the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drill import Drill, bad, strategy

from muster.fleet.simulated import Quality, SimulatedFleet
from muster.rollout.journal import Journal
from muster.rollout.machine import DeviceState, RolloutState

D, R = DeviceState, RolloutState


class ControllerKilledError(Exception):
    pass


class MortalJournal(Journal):
    """Dies at the ``nth`` write, before it or right after: then the orders were not given."""

    def __init__(self, url: str, nth: int, *, after: bool) -> None:
        super().__init__(url)
        self.left, self.after = nth, after

    def write(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise ControllerKilledError
        super().write(*args, **kwargs)
        if self.left == 0:
            raise ControllerKilledError


def survive(
    quality: Callable[[Drill], Callable[[str, str | None], Quality]], *, after: bool
) -> list[tuple[Drill, SimulatedFleet, object, RolloutState | None]]:
    """One rollout for every write of the journal at which its controller can die."""
    runs = []
    journal = MortalJournal("sqlite://", 0, after=after)
    for nth in range(1, 400):
        journal.left = nth
        drill = Drill(journal)
        fleet = SimulatedFleet(drill.devices(4), quality(drill))
        snapshot = drill.prepare(fleet, strategy(waves=[{"size": 1, "soak": 20}, {"size": "rest"}]))
        state = None
        try:
            state = drill.drive(snapshot, fleet)
        except ControllerKilledError:
            fleet.close()
        journal.left = 0  # who comes next does not die
        runs.append((drill, fleet, snapshot, state))
        if state is not None:
            return runs
    raise AssertionError("the rollout never ended")


@pytest.mark.parametrize("after", [False, True])
def test_a_good_release_is_finished_by_resume(after: bool) -> None:
    runs = survive(lambda _: lambda _d, _r: Quality.GOOD, after=after)
    assert len(runs) > 15
    for drill, fleet, snapshot, state in runs:
        if state is None:
            state = drill.drive(snapshot, fleet)  # type: ignore[arg-type]
        assert state is R.SUCCEEDED
        assert {device.current for device in fleet.devices.values()} == {drill.release.id}
        assert {device.last_good for device in fleet.devices.values()} == {drill.release.id}
        assert {r.state for r in drill.records(snapshot).values()} <= {  # type: ignore[arg-type]
            D.COMMITTED,
            D.ALREADY_CURRENT,
        }


@pytest.mark.parametrize("after", [False, True])
def test_a_bad_release_is_taken_back_by_resume(after: bool) -> None:
    runs = survive(lambda drill: bad(drill.release, Quality.WRONG), after=after)
    for drill, fleet, snapshot, state in runs:
        if state is None:
            state = drill.drive(snapshot, fleet)  # type: ignore[arg-type]
        assert state is R.ROLLED_BACK
        assert {device.current for device in fleet.devices.values()} == {drill.old.id}
        assert {device.phase for device in fleet.devices.values()} == {"idle"}


@pytest.mark.parametrize("after", [False, True])
def test_without_resume_no_device_stays_unconfirmed(after: bool) -> None:
    for drill, fleet, _, _ in survive(lambda _: lambda _d, _r: Quality.GOOD, after=after):
        fleet.let_guards_act()
        for device in fleet.devices.values():
            assert device.phase == "idle"
            assert device.current == device.last_good
            assert device.current in {drill.old.id, drill.release.id}


def test_a_controller_that_returns_after_the_guard_acted_reports_it() -> None:
    for drill, fleet, snapshot, state in survive(lambda _: lambda _d, _r: Quality.GOOD, after=True):
        if state is not None:
            continue
        fleet.let_guards_act()
        state = drill.drive(snapshot, fleet)  # type: ignore[arg-type]
        assert state in {R.SUCCEEDED, R.ROLLED_BACK}
        for name, record in drill.records(snapshot).items():  # type: ignore[arg-type]
            current = fleet.devices[name].current
            on_new = record.state in {D.COMMITTED, D.ALREADY_CURRENT}
            assert current == (drill.release.id if on_new else drill.old.id), (name, record)
