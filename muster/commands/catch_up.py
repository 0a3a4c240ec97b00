"""The command that brings devices up that were left behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from muster.commands.driving import Driving, driving_options
from muster.commands.options import inventory_option, journal_option, limit_option
from muster.commands.rollout import ask, only_model, prepare_shown, yes_option
from muster.errors import InputError
from muster.inventory import Inventory, load_inventory
from muster.rollout import controller
from muster.rollout.controller import CatchUp
from muster.rollout.decide import EXIT_DEFERRED, EXIT_OK, EXIT_OTHER, EXIT_PAUSED
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import GOOD

MAX_STEPS = 50
"""Releases that one run brings devices through."""


@click.command("catch-up")
@click.option("-m", "--model", help="Model to bring up; needed when the journal knows several.")
@inventory_option
@limit_option
@journal_option
@yes_option
@driving_options
def catch_up(
    model: str | None,
    inventory_path: Path,
    limit: str | None,
    journal_url: str | None,
    yes: bool,
    driving: Driving,
) -> int:
    """Bring devices that were deferred to the newest release that they may take.

    Where a release says `requires_from`, they go through those between. Their gates count as in any
    rollout. Exit code 6 when some are still out of reach.
    """
    inventory = load_inventory(inventory_path, limit)
    with open_journal(journal_url) as journal:
        name = only_model(journal, model)
        behind = set(controller.left_behind(journal, name))
        behind &= {device.name for device in inventory.devices}
        away: set[str] = set()
        worst = 0
        for _ in range(MAX_STEPS):
            code = _step(journal, name, inventory, behind, away, yes, driving) if behind else None
            if code is None:
                break
            worst = worst or code
            if code == EXIT_PAUSED:
                break
    if driving.as_json:
        click.echo(json.dumps({"event": "caught_up", "away": sorted(away)}))
    elif away:
        click.echo(f"still out of reach: {', '.join(sorted(away))}")
    elif not worst:
        click.echo("no device is left behind")
    return worst or (EXIT_DEFERRED if away else EXIT_OK)


def _step(
    journal: Journal,
    model: str,
    inventory: Inventory,
    behind: set[str],
    away: set[str],
    yes: bool,
    driving: Driving,
) -> int | None:
    """One release further; None when there is nothing more to do.

    Devices that do not come through are taken out of ``behind``; those out of reach are ``away``.
    """
    devices = [device for device in inventory.devices if device.name in behind]
    with controller.connected_fleet(devices, known=inventory.known) as fleet:
        seen = controller.survey(fleet, [device.name for device in devices], model)
        away.update(name for name, answer in seen.items() if isinstance(answer, str))
        behind.difference_update(away)
        step = controller.next_catch_up(journal, model, devices, seen)
        if step is None:
            return None
        mine = _only(inventory, step)
        prepared = prepare_shown(mine, step.release, step.strategy, fleet, quiet=driving.as_json)
        try:
            snapshot = controller.new(
                prepared,
                mine,
                step.release,
                step.strategy,
                kind="catch_up",
                signature=step.signature,
            )
        except InputError as error:  # none of them takes it; others may have another step
            click.echo("\n".join(error.problems), err=True)
            behind.difference_update(step.devices)
            return EXIT_OTHER
        ask(yes or driving.as_json, f"Bring {prepared.planned} devices to {step.release.id}?")
        code = driving.run(journal, snapshot, fleet, inventory)
    came = {d.device for d in journal.load(snapshot.rollout.id).devices if d.state in GOOD}
    behind.difference_update(set(step.devices) - came)
    return code


def _only(inventory: Inventory, step: CatchUp) -> Inventory:
    names = set(step.devices)
    devices = tuple(device for device in inventory.devices if device.name in names)
    return dataclasses.replace(inventory, devices=devices)
