"""What every deploy of this collection begins with."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyinfra import host, inventory, state
from pyinfra.api.exceptions import PyinfraError

from muster.become import install_askpass
from muster.inventory import load_inventory
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
    model: Any = role_model(role)
    chosen = model.chosen(host.data.dict())
    if chosen or model.attends(host.data.dict()):
        deploy = getattr(importlib.import_module(f"roles.{role}.deploy"), role)
        deploy(model.of(host) if chosen else None)


def _check(roles: Sequence[str]) -> None:
    everything = {
        each: Subject(
            name=each.data.get("inventory_device", each.name),
            groups=tuple(each.groups),
            variables=each.data.dict(),
            inventory=Path(each.data.get("inventory_path", "inventory")),
        )
        for each in inventory
    }
    subjects = [found for each, found in everything.items() if state.is_host_in_limit(each)]
    known = _of_the_inventory(list(everything.values()))
    if problems := variable_problems(subjects, roles, everything=known):
        raise PyinfraError("\n".join(problems))


def _of_the_inventory(subjects: list[Subject]) -> list[Subject]:
    """All devices that an inventory has, also those that a limit left out."""
    paths = dict.fromkeys(subject.inventory for subject in subjects)
    if not all(path.exists() for path in paths):
        return subjects  # an inventory of pyinfra's own kind
    return [
        Subject(device.name, device.groups, device.variables, path)
        for path in paths
        for device in load_inventory(path).devices
    ]
