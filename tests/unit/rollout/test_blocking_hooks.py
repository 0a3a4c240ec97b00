"""Hooks that may stop a rollout: before it, and before each of its waves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from stage import Stage, killed_everywhere

from muster.fleet.interface import Verb
from muster.hooks.interface import HookResult
from muster.rollout.decide import EXIT_PAUSED
from muster.rollout.machine import DeviceState, RolloutState, WaveState
from muster.rollout.records import RequestKind

D, R, W, K = DeviceState, RolloutState, WaveState, RequestKind

TWO_WAVES = [{"size": 1}, {"size": "rest"}]


class FakeHooks:
    """Hooks that take some time on a fleet's clock, and fail when they are told to.

    :param fails: how often each hook still fails.
    """

    def __init__(self, now: Callable[[], float], takes: float = 0.0, **fails: int) -> None:
        self._now, self._takes, self._fails = now, takes, dict(fails)
        self._running: list[tuple[float, HookResult]] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def call(self, hook: str, event: Mapping[str, Any]) -> None:
        self.events.append((hook, event))
        fails = self._fails.get(hook, 0) > 0
        self._fails[hook] = self._fails.get(hook, 0) - fails
        result = HookResult(hook, not fails, "the line is busy" if fails else "")
        self._running.append((self._now() + self._takes, result))

    def finished(self) -> list[HookResult]:
        done = [result for at, result in self._running if at <= self._now()]
        self._running = [each for each in self._running if each[0] > self._now()]
        return done

    @property
    def called(self) -> list[tuple[str, int | None]]:
        return [(h, e["wave"]["index"] if e["wave"] else None) for h, e in self.events]


def test_hooks_are_asked_once_each_in_order() -> None:
    stage = Stage(waves=TWO_WAVES)
    hooks = FakeHooks(stage.fleet.now)
    assert stage.run(hooks=hooks) is R.SUCCEEDED
    assert hooks.called == [("pre_rollout", None), ("pre_wave", 0), ("pre_wave", 1)]
    event = hooks.events[2][1]
    assert event["rollout"] == stage.snapshot.rollout.id
    assert (event["model"], event["release"]) == ("digits", stage.drill.release.id)
    assert len(event["devices"]) == 3


def test_nothing_begins_while_a_hook_is_at_work_and_the_journal_is_kept() -> None:
    stage = Stage(waves=TWO_WAVES)
    hooks = FakeHooks(stage.fleet.now, takes=25)
    assert stage.run(hooks=hooks) is R.SUCCEEDED
    assert min(at for at, _ in stage.begun(Verb.INSPECT)) >= 50


def test_a_pre_rollout_hook_that_fails_pauses_before_any_device_is_touched() -> None:
    stage = Stage(waves=TWO_WAVES)
    hooks = FakeHooks(stage.fleet.now, pre_rollout=1)
    assert stage.run(hooks=hooks) is R.PAUSED
    assert stage.code == EXIT_PAUSED
    assert stage.loaded.rollout.reason == "hook pre_rollout failed: the line is busy"
    assert stage.orders == []


def test_a_resume_asks_the_hook_that_failed_again() -> None:
    stage = Stage(waves=TWO_WAVES)
    hooks = FakeHooks(stage.fleet.now, pre_rollout=1, pre_wave=1)
    assert [stage.run(hooks=hooks) for _ in range(3)] == [R.PAUSED, R.PAUSED, R.SUCCEEDED]
    asked = [("pre_rollout", None)] * 3 + [("pre_wave", 0)] * 2 + [("pre_wave", 1)]
    assert sorted(hooks.called, key=str) == sorted(asked, key=str)


def test_a_pre_wave_hook_keeps_its_wave_and_not_the_one_before() -> None:
    stage = Stage(waves=TWO_WAVES)
    first = FakeHooks(stage.fleet.now)
    stage.ask(K.PAUSE, at=3)  # in the first wave
    assert stage.run(hooks=first) is R.PAUSED
    second = FakeHooks(stage.fleet.now, pre_wave=1)
    assert stage.run(hooks=second) is R.PAUSED
    assert second.called == [("pre_wave", 1)]  # the first had begun already
    assert [wave.state for wave in stage.loaded.waves] == [W.PASSED, W.PENDING]
    assert stage.run(hooks=second) is R.SUCCEEDED


def test_a_hook_comes_after_the_approval() -> None:
    stage = Stage(waves=[{"size": "rest", "approval": True}])
    hooks = FakeHooks(stage.fleet.now, pre_wave=1)
    assert stage.run(hooks=hooks) is R.AWAITING_APPROVAL
    assert hooks.called == [("pre_rollout", None)]
    stage.ask(K.APPROVE)
    assert stage.run(hooks=hooks) is R.PAUSED
    assert stage.run(hooks=hooks) is R.SUCCEEDED  # approved is approved


@pytest.mark.parametrize(
    ("kind", "state"), [(K.PAUSE, R.PAUSED), (K.ABORT, R.ABORTED), (K.ROLL_BACK, R.ROLLED_BACK)]
)
def test_a_hook_that_hangs_keeps_nobody_from_ending_the_rollout(kind: K, state: R) -> None:
    stage = Stage(waves=TWO_WAVES)
    stage.ask(kind, at=30)
    assert stage.run(hooks=FakeHooks(stage.fleet.now, takes=1e9)) is state
    assert stage.fleet.now() < 40


def test_hooks_are_asked_again_by_the_next_controller() -> None:
    for stage in killed_everywhere(lambda: Stage(2, waves=TWO_WAVES)):
        hooks = FakeHooks(stage.fleet.now, takes=1)
        assert stage.run(hooks=hooks) is R.SUCCEEDED
        assert stage.running() == {stage.drill.release.id}
