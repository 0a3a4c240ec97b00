"""What the engine keeps in mind about a device while it works on it, and loses when it dies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from muster.rollout.machine import DeviceState
from muster.rollout.records import DeviceRecord

D = DeviceState

ACTIVE = frozenset({D.PREFLIGHT, D.STAGING, D.SWITCHING, D.SOAKING, D.CONFIRMING, D.ROLLING_BACK})
"""States in which a device takes one of the ``max_parallel`` places."""


class Step(str, Enum):
    """What an order under way is for; several steps may use the same verb."""

    PREFLIGHT = "preflight"
    RECONCILE = "reconcile"
    RECHECK = "recheck"
    STAGE = "stage"
    SWITCH = "switch"
    EXTEND = "extend"
    PROBE = "probe"
    SOAK = "soak"
    CONFIRM = "confirm"
    REVERT = "revert"


@dataclass(frozen=True)
class DeviceFacts:
    """What the inventory says of a device and the engine needs.

    :param registry: address of its registry (``host:port``), if it has its own.
    :param site: its ``site_*`` group.
    :param timezone: IANA name of its time zone; None: what the device says, else UTC.
    :param lacks: why its site's registry may lack the release; empty if nothing speaks for that.
    """

    registry: str | None = None
    site: str | None = None
    timezone: str | None = None
    lacks: str = ""


@dataclass
class DeviceWork:
    """One device at work; times are seconds of the fleet's clock.

    :param step: what the order under way is for; None when there is none.
    :param due_step: what to order at ``not_before``.
    :param duration: seconds for which ``due_step`` watches.
    :param tries: repetitions of the present step after trouble.
    :param rounds: how often it had to start again from the preflight.
    :param must_extend: the guard needs more time before the next probe.
    :param was_confirmed: the device has this release as its last good one.
    :param soaked: its part of the wave's soak is over.
    :param away_since: when it was first out of reach in its switch.
    :param last_trouble: what the device or the link said when a step last had no result.
    :param given_up: it is lost for good: another controller's now.
    :param watch_until: when a lost device is given up.
    :param pulls: it has one of its site's places to pull.
    :param locked_since: when an application's lock was first met.
    :param moves: how many transitions it made.
    :param fell_back: its rollback failed, and it was sent back to its last good release.
    """

    record: DeviceRecord
    facts: DeviceFacts = DeviceFacts()
    step: Step | None = None
    due_step: Step | None = None
    not_before: float = 0.0
    duration: float = 0.0
    tries: int = 0
    must_extend: bool = False
    was_confirmed: bool = False
    soaked: bool = False
    rounds: int = 0
    away_since: float | None = None
    last_trouble: str = ""
    given_up: bool = False
    watch_until: float | None = None
    pulls: bool = False
    locked_since: float | None = None
    moves: int = 0
    fell_back: bool = False

    @property
    def idle(self) -> bool:
        """No order is under way or due."""
        return self.step is None and self.due_step is None

    @property
    def counts_as_active(self) -> bool:
        """It takes one of the ``max_parallel`` places."""
        return self.record.state in ACTIVE
