"""What every deploy of this collection begins with."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from pyinfra import host, inventory, state
from pyinfra.api.exceptions import PyinfraError

from muster.become import install_askpass
from muster.provisioning import REPORT_FILE
from muster.role_variables import Subject, role_model, variable_problems
from roles.report import Report


def begin(roles: Sequence[str]) -> None:
    """Check the variables of all devices at once, and prepare this device for sudo.

    :param roles: names of the roles that the deploy is about to run.
    :raises PyinfraError: what is wrong, before any operation of any device was prepared.
    """
    if not any(isinstance(handler, Report) for handler in state.callback_handlers):
        _check(roles)
        state.add_callback_handler(Report(os.environ.get(REPORT_FILE)))
    install_askpass(host)


def run(role: str) -> None:
    """Run a role on this device if it is chosen there.

    Every call has a line of its own in a deploy: pyinfra orders operations by lines.
    """
    model = role_model(role)
    if model.chosen(host.data.dict()):  # type: ignore[attr-defined]
        getattr(importlib.import_module(f"roles.{role}.deploy"), role)(model.of(host))  # type: ignore[attr-defined]


def _check(roles: Sequence[str]) -> None:
    subjects = [
        Subject(
            name=each.data.get("inventory_device", each.name),
            groups=tuple(each.groups),
            variables=each.data.dict(),
            inventory=Path(each.data.get("inventory_path", "inventory")),
        )
        for each in inventory
        if state.is_host_in_limit(each)
    ]
    if problems := variable_problems(subjects, roles):
        raise PyinfraError("\n".join(problems))
