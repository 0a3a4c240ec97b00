"""What the operations of the role model yield, and that they keep guards from acting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import Config, FunctionCommand
from pyinfra.context import ctx_host, ctx_state
from pyinfra_testing.util import FakeState, create_host

from muster.rollout.machine import DeviceState as D
from muster.strategy import Strategy
from roles.model import operations
from roles.model.going_back import Stays, Way


def yielded(operation: Any, **arguments: Any) -> tuple[list[FunctionCommand], str | None]:
    """Commands of an operation, and what it says when it has none."""
    state = FakeState()
    host = create_host(state)
    with ctx_state.use(state), ctx_host.use(host):
        return list(operation._inner(**arguments)), host.noop_description


OPERATIONS = [operations.stage, operations.switch, operations.gate, operations.confirm]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_device_that_runs_the_release_needs_no_command(operation: Any) -> None:
    attempt = SimpleNamespace(state=D.ALREADY_CURRENT, reason="runs it already")
    assert yielded(operation, attempt=attempt) == ([], "runs it already")


@pytest.mark.parametrize(
    ("operation", "goal"),
    [
        (operations.stage, D.STAGED),
        (operations.switch, D.SOAKING),
        (operations.gate, D.CONFIRMING),
        (operations.confirm, D.COMMITTED),
    ],
)
def test_each_operation_leads_a_part_of_the_way(operation: Any, goal: D) -> None:
    attempt = SimpleNamespace(state=D.STAGING)
    (command,), noop = yielded(operation, attempt=attempt)
    assert command.args == (attempt, goal)
    assert noop is None


def test_device_that_is_back_needs_no_command() -> None:
    arguments = {"model": "digits", "strategy": Strategy()}
    stays = Stays("went back already")
    assert yielded(operations.go_back, way=stays, **arguments) == ([], "went back already")
    commands, _ = yielded(operations.go_back, way=Way("b", "a", 7), **arguments)
    assert len(commands) == 1


class Waiting:
    """Counts how often a device's guard was held; it leaves its state after ``times``."""

    def __init__(self, times: int) -> None:
        self.orders = SimpleNamespace(
            strategy=SimpleNamespace(confirm_timeout=0.03, progress_deadline=0.1)
        )
        self.held = 0
        self._times = times

    def hold(self, goal: D) -> bool:
        assert goal is D.CONFIRMING
        self.held += 1
        return self.held < self._times


@pytest.mark.parametrize(("times", "held"), [(3, 3), (1000, 10)])
def test_guard_is_held_until_the_next_operation_but_not_for_ever(times: int, held: int) -> None:
    waiting: Any = Waiting(times)
    state: Any = SimpleNamespace(config=Config())
    operations._hold_guard(state, create_host(FakeState()), waiting, D.CONFIRMING)
    assert waiting.held == held
