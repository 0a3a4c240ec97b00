"""The commands that tell what is and what was."""

from __future__ import annotations

import contextlib
import difflib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from muster.commands.options import inventory_option, journal_option, json_option, limit_option
from muster.commands.rollout import only_model
from muster.display import describe, make_console, plain_table, styled
from muster.errors import InputError
from muster.fleet.interface import Fleet
from muster.inventory import Device, Inventory, load_inventory
from muster.rollout import controller, report
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import FINAL_ROLLOUT
from muster.rollout.records import RolloutRecord


@click.command()
@click.option("-m", "--model", help="Model to ask for; needed when the journal knows several.")
@click.option(
    "-w",
    "--watch",
    metavar="SECONDS",
    type=click.FloatRange(min=1.0, max=3600.0),
    is_flag=False,
    flag_value=5.0,
    help="Ask again and again, every 5 seconds or as said, until Ctrl-C.",
)
@inventory_option
@limit_option
@journal_option
@json_option
def status(
    model: str | None,
    watch: float | None,
    inventory_path: Path,
    limit: str | None,
    journal_url: str | None,
    as_json: bool,
) -> int:
    """Ask every device what it runs, and show the newest rollout.

    Exit code 1 when a device does not answer, does not serve or is not confirmed; with --watch, as
    it was at last. With --watch and --json each round is one line.
    """
    inventory = load_inventory(inventory_path, limit)
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices, remember=False) as fleet,
    ):
        name = only_model(journal, model)
        console = make_console()
        found = _look(journal, fleet, inventory, name)
        if watch is None:
            click.echo(json.dumps(found.document, indent=2)) if as_json else found.show(console)
        elif as_json or not console.is_terminal:
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    click.echo(json.dumps(found.document)) if as_json else found.show(console)
                    time.sleep(watch)
                    found = _look(journal, fleet, inventory, name)
        else:
            with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True) as live:
                while True:
                    live.update(found.picture(), refresh=True)
                    time.sleep(watch)
                    found = _look(journal, fleet, inventory, name)
            found.show(console)
    return 0 if all(row["well"] for row in found.rows) else 1


@dataclass(frozen=True)
class _Found:
    """What every device runs at one moment; ``owner`` drives the newest rollout."""

    model: str
    rows: list[dict[str, Any]]
    newest: RolloutRecord | None
    owner: str | None

    @property
    def document(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "devices": self.rows,
            "rollout": self.newest and _rollout_row(self.newest),
            "driven_by": self.owner,
        }

    def show(self, console: Console) -> None:
        _show_status(console, self.model, self.rows, self.newest, self.owner)

    def picture(self) -> Text:
        """The same for a screen that is drawn again and again."""
        console = make_console()
        with console.capture() as captured:
            console.print(time.strftime("%H:%M:%S"), style="dim")
            self.show(console)
        return Text.from_ansi(captured.get())


def _look(journal: Journal, fleet: Fleet, inventory: Inventory, model: str) -> _Found:
    newest = next(iter(journal.rollouts(model, limit=1)), None)
    owner = journal.lease_owner(newest.id) if newest else None
    seen = controller.survey(fleet, inventory.names, model)
    rows = [_status_row(device, seen[device.name]) for device in inventory.devices]
    return _Found(model, rows, newest, owner)


def _status_row(device: Device, seen: Mapping[str, Any] | str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "device": device.name,
        "site": device.site,
        "hardware": device.hardware,
        "reachable": not isinstance(seen, str),
        "release": None,
        "serving": False,
        "last_good": None,
        "generation": None,
        "phase": None,
        "guard_remaining": None,
        "note": seen if isinstance(seen, str) else "",
        "well": False,
    }
    if isinstance(seen, str):
        return row
    model = seen["model"]
    current = model["current"]
    row |= {
        "release": current["id"] if current else None,
        "serving": bool(current and current["serving"]),
        "last_good": model["last_good"],
        "generation": model["generation"],
        "phase": model["phase"],
        "guard_remaining": model["guard"]["remaining"],
    }
    outcome = model["last_outcome"]
    if outcome and outcome["outcome"] != "confirmed":
        row["note"] = f"{outcome['outcome']} {outcome['release']}: {outcome['reason']}"
    row["well"] = row["phase"] == "idle" and (row["serving"] or not current)
    return row


def _show_status(
    console: Console,
    model: str,
    rows: list[dict[str, Any]],
    newest: RolloutRecord | None,
    owner: str | None,
) -> None:
    table = plain_table("device", "site", "hardware", model, "state", "")
    for row in rows:
        if not row["reachable"]:
            state = Text("no answer", style="bold red")
        elif row["phase"] != "idle":
            left = row["guard_remaining"]
            text = row["phase"] + (f", reverts in {left:.0f} s" if left is not None else "")
            state = Text(text, style="yellow")
        elif row["release"] is None:
            state = Text("nothing", style="dim")
        elif row["serving"]:
            state = Text("serving", style="green")
        else:
            state = Text("not serving", style="bold red")
        table.add_row(
            row["device"],
            row["site"] or "",
            row["hardware"] or "",
            row["release"] or "-",
            state,
            Text(row["note"], style="dim"),
        )
    console.print(table)
    if newest is not None:
        console.print(
            Text.assemble(
                f"\nnewest {newest.command} {newest.id}: {newest.release_id}  ",
                styled(newest.state.value),
                f"  {newest.reason}",
            ),
            soft_wrap=True,
        )
        if owner is not None:
            console.print(f"driven by {owner}")
        elif newest.state not in FINAL_ROLLOUT:
            console.print(f"nobody drives it; to go on: muster resume {newest.id}")


@click.command()
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@click.option("-m", "--model", help="Only rollouts of this model.")
@click.option(
    "-d",
    "--device",
    help="Every rollout that this device was in; with ROLLOUT, what happened to it there.",
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many rollouts to list.",
)
@journal_option
@json_option
def history(
    rollout_id: str | None,
    model: str | None,
    device: str | None,
    number: int,
    journal_url: str | None,
    as_json: bool,
) -> None:
    """List rollouts, or everything that happened in one ROLLOUT, or to one device."""
    with open_journal(journal_url) as journal:
        if rollout_id is None and device is not None:
            _tell_device(journal, device, model, number, as_json)
        elif rollout_id is None:
            _list_rollouts(journal.rollouts(model, number), as_json)
        else:
            _tell_rollout(journal, rollout_id, device, as_json)


def _rollout_row(record: RolloutRecord) -> dict[str, Any]:
    return {
        "rollout": record.id,
        "kind": record.kind,
        "model": record.model,
        "release": record.release_id,
        "state": record.state.value,
        "reason": record.reason,
        "exit_code": record.exit_code,
        "created": record.created,
        "updated": record.updated,
        "controller": record.controller,
    }


def _list_rollouts(records: list[RolloutRecord], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_rollout_row(record) for record in records], indent=2))
        return
    if not records:
        make_console().print("no rollouts yet")
        return
    table = plain_table("rollout", "release", "state", "exit", "took", "")
    for r in records:
        table.add_row(
            r.id,
            _what(r),
            styled(r.state.value),
            "" if r.exit_code is None else str(r.exit_code),
            f"{r.updated - r.created:.0f} s",
            Text(f"{r.command} by {r.controller}: {r.reason}", style="dim"),
        )
    make_console().print(table)


def _what(record: RolloutRecord) -> str:
    return f"{record.command} of {record.about}" if record.is_task else record.about


def _tell_device(
    journal: Journal, device: str, model: str | None, number: int, as_json: bool
) -> None:
    found = journal.of_device(device, model, number)
    if not found:
        what = f"rollout of {model}" if model else "rollout"
        text = f"no {what} in this journal had that device"
        _refuse_device(device, text, journal.device_names(model))
    if as_json:
        rows = [
            {
                "device": own.device,
                **_rollout_row(record),
                "rollout_state": record.state.value,
                "wave": own.wave,
                "variant": own.variant,
                "state": own.state.value,
                "reason": own.reason,
                "previous": own.previous,
                "generation": own.generation,
                "failed": own.failed,
            }
            for record, own in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = plain_table("when", "rollout", "release", "wave", "device", "rollout state", "")
    for record, own in found:
        table.add_row(
            time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created)),
            record.id,
            _what(record),
            "-" if own.wave is None else str(own.wave + 1),
            styled(own.state.value),
            styled(record.state.value),
            Text(f"{record.command}: {own.reason}" if own.reason else record.command, style="dim"),
        )
    make_console().print(table)


def _refuse_device(device: str, why: str, known: list[str]) -> NoReturn:
    """Say that a device is not there, and which names are like it."""
    near = difflib.get_close_matches(device, known, 3) or known[:3]
    hint = f", expected one such as {', '.join(near)}" if near else ""
    raise InputError(f"--device {device}: {why}{hint}")


def _tell_rollout(journal: Journal, rollout_id: str, device: str | None, as_json: bool) -> None:
    snapshot = journal.load(rollout_id)
    names = sorted(record.device for record in snapshot.devices)
    if device is not None and device not in names:
        _refuse_device(device, f"rollout {snapshot.rollout.id} has no such device", names)
    events = journal.events(snapshot.rollout.id, device)
    if as_json:
        document = report.summary(snapshot, journal.events(snapshot.rollout.id))
        click.echo(
            json.dumps(document | {"events": [event.to_json() for event in events]}, indent=2)
        )
        return
    waves = {wave.index: wave.name for wave in snapshot.waves}
    console = make_console()
    for event in events:
        line = describe(event, waves)
        if line is not None:
            clock = time.strftime("%Y-%m-%d %H:%M:%S ", time.localtime(event.at))
            console.print(Text(clock, style="dim") + line, soft_wrap=True)
