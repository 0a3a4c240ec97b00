"""Tells the program that started pyinfra what became of each device.

pyinfra's own JSON has no error texts, and there is none when the last device fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State

_LINES = 8


class Report(BaseStateCallback):
    """Writes a line when a device is done with.

    :param path: of the file to add to; nothing is written if there is none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def host_disconnect(self, state: State, host: Host) -> None:  # type: ignore[override]
        """Write what the device's operations did, or would do."""
        if self._path is None:
            return
        names = [(op, ", ".join(sorted(state.op_meta[op].names))) for op in state.get_op_order()]
        operations = [
            {"name": name, **_outcome(state.ops[host][op], executed=state.is_executing)}
            for op, name in names
            if op in state.ops[host]
        ]
        line = {
            "device": host.data.get("inventory_device", host.name),
            "failed": host in state.failed_hosts,
            "operations": operations,
        }
        with Path(self._path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _outcome(data: Any, *, executed: bool) -> dict[str, Any]:
    meta = data.operation_meta
    if not executed:
        return {"outcome": "would change" if meta._maybe_is_change else "unchanged"}
    if not meta.is_complete():
        return {"outcome": "not run"}
    if meta.did_succeed():
        return {"outcome": "changed" if meta.did_change() else "unchanged"}
    said = (meta.stderr_lines or meta.stdout_lines)[-_LINES:]
    return {"outcome": "failed", "error": "\n".join(said)}
