"""Which devices take part in a rollout, and the records with which it begins."""

from __future__ import annotations

from typing import Any

import pytest
from drill import make_release, strategy

from muster.planning import PlanDevice, plan
from muster.rollout.decide import Next
from muster.rollout.machine import DeviceState
from muster.rollout.prepare import REQUIRED, new_rollout, triage
from muster.strategy import Strategy

D = DeviceState
RELEASE = make_release(requires_from=["1.0"])


def answer(current: str | None = "1.0-0123456789ab", **changes: Any) -> dict[str, Any]:
    model = {
        "current": {"id": current, "serving": True} if current else None,
        "generation": 4,
        "rollout": "earlier",
        "phase": "idle",
        "releases": [],
        "last_good": current,
        "last_outcome": None,
    }
    return {
        "arch": "amd64",
        "memory": 2**30,
        "runtime": {"name": "docker", "ready": True},
        "switch_modes": ["recreate"],
        "model": model | {key: changes.pop(key) for key in list(changes) if key in model},
    } | changes


def found(seen: dict[str, Any] | str, rules: Strategy | None = None, **options: Any) -> Next | None:
    """What triage says of one device; None when it takes part."""
    left_out = triage(RELEASE, {"d": "hw_a"}, {"d": seen}, rules or strategy(), **options)
    return left_out.get("d")


@pytest.mark.parametrize(
    ("seen", "state", "reason"),
    [
        (answer(), None, ""),
        (answer(None), None, ""),
        (answer(RELEASE.id), D.ALREADY_CURRENT, f"runs {RELEASE.id} already"),
        (answer("0.9-0123456789ab"), D.REJECTED, "runs 0.9-0123456789ab, needed 1.0 first"),
        (answer(runtime={"name": "docker"}), D.REJECTED, "container runtime docker is not ready"),
        (answer(phase="switched"), D.DEFERRED, "switch 4 of rollout earlier is not finished"),
        ("no route to host", D.DEFERRED, "no route to host"),
    ],
)
def test_who_takes_part(seen: dict[str, Any] | str, state: D | None, reason: str) -> None:
    left_out = found(seen)
    assert (left_out and left_out.state) == state
    assert left_out is None or left_out.reason.startswith(reason)


def test_devices_that_are_away_count_as_the_strategy_says() -> None:
    deferred, failed = found("gone"), found("gone", strategy(offline={"policy": "fail"}))
    assert deferred == Next(D.DEFERRED, "gone", unreachable=True)
    assert failed == Next(D.DEFERRED, "gone", failed=True)


def test_going_back_does_not_ask_where_a_device_comes_from() -> None:
    newer = answer("3.0-0123456789ab")
    assert found(newer) is not None
    assert found(newer, back=True) is None


def test_nothing_is_put_where_nothing_can_be_taken_back() -> None:
    left_out = found(answer(None), back=True)
    assert left_out is not None
    assert left_out.state is D.REJECTED
    assert "runs no release that could be taken back" in left_out.reason


def test_devices_without_a_proxy_do_not_switch_by_blue_green() -> None:
    rules = strategy(switch="blue_green", confirm_timeout=100)
    left_out = found(answer(), rules)
    assert left_out is not None
    assert left_out.state is D.REJECTED
    assert "muster_device_proxy" in left_out.reason
    assert found(answer(switch_modes=["recreate", "blue_green"]), rules) is None


@pytest.mark.parametrize("seen", [answer(), answer(RELEASE.id), "gone"])
def test_quarantined_devices_are_left_alone(seen: dict[str, Any] | str) -> None:
    left_out = found(seen, quarantined={"d": "look at it", "other": "x"})
    assert left_out == Next(D.REJECTED, "look at it")


def test_only_devices_with_a_variant_are_asked_for() -> None:
    seen = {"d": "gone", "other": "gone"}
    assert set(triage(RELEASE, {"d": "hw_a"}, seen, strategy())) == {"d"}


def test_the_records_of_a_new_rollout() -> None:
    rules = Strategy.model_validate(
        {"waves": [{"size": 1, "soak": 5}, {"size": "rest", "approval": True}]}
    )
    members = [PlanDevice(name, None, ("hw_a",)) for name in "ab"] + [PlanDevice("z", None, ())]
    left_out = {"c": Next(D.DEFERRED, "gone", unreachable=True), "d": Next(D.ALREADY_CURRENT, "is")}
    snapshot = new_rollout(
        RELEASE,
        rules,
        plan(members, RELEASE, rules),
        "inventory",
        kind="catch_up",
        limit="a:b",
        signature="signed",
        left_out=left_out,
        variants={"c": "hw_b"},
    )
    rollout = snapshot.rollout
    assert (rollout.kind, rollout.limit, rollout.signature) == ("catch_up", "a:b", "signed")
    assert rollout.release_document == RELEASE.canonical
    assert Strategy.model_validate(rollout.strategy) == rules
    assert [(wave.approval, wave.soak) for wave in snapshot.waves] == [("", 5), (REQUIRED, 0)]
    assert {(d.device, d.wave, d.variant, d.state) for d in snapshot.devices} == {
        ("a", 0, "hw_a", D.PENDING),
        ("b", 1, "hw_a", D.PENDING),
        ("c", None, "hw_b", D.DEFERRED),
        ("d", None, "", D.ALREADY_CURRENT),
        ("z", None, "", D.REJECTED),
    }
    assert [d.device for d in snapshot.devices if d.unreachable] == ["c"]
