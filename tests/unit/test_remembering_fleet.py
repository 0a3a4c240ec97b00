"""A device that has just said what it is need not be asked again."""

from __future__ import annotations

from collections import deque

from muster.fleet.interface import Answer, Order, Trouble, Verb
from muster.fleet.remembering import FRESH_SECONDS, RememberingFleet


class Counting:
    """Answers every order at once, and keeps what it was asked."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.answers: deque[Answer] = deque()
        self.time = 0.0
        self.trouble: Trouble | None = None

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        number = len(self.orders)
        self.answers.append(
            Answer(order.device, order.verb, {"number": number}, trouble=self.trouble)
        )

    def next_answer(self, timeout: float | None) -> Answer | None:
        return self.answers.popleft() if self.answers else None

    def now(self) -> float:
        return self.time

    def wall_time(self) -> float:
        return self.time

    def close(self) -> None:
        pass


def ask(fleet: RememberingFleet, verb: Verb = Verb.INSPECT, model: str = "digits") -> int:
    fleet.submit(Order("d1", verb, {"model": model}, 30.0))
    answer = fleet.next_answer(None)
    assert answer is not None
    assert answer.device == "d1"
    return int(answer.document["number"])


def test_a_fresh_answer_serves_once_more() -> None:
    fleet = RememberingFleet(Counting())
    assert [ask(fleet), ask(fleet), ask(fleet)] == [1, 1, 2]


def test_a_stale_answer_does_not() -> None:
    inner = Counting()
    fleet = RememberingFleet(inner)
    assert ask(fleet) == 1
    inner.time = FRESH_SECONDS + 0.1
    assert ask(fleet) == 2


def test_nothing_is_remembered_of_a_device_that_was_told_something() -> None:
    fleet = RememberingFleet(Counting())
    assert [ask(fleet), ask(fleet, Verb.STAGE), ask(fleet)] == [1, 2, 3]


def test_another_question_has_another_answer() -> None:
    fleet = RememberingFleet(Counting())
    assert [ask(fleet), ask(fleet, model="faces")] == [1, 2]


def test_trouble_is_not_remembered() -> None:
    inner = Counting()
    inner.trouble = Trouble.UNREACHABLE
    fleet = RememberingFleet(inner)
    assert [ask(fleet), ask(fleet)] == [1, 2]


def test_a_remembered_answer_does_not_wait_for_others() -> None:
    inner = Counting()
    fleet = RememberingFleet(inner)
    ask(fleet)
    fleet.submit(Order("d2", Verb.STAGE, {}, 30.0))
    fleet.submit(Order("d1", Verb.INSPECT, {"model": "digits"}, 30.0))
    first, second = fleet.next_answer(0), fleet.next_answer(0)
    assert first is not None
    assert second is not None
    assert (first.device, second.device) == ("d1", "d2")
