"""What happens in a rollout, as a stream that displays, reports and the journal share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class EventKind(str, Enum):
    """What an event tells."""

    ROLLOUT = "rollout"
    """The rollout changed state: ``from``, ``to``, ``reason``."""
    WAVE = "wave"
    """A wave changed state: ``from``, ``to``, ``reason``."""
    DEVICE = "device"
    """A device changed state: ``from``, ``to``, ``reason``; ``failed`` and ``unreachable`` if it
    counts as that."""
    ANSWER = "answer"
    """A device answered an order: ``verb``, ``seconds``, ``trouble``, ``message``, ``facts``."""
    GATE = "gate"
    """A gate was assessed on a device: ``gate``, ``verdict``, ``reason``, ``figures``."""
    DECISION = "decision"
    """Something was decided, in plain words: ``text``."""


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    :param at: wall time in seconds since 1970 UTC, for people; nothing is decided by it.
    :param device: the device concerned, empty if none.
    :param wave: the index of the wave concerned, from 0; None if none.
    """

    kind: EventKind
    rollout: str
    at: float
    device: str = ""
    wave: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object, as ``--json`` prints it, one a line."""
        head: dict[str, Any] = {"event": self.kind.value, "rollout": self.rollout, "at": self.at}
        if self.device:
            head["device"] = self.device
        if self.wave is not None:
            head["wave"] = self.wave
        return head | dict(self.data)
