"""What happened, in plain words: for the live display and for reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from muster.rollout.events import Event, EventKind

STOPPING = "pausing when the devices under way have come to rest"
"""How the engine says that it starts nothing new; the reason stands before it."""

_WAVE = {
    "staging": "is staged ahead, while the wave before it soaks",
    "updating": "begins",
    "soaking": "is watched for its soak",
    "awaiting_approval": "waits for approval",
    "passed": "passed",
    "failed": "failed",
}
_ROLLOUT = {
    "awaiting_approval": "waits for approval",
    "paused": "pauses",
    "aborting": "is being aborted",
    "aborted": "was aborted",
    "rolling_back": "goes back",
    "rolled_back": "was rolled back",
    "rollback_failed": "could not be rolled back everywhere",
    "succeeded": "succeeded",
    "succeeded_with_deferred": "succeeded, but for deferred devices",
    "superseded": "was superseded",
}
_DEVICE = {
    "deferred": "deferred",
    "rejected": "rejected",
    "lost": "lost after the switch",
    "rolling_back": "sent back",
    "rolled_back": "back on the earlier release",
    "quarantined": "quarantined, a person must look at it",
}


def words(state: str) -> str:
    """A state's name as people write it."""
    return state.replace("_", " ")


def wave_label(index: int, names: Mapping[int, str]) -> str:
    """A wave's number, as people count, with its name if it has one."""
    name = names.get(index)
    return f"wave {index + 1} ({name})" if name else f"wave {index + 1}"


def sentence(event: Event, names: Mapping[int, str]) -> str | None:
    """A decision, or a change of the rollout or of a wave; None for other events.

    :param names: name of each wave by its index.
    """
    if event.kind is EventKind.DECISION:
        return str(event.data["text"])
    to = str(event.data.get("to", ""))
    if event.kind is EventKind.WAVE and event.wave is not None:
        text = f"{wave_label(event.wave, names)} {_WAVE.get(to, f'is {words(to)}')}"
    elif event.kind is EventKind.ROLLOUT and to == "running":
        text = f"the rollout {'begins' if event.data.get('from') == 'planned' else 'goes on'}"
    elif event.kind is EventKind.ROLLOUT:
        text = f"the rollout {_ROLLOUT.get(to, f'is {words(to)}')}"
    else:
        return None
    reason = event.data.get("reason")
    return f"{text}: {reason}" if reason else text


def fate(event: Event) -> str | None:
    """What became of a device, if a person should know: ``deferred``, ``sent back`` ..."""
    to = str(event.data.get("to", ""))
    if event.kind is not EventKind.DEVICE:
        return None
    if to == "rolled_back" and event.data.get("from") == "rolling_back":
        return None  # that it was sent back is told already
    return _DEVICE.get(to)


def without_numbers(reason: str) -> str:
    """A reason with every number, such as a latency, replaced: the same for reasons alike."""
    return re.sub(r"\d+(\.\d+)?", "0", reason)


@dataclass
class Fate:
    """Devices that went the same way, for reasons that are alike but for their numbers.

    :param at: wall time of the first, in seconds since 1970 UTC.
    :param reason: that of the first.
    """

    at: float
    wave: int | None
    what: str
    state: str
    reason: str
    devices: list[str]
    varies: bool = False

    @classmethod
    def of(cls, event: Event) -> Fate | None:
        """The fate of one device; None when nobody needs to know."""
        what = fate(event)
        if what is None:
            return None
        state, reason = str(event.data["to"]), str(event.data["reason"])
        return cls(event.at, event.wave, what, state, reason, [event.device])

    @property
    def key(self) -> tuple[int | None, str, str]:
        """The same for fates that can be told together."""
        return self.wave, self.state, without_numbers(self.reason)

    def join(self, other: Fate) -> None:
        """Tell another device together with these."""
        self.devices += other.devices
        self.varies |= other.reason != self.reason

    def sentence(self, named: int) -> str:
        """All of it; at most ``named`` devices by name."""
        names, more = self.devices[:named], len(self.devices) - named
        who = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        text = f"{who} {'is' if len(self.devices) == 1 else 'are'} {self.what}"
        if self.reason:
            text += f": {self.reason}" + (" (figures of the first)" if self.varies else "")
        return text


def stopping(event: Event) -> str | None:
    """Why the rollout starts nothing new, if this event says so."""
    if event.kind is not EventKind.DECISION:
        return None
    reason, mark, _ = str(event.data["text"]).rpartition(f": {STOPPING}")
    return reason if mark else None
