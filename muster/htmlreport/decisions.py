"""What was decided, when and why, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from muster.rollout.events import Event, EventKind
from muster.rollout.words import Fate, sentence, wave_label

NAMED = 5
"""At most so many devices are named in one sentence."""


@dataclass(frozen=True)
class Decision:
    """One thing that was decided.

    :param at: wall time, in seconds since 1970 UTC; that of the first device.
    :param about: ``rollout``, ``wave`` or ``device``.
    :param state: the state to which it led, empty if none.
    :param devices: the devices that went the same way, if it is about devices.
    """

    at: float
    about: str
    state: str
    text: str
    devices: tuple[str, ...] = ()


def decisions(events: Iterable[Event], names: Mapping[int, str]) -> list[Decision]:
    """Every decision in order; devices that went the same way in a row are told together.

    :param names: name of each wave by its index.
    """
    told: list[Decision | Fate] = []
    fates: dict[tuple[int | None, str, str], Fate] = {}
    for event in events:
        fate = Fate.of(event)
        if fate is not None and fate.key in fates:
            fates[fate.key].join(fate)
        elif fate is not None:
            fates[fate.key] = fate
            told.append(fate)
        text = sentence(event, names)
        if text is None:
            continue
        if event.kind is not EventKind.DECISION:
            fates.clear()  # what happens after it is told after it
        about = "wave" if event.kind is EventKind.WAVE else "rollout"
        told.append(Decision(event.at, about, str(event.data.get("to", "")), _capital(text)))
    return [_told(entry, names) if isinstance(entry, Fate) else entry for entry in told]


def _told(fate: Fate, names: Mapping[int, str]) -> Decision:
    where = "" if fate.wave is None else f"{_capital(wave_label(fate.wave, names))}: "
    return Decision(
        fate.at, "device", fate.state, where + fate.sentence(NAMED), tuple(fate.devices)
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
