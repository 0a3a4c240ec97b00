"""What the journal remembers of a rollout, its waves and its devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from muster.rollout.machine import DeviceState, RolloutState, WaveState
from muster.tasks import DEVICE


@dataclass
class RolloutRecord:
    """One rollout.

    :param kind: ``rollout``, ``rollback`` for one started by ``muster rollback``, ``catch_up``, or
        what is done to devices as a whole: ``reboot``, ``firmware``, ``configure``, ``reset`` or
        ``retire``; ``model`` is then ``@device``, and the release names the task.
    :param release_document: the release's canonical JSON text.
    :param signature: minisign signature of ``release_document``, if there is one.
    :param strategy: the strategy document as JSON.
    :param inventory: absolute path of the inventory that the devices came from.
    :param created: wall time, seconds since 1970 UTC; likewise ``updated``.
    :param controller: ``user@host`` that drives or last drove it.
    :param take_back: what is taken back when it is rolled back, ``roll_back_wave`` or
        ``roll_back_rollout``; None as long as it is not.
    """

    id: str
    kind: str
    model: str
    release_id: str
    release_document: str
    strategy: dict[str, Any]
    inventory: str
    state: RolloutState = RolloutState.PLANNED
    limit: str | None = None
    signature: str | None = None
    reason: str = ""
    created: float = 0.0
    updated: float = 0.0
    controller: str = ""
    exit_code: int | None = None
    take_back: str | None = None

    @property
    def is_task(self) -> bool:
        """Whether something is done to devices as a whole, and no release brought to them."""
        return self.model == DEVICE

    @property
    def command(self) -> str:
        """Which command of ``muster`` started it, for people."""
        return self.kind.replace("_", "-")

    @property
    def about(self) -> str:
        """What it is about, for people: model and release, or the devices of a task."""
        return (self.limit or "all devices") if self.is_task else f"{self.model} {self.release_id}"


@dataclass
class WaveRecord:
    """One wave of a rollout.

    :param index: its place in the rollout, from 0.
    :param soak: seconds.
    :param accepted_failed: failed devices that a person accepted by resuming after a pause;
        likewise ``accepted_unreachable``.
    :param approval: ``required`` until a person approves the wave, then who did; empty: not needed.
    """

    index: int
    name: str
    soak: float = 0.0
    state: WaveState = WaveState.PENDING
    reason: str = ""
    accepted_failed: int = 0
    accepted_unreachable: int = 0
    approval: str = ""


@dataclass
class DeviceRecord:
    """One device in one rollout.

    :param wave: index of its wave; None when it is in none (rejected, already current, deferred).
    :param generation: number of this rollout's switch on the device; 0 before it has one.
    :param previous: release id that the device ran before.
    :param failed: counts against ``failure_budget.max_failed``, also once it is rolled back.
    :param unreachable: counts against ``failure_budget.max_unreachable``.
    """

    device: str
    wave: int | None = None
    variant: str = ""
    state: DeviceState = DeviceState.PENDING
    generation: int = 0
    previous: str | None = None
    reason: str = ""
    failed: bool = False
    unreachable: bool = False


@dataclass
class Snapshot:
    """A rollout with all its parts, as the journal has it."""

    rollout: RolloutRecord
    waves: list[WaveRecord] = field(default_factory=list)
    devices: list[DeviceRecord] = field(default_factory=list)


class RequestKind(str, Enum):
    """What a person may ask of a rollout that somebody else drives."""

    APPROVE = "approve"
    REJECT = "reject"
    PAUSE = "pause"
    ABORT = "abort"
    ROLL_BACK = "roll_back"
    """Abort, and take every device back."""


@dataclass(frozen=True)
class ControlRequest:
    """What a person asked of a rollout.

    :param who: ``user@host``.
    :param reason: in that person's words; may be empty.
    :param at: wall time, seconds since 1970 UTC.
    :param wave: index of the wave that is approved; None: whichever waits.
    """

    id: int
    rollout: str
    kind: RequestKind
    who: str
    reason: str
    at: float
    wave: int | None = None

    @property
    def because(self) -> str:
        """The reason as the end of a sentence; nothing where none was given."""
        return f": {self.reason}" if self.reason else ""
