"""Where a device goes back to, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.strategy import Strategy
from roles.model.going_back import Stays, Way, take_back, way_back

OLD, NEW, GONE = "1.0-aaaaaaaaaaaa", "1.1-bbbbbbbbbbbb", "0.9-cccccccccccc"


def on_device(**changes: Any) -> dict[str, Any]:
    return {
        "current": {"id": NEW, "serving": True},
        "previous": OLD,
        "last_good": NEW,
        "generation": 7,
        "phase": "idle",
        "releases": [OLD, NEW],
        "last_outcome": {"outcome": "confirmed", "release": NEW, "reason": ""},
    } | changes


REVERTED = {"outcome": "reverted", "release": NEW, "reason": "smoke failed"}
BACK = {"current": {"id": OLD, "serving": True}, "previous": NEW, "last_outcome": REVERTED}


@pytest.mark.parametrize(
    ("changes", "to", "expected"),
    [
        ({}, None, Way(NEW, OLD, 7)),
        ({}, OLD, Way(NEW, OLD, 7)),
        ({}, NEW, Stays(f"runs {NEW} already")),
        ({}, GONE, Stays(f"release {GONE} is not there, it has {OLD}, {NEW}", failed=True)),
        ({"previous": None}, None, Stays(f"runs {NEW} and knows no earlier release", failed=True)),
        (
            {"current": None, "previous": None, "releases": []},
            None,
            Stays("runs nothing and knows no earlier release", failed=True),
        ),
        # What it ran before is then the release that it came back from.
        (BACK, None, Stays(f"went back from {NEW} already (smoke failed) and runs {OLD}")),
        (BACK, NEW, Way(OLD, NEW, 7)),
        ({"phase": "switched", "last_good": OLD}, None, Way(NEW, None, 7)),
        ({"phase": "switched", "last_good": OLD}, OLD, Way(NEW, None, 7)),
        (
            {"phase": "switched", "last_good": OLD},
            GONE,
            Stays(f"its unfinished switch 7 goes back to {OLD} first", failed=True),
        ),
    ],
)
def test_way_back(changes: dict[str, Any], to: str | None, expected: Way | Stays) -> None:
    assert way_back(on_device(**changes), to) == expected


def lost(order: Order) -> Answer:
    return Answer("a", order.verb, trouble=Trouble.UNREACHABLE, message="the link is cut")


def refused(code: str) -> Answer:
    return Answer("a", Verb.REVERT, trouble=Trouble.REFUSED, code=code, message=f"revert: {code}")


def went(ready: bool) -> Answer:
    return Answer("a", Verb.REVERT, {"reverted": True, "to": OLD, "ready": ready})


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([went(True)], None),
        ([went(False)], f"went back to {OLD}, which is not ready"),
        ([refused("revert_failed")], "revert: revert_failed"),
        ([refused("busy"), went(True)], None),
        ([None, None, went(True)], None),
        ([None, None, None], "the link is cut"),
        ([refused("busy")] * 3, "revert: busy"),
    ],
)
def test_taking_back(answers: list[Answer | None], problem: str | None) -> None:
    orders: list[Order] = []
    pauses: list[float] = []

    def call(order: Order) -> Answer:
        orders.append(order)
        return answers[len(orders) - 1] or lost(order)

    way = Way(NEW, OLD, 7)
    assert take_back("a", "digits", way, Strategy(), call, pauses.append) == problem
    assert len(orders) == len(answers) == len(pauses) + 1
    assert len({str(order) for order in orders}) == 1
    assert orders[0].document == {
        "model": "digits",
        "generation": 7,
        "rollout": None,
        "to": OLD,
        "reason": "taken back with pyinfra",
        "healthy_deadline": 120.0,
    }
    assert orders[0].timeout == 150.0
