"""Whose turn it is, with plain clocks."""

from __future__ import annotations

from typing import Any

import pytest
from drill import Drill, strategy

from muster.fleet.simulated import BEGINNING, SimulatedFleet
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.records import DeviceRecord
from muster.rollout.turns import Turns
from muster.rollout.work import DeviceFacts, DeviceWork

D = DeviceState
NIGHT = {"maintenance_window": [{"opens": "22:00", "closes": "05:00"}]}


class Clock:
    now = 0.0
    wall = BEGINNING  # midnight in UTC

    def turns(self, **changes: Any) -> Turns:
        return Turns(strategy(**changes), lambda: self.now, lambda: self.wall)


def work(name: str, site: str | None = "north", timezone: str | None = None) -> DeviceWork:
    record = DeviceRecord(name, 0, state=D.STAGING)
    return DeviceWork(record, DeviceFacts(site=site, timezone=timezone))


def test_devices_of_one_site_pull_by_turns() -> None:
    turns = Clock().turns(pull_concurrency=1)
    first, second, third, other = work("a"), work("b"), work("c"), work("d", "south")
    assert turns.may_pull(first)
    assert turns.may_pull(first)  # it has its place already
    assert not turns.may_pull(second)
    assert not turns.may_pull(third)
    assert turns.may_pull(other)
    assert turns.pulled(first) is second
    assert turns.may_pull(second)
    second.record.state = D.DEFERRED
    third.record.state = D.PREFLIGHT  # it does not wait any more
    assert turns.pulled(second) is None
    assert turns.pulled(second) is None  # its place is given back once
    assert turns.may_pull(third)
    assert not turns.may_pull(first)


def test_without_a_limit_every_device_pulls_at_once() -> None:
    turns = Clock().turns()
    assert all(turns.may_pull(work(str(number))) for number in range(100))
    assert turns.pulled(work("a")) is None


def test_switches_keep_their_distance() -> None:
    clock = Clock()
    turns = clock.turns(rate_per_minute=4)
    assert turns.rate_delay() == 0
    turns.switch_begins()
    assert turns.rate_delay() == 15
    clock.now = 10.0
    assert turns.rate_delay() == 5
    clock.now = 100.0  # what was not used is not made up for
    assert turns.rate_delay() == 0
    turns.switch_begins()
    assert turns.rate_delay() == 15


def test_a_device_waits_for_its_window_by_its_own_clock() -> None:
    turns = Clock().turns(**NIGHT)
    assert turns.window_delay(work("a")) == 0
    assert turns.window_delay(work("a", timezone="Asia/Tokyo")) == 13 * 3600
    assert Clock().turns().window_delay(work("a", timezone="Asia/Tokyo")) == 0


@pytest.mark.parametrize(
    ("changes", "timezone", "problem"),
    [
        (NIGHT, None, None),
        (NIGHT, "Asia/Tokyo", None),
        (NIGHT, "Mars/Base", "time zone Mars/Base is not known here: set muster_timezone"),
        ({}, "Mars/Base", None),
    ],
)
def test_an_unknown_time_zone_is_a_problem_where_there_is_a_window(
    changes: dict[str, Any], timezone: str | None, problem: str | None
) -> None:
    assert Clock().turns(**changes).window_problem(work("a", timezone=timezone)) == problem


def test_a_device_with_an_unknown_time_zone_is_left_out_and_stops_nobody(drill: Drill) -> None:
    fleet = SimulatedFleet(drill.devices(4))
    fleet.devices["d0002"].timezone = "Mars/Base"
    snapshot = drill.prepare(fleet, strategy(**NIGHT))
    assert drill.drive(snapshot, fleet) is RolloutState.SUCCEEDED
    records = drill.records(snapshot)
    assert records["d0002"].state is D.REJECTED
    assert records["d0002"].reason.startswith("time zone Mars/Base is not known here")
    assert {r.state for r in records.values() if r.device != "d0002"} == {D.COMMITTED}
