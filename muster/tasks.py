"""Tasks: what is done to devices as a whole, wave by wave like a release. Pure.

A task goes through the same states as a release: it is prepared (``stage``), carried out
(``switch``), watched (``probe``) and confirmed. What it is done to is the device, so all tasks
share one name where a release has that of its model.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.release import HARDWARE_PREFIX, Release, select_variant

DEVICE = "@device"
"""Stands where a rollout names its model; no model may have such a name."""

PROGRAM = "muster-task"
"""The program on devices that does tasks."""

REBOOT, FIRMWARE, CONFIGURE, RESET = ACTIONS = ("reboot", "firmware", "configure", "reset")

NOTHING_NEWER = "no newer firmware"

_DONE = {
    REBOOT: "came back",
    FIRMWARE: "have their firmware",
    CONFIGURE: "are configured",
    RESET: "are reset",
}


@dataclass(frozen=True)
class Task:
    """One thing to be done to devices.

    :param action: one of ``ACTIONS``.
    :param id: unique; a device that has done it does not do it again.
    :param options: what the device program needs to know besides.
    """

    action: str
    id: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, action: str, **options: Any) -> Task:
        """A task with an id of its own."""
        return cls(action, f"{action}-{secrets.token_hex(6)}", options)

    @classmethod
    def from_canonical(cls, text: str) -> Task:
        """Read back what :attr:`canonical` gave."""
        document = json.loads(text)
        return cls(document["action"], document["id"], document["options"])

    @property
    def model(self) -> str:
        """What it is done to."""
        return DEVICE

    @property
    def document(self) -> dict[str, Any]:
        """What the device program reads."""
        return {"action": self.action, "id": self.id, "options": dict(self.options)}

    @property
    def canonical(self) -> str:
        """The task as JSON text, always the same for the same task."""
        return json.dumps(self.document, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON in UTF-8, 64 hex digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def done(self) -> str:
        """What devices are when it is done, after their number."""
        if self.is_upgrade:
            return "run their version of K3s"
        return "are retired" if self.is_retirement else _DONE[self.action]

    @property
    def kind(self) -> str:
        """What a journal calls it: its action, ``retire`` or ``upgrade``."""
        if self.is_upgrade:
            return "upgrade"
        return "retire" if self.is_retirement else self.action

    @property
    def is_retirement(self) -> bool:
        """Whether it takes devices out of service for good, and not only back to how they came."""
        return self.action == RESET and bool(self.options.get("keys"))

    @property
    def is_upgrade(self) -> bool:
        """Whether nodes are configured so that another version of K3s runs there."""
        return self.action == CONFIGURE and bool(self.options.get("k3s"))


def select_kind(work: Release | Task, groups: Collection[str]) -> tuple[str, str]:
    """What of a release or task a device gets; canaries are one of each kind.

    :param groups: names of the device's inventory groups.
    :returns: the variant's name, or for a task the hardware group; and why there is none, as text.
    """
    if isinstance(work, Task):
        hardware = sorted(group for group in groups if group.startswith(HARDWARE_PREFIX))
        return hardware[0] if hardware else "device", ""
    found = select_variant(work, groups)
    return ("", found) if isinstance(found, str) else (found[0], "")


def task_misfits(task: Task, inspected: Mapping[str, Any]) -> list[str]:
    """Give the reasons why a task can't be done to a device; empty when it can.

    :param inspected: the device program's answer to ``inspect``.
    """
    if task.action in inspected.get("tasks", ()):
        return []
    return [f"its device program knows no {task.action}: run `muster provision`"]


def is_done(task: Task, inspected: Mapping[str, Any]) -> str:
    """Why there is nothing to do on a device; empty when there is."""
    if task.action == FIRMWARE and not updates(inspected):
        return NOTHING_NEWER
    return ""


def updates(inspected: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    """Firmware that a device has newer versions for, from its answer to ``inspect``."""
    found: Sequence[Mapping[str, str]] = inspected.get("firmware") or ()
    return [each for each in found if each.get("available")]
