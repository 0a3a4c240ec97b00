"""Fleets on which the controller does a piece of work before a device gets an order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import gevent
import gevent.lock
import gevent.queue

from muster.errors import MusterError
from muster.fleet.interface import Answer, Fleet, Order, Trouble, Verb
from muster.tasks import CONFIGURE

AT_ONCE = 4
"""Provisioning is a process of its own for each device; so many run at a time."""
_POLL_SECONDS = 0.2

Provision = Callable[[str], str]
"""Provisions the device of that name; returns why it failed, empty if it did not."""


class Work(NamedTuple):
    """What the controller does before a device gets an order.

    :param do: does it for the device of that name; returns why it failed, empty if it did not.
    :param what: what it is called where it failed.
    :param code: the same for programs.
    """

    do: Callable[[str], str]
    what: str
    code: str


class PreparingFleet:
    """Passes orders on to another fleet; some only when a piece of work has been done.

    :param works: by the verb of an order, and the action of its task.
    """

    def __init__(self, fleet: Fleet, works: Mapping[tuple[Verb, str], Work]) -> None:
        self._fleet, self._works = fleet, works
        self._places = gevent.lock.BoundedSemaphore(AT_ONCE)
        self._failed: gevent.queue.Queue[Answer] = gevent.queue.Queue()
        self._working: set[gevent.Greenlet] = set()
        self.now, self.wall_time = fleet.now, fleet.wall_time

    def submit(self, order: Order) -> None:
        """Start an order; return at once."""
        task = order.document.get("task") or {}
        work = self._works.get((order.verb, task.get("action", "")))
        if work is None:
            self._fleet.submit(order)
            return
        greenlet = gevent.spawn(self._prepare, order, work)
        self._working.add(greenlet)
        greenlet.link(self._working.discard)

    def _prepare(self, order: Order, work: Work) -> None:
        begun = self.now()
        with self._places:
            try:
                problem = work.do(order.device)
            except (MusterError, OSError) as error:
                problem = str(error)
            except Exception as error:  # no answer would mean to wait for ever
                problem = f"{type(error).__name__}: {error}"
        if not problem:
            self._fleet.submit(order)
            return
        self._failed.put(
            Answer(
                order.device,
                order.verb,
                trouble=Trouble.REFUSED,
                code=work.code,
                message=f"{work.what} failed: {problem}",
                seconds=self.now() - begun,
            )
        )

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Wait for an answer; see :class:`muster.fleet.interface.Fleet`."""
        until = None if timeout is None else self.now() + timeout
        while True:
            if not self._failed.empty():
                failed: Answer = self._failed.get_nowait()
                return failed
            left = None if until is None else max(0.0, until - self.now())
            if self._working:  # one of them may fail while nothing else answers
                left = _POLL_SECONDS if left is None else min(left, _POLL_SECONDS)
            answer = self._fleet.next_answer(left)
            over = until is not None and self.now() >= until
            if answer is not None or ((over or not self._working) and self._failed.empty()):
                return answer

    def close(self) -> None:
        """Drop every connection. Orders under way are abandoned."""
        gevent.killall(list(self._working))
        self._fleet.close()


class ConfiguringFleet(PreparingFleet):
    """On which ``switch`` of the task ``configure`` provisions first."""

    def __init__(self, fleet: Fleet, provision: Provision) -> None:
        work = Work(provision, "provisioning", "provision_failed")
        super().__init__(fleet, {(Verb.SWITCH, CONFIGURE): work})
