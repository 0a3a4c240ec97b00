"""The orders of a rollout are what the device program reads."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from drill import make_release, strategy
from programs import load_program

from muster.fleet.interface import Order, Verb
from muster.rollout.orders import Orders

RELEASE = make_release()
ORDERS = Orders("20261121-120000-abcdef", RELEASE, strategy())
BLUE_GREEN = Orders(
    "20261121-120000-abcdef",
    RELEASE,
    strategy(switch="blue_green", drain_deadline=20, confirm_timeout=100),
)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    module: ModuleType = load_program("muster_device")
    return module


class ReadAllError(Exception):
    """The request was read to its end and found good."""


@pytest.mark.parametrize(
    "order",
    [
        ORDERS.inspect("d"),
        ORDERS.stage("d", "hw_a", "registry:5000"),
        ORDERS.stage("d", "hw_a", None),
        ORDERS.switch("d", 3),
        BLUE_GREEN.switch("d", 3),
        ORDERS.extend("d", 3),
        ORDERS.probe("d", 5.0),
        ORDERS.confirm("d", 3),
        ORDERS.revert("d", 3, None, "smoke: " + "x" * 10_000),
        ORDERS.revert("d", 3, RELEASE.id, "taken back"),
    ],
    ids=lambda order: order.verb.value,
)
def test_the_device_program_accepts_every_order(
    program: ModuleType, order: Order, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_args: object, **_kwargs: object) -> None:
        raise ReadAllError

    # The request is checked before anything else is done: stop right behind that.
    for name in ("locked", "stage_locked"):
        monkeypatch.setattr(program.Model, name, reached)
    monkeypatch.setattr(program, "http_request", reached)
    monkeypatch.setattr(program, "_inspect_model", reached)
    (tmp_path / "etc/muster").mkdir(parents=True)
    config = '{"registry": "registry:5000", "proxy": true}'
    (tmp_path / "etc/muster/device.json").write_text(config)
    host = program.Host(program.Paths(str(tmp_path)))
    with pytest.raises(ReadAllError):
        getattr(program, order.verb.value)(host, dict(order.document))


def test_an_order_waits_longer_than_the_device_may_take() -> None:
    clocks = ORDERS.strategy
    assert ORDERS.stage("d", "hw_a", None).timeout > clocks.pull_deadline
    assert ORDERS.switch("d", 1).timeout > clocks.healthy_deadline
    assert ORDERS.probe("d", 100.0).timeout > 100.0
    assert {o.verb for o in (ORDERS.switch("d", 1), ORDERS.extend("d", 1))} == {Verb.SWITCH}


def test_a_switch_says_how_and_how_long_open_requests_may_take() -> None:
    recreate, blue_green = ORDERS.switch("d", 3).document, BLUE_GREEN.switch("d", 3).document
    assert (recreate["mode"], recreate["drain_deadline"]) == ("recreate", 10.0)
    assert (blue_green["mode"], blue_green["drain_deadline"]) == ("blue_green", 20.0)
    assert {"generation": 3, "rollout": ORDERS.rollout}.items() <= blue_green.items()


def test_a_blue_green_switch_may_take_the_time_of_the_open_requests_too() -> None:
    clocks = BLUE_GREEN.strategy
    waits = BLUE_GREEN.switch("d", 1).timeout
    assert waits > clocks.healthy_deadline + clocks.drain_deadline
    # Its guard must not act while the switch may still go well.
    assert clocks.confirm_timeout > clocks.healthy_deadline + clocks.drain_deadline
    assert waits == ORDERS.switch("d", 1).timeout + clocks.drain_deadline
