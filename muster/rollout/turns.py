"""Whose turn it is: queues of each wave, places to pull at a site, windows, rates, and waits.

Everything here costs the same for a wave of ten devices and one of ten thousand.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from muster.rollout.decide import Tally
from muster.rollout.machine import DeviceState
from muster.rollout.work import DeviceWork
from muster.strategy import Strategy
from muster.windows import opens_in, time_zone

D = DeviceState


@dataclass
class Group:
    """The devices of one wave, or those of none.

    :param pending: those that this controller has not looked at; ``staged``: those that may switch.
    :param committed: those that were confirmed and are not watched yet.
    :param soaking: names of those that are watched.
    """

    works: list[DeviceWork] = field(default_factory=list)
    pending: deque[DeviceWork] = field(default_factory=deque)
    staged: deque[DeviceWork] = field(default_factory=deque)
    committed: list[DeviceWork] = field(default_factory=list)
    soaking: set[str] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)
    waiting: int = 0

    def add(self, work: DeviceWork) -> None:
        """Take a device in."""
        self.works.append(work)
        self.tally.count(work.record, 1)
        if work.record.state is D.STAGED:  # what another controller staged is looked at first
            self.pending.append(work)
        else:
            self.enqueue(work)

    def enqueue(self, work: DeviceWork) -> None:
        """Put a device where its state belongs."""
        state = work.record.state
        if state is D.PENDING:
            self.pending.append(work)
        elif state is D.STAGED:
            self.staged.append(work)
        elif state is D.COMMITTED:
            self.committed.append(work)
        if state is not D.COMMITTED:
            self.soaking.discard(work.record.device)


class Due:
    """Devices that something is to be done with at a time; the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, DeviceWork]] = []
        self._number = itertools.count()

    def put(self, at: float, work: DeviceWork) -> None:
        """Remember a device until ``at``."""
        heapq.heappush(self._heap, (at, next(self._number), work))

    def take(self, now: float) -> Iterable[DeviceWork]:
        """Give those whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    @property
    def first(self) -> float | None:
        """When the next one is due; None when there is none."""
        return self._heap[0][0] if self._heap else None


class Turns:
    """Limits of a strategy on who may pull and who may switch.

    :param now: the clock of the fleet, in seconds; ``wall``: seconds since 1970 UTC.
    """

    def __init__(
        self, strategy: Strategy, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._strategy, self._now, self._wall = strategy, now, wall
        self._pulling: Counter[str | None] = Counter()
        self._queued: dict[str | None, deque[DeviceWork]] = {}
        self._next_switch = 0.0

    def may_pull(self, work: DeviceWork) -> bool:
        """Take a place to pull at the device's site; else it is given one by :meth:`pulled`."""
        limit, site = self._strategy.pull_concurrency, work.facts.site
        if limit is None or work.pulls:
            return True
        if self._pulling[site] >= limit:
            self._queued.setdefault(site, deque()).append(work)
            return False
        self._pulling[site] += 1
        work.pulls = True
        return True

    def pulled(self, work: DeviceWork) -> DeviceWork | None:
        """Give a device's place back; returns the device whose turn it is now."""
        if not work.pulls:
            return None
        work.pulls, site = False, work.facts.site
        self._pulling[site] -= 1
        queue = self._queued.get(site, deque())
        while queue:
            following = queue.popleft()
            if following.record.state is D.STAGING and following.idle:
                return following
        return None

    def rate_delay(self) -> float:
        """Seconds until the next switch may begin anywhere."""
        return max(0.0, self._next_switch - self._now())

    def switch_begins(self) -> None:
        """Count a switch against ``rate_per_minute``."""
        if self._strategy.rate_per_minute is not None:
            now = self._now()
            self._next_switch = max(now, self._next_switch) + 60 / self._strategy.rate_per_minute

    def window_problem(self, work: DeviceWork) -> str | None:
        """Why nobody can say when the device's maintenance window opens; None when one can."""
        if self._strategy.maintenance_window and work.facts.timezone:
            try:
                time_zone(work.facts.timezone)
            except ValueError:
                return f"time zone {work.facts.timezone} is not known here: set muster_timezone"
        return None

    def window_delay(self, work: DeviceWork) -> float:
        """Seconds until the device's maintenance window opens."""
        windows = self._strategy.maintenance_window
        if not windows:
            return 0.0
        return opens_in(windows, time_zone(work.facts.timezone or "UTC"), self._wall())
