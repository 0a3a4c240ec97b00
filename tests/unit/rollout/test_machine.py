from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import pytest

from muster.rollout import machine
from muster.rollout.machine import DeviceState, RolloutState, WaveState, allowed

D = DeviceState
TABLES = [
    (machine.ROLLOUT_TRANSITIONS, RolloutState, RolloutState.PLANNED),
    (machine.WAVE_TRANSITIONS, WaveState, WaveState.PENDING),
    (machine.DEVICE_TRANSITIONS, DeviceState, DeviceState.PENDING),
]


def reachable(table: Mapping[Enum, frozenset[Enum]], start: Enum) -> set[Enum]:
    found, todo = {start}, [start]
    while todo:
        for state in table.get(todo.pop(), frozenset()):
            if state not in found:
                found.add(state)
                todo.append(state)
    return found


@pytest.mark.parametrize(("table", "states", "start"), TABLES)
def test_every_state_can_be_reached(table: dict, states: type[Enum], start: Enum) -> None:
    assert reachable(table, start) == set(states)


@pytest.mark.parametrize(("table", "states", "start"), TABLES)
def test_every_state_leads_to_an_end(table: dict, states: type[Enum], start: Enum) -> None:
    ends = {state for state in states if not table.get(state)}
    assert ends
    for state in states:
        assert reachable(table, state) & ends


def test_final_rollout_states_are_those_without_a_way_out() -> None:
    ends = {state for state in RolloutState if not machine.ROLLOUT_TRANSITIONS.get(state)}
    assert ends == machine.FINAL_ROLLOUT


def test_every_unfinished_rollout_may_be_superseded_and_every_begun_one_ended() -> None:
    for state in set(RolloutState) - machine.FINAL_ROLLOUT:
        assert allowed(machine.ROLLOUT_TRANSITIONS, state, RolloutState.SUPERSEDED)
    for state in machine.WAITING_ROLLOUT | {RolloutState.RUNNING}:
        assert allowed(machine.ROLLOUT_TRANSITIONS, state, RolloutState.ABORTING)
        assert allowed(machine.ROLLOUT_TRANSITIONS, state, RolloutState.ROLLING_BACK)


def test_a_rollout_that_waits_for_a_person_goes_on_by_running() -> None:
    ends = {state for state in RolloutState if state.value.startswith("succeeded")}
    for state in machine.WAITING_ROLLOUT:
        assert allowed(machine.ROLLOUT_TRANSITIONS, state, RolloutState.RUNNING)
        assert not machine.ROLLOUT_TRANSITIONS[state] & ends


def test_a_wave_waits_for_approval_before_anything_is_switched_and_not_again() -> None:
    waits = WaveState.AWAITING_APPROVAL
    ways = {old for old in WaveState if allowed(machine.WAVE_TRANSITIONS, old, waits)}
    assert ways == {WaveState.PENDING, WaveState.STAGING}
    assert machine.WAVE_TRANSITIONS[waits] == {WaveState.UPDATING}


def test_no_state_follows_itself() -> None:
    for table, states, _ in TABLES:
        for state in states:
            assert not allowed(table, state, state)


def test_nothing_is_committed_without_confirmation_or_the_devices_word() -> None:
    ways = {old for old in D if allowed(machine.DEVICE_TRANSITIONS, old, D.COMMITTED)}
    assert ways == {D.PREFLIGHT, D.SWITCHING, D.SOAKING, D.CONFIRMING, D.LOST}
    assert not allowed(machine.DEVICE_TRANSITIONS, D.ROLLING_BACK, D.COMMITTED)


def test_a_device_that_was_switched_is_never_deferred() -> None:
    switched = set(D) - machine.BEFORE_SWITCH
    ways = {old for old in D if allowed(machine.DEVICE_TRANSITIONS, old, D.DEFERRED)}
    assert not ways & switched
    # And it comes among those that may be only where the device said that nothing was touched.
    back = {
        old
        for old in switched
        if machine.DEVICE_TRANSITIONS.get(old, frozenset()) & machine.BEFORE_SWITCH
    }
    assert back == {D.SWITCHING, D.DEFERRED}


def test_nothing_switches_that_was_not_staged_but_by_the_devices_word() -> None:
    ways = {old for old in D if allowed(machine.DEVICE_TRANSITIONS, old, D.SWITCHING)}
    assert ways - machine.UNCONFIRMED == {D.PREFLIGHT, D.STAGED}


def test_a_settled_device_moves_only_when_it_is_seen_again_or_taken_back() -> None:
    left = {state for state in machine.SETTLED if machine.DEVICE_TRANSITIONS.get(state)}
    assert left == {D.DEFERRED, D.COMMITTED, D.LOST}
    assert machine.DEVICE_TRANSITIONS[D.DEFERRED] == {D.PREFLIGHT}
    assert machine.DEVICE_TRANSITIONS[D.COMMITTED] == {D.ROLLING_BACK}


def test_the_kinds_of_device_states_do_not_overlap() -> None:
    kinds = [machine.BEFORE_SWITCH, machine.UNCONFIRMED, machine.SETTLED]
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert set(D) - frozenset().union(*kinds) == {D.ROLLING_BACK, D.ROLLBACK_FAILED}
    assert machine.GOOD <= machine.SETTLED
