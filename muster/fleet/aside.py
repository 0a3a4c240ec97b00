"""A fleet of which a greenlet can ask something aside of whoever drives it."""

from __future__ import annotations

from collections import defaultdict

import gevent.event
import gevent.lock

from muster.fleet.interface import Answer, Fleet, Order, Verb


class AsideFleet:
    """Passes orders on to another fleet, and keeps back the answers to what was asked aside."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._waiting: dict[tuple[str, Verb], gevent.event.AsyncResult] = {}
        self._turns: dict[str, gevent.lock.BoundedSemaphore] = defaultdict(
            gevent.lock.BoundedSemaphore
        )
        self.submit, self.close = fleet.submit, fleet.close
        self.now, self.wall_time = fleet.now, fleet.wall_time

    def ask(self, order: Order) -> Answer:
        """Give an order and wait for its answer, one order for each device after the other.

        Somebody else has to be asking for answers meanwhile, as the engine does.
        """
        with self._turns[order.device]:
            result = gevent.event.AsyncResult()
            self._waiting[order.device, order.verb] = result
            try:
                self._fleet.submit(order)
                answer: Answer = result.get()
            finally:
                self._waiting.pop((order.device, order.verb), None)
            return answer

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Wait for an answer; see :class:`muster.fleet.interface.Fleet`."""
        until = None if timeout is None else self.now() + timeout
        while True:
            left = None if until is None else max(0.0, until - self.now())
            answer = self._fleet.next_answer(left)
            if answer is None:
                return None
            result = self._waiting.get((answer.device, answer.verb))
            if result is None:
                return answer
            result.set(answer)
