"""Handing things over in the background: in order, bounded, and never in anybody's way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

ROOM = 1000
"""How many items wait at most; beyond it the oldest are dropped, so that the end is told."""


class DeliveryQueue(Generic[T]):
    """Hands items to a function, one after the other, in a thread of its own.

    :param deliver: may take its time; must raise nothing.
    :param room: how many items may wait.
    """

    def __init__(self, deliver: Callable[[T], None], room: int = ROOM) -> None:
        self._deliver = deliver
        self._waiting: deque[T] = deque(maxlen=room)
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def put(self, item: T) -> None:
        """Take ``item`` and return at once."""
        with self._changed:
            if self._closed:
                return
            self._dropped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(item)
            if self._thread is None:
                # A daemon: the process does not wait for a delivery that hangs.
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, limit: float) -> int:
        """Wait at most ``limit`` seconds for what is under way, then give the rest up.

        :returns: number of items that were not handed over, or not to the end.
        """
        end = time.monotonic() + limit
        with self._changed:
            while self._waiting or self._busy:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            missed = self._dropped + len(self._waiting) + self._busy
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        return missed

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                item = self._waiting.popleft()
                self._busy = True
            self._deliver(item)
