"""What the controller makes of the inventory, the journal and the devices' answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drill import Drill, make_release, strategy

from muster.errors import InputError
from muster.fleet.simulated import SimulatedDevice, SimulatedFleet
from muster.inventory import Device, Inventory
from muster.planning import PlanDevice, plan
from muster.release import Release
from muster.rollout import controller
from muster.rollout.machine import DeviceState, RolloutState
from muster.rollout.prepare import new_rollout
from muster.rollout.work import DeviceFacts
from muster.strategy import Strategy

D, R = DeviceState, RolloutState


def device(name: str, hardware: str = "hw_a", **variables: Any) -> Device:
    groups = ("all", "site_x", hardware)
    return Device(name, name, 22, "site_x", hardware, groups, variables)


def inventory(*devices: Device, groups: tuple[str, ...] = ()) -> Inventory:
    return Inventory(Path("hosts.yml"), devices, groups=groups)


def answer(current: str | None, *modes: str) -> dict[str, Any]:
    model = {"current": {"id": current, "serving": True} if current else None, "previous": None}
    return {"model": model, "switch_modes": list(modes)}


class Past:
    """Rollouts that the journal remembers."""

    def __init__(self, drill: Drill) -> None:
        self.journal = drill.journal

    def rollout(
        self,
        release: Release,
        states: dict[str, D],
        state: R = R.SUCCEEDED,
        rules: Strategy | None = None,
        **options: Any,
    ) -> str:
        rules = rules or strategy()
        members = [PlanDevice(name, None, ("hw_a",)) for name in states]
        snapshot = new_rollout(release, rules, plan(members, release, rules), "i", **options)
        for record in snapshot.devices:
            record.state = states[record.device]
            record.reason = f"it is {record.state.value}"
        snapshot.rollout.state = state
        self.journal.create(snapshot)
        return snapshot.rollout.id


@pytest.fixture
def past(drill: Drill) -> Past:
    return Past(drill)


# What the inventory says of devices


def test_facts_of_a_device_come_from_its_variables() -> None:
    known = [
        device("a", muster_registry="r:5000", muster_timezone="Europe/Vienna"),
        device("b", muster_registry="", muster_timezone=None),
    ]
    assert controller.device_facts(known) == {
        "a": DeviceFacts("r:5000", "site_x", "Europe/Vienna"),
        "b": DeviceFacts(None, "site_x", None),
    }


def test_every_unknown_time_zone_is_told_with_its_device() -> None:
    known = [
        device("a", muster_timezone="Vienna"),
        device("b", muster_timezone="UTC"),
        device("c", muster_timezone=2),
        device("d", muster_timezone=""),
    ]
    with pytest.raises(InputError) as caught:
        controller.device_facts(known)
    expected = "muster_timezone: expected the name of a time zone such as Europe/Vienna, got"
    assert caught.value.problems == [
        f"a: {expected} 'Vienna'",
        f"c: {expected} '2'",
        f"d: {expected} ''",
    ]


# A plan


def devices_of(*names: str) -> SimulatedFleet:
    old = make_release("1.0").id
    return SimulatedFleet(
        SimulatedDevice(name, current=old, last_good=old, releases={old}) for name in names
    )


def test_a_plan_uses_the_patterns_of_the_inventory() -> None:
    rules = strategy(waves=[{"pattern": "hw_b:&site_x"}, {"size": "rest"}])
    mine = inventory(device("a"), device("b", "hw_b"), device("c", "hw_b"))
    prepared = controller.prepare(mine, make_release(), rules, devices_of("a", "b", "c"))
    waves = [[member.name for member in wave.devices] for wave in prepared.plan.waves]
    assert waves == [["b", "c"], ["a"]]


@pytest.mark.parametrize(
    ("mine", "rules", "message"),
    [
        (inventory(device("a")), {"waves": [{"pattern": "nobody"}, {"size": "rest"}]}, "nobody"),
        (inventory(device("a", muster_timezone="Mars")), {}, "a: muster_timezone"),
    ],
)
def test_a_wrong_pattern_or_time_zone_is_told_before_any_device_is_asked(
    mine: Inventory, rules: dict[str, Any], message: str
) -> None:
    fleet = devices_of("a")
    with pytest.raises(InputError, match=message):
        controller.prepare(mine, make_release(), strategy(**rules), fleet)
    assert not fleet.commands


def test_devices_that_run_nothing_need_a_word_of_the_operator() -> None:
    mine, release, fleet = inventory(device("a"), device("b")), make_release(), devices_of("a", "b")
    fleet.devices["b"].current = None
    prepared = controller.prepare(mine, release, strategy(), fleet)
    assert prepared.without_rollback == ["b"]
    with pytest.raises(InputError, match=r"b: nothing runs there.*--accept-no-rollback"):
        controller.new(prepared, mine, release, strategy(), accept_no_rollback=False)
    snapshot = controller.new(prepared, mine, release, strategy(), accept_no_rollback=True)
    assert {d.device for d in snapshot.devices if d.wave is not None} == {"a", "b"}


def test_a_long_list_of_devices_without_a_way_back_is_cut() -> None:
    names = [f"d{number:02}" for number in range(13)]
    mine, fleet = inventory(*map(device, names)), devices_of(*names)
    for each in fleet.devices.values():
        each.current = None
    prepared = controller.prepare(mine, make_release(), strategy(), fleet)
    with pytest.raises(InputError, match=r"d09 and 3 more: nothing runs there"):
        controller.new(prepared, mine, make_release(), strategy(), accept_no_rollback=False)


# Quarantine


def test_a_device_that_could_not_go_back_is_quarantined(past: Past) -> None:
    rollout = past.rollout(make_release(), {"a": D.QUARANTINED, "b": D.ROLLED_BACK})
    assert controller.quarantine(past.journal, "digits") == {
        "a": f"quarantined by rollout {rollout}: it is quarantined; look at it, then roll out"
        " with --include-quarantined"
    }
    assert controller.quarantine(past.journal, "faces") == {}


@pytest.mark.parametrize(
    ("state", "rollout"),
    [
        (D.REJECTED, R.SUCCEEDED),  # left alone for being quarantined
        (D.DEFERRED, R.SUCCEEDED_WITH_DEFERRED),
        (D.PENDING, R.ABORTED),
        (D.STAGED, R.PAUSED),
    ],
)
def test_rollouts_that_do_not_touch_a_quarantined_device_do_not_end_that(
    past: Past, state: D, rollout: R
) -> None:
    first = past.rollout(make_release("2.0"), {"a": D.QUARANTINED})
    past.rollout(make_release("3.0"), {"a": state}, rollout)
    past.rollout(make_release("4.0"), {"a": state}, rollout)
    assert first in controller.quarantine(past.journal, "digits")["a"]


@pytest.mark.parametrize("state", [D.COMMITTED, D.ALREADY_CURRENT, D.ROLLED_BACK])
def test_a_device_that_came_through_since_is_not_quarantined_any_more(past: Past, state: D) -> None:
    past.rollout(make_release("2.0"), {"a": D.QUARANTINED})
    past.rollout(make_release("3.0"), {"a": state})
    assert controller.quarantine(past.journal, "digits") == {}


# Devices that were left behind


def test_who_was_left_behind(past: Past) -> None:
    past.rollout(
        make_release("2.0"),
        {"away": D.DEFERRED, "again": D.DEFERRED, "back": D.DEFERRED, "bad": D.ROLLED_BACK},
        R.SUCCEEDED_WITH_DEFERRED,
    )
    past.rollout(make_release("3.0"), {"again": D.DEFERRED, "back": D.COMMITTED})
    assert controller.left_behind(past.journal, "digits") == ["again", "away"]


def test_who_was_rejected_for_what_it_missed_is_left_behind(past: Past) -> None:
    past.rollout(make_release("2.0"), {"a": D.DEFERRED, "b": D.COMMITTED})
    past.rollout(make_release("3.0"), {"a": D.REJECTED, "b": D.REJECTED})
    assert controller.left_behind(past.journal, "digits") == ["a"]
    past.rollout(make_release("4.0"), {"a": D.REJECTED}, R.PAUSED)
    assert controller.left_behind(past.journal, "digits") == []


def test_who_is_being_caught_up_is_on_its_way_still(past: Past) -> None:
    past.rollout(make_release("2.0"), {"a": D.DEFERRED, "b": D.DEFERRED, "c": D.DEFERRED})
    states = {"a": D.COMMITTED, "b": D.ROLLED_BACK, "c": D.QUARANTINED}
    past.rollout(make_release("2.0"), states, kind="catch_up")
    # Those that failed it wait for a person, and are not switched again every night.
    assert controller.left_behind(past.journal, "digits") == ["a"]


def test_a_rollout_that_stopped_early_does_not_forget_who_was_left_behind(past: Past) -> None:
    past.rollout(make_release("2.0"), {"a": D.DEFERRED})
    past.rollout(make_release("3.0"), {"a": D.PENDING}, R.ROLLED_BACK)
    assert controller.left_behind(past.journal, "digits") == ["a"]


ONE, TWO = make_release("1.0"), make_release("2.0", requires_from=["1.0"])
THREE = make_release("3.0", requires_from=["2.0"])


def next_step(past: Past, **current: Release | str | None) -> controller.CatchUp | None:
    """The next step for devices that run these releases; a text: it does not answer."""
    seen = {
        name: runs if isinstance(runs, str) else answer(runs.id if runs else None)
        for name, runs in current.items()
    }
    known = [device(name) for name in current]
    return controller.next_catch_up(past.journal, "digits", known, seen)


def test_the_oldest_step_comes_first(past: Past) -> None:
    for release in (ONE, TWO, THREE):
        past.rollout(release, {"x": D.COMMITTED}, signature=f"signed {release.version}")
    step = next_step(past, a=ONE, b=TWO, c=THREE, d=None, e=ONE, f="no route")
    assert step is not None
    assert (step.release, step.devices) == (TWO, ("a", "e"))
    assert step.signature == "signed 2.0"
    step = next_step(past, a=TWO, b=TWO, d=None)
    assert step is not None
    assert (step.release, step.devices) == (THREE, ("a", "b", "d"))
    assert next_step(past, a=THREE, f="no route") is None
    assert next_step(past) is None


def test_a_step_is_one_wave_with_the_gates_and_the_window_of_its_rollout(past: Past) -> None:
    night = [{"opens": "22:00", "closes": "05:00"}]
    changes = {"maintenance_window": night, "min_healthy_time": 7, "ramp": {}}
    rules = Strategy.model_validate(
        {k: v for k, v in strategy().model_dump(mode="json").items() if k != "waves"} | changes
    )
    past.rollout(ONE, {"x": D.COMMITTED}, rules=rules)
    step = next_step(past, a=None)
    assert step is not None
    assert [(wave.size, wave.name) for wave in step.strategy.waves] == [("rest", "catch-up")]
    assert step.strategy.ramp is None
    assert step.strategy.maintenance_window == rules.maintenance_window
    assert step.strategy.min_healthy_time == 7


@pytest.mark.parametrize("state", sorted(set(R) - {R.SUCCEEDED, R.SUCCEEDED_WITH_DEFERRED}))
def test_only_releases_that_were_rolled_out_well_are_caught_up_with(past: Past, state: R) -> None:
    past.rollout(ONE, {"x": D.COMMITTED})
    past.rollout(TWO, {"x": D.COMMITTED}, state)
    step = next_step(past, a=None)
    assert step is not None
    assert step.release == ONE
    assert next_step(past, a=ONE) is None


def test_the_newest_rollout_of_a_release_says_whether_it_went_well(past: Past) -> None:
    past.rollout(ONE, {"x": D.COMMITTED}, R.ROLLED_BACK)
    past.rollout(ONE, {"x": D.COMMITTED})
    past.rollout(TWO, {"x": D.COMMITTED})
    past.rollout(TWO, {"x": D.ROLLED_BACK}, R.ROLLED_BACK)
    past.rollout(ONE, {"y": D.ROLLED_BACK}, R.ROLLED_BACK, kind="catch_up")  # does not count
    step = next_step(past, a=None)
    assert step is not None
    assert step.release == ONE


def test_after_a_rollback_the_earlier_release_is_the_newest(past: Past) -> None:
    later = make_release("1.1")
    past.rollout(ONE, {"x": D.COMMITTED})
    past.rollout(later, {"x": D.COMMITTED})
    past.rollout(ONE, {"x": D.COMMITTED}, kind="rollback")
    step = next_step(past, a=later)
    assert step is not None
    assert step.release == ONE
    assert next_step(past, a=ONE) is None


def test_a_release_that_only_some_devices_were_meant_to_get_is_no_step_of_others(
    past: Past,
) -> None:
    later = make_release("1.1")
    past.rollout(ONE, {"x": D.COMMITTED, "a": D.DEFERRED, "b": D.DEFERRED})
    past.rollout(later, {"x": D.COMMITTED, "b": D.DEFERRED}, limit="x:b")
    step = next_step(past, a=None, b=None)
    assert step is not None
    assert (step.release, step.devices) == (ONE, ("a",))
    assert next_step(past, a=ONE) is None
    step = next_step(past, a=ONE, b=ONE)
    assert step is not None
    assert (step.release, step.devices) == (later, ("b",))


def test_a_rollback_of_some_devices_is_no_step_of_others(past: Past) -> None:
    later = make_release("1.1")
    past.rollout(ONE, {"x": D.COMMITTED, "a": D.DEFERRED})
    past.rollout(later, {"x": D.COMMITTED, "a": D.DEFERRED})
    past.rollout(ONE, {"x": D.COMMITTED}, kind="rollback", limit="x")
    assert next_step(past, a=later) is None
    step = next_step(past, a=ONE)
    assert step is not None
    assert step.release == later


def test_a_release_that_went_wrong_where_a_device_is_is_no_step_of_it(past: Past) -> None:
    past.rollout(ONE, {"a": D.DEFERRED, "x": D.COMMITTED}, R.ROLLED_BACK, limit="a")
    past.rollout(ONE, {"x": D.COMMITTED}, limit="x")
    assert next_step(past, a=None) is None


@pytest.mark.parametrize("state", [R.AWAITING_APPROVAL, R.PAUSED, R.RUNNING])
def test_who_an_unfinished_rollout_still_has_is_not_left_behind(past: Past, state: R) -> None:
    past.rollout(make_release("2.0"), {"a": D.DEFERRED, "b": D.DEFERRED})
    past.rollout(make_release("3.0"), {"a": D.DEFERRED, "c": D.PENDING}, state)
    assert controller.left_behind(past.journal, "digits") == ["b"]


def test_an_unfinished_catch_up_is_begun_anew(past: Past) -> None:
    past.rollout(make_release("2.0"), {"a": D.DEFERRED})
    past.rollout(make_release("2.0"), {"a": D.STAGED}, R.PAUSED, kind="catch_up")
    assert controller.left_behind(past.journal, "digits") == ["a"]


def test_a_strategy_may_leave_deferred_devices_alone(past: Past) -> None:
    alone = strategy(offline={"catch_up": "none"})
    past.rollout(ONE, {"x": D.COMMITTED}, rules=alone)
    assert next_step(past, a=None) is None
    past.rollout(TWO, {"x": D.COMMITTED})
    step = next_step(past, a=ONE)
    assert step is not None
    assert step.release == TWO


def test_devices_without_a_variant_are_not_caught_up(past: Past) -> None:
    past.rollout(ONE, {"x": D.COMMITTED})
    seen = {"a": answer(None)}
    known = [device("a", "hw_other")]
    assert controller.next_catch_up(past.journal, "digits", known, seen) is None


def test_a_rollback_goes_everywhere_at_once_and_at_any_time_with_the_gates() -> None:
    rules = strategy(maintenance_window=[{"opens": "22:00", "closes": "05:00"}])
    back = controller.rollback_strategy(rules)
    assert [(wave.size, wave.soak, wave.approval) for wave in back.waves] == [("rest", 0, False)]
    assert back.maintenance_window == ()
    assert back.min_healthy_time == rules.min_healthy_time
