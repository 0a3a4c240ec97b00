"""What a rollout was like: figures per wave and device, and JUnit XML for CI systems."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree  # only written, never parsed
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from muster.rollout.events import Event, EventKind
from muster.rollout.machine import GOOD, SETTLED, DeviceState
from muster.rollout.records import DeviceRecord, Snapshot

D = DeviceState

SKIPPED = frozenset({D.PENDING, D.PREFLIGHT, D.STAGING, D.STAGED, D.DEFERRED, D.REJECTED})

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML can't have; what a device says may hold any."""

RESTING = frozenset({D.PENDING.value, D.STAGED.value}) | {state.value for state in SETTLED}


@dataclass(frozen=True)
class WaveFigures:
    """Times of one wave, in seconds, without its soak and without what was staged ahead of it.

    :param seconds: from its turn until its last device came to rest.
    :param slowest: how long its slowest device, ``slowest_device``, was worked on in that time.
    """

    index: int
    name: str
    state: str
    devices: int
    seconds: float
    slowest: float
    slowest_device: str


def wave_figures(snapshot: Snapshot, events: Sequence[Event]) -> list[WaveFigures]:
    """Times of each wave that did something."""
    figures = []
    for wave in snapshot.waves:
        own = [event for event in events if event.wave == wave.index]
        turn = next((n for n, e in enumerate(own) if e.data.get("to") == "updating"), None)
        if turn is None:
            continue
        worked, rest = _worked(own[turn:])
        if not worked:
            continue
        slowest = max(worked, key=lambda name: worked[name])
        figures.append(
            WaveFigures(
                wave.index,
                wave.name,
                wave.state.value,
                sum(device.wave == wave.index for device in snapshot.devices),
                round(rest - own[turn].at, 2),
                round(worked[slowest], 2),
                slowest,
            )
        )
    return figures


def _worked(events: Iterable[Event]) -> tuple[dict[str, float], float]:
    """Seconds that each device was worked on, and when the last one came to rest."""
    worked: dict[str, float] = {}
    since: dict[str, float] = {}
    rest = 0.0
    for event in events:
        if event.kind is not EventKind.DEVICE:
            continue
        begin = since.pop(event.device, None)
        if begin is not None:
            worked[event.device] = worked.get(event.device, 0.0) + event.at - begin
        if event.data["to"] in RESTING:
            rest = max(rest, event.at)
        else:
            since[event.device] = event.at
    return worked, rest


def commands(events: Iterable[Event]) -> Counter[str]:
    """Number of SSH commands that each device was given."""
    return Counter(event.device for event in events if event.kind is EventKind.ANSWER)


def downtimes(events: Iterable[Event]) -> dict[str, float]:
    """Longest time, in seconds, that each device was without service in a switch."""
    longest: dict[str, float] = {}
    for event in events:
        seconds = event.data.get("downtime")
        if event.kind is EventKind.ANSWER and isinstance(seconds, (int, float)):
            longest[event.device] = max(longest.get(event.device, 0.0), float(seconds))
    return longest


def recoveries(events: Iterable[Event]) -> dict[str, float]:
    """Seconds from the failure to the old release being ready, of each device that went back.

    The failure is the gate that failed, else the decision to go back: the release did not become
    ready, or the device was taken back with its wave. Devices that went back by themselves, out
    of the controller's sight, are not in it.
    """
    failed: dict[str, float] = {}
    took: dict[str, float] = {}
    for event in events:
        if event.kind is EventKind.GATE and event.data["verdict"] == "failed":
            failed.setdefault(event.device, event.at)
        elif event.kind is EventKind.DEVICE:
            to = event.data["to"]
            if to == D.ROLLING_BACK.value:
                failed.setdefault(event.device, event.at)
            elif to == D.ROLLED_BACK.value and event.device in failed:
                took[event.device] = round(event.at - failed.pop(event.device), 3)
            elif to in {D.SWITCHING.value, D.LOST.value}:
                failed.pop(event.device, None)
    return took


def summary(snapshot: Snapshot, events: Sequence[Event]) -> dict[str, Any]:
    """A rollout as JSON: its end, its waves and its devices."""
    rollout = snapshot.rollout
    given = commands(events)
    return {
        "rollout": rollout.id,
        "kind": rollout.kind,
        "model": rollout.model,
        "release": rollout.release_id,
        "state": rollout.state.value,
        "reason": rollout.reason,
        "exit_code": rollout.exit_code,
        "created": rollout.created,
        "updated": rollout.updated,
        "controller": rollout.controller,
        "waves": [vars(figures) for figures in wave_figures(snapshot, events)],
        "devices": [
            {
                "device": d.device,
                "wave": d.wave,
                "variant": d.variant,
                "state": d.state.value,
                "reason": d.reason,
                "previous": d.previous,
                "generation": d.generation,
                "commands": given[d.device],
            }
            for d in snapshot.devices
        ],
    }


def junit(snapshot: Snapshot, events: Sequence[Event]) -> str:
    """JUnit XML: a test suite for each wave, a test case for each device.

    A device that did not get the release is skipped when nothing was touched, else a failure.
    """
    rollout = snapshot.rollout
    worked, _ = _worked(events)
    root = ElementTree.Element("testsuites", name=f"{rollout.model} {rollout.release_id}")
    groups: list[tuple[str, list[DeviceRecord]]] = [
        (
            f"wave {wave.index + 1} ({wave.name})",
            [d for d in snapshot.devices if d.wave == wave.index],
        )
        for wave in snapshot.waves
    ]
    outside = [d for d in snapshot.devices if d.wave is None]
    if outside:
        groups.append(("not in a wave", outside))
    for name, devices in groups:
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(devices)),
            failures=str(sum(_is_failure(d) for d in devices)),
            skipped=str(sum(_is_skipped(d) for d in devices)),
        )
        for device in devices:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=rollout.model,
                name=device.device,
                time=f"{worked.get(device.device, 0.0):.3f}",
            )
            if _is_failure(device):
                failure = ElementTree.SubElement(case, "failure", message=device.reason)
                failure.text = _gate_lines(events, device.device)
            elif _is_skipped(device):
                ElementTree.SubElement(
                    case, "skipped", message=f"{device.state.value}: {device.reason}".rstrip(": ")
                )
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
    return _NOT_XML.sub("\ufffd", text)


def _is_failure(device: DeviceRecord) -> bool:
    return device.failed or device.state not in GOOD | SKIPPED


def _is_skipped(device: DeviceRecord) -> bool:
    return not _is_failure(device) and device.state in SKIPPED


def _gate_lines(events: Iterable[Event], device: str) -> str:
    return "\n".join(
        f"{event.data['verdict']}: {event.data['reason']}"
        for event in events
        if event.kind is EventKind.GATE and event.device == device
    )
