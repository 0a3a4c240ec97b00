"""A fleet that does not ask a device twice in a row what it is."""

from __future__ import annotations

from collections import deque

from muster.fleet.interface import Answer, Fleet, Order, Verb

FRESH_SECONDS = 20.0
"""How long an answer to ``inspect`` is good for the next question.

Nothing rests on it for safety: a device refuses orders that do not fit what it is by then.
"""


class RememberingFleet:
    """Passes orders on to another fleet; a fresh answer to ``inspect`` serves once more.

    A command asks every device before it plans, and the rollout asks each again before it begins
    with it, which for the first ones is at once. An answer counts for one later question, with the
    same document, while it is fresh and nothing else was ordered of that device.
    """

    def __init__(self, fleet: Fleet, fresh_seconds: float = FRESH_SECONDS) -> None:
        self._fleet, self._fresh_seconds = fleet, fresh_seconds
        self._asked: dict[str, Order] = {}
        self._known: dict[str, tuple[Order, Answer, float]] = {}
        self._ready: deque[Answer] = deque()
        self.now, self.wall_time, self.close = fleet.now, fleet.wall_time, fleet.close

    def submit(self, order: Order) -> None:
        """Start an order, or answer it from memory."""
        known = self._known.pop(order.device, None)
        if known is not None and order.verb is Verb.INSPECT:
            asked, answer, at = known
            fresh = self.now() - at <= self._fresh_seconds
            if fresh and dict(asked.document) == dict(order.document):
                self._ready.append(answer)
                return
        elif order.verb is Verb.INSPECT:
            self._asked[order.device] = order
        self._fleet.submit(order)

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Wait for an answer; see :class:`muster.fleet.interface.Fleet`."""
        if self._ready:
            return self._ready.popleft()
        answer = self._fleet.next_answer(timeout)
        if answer is not None:
            asked = self._asked.pop(answer.device, None)
            if asked is not None and answer.trouble is None:
                self._known[answer.device] = (asked, answer, self.now())
        return answer
