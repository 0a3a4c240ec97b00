"""What a release changes on devices that run another: pure comparison of documents."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from muster.fields import format_duration, format_size
from muster.release import Release, running, select_variant

CHANGES, SAME, NEW, UNKNOWN, LEFT_OUT, NO_ANSWER = (
    "changes",
    "same",
    "new",
    "unknown",
    "left_out",
    "no_answer",
)

_DURATIONS = frozenset({"timeout", "max_latency"})
_SIZES = frozenset({"memory", "disk"})
_LONGEST = 60


@dataclass(frozen=True)
class Change:
    """One thing that is another.

    :param what: where it stands, such as ``env.THREADS`` or ``gates.smoke.max_latency``.
    :param before: its JSON value: seconds, bytes and so on; None when it was not there. Likewise
        ``after``.
    """

    what: str
    before: Any
    after: Any

    def texts(self) -> tuple[str | None, str | None]:
        """Both values for people, with units; long ones cut."""
        before, after = (
            None if value is None else _told(self.what, value)
            for value in (self.before, self.after)
        )
        if before == after:  # alike when they are cut
            after = f"{after} (other content)"
        return before, after


@dataclass(frozen=True)
class DeviceDiff:
    """What the release changes on one device.

    :param status: ``changes``; ``same`` (it runs the release); ``new`` (it runs nothing);
        ``unknown`` (the journal lacks the document of what it runs); ``left_out`` (the release
        does not go there); ``no_answer``.
    :param current: id of the release that it runs, None if nothing or not known.
    :param note: why, where there is no comparison.
    """

    device: str
    status: str
    current: str | None = None
    variant: str = ""
    changes: tuple[Change, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class DiffGroup:
    """Devices on which the very same changes."""

    status: str
    current: str | None
    variant: str
    changes: tuple[Change, ...]
    note: str
    devices: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Give the group as plain JSON values."""
        return asdict(self)


def compare(current: Release | None, new: Release, groups: Collection[str]) -> tuple[Change, ...]:
    """Give every difference between what a device runs and what it would run.

    :param current: the release that it runs; None for nothing.
    :param groups: names of the device's inventory groups; they choose its variant in both.
    """
    return tuple(_changes({} if current is None else _flat(current, groups), _flat(new, groups)))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[Change]:
    for what in dict.fromkeys([*before, *after]):
        if before.get(what) != after.get(what):
            yield Change(what, before.get(what), after.get(what))


def _flat(release: Release, groups: Collection[str]) -> dict[str, Any]:
    """Everything of a release that matters on a device, by its place in the document."""
    document = release.model_dump(mode="json", exclude_none=True)
    selected = select_variant(release, groups)
    variant: Mapping[str, Any] = {}
    if not isinstance(selected, str):
        variant = {"variant": selected[0]} | document["variants"][selected[0]]
    flat: dict[str, Any] = {}
    for prefix, part in (("", variant), ("endpoint.", document["endpoint"])):
        for key, value in part.items():
            if isinstance(value, dict):
                flat |= {f"{prefix}{key}.{name}": inner for name, inner in value.items()}
            else:
                flat[prefix + key] = value
    for gate in document["gates"]:
        flat |= {f"gates.{gate['name']}.{key}": v for key, v in gate.items() if key != "name"}
    # An empty list says what an absent one says.
    return {key: value for key, value in flat.items() if value not in ([], {})}


def _told(what: str, value: Any) -> str:
    name = what.rpartition(".")[2]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name in _DURATIONS:
            return format_duration(value)
        if name in _SIZES and isinstance(value, int):
            return format_size(value)
    if isinstance(value, list) and value and all(isinstance(x, str) for x in value):
        return ", ".join(value)
    if isinstance(value, list) and name == "cases":
        return f"{len(value)} case{'s' if len(value) != 1 else ''}"
    text = value if isinstance(value, str) else repr(value)
    if what == "image":  # the whole of it is what people compare
        return text
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def device_diffs(
    devices: Mapping[str, Collection[str]],
    new: Release,
    seen: Mapping[str, Mapping[str, Any] | str],
    left_out: Mapping[str, str],
    known: Mapping[str, Release],
) -> list[DeviceDiff]:
    """Compare what each device runs with what it would run.

    :param devices: inventory groups of each device.
    :param seen: answer to ``inspect`` of each device that was asked, or why there was none.
    :param left_out: why the release does not go to a device, for each of those.
    :param known: the releases whose documents are known, by id.
    """
    return [
        _device_diff(name, groups, new, seen.get(name), left_out.get(name, ""), known)
        for name, groups in devices.items()
    ]


def _device_diff(
    name: str,
    groups: Collection[str],
    new: Release,
    answer: Mapping[str, Any] | str | None,
    reason: str,
    known: Mapping[str, Release],
) -> DeviceDiff:
    selected = select_variant(new, groups)
    if isinstance(selected, str):
        return DeviceDiff(name, LEFT_OUT, note=selected)
    variant = selected[0]
    if answer is None or isinstance(answer, str):
        return DeviceDiff(name, NO_ANSWER, variant=variant, note=answer or "it was not asked")
    current = running(answer)
    if current == new.id:
        return DeviceDiff(name, SAME, current, variant)
    if reason:
        return DeviceDiff(name, LEFT_OUT, current, variant, note=reason)
    if current is None:
        return DeviceDiff(name, NEW, None, variant, compare(None, new, groups))
    if current not in known:
        return DeviceDiff(name, UNKNOWN, current, variant)
    return DeviceDiff(name, CHANGES, current, variant, compare(known[current], new, groups))


def group(diffs: Iterable[DeviceDiff]) -> list[DiffGroup]:
    """Put devices together on which the same changes, the largest groups first."""
    found: dict[str, DiffGroup] = {}
    names: dict[str, list[str]] = {}
    for diff in diffs:
        entry = DiffGroup(diff.status, diff.current, diff.variant, diff.changes, diff.note)
        key = json.dumps(entry.to_json())
        found.setdefault(key, entry)
        names.setdefault(key, []).append(diff.device)
    groups = [replace(entry, devices=tuple(names[key])) for key, entry in found.items()]
    return sorted(groups, key=lambda entry: (_ORDER.index(entry.status), -len(entry.devices)))


_ORDER = (CHANGES, UNKNOWN, NEW, SAME, LEFT_OUT, NO_ANSWER)


def gate_summary(changes: Iterable[Change]) -> list[Change]:
    """The same changes, with a gate that comes or goes as one, for people."""
    changes = list(changes)
    whole: dict[str, Change] = {}
    for change in changes:
        if change.what.startswith("gates.") and change.what.endswith(".type"):
            name = change.what.removesuffix(".type")
            if change.before is None or change.after is None:
                whole[name] = Change(name, change.before, change.after)
    told: dict[str, Change] = {}
    for change in changes:
        name = change.what.rpartition(".")[0]
        told.setdefault(name if name in whole else change.what, whole.get(name, change))
    return list(told.values())
