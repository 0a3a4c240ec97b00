"""States of rollouts, waves and devices, and the transitions between them, as tables.

Nothing here decides or does: ``decide`` picks a transition, ``engine`` carries it out, and both
ask these tables whether it is allowed. The tables are those of ``docs/rollouts.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar


class RolloutState(str, Enum):
    """A rollout as a whole."""

    PLANNED = "planned"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_DEFERRED = "succeeded_with_deferred"
    ABORTING = "aborting"
    ABORTED = "aborted"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    SUPERSEDED = "superseded"
    """A newer rollout took its place before it had ended."""


class WaveState(str, Enum):
    """One batch of devices."""

    PENDING = "pending"
    STAGING = "staging"
    AWAITING_APPROVAL = "awaiting_approval"
    UPDATING = "updating"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"


class DeviceState(str, Enum):
    """One device within one rollout."""

    PENDING = "pending"
    PREFLIGHT = "preflight"
    STAGING = "staging"
    STAGED = "staged"
    SWITCHING = "switching"
    SOAKING = "soaking"
    CONFIRMING = "confirming"
    COMMITTED = "committed"
    REJECTED = "rejected"
    ALREADY_CURRENT = "already_current"
    DEFERRED = "deferred"
    LOST = "lost"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    QUARANTINED = "quarantined"


R, W, D = RolloutState, WaveState, DeviceState

ROLLOUT_TRANSITIONS: Mapping[RolloutState, frozenset[RolloutState]] = {
    R.PLANNED: frozenset({R.RUNNING, R.SUPERSEDED}),
    R.RUNNING: frozenset(
        {
            R.AWAITING_APPROVAL,
            R.PAUSED,
            R.SUCCEEDED,
            R.SUCCEEDED_WITH_DEFERRED,
            R.ABORTING,
            R.ROLLING_BACK,
            R.SUPERSEDED,
        }
    ),
    R.AWAITING_APPROVAL: frozenset({R.RUNNING, R.PAUSED, R.ABORTING, R.ROLLING_BACK, R.SUPERSEDED}),
    R.PAUSED: frozenset({R.RUNNING, R.ABORTING, R.ROLLING_BACK, R.SUPERSEDED}),
    R.ABORTING: frozenset({R.ABORTED, R.SUPERSEDED}),
    R.ROLLING_BACK: frozenset({R.ROLLED_BACK, R.ROLLBACK_FAILED, R.SUPERSEDED}),
}

WAVE_TRANSITIONS: Mapping[WaveState, frozenset[WaveState]] = {
    W.PENDING: frozenset({W.STAGING, W.AWAITING_APPROVAL, W.UPDATING}),
    W.STAGING: frozenset({W.AWAITING_APPROVAL, W.UPDATING}),
    W.AWAITING_APPROVAL: frozenset({W.UPDATING}),
    W.UPDATING: frozenset({W.SOAKING, W.PASSED, W.FAILED}),
    W.SOAKING: frozenset({W.PASSED, W.FAILED}),
}

DEVICE_TRANSITIONS: Mapping[DeviceState, frozenset[DeviceState]] = {
    D.PENDING: frozenset({D.PREFLIGHT, D.DEFERRED, D.REJECTED, D.ALREADY_CURRENT}),
    D.PREFLIGHT: frozenset(
        {
            D.STAGING,
            D.REJECTED,
            D.ALREADY_CURRENT,
            D.DEFERRED,
            # A resumed device may prove to be further than the journal knew.
            D.COMMITTED,
            D.SWITCHING,
            D.SOAKING,
            D.CONFIRMING,
            D.ROLLING_BACK,
            D.ROLLED_BACK,
            D.LOST,
        }
    ),
    D.STAGING: frozenset({D.STAGED, D.REJECTED, D.DEFERRED, D.PREFLIGHT}),
    D.STAGED: frozenset({D.SWITCHING, D.DEFERRED, D.PREFLIGHT}),
    D.SWITCHING: frozenset(
        {
            D.SOAKING,
            D.CONFIRMING,
            D.COMMITTED,
            D.ROLLING_BACK,
            D.ROLLED_BACK,
            D.LOST,
            D.PREFLIGHT,
            D.REJECTED,
            # Refused because an application holds the device's lock; nothing was touched.
            D.STAGED,
        }
    ),
    # Where a broken link hid what happened, the device tells: any of these may follow.
    D.SOAKING: frozenset(
        {D.CONFIRMING, D.ROLLING_BACK, D.ROLLED_BACK, D.LOST, D.COMMITTED, D.SWITCHING}
    ),
    D.CONFIRMING: frozenset(
        {D.COMMITTED, D.ROLLING_BACK, D.ROLLED_BACK, D.LOST, D.SOAKING, D.SWITCHING}
    ),
    # Seen again while the rollout waits for those that were away.
    D.DEFERRED: frozenset({D.PREFLIGHT}),
    # Taken back by command, after its wave or the rollout failed.
    D.COMMITTED: frozenset({D.ROLLING_BACK}),
    # What a lost device says when it is seen again wins.
    D.LOST: frozenset({D.ROLLING_BACK, D.ROLLED_BACK, D.COMMITTED}),
    D.ROLLING_BACK: frozenset({D.ROLLED_BACK, D.ROLLBACK_FAILED, D.LOST}),
    D.ROLLBACK_FAILED: frozenset({D.QUARANTINED}),
}

BEFORE_SWITCH = frozenset({D.PENDING, D.PREFLIGHT, D.STAGING, D.STAGED})
"""States in which nothing that serves was touched."""

UNCONFIRMED = frozenset({D.SWITCHING, D.SOAKING, D.CONFIRMING})
"""States in which the device's guard is, or may be, armed."""

SETTLED = frozenset(
    {
        D.COMMITTED,
        D.REJECTED,
        D.ALREADY_CURRENT,
        D.DEFERRED,
        D.LOST,
        D.ROLLED_BACK,
        D.QUARANTINED,
    }
)
"""States in which a device needs nothing more for its wave to go on."""

GOOD = frozenset({D.COMMITTED, D.ALREADY_CURRENT})
"""States in which a device runs the release for good."""

FINAL_ROLLOUT = frozenset(
    {
        R.SUCCEEDED,
        R.SUCCEEDED_WITH_DEFERRED,
        R.ABORTED,
        R.ROLLED_BACK,
        R.ROLLBACK_FAILED,
        R.SUPERSEDED,
    }
)
"""A rollout in one of these is never resumed."""

WAITING_ROLLOUT = frozenset({R.PAUSED, R.AWAITING_APPROVAL})
"""A rollout in one of these waits for a person."""

S = TypeVar("S", RolloutState, WaveState, DeviceState)


def allowed(table: Mapping[S, frozenset[S]], old: S, new: S) -> bool:
    """Tell whether ``table`` has a transition from ``old`` to ``new``."""
    return new in table.get(old, frozenset())
