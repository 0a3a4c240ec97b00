"""The few verbs with which the engine reaches devices.

An implementation carries orders out on its own, any number of devices at once, and hands the
answers back one at a time. It also owns the clock, so that a simulated fleet can run hours of
rollout in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


class Verb(str, Enum):
    """What a device can be told; each is a subcommand of the device program."""

    INSPECT = "inspect"
    STAGE = "stage"
    SWITCH = "switch"
    PROBE = "probe"
    CONFIRM = "confirm"
    REVERT = "revert"
    SUBMIT = "submit"
    """Of the program that fills a site's registry: begin a piece of work."""
    STATUS = "status"
    """Of that program: how far it is."""
    APPLY = "apply"
    """Of the program on a server of a K3s cluster: have the cluster run something."""
    DRAIN = "drain"
    """Of that program: have the pods of a node move; ``UNCORDON`` lets them come again."""
    UNCORDON = "uncordon"
    SNAPSHOT = "snapshot"
    """Of that program: save what the cluster holds."""
    DELETE_NODE = "delete-node"
    """Of that program: take a node out of the cluster."""
    NODES = "nodes"
    """Of that program: tell all nodes of the cluster."""


@dataclass(frozen=True)
class Order:
    """One command for one device. At most one order per device is under way at a time.

    :param timeout: seconds until the order counts as unanswered.
    :param program: name of the program on the device that is told; empty for ``muster-device``.
    """

    device: str
    verb: Verb
    document: Mapping[str, Any]
    timeout: float
    program: str = ""


class Trouble(str, Enum):
    """Why an order has no result."""

    UNREACHABLE = "unreachable"
    """No connection, or it broke, or no answer in time: whether the order was obeyed is unknown."""
    REFUSED = "refused"
    """The device program answered with an error."""


@dataclass(frozen=True)
class Answer:
    """What came back for one order.

    :param document: the device program's answer; empty when ``trouble`` is ``UNREACHABLE``.
    :param code: the device program's error code when ``trouble`` is ``REFUSED``.
    :param message: one line for a person when there is trouble.
    :param seconds: from submission to answer.
    """

    device: str
    verb: Verb
    document: Mapping[str, Any] = field(default_factory=dict)
    trouble: Trouble | None = None
    code: str = ""
    message: str = ""
    seconds: float = 0.0


class Fleet(Protocol):
    """A set of devices that can be given orders."""

    def submit(self, order: Order) -> None:
        """Start an order; return at once."""

    def next_answer(self, timeout: float | None) -> Answer | None:
        """Wait for an answer, at most ``timeout`` seconds (None: for ever, 0: not at all)."""

    def now(self) -> float:
        """Monotonic seconds of the clock that this fleet lives by."""

    def wall_time(self) -> float:
        """Seconds since 1970 UTC; only for what is bound to the time of day."""

    def close(self) -> None:
        """Drop every connection. Orders under way are abandoned."""
