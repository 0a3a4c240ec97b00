"""Having registries work over SSH: what the controller makes of what their hosts say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.prefetch import working
from muster.prefetch.working import Outcome, carry_out, fill_request

IMAGE = "models/digits@sha256:" + "ab" * 32


class Hosts:
    """A fleet on a virtual clock: each host answers as its own function says."""

    def __init__(self, **hosts: Callable[[Order, int], dict[str, Any]]) -> None:
        self.hosts, self.clock = hosts, 0.0
        self.orders: list[Order] = []
        self.waiting: list[Order] = []

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        self.waiting.append(order)

    def next_answer(self, timeout: float | None) -> Answer | None:
        if not self.waiting:
            self.clock += timeout or 0.1
            return None
        order = self.waiting.pop(0)
        number = sum(o.device == order.device for o in self.orders)
        answer = self.hosts[order.device](order, number)
        return Answer(order.device, order.verb, **answer)

    def now(self) -> float:
        return self.clock

    def wall_time(self) -> float:
        return self.clock

    def close(self) -> None:
        pass


def run(told: Any = lambda _host, _how: None, **hosts: Any) -> tuple[Hosts, list[Outcome]]:
    fleet = Hosts(**hosts)
    return fleet, carry_out(fleet, {host: fill_request([IMAGE]) for host in hosts}, told)


def unreachable(_order: Order, _number: int) -> dict[str, Any]:
    return {"trouble": Trouble.UNREACHABLE, "message": "no route"}


class Host:
    """Works for some questions, then is done or has failed."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states, self.id = list(states), ""

    def __call__(self, order: Order, number: int) -> dict[str, Any]:
        if order.verb is Verb.SUBMIT:
            self.id = order.document["id"]
            return {"document": {"ok": True, "id": self.id}}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        progress = {"id": self.id, **state} if state else {"id": "another"}
        return {"document": {"working": state.get("state") != "done", "progress": progress}}


RUNNING = {"state": "running", "bytes": 10, "bytes_done": 4}
DONE = {"state": "done", "result": {"copied": [IMAGE], "copied_bytes": 10}}


def test_hosts_work_at_once_and_tell_how_far_they_are() -> None:
    seen: list[tuple[str, Any]] = []
    fleet, outcomes = run(
        lambda host, how: seen.append((host, how.get("bytes_done"))),
        a=Host({}, RUNNING, DONE),
        b=Host(DONE),
    )
    assert [(o.host, o.error, o.result["copied"]) for o in outcomes] == [
        ("a", "", [IMAGE]),
        ("b", "", [IMAGE]),
    ]
    assert ("a", 4) in seen
    first = fleet.orders[0]
    assert (first.program, first.verb) == ("muster-registry", Verb.SUBMIT)
    assert first.document["images"] == [IMAGE]
    assert len({order.document["id"] for order in fleet.orders[:2]}) == 2


def test_a_failure_is_told_with_its_reason() -> None:
    _, (outcome,) = run(a=Host({"state": "failed", "error": "no such host"}))
    assert (outcome.error, outcome.result) == ("no such host", {})


def test_a_host_that_is_out_of_reach_at_first_is_not_waited_for() -> None:
    fleet, (outcome,) = run(a=unreachable)
    assert "out of reach: no route" in outcome.error
    assert len(fleet.orders) == 1


def test_a_link_that_breaks_for_a_while_changes_nothing() -> None:
    host = Host(RUNNING, DONE)

    def flaky(order: Order, number: int) -> dict[str, Any]:
        return unreachable(order, number) if number in (2, 3, 5) else host(order, number)

    _, (outcome,) = run(a=flaky)
    assert outcome.error == ""


def test_a_link_that_stays_broken_is_given_up_and_the_work_goes_on_there() -> None:
    host = Host(RUNNING)

    def gone(order: Order, number: int) -> dict[str, Any]:
        return unreachable(order, number) if number > 2 else host(order, number)

    fleet, (outcome,) = run(a=gone)
    assert "out of reach" in outcome.error
    assert fleet.clock >= working.PATIENCE_SECONDS


def test_other_work_there_is_waited_for_however_long_it_takes() -> None:
    host = Host(DONE)
    busy = {"trouble": Trouble.REFUSED, "code": "busy", "message": "submit: fill is under way"}
    number_of_refusals = int(3 * working.PATIENCE_SECONDS / working.POLL_SECONDS)

    def later(order: Order, number: int) -> dict[str, Any]:
        return busy if number <= number_of_refusals else host(order, number)

    _, (outcome,) = run(a=later)
    assert outcome.error == ""


@pytest.mark.parametrize("code", ["no_program", "bad_input", "bad_config"])
def test_a_refusal_is_an_end(code: str) -> None:
    refusal = {"trouble": Trouble.REFUSED, "code": code, "message": "submit: no"}
    fleet, (outcome,) = run(a=lambda _order, _number: refusal)
    assert outcome.error == "submit: no"
    assert len(fleet.orders) == 1


def test_a_unit_that_never_says_anything_is_noticed() -> None:
    def silent(order: Order, number: int) -> dict[str, Any]:
        if order.verb is Verb.SUBMIT:
            return {"document": {"ok": True}}
        return {"document": {"working": False, "progress": {"id": "an older one"}}}

    _, (outcome,) = run(a=silent)
    assert "did not begin" in outcome.error
