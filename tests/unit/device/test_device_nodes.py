"""``muster-task`` on a node of K3s: an upgrade is watched there, and a reset takes K3s along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from device_stand_ins import Device, Release, device
from programs import load_program

from muster.gates import Verdict
from muster.rollout.jobs import assess_device
from muster.rollout.task_orders import TaskOrders
from muster.strategy import Strategy
from muster.tasks import CONFIGURE, RESET, Task

program: Any = load_program("muster_task")
STRATEGY = Strategy(min_healthy_time=1.0, healthy_deadline=5.0, probe_interval=0.5)
WELL = {"ok": True, "problem": ""}


class NodeProgram:
    """Stands in for ``muster-k3s``, and for all other commands."""

    def __init__(self, dev: Device) -> None:
        self.path = dev.root / program.NODE_PROGRAM.lstrip("/")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self.verbs: list[str] = []
        self.answers: list[Any] = [WELL]

    def __call__(self, argv: list[str], timeout: float, given: str = "") -> Any:
        if argv[0] != str(self.path):
            return device.Finished(0, "", "")
        self.verbs.append(argv[1])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return device.Finished(0, answer if isinstance(answer, str) else json.dumps(answer), "no")


@pytest.fixture
def node(dev: Device, monkeypatch: pytest.MonkeyPatch) -> NodeProgram:
    found = NodeProgram(dev)
    monkeypatch.setattr(device, "execute", found)
    monkeypatch.setattr(program, "firmware_tools", list)
    return found


def call(dev: Device, verb: str, task: Task) -> dict[str, Any]:
    orders = TaskOrders("r1", task, STRATEGY)
    order = orders.probe("d", 1.0) if verb == "probe" else orders.switch("d", 1)
    document = json.loads(json.dumps(dict(order.document)))
    return dict(device.answer_of(lambda: program.COMMANDS[verb](dev.host, document)))


def probe(dev: Device) -> dict[str, Any]:
    answer = call(dev, "probe", Task.new(CONFIGURE, k3s=True))
    assert answer["ok"], answer
    return answer


def verdicts(answer: dict[str, Any]) -> dict[str, Verdict]:
    return {each.gate: each.verdict for each in assess_device(answer)}


def test_a_node_is_watched_as_long_as_its_models(
    dev: Device, old: Release, node: NodeProgram
) -> None:
    seen = probe(dev)
    assert seen["k3s"] == {"unready": 0, "problem": ""}
    assert set(node.verbs) == {"inspect"}
    assert len(node.verbs) >= seen["samples"]
    assert verdicts(seen)["k3s"] is Verdict.PASSED


def test_a_node_may_take_a_moment_to_be_ready(dev: Device, old: Release, node: NodeProgram) -> None:
    node.answers = [{"ok": True, "problem": "not Ready: network"}, WELL]
    assert verdicts(probe(dev))["k3s"] is Verdict.PASSED


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"ok": True, "problem": "runs v1, not v2"}, "runs v1, not v2"),
        ({"ok": False, "error": {"message": "no K3s"}}, "no K3s"),
        ("what?", "gave no answer (no)"),
    ],
)
def test_a_node_that_is_not_ready_fails(
    dev: Device, old: Release, node: NodeProgram, answer: Any, told: str
) -> None:
    node.answers = [answer]
    seen = probe(dev)
    assert told in seen["k3s"]["problem"]
    assert verdicts(seen)["k3s"] is Verdict.FAILED


def test_no_other_task_asks_for_the_node(dev: Device, old: Release, node: NodeProgram) -> None:
    answer = call(dev, "probe", Task.new(CONFIGURE))
    assert "k3s" not in answer
    assert node.verbs == []


def test_a_reset_takes_k3s_along(dev: Device, old: Release, node: NodeProgram) -> None:
    assert call(dev, "switch", Task.new(RESET))["ok"]
    assert node.verbs == ["reset"]


def test_a_reset_that_leaves_something_of_k3s_has_failed(
    dev: Device, old: Release, node: NodeProgram
) -> None:
    node.answers = [{"ok": False, "error": {"code": "not_clean", "message": "still mounted: /x"}}]
    answer = call(dev, "switch", Task.new(RESET))
    assert answer["error"]["code"] == "reset_failed"
    assert "still mounted" in answer["error"]["message"]


def test_a_device_that_was_never_a_node_is_asked_nothing(
    dev: Device, old: Release, node: NodeProgram
) -> None:
    Path(node.path).unlink()
    assert call(dev, "switch", Task.new(RESET))["ok"]
    assert node.verbs == []
