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


def test_final_rollout_states_have_no_way_out() -> None:
    for state in machine.FINAL_ROLLOUT:
        assert state not in machine.ROLLOUT_TRANSITIONS


def test_nothing_is_committed_without_confirmation_or_the_devices_word() -> None:
    ways = {old for old in D if allowed(machine.DEVICE_TRANSITIONS, old, D.COMMITTED)}
    assert ways == {D.PREFLIGHT, D.SWITCHING, D.SOAKING, D.CONFIRMING, D.LOST}
    assert not allowed(machine.DEVICE_TRANSITIONS, D.ROLLING_BACK, D.COMMITTED)


def test_a_device_that_was_switched_is_never_deferred() -> None:
    for state in machine.UNCONFIRMED | {D.COMMITTED, D.LOST, D.ROLLING_BACK}:
        assert not allowed(machine.DEVICE_TRANSITIONS, state, D.DEFERRED)
