"""The commands that plan and drive rollouts."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from muster.commands.driving import Driving, driving_options
from muster.commands.options import (
    inventory_option,
    journal_option,
    json_option,
    limit_option,
    strategy_option,
)
from muster.display import make_console, plain_table, styled
from muster.documents import load_document
from muster.errors import InputError, MusterError
from muster.fleet.interface import Fleet
from muster.inventory import Inventory, load_inventory
from muster.release import MODEL_NAME, Release
from muster.rollout import controller
from muster.rollout.controller import Prepared
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import DeviceState
from muster.strategy import Strategy
from muster.tasks import DEVICE, Task

yes_option = click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="Do not ask before it begins. Without a terminal, and with --json, nobody is asked.",
)
accept_no_rollback_option = click.option(
    "--accept-no-rollback",
    is_flag=True,
    help="Also on devices that run nothing yet, and so have nothing to go back to.",
)
include_quarantined_option = click.option(
    "--include-quarantined",
    is_flag=True,
    help="Also on devices that could not go back in an earlier rollout.",
)


@click.command()
@click.argument("release_path", metavar="RELEASE", type=click.Path(path_type=Path))
@inventory_option
@limit_option
@strategy_option
@journal_option
@json_option
def plan(
    release_path: Path,
    inventory_path: Path,
    limit: str | None,
    strategy_path: Path | None,
    journal_url: str | None,
    as_json: bool,
) -> None:
    """Show what a rollout of RELEASE would do, and change nothing.

    Every device is asked what it is and what it runs.
    """
    release, strategy, inventory = _load(release_path, strategy_path, inventory_path, limit)
    with open_journal(journal_url) as journal:
        quarantined = controller.quarantine(journal, release.model)
    with controller.connected_fleet(inventory.devices, known=inventory.known) as fleet:
        prepared = prepare_shown(
            inventory, release, strategy, fleet, quiet=as_json, quarantined=quarantined
        )
    if as_json:
        click.echo(json.dumps(_plan_json(prepared, release), indent=2))
    else:
        _show_plan(make_console(), prepared, release, inventory)


@click.command()
@click.argument("release_path", metavar="RELEASE", type=click.Path(path_type=Path))
@inventory_option
@limit_option
@strategy_option
@journal_option
@accept_no_rollback_option
@include_quarantined_option
@yes_option
@driving_options
def rollout(
    release_path: Path,
    inventory_path: Path,
    limit: str | None,
    strategy_path: Path | None,
    journal_url: str | None,
    accept_no_rollback: bool,
    include_quarantined: bool,
    yes: bool,
    driving: Driving,
) -> int:
    """Roll RELEASE over the devices, wave by wave.

    A device that fails its gates goes back to what it ran before; a wave that fails more than the
    budget allows stops the rollout. Ctrl-C pauses it; `muster resume` goes on.
    """
    release, strategy, inventory = _load(release_path, strategy_path, inventory_path, limit)
    signature = controller.read_signature(release_path)
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices, known=inventory.known) as fleet,
    ):
        quarantined = {} if include_quarantined else controller.quarantine(journal, release.model)
        prepared = prepare_shown(
            inventory, release, strategy, fleet, quiet=driving.as_json, quarantined=quarantined
        )
        if not driving.as_json:
            _show_plan(make_console(), prepared, release, inventory, accepted=accept_no_rollback)
        snapshot = controller.new(
            prepared,
            inventory,
            release,
            strategy,
            limit=limit,
            signature=signature,
            accept_no_rollback=accept_no_rollback,
        )
        ask(yes or driving.as_json, f"Roll {release.id} out to {prepared.planned} devices?")
        return driving.run(journal, snapshot, fleet, inventory)


@click.command()
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@journal_option
@driving_options
def resume(rollout_id: str | None, journal_url: str | None, driving: Driving) -> int:
    """Go on with a rollout that was paused or whose controller died.

    Without ROLLOUT the newest unfinished one. Resuming after a pause accepts the failures so far.
    """
    from muster.commands.lifecycle import fleet_of, reached_besides  # which need this module
    from muster.commands.retire import forget, is_retirement

    with open_journal(journal_url) as journal:
        record = controller.unfinished(journal, rollout_id)
        inventory = controller.load_devices(record)
        work = controller.work_of(record)
        of_work = reached_besides(work, inventory)
        with controller.connected_fleet(inventory.devices, **of_work) as ssh:
            fleet = fleet_of(work, ssh, inventory)
            code = driving.run(journal, journal.load(record.id), fleet, inventory)
            if is_retirement(work):
                forget(journal.load(record.id).rollout, journal, fleet, inventory)
            return code


@click.command()
@click.option("-m", "--model", help="Model to take back; needed when the journal knows several.")
@click.option("--to", metavar="RELEASE", help="Id or version of the release to go back to.")
@inventory_option
@limit_option
@strategy_option
@journal_option
@yes_option
@driving_options
def rollback(
    model: str | None,
    to: str | None,
    inventory_path: Path,
    limit: str | None,
    strategy_path: Path | None,
    journal_url: str | None,
    yes: bool,
    driving: Driving,
) -> int:
    """Take devices back to an earlier release, all at once but with its gates.

    Without --to the release that most of them ran before. Succeeding is exit code 0 here.
    """
    strategy = controller.rollback_strategy(_load_strategy(strategy_path))
    inventory = load_inventory(inventory_path, limit)
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices, known=inventory.known) as fleet,
    ):
        name = only_model(journal, model)
        seen = controller.survey(fleet, [d.name for d in inventory.devices], name)
        release, signature = controller.rollback_target(journal, name, seen, to)
        prepared = prepare_shown(
            inventory, release, strategy, fleet, quiet=driving.as_json, back=True
        )
        if not driving.as_json:
            _show_plan(make_console(), prepared, release, inventory)
        ask(yes or driving.as_json, f"Take {prepared.planned} devices back to {release.id}?")
        snapshot = controller.new(
            prepared,
            inventory,
            release,
            strategy,
            limit=limit,
            kind="rollback",
            signature=signature,
        )
        return driving.run(journal, snapshot, fleet, inventory)


def only_model(journal: Journal, given: str | None = None) -> str:
    """The model that a person gave, else the one that the journal knows.

    :raises InputError: what was given is the name of no model.
    :raises MusterError: the journal knows none, or several.
    """
    if given is not None:
        if re.fullmatch(MODEL_NAME, given) is None:
            raise InputError(f"--model {given!r}: expected the name of a model, such as digits")
        return given
    models = sorted({record.model for record in journal.rollouts(limit=1000)} - {DEVICE})
    if len(models) != 1:
        known = ", ".join(models) or "none yet"
        raise MusterError(f"name the model with --model; the journal knows {known}")
    return models[0]


def _load(
    release_path: Path, strategy_path: Path | None, inventory_path: Path, limit: str | None
) -> tuple[Release, Strategy, Inventory]:
    release = load_document(release_path, Release)
    return release, _load_strategy(strategy_path), load_inventory(inventory_path, limit)


def _load_strategy(path: Path | None) -> Strategy:
    return Strategy() if path is None else load_document(path, Strategy)


def prepare_shown(
    inventory: Inventory,
    release: Release | Task,
    strategy: Strategy,
    fleet: Fleet,
    *,
    quiet: bool,
    **options: Any,
) -> Prepared:
    """Ask the devices and plan, with a progress bar.

    :param options: of ``controller.prepare``.
    """
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        task = progress.add_task("asking devices", total=len(inventory.devices))
        return controller.prepare(
            inventory, release, strategy, fleet, lambda _name: progress.advance(task), **options
        )


def ask(answered: bool, question: str) -> None:
    """Ask a person on a terminal whether to go on."""
    if not answered and sys.stdin.isatty():
        click.confirm(question, abort=True)


def _plan_json(prepared: Prepared, release: Release) -> dict[str, Any]:
    return {
        "release": release.id,
        "digest": release.digest,
        **prepared.plan.to_json(),
        "left_out": {
            name: {"state": found.state.value, "reason": found.reason}
            for name, found in prepared.left_out.items()
        },
        "without_rollback": prepared.without_rollback,
        "current": {name: controller.running(seen) for name, seen in prepared.seen.items()},
    }


def _show_plan(
    console: Console,
    prepared: Prepared,
    release: Release,
    inventory: Inventory,
    *,
    accepted: bool = False,
) -> None:
    """Show a plan.

    :param accepted: whether somebody has accepted that some devices have nothing to go back to.
    """
    sites = {device.name: device.site or "" for device in inventory.devices}
    head = (f"{release.model} {release.id}", "bold")
    console.print(Text.assemble(head, f"  sha256:{release.digest}"))
    table = plain_table("wave", "device", "site", "variant", "runs now")
    for wave in prepared.plan.waves:
        soak = f", soak {wave.soak:.0f} s" if wave.soak else ""
        approval = ", after approval" if wave.approval else ""
        label = f"{wave.index + 1} {wave.name} ({len(wave.devices)}{soak}{approval})"
        for device in wave.devices:
            runs = controller.running(prepared.seen[device.name]) or "nothing: no rollback"
            table.add_row(label, device.name, sites[device.name], device.variant, runs)
            label = ""
    for name, found in sorted(prepared.left_out.items()):
        table.add_row(
            styled(found.state.value),
            name,
            sites[name],
            "",
            Text(found.reason, style="dim"),
        )
    for name, reason in sorted(prepared.plan.rejected.items()):
        table.add_row(
            styled(DeviceState.REJECTED.value), name, sites[name], "", Text(reason, style="dim")
        )
    console.print(table)
    if prepared.without_rollback:
        names = ", ".join(prepared.without_rollback)
        told = "accepted" if accepted else "a rollout needs --accept-no-rollback"
        console.print(f"nothing to go back to on {names}: {told}", soft_wrap=True)
