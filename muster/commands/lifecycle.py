"""The commands for the life of a device: restart, firmware, configuration, factory reset.

Each is a task that goes over the devices like a release, by the same engine: in waves with gates,
with the same strategy documents, journal and reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from muster.commands.driving import Driving, driving_options
from muster.commands.options import inventory_option, journal_option, json_option, strategy_option
from muster.commands.rollout import ask, include_quarantined_option, prepare_shown, yes_option
from muster.display import counted, make_console, plain_table, styled
from muster.documents import load_document
from muster.errors import InputError
from muster.fleet.aside import AsideFleet
from muster.fleet.configuring import ConfiguringFleet
from muster.fleet.interface import Fleet
from muster.fleet.leaving import leaving_fleet, leaving_problems
from muster.fleet.upgrading import Install, Upgrading
from muster.inventory import Device, Inventory, load_inventory
from muster.k3s.cluster import role_of
from muster.provisioning import provision
from muster.rollout import controller
from muster.rollout.controller import Prepared
from muster.rollout.journal import Journal, open_journal
from muster.rollout.records import RolloutRecord
from muster.rollout.task_orders import TaskOrders
from muster.strategy import Strategy
from muster.tasks import CONFIGURE, DEVICE, FIRMWARE, NOTHING_NEWER, REBOOT, RESET, Task

pattern_argument = click.argument("pattern", metavar="[PATTERN]", required=False)

STAGED = "staged"
UPGRADE_TO = "MUSTER_K3S_UPGRADE"
"""Environment variable with the version of K3s that replaces the one that runs on a node; without
it the roles refuse to change it."""
_PATIENT: Mapping[str, Any] = {"healthy_deadline": 300.0, "progress_deadline": 1800.0}
"""Clocks where no strategy is given: a restart takes longer than a container."""


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of every task."""
    options = (
        inventory_option,
        strategy_option,
        journal_option,
        include_quarantined_option,
        yes_option,
        driving_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@pattern_argument
@task_options
def reboot(pattern: str | None, **options: Any) -> int:
    """Restart the devices that an Ansible PATTERN selects, wave by wave.

    A device has come back when it names another boot, its models are ready, and no unit has failed
    that had not before. Without PATTERN all devices.
    """
    return run_task(Task.new(REBOOT), pattern, "Restart", **options)


@click.group()
def firmware() -> None:
    """Look for newer firmware, fetch it, and apply it wave by wave.

    By rpi-eeprom-update, fwupdmgr and the board support packages of a Jetson, whichever a device
    has. What is applied takes effect with a restart, which is part of it.
    """


@firmware.command()
@pattern_argument
@inventory_option
@json_option
def check(pattern: str | None, inventory_path: Path, as_json: bool) -> int:
    """Show the firmware of each device, and what there is newer. Changes nothing.

    Exit code 1 when a device did not answer.
    """
    inventory = load_inventory(inventory_path, pattern)
    with controller.connected_fleet(inventory.devices) as fleet:
        seen = controller.survey(fleet, inventory.names, Task.new(FIRMWARE))
    return _show_firmware(seen, as_json=as_json)


@firmware.command()
@pattern_argument
@inventory_option
@strategy_option
@json_option
def stage(
    pattern: str | None, inventory_path: Path, strategy_path: Path | None, as_json: bool
) -> int:
    """Fetch newer firmware onto the devices, all at once, and apply nothing."""
    inventory, strategy = load_inventory(inventory_path, pattern), strategy_of_task(strategy_path)
    orders = TaskOrders("", Task.new(FIRMWARE), strategy)
    with controller.connected_fleet(inventory.devices) as fleet:
        for name in inventory.names:
            fleet.submit(orders.stage(name, "", None))
        told: dict[str, str] = {}
        while len(told) < len(inventory.names):
            answer = fleet.next_answer(None)
            if answer is None:
                break
            nothing = "" if answer.document.get("newer") else NOTHING_NEWER
            told[answer.device] = answer.message if answer.trouble else nothing
    if as_json:
        click.echo(json.dumps({name: told[name] or STAGED for name in sorted(told)}, indent=2))
    else:
        table = plain_table("device", "result")
        for name, problem in sorted(told.items()):
            style = {"": "green", NOTHING_NEWER: "dim"}.get(problem, "red")
            table.add_row(name, Text(problem or STAGED, style=style))
        make_console().print(table)
    return 1 if set(told.values()) - {"", NOTHING_NEWER} else 0


@firmware.command()
@pattern_argument
@task_options
def apply(pattern: str | None, **options: Any) -> int:
    """Apply newer firmware, wave by wave, each device with its restart.

    A device that has nothing newer is left alone. One that is back with the old firmware has
    failed. What is applied can't be taken back.
    """
    return run_task(Task.new(FIRMWARE), pattern, "Apply firmware on", **options)


@click.command()
@pattern_argument
@task_options
def configure(pattern: str | None, **options: Any) -> int:
    """Provision those devices that differ from what the inventory says, wave by wave.

    A dry run finds out which those are; the others are not touched. After each wave its devices
    must serve as before. `muster provision` does the same to all devices at once.
    """
    return run_task(Task.new(CONFIGURE), pattern, "Configure", **options)


@click.command()
@click.argument("pattern")
@task_options
def reset(pattern: str, **options: Any) -> int:
    """Take the devices that PATTERN selects back to how they came: no model runs there then.

    Models, their images and state, keys and certificates go; the device stays enrolled, so that
    `muster provision` can bring it up again. This can't be taken back. See also `muster retire`.
    """
    return run_task(Task.new(RESET), pattern, "Remove everything from", **options)


def run_task(
    task: Task,
    pattern: str | None,
    question: str,
    *,
    inventory_path: Path,
    strategy_path: Path | None,
    journal_url: str | None,
    include_quarantined: bool,
    yes: bool,
    driving: Driving,
    some_are_gone: bool = False,
    on_end: Callable[[RolloutRecord, Journal, Fleet], None] = lambda *_: None,
) -> int:
    """Plan a task, show it, and drive it to its end.

    :param question: what a person is asked before it begins, with the number of devices behind it.
    :param some_are_gone: whether devices may be out of reach, however many.
    :param on_end: gets what was driven, with its journal and fleet.
    :returns: the exit code.
    """
    inventory, strategy = load_inventory(inventory_path, pattern), strategy_of_task(strategy_path)
    if some_are_gone:
        budget = strategy.failure_budget.model_copy(update={"max_unreachable": "100%"})
        strategy = strategy.model_copy(update={"failure_budget": budget})
    done = _unchanged(inventory, pattern) if task.action == CONFIGURE else {}
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices, **reached_besides(task, inventory)) as ssh,
    ):
        if task.action == RESET:
            if problems := leaving_problems(inventory.known, inventory.names):
                raise InputError([f"{inventory.path}: {text}" for text in problems])
            controller.check_in_no_rollout(journal, inventory)
        fleet = fleet_of(task, ssh, inventory)
        left_alone = {} if include_quarantined else controller.quarantine(journal, DEVICE)
        prepared = prepare_shown(
            inventory, task, strategy, fleet,
            quiet=driving.as_json, quarantined=left_alone, done=done,
        )  # fmt: skip
        if not driving.as_json:
            show_plan(make_console(), prepared, task)
        snapshot = controller.new(
            prepared, inventory, task, strategy, limit=pattern, kind=task.kind
        )
        if prepared.planned:
            told = counted(prepared.planned, "device")
            ask(yes or driving.as_json, f"{question} {told}?")
        code = driving.run(journal, snapshot, fleet, inventory)
        on_end(journal.load(snapshot.rollout.id).rollout, journal, fleet)
        return code


def fleet_of(task: object, fleet: Fleet, inventory: Inventory) -> Fleet:
    """The fleet on which a task is done: ``configure`` provisions devices besides."""
    if isinstance(task, Task) and task.action == RESET:
        return leaving_fleet(fleet, inventory.known, inventory.names)
    if not isinstance(task, Task) or task.action != CONFIGURE:
        return fleet
    if task.is_upgrade:
        aside = AsideFleet(fleet)
        return ConfiguringFleet(aside, Upgrading(aside, inventory.known, installing(inventory)))

    def provision_one(name: str) -> str:
        result = provision(inventory.only(name), name)[0]
        where = f"{result.failed_operation}: " if result.failed_operation else ""
        return f"{where}{result.error}" if result.failed else ""

    return ConfiguringFleet(fleet, provision_one)


def reached_besides(work: object, inventory: Inventory) -> dict[str, Any]:
    """Options of ``connected_fleet``: which devices are told something beside those worked on."""
    if not isinstance(work, Task):
        return {"known": inventory.known}
    return {"servers": servers_of(inventory)}


def servers_of(inventory: Inventory) -> list[Device]:
    """Every server of a K3s cluster in the inventory, selected or not."""
    return [device for device in inventory.known if role_of(device) == "server"]


def installing(inventory: Inventory) -> Install:
    """Provisions one node with a version of K3s that differs from what runs there."""

    def install(name: str) -> tuple[str, bool]:
        only = inventory.only(name)
        version = str(only.devices[0].variables.get("k3s_version"))
        result = provision(only, name, environment={UPGRADE_TO: version})[0]
        where = f"{result.failed_operation}: " if result.failed_operation else ""
        problem = f"{where}{result.error}" if result.failed else ""
        return problem, not result.operations

    return install


def _unchanged(inventory: Inventory, pattern: str | None) -> dict[str, str]:
    with Console(stderr=True).status("finding out what differs"):
        results = provision(inventory, pattern, dry=True)
    return {
        result.device.name: "is as the inventory says"
        for result in results
        if not result.failed and not result.count("would change")
    }


def strategy_of_task(path: Path | None) -> Strategy:
    """A strategy for tasks: nothing of them can be taken back, so a breach stops."""
    strategy = Strategy(**_PATIENT) if path is None else load_document(path, Strategy)
    budget = strategy.failure_budget
    if budget.on_breach == "pause":
        return strategy
    stops = budget.model_copy(update={"on_breach": "abort"})
    return strategy.model_copy(update={"failure_budget": stops})


def show_plan(console: Console, prepared: Prepared, task: Task) -> None:
    """Show what a task will do to which devices."""
    number = task.id.removeprefix(f"{task.action}-")
    console.print(Text.assemble((task.kind, "bold"), f"  {number}"))
    table = plain_table("wave", "device", "kind", "")
    for wave in prepared.plan.waves:
        soak = f", soak {wave.soak:.0f} s" if wave.soak else ""
        approval = ", after approval" if wave.approval else ""
        label = f"{wave.index + 1} {wave.name} ({len(wave.devices)}{soak}{approval})"
        for device in wave.devices:
            table.add_row(label, device.name, device.variant, "")
            label = ""
    for name, found in sorted(prepared.left_out.items()):
        table.add_row(styled(found.state.value), name, "", Text(found.reason, style="dim"))
    console.print(table)


def _show_firmware(seen: controller.Survey, *, as_json: bool) -> int:
    if as_json:
        found = {
            name: {"error": answer} if isinstance(answer, str) else {"firmware": answer["firmware"]}
            for name, answer in sorted(seen.items())
        }
        click.echo(json.dumps(found, indent=2))
    else:
        table = plain_table("device", "firmware", "version", "newer")
        for name, answer in sorted(seen.items()):
            if isinstance(answer, str):
                table.add_row(name, "", "", Text(answer, style="red"))
                continue
            for entry in answer["firmware"] or [{"device": "", "current": "no tool knows any"}]:
                newer = Text(entry.get("available") or "", style="yellow")
                table.add_row(name, entry["device"], entry["current"], newer)
        make_console().print(table)
    return 1 if any(isinstance(answer, str) for answer in seen.values()) else 0
