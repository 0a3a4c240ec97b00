"""Specifications of CDI, by which container runtimes give accelerators to containers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

FOLDER = "/etc/cdi"

NAMES = {
    ("coral", "pcie"): "coral.ai/tpu",
    ("hailo", "pcie"): "hailo.ai/npu",
    ("intel", "gpu"): "intel.com/gpu",
    ("intel", "npu"): "intel.com/npu",
}
"""Kind of CDI device by accelerator and make. USB sticks have none: their node changes when they
are used for the first time, so containers get ``/dev/bus/usb`` instead."""


def path(name: str) -> str:
    """Where the specification of a kind of CDI device lies."""
    return f"{FOLDER}/{name.replace('/', '-')}.json"


def specification(name: str, nodes: Sequence[str]) -> str:
    """The specification that gives device nodes to containers: each by its number, and ``all``.

    :param name: kind of CDI device, ``vendor/class``.
    :param nodes: device nodes, numbered in this order.
    """
    groups = [(str(number), [node]) for number, node in enumerate(nodes)]
    devices = [{"name": key, "containerEdits": _edits(some)} for key, some in groups]
    devices.append({"name": "all", "containerEdits": _edits(nodes)})
    # 0.5.0 is the lowest version in which the name of a device may begin with a digit.
    document = {"cdiVersion": "0.5.0", "kind": name, "devices": devices}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _edits(nodes: Sequence[str]) -> dict[str, Any]:
    return {"deviceNodes": [{"path": node, "type": "c", "permissions": "rw"} for node in nodes]}
