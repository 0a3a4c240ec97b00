"""The commands that plan and drive rollouts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from muster.commands.options import (
    inventory_option,
    journal_option,
    json_option,
    limit_option,
    strategy_option,
)
from muster.display import counted, make_console, observer, plain_table, styled
from muster.documents import load_document
from muster.errors import MusterError
from muster.fleet.interface import Fleet
from muster.inventory import Inventory, load_inventory
from muster.release import Release
from muster.rollout import controller, report
from muster.rollout.controller import Prepared
from muster.rollout.engine import Engine
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import DeviceState
from muster.rollout.records import Snapshot
from muster.strategy import Strategy

_TICK_SECONDS = 0.5


def _writable(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Find out before a rollout that its report can't be written."""
    if path is not None:
        try:
            path.open("a").close()
        except OSError as error:
            raise click.BadParameter(f"{path}: {error.strerror}") from None
    return path


junit_option = click.option(
    "--junit",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_writable,
    help="Write JUnit XML to FILE.",
)
events_option = click.option(
    "--json", "as_json", is_flag=True, help="Print events as JSON, one a line."
)
yes_option = click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="Do not ask before it begins. Without a terminal, and with --json, nobody is asked.",
)


@click.command()
@click.argument("release_path", metavar="RELEASE", type=click.Path(path_type=Path))
@inventory_option
@limit_option
@strategy_option
@json_option
def plan(
    release_path: Path,
    inventory_path: Path,
    limit: str | None,
    strategy_path: Path | None,
    as_json: bool,
) -> None:
    """Show what a rollout of RELEASE would do, and change nothing.

    Every device is asked what it is and what it runs.
    """
    release, strategy, inventory = _load(release_path, strategy_path, inventory_path, limit)
    with controller.connected_fleet(inventory.devices) as fleet:
        prepared = _prepare(inventory, release, strategy, fleet, quiet=as_json)
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
@junit_option
@yes_option
@events_option
def rollout(
    release_path: Path,
    inventory_path: Path,
    limit: str | None,
    strategy_path: Path | None,
    journal_url: str | None,
    junit: Path | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Roll RELEASE over the devices, wave by wave.

    A device that fails its gates goes back to what it ran before; a wave that fails more than the
    budget allows stops the rollout. Ctrl-C pauses it; `muster resume` goes on.
    """
    release, strategy, inventory = _load(release_path, strategy_path, inventory_path, limit)
    signature = controller.read_signature(release_path)
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices) as fleet,
    ):
        prepared = _prepare(inventory, release, strategy, fleet, quiet=as_json)
        if not as_json:
            _show_plan(make_console(), prepared, release, inventory)
        _ask(yes or as_json, f"Roll {release.id} out to {prepared.planned} devices?")
        snapshot = controller.new(
            prepared, inventory, release, strategy, limit=limit, signature=signature
        )
        return _drive(journal, snapshot, fleet, inventory, junit, as_json)


@click.command()
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@journal_option
@junit_option
@events_option
def resume(
    rollout_id: str | None, journal_url: str | None, junit: Path | None, as_json: bool
) -> int:
    """Go on with a rollout that was paused or whose controller died.

    Without ROLLOUT the newest unfinished one. Resuming after a pause accepts the failures so far.
    """
    with open_journal(journal_url) as journal:
        record = controller.unfinished(journal, rollout_id)
        inventory = controller.load_devices(record)
        with controller.connected_fleet(inventory.devices) as fleet:
            return _drive(journal, journal.load(record.id), fleet, inventory, junit, as_json)


@click.command()
@click.option("-m", "--model", help="Model to take back; needed when the journal knows several.")
@click.option("--to", metavar="RELEASE", help="Id or version of the release to go back to.")
@inventory_option
@limit_option
@strategy_option
@journal_option
@junit_option
@yes_option
@events_option
def rollback(
    model: str | None,
    to: str | None,
    inventory_path: Path,
    limit: str | None,
    strategy_path: Path | None,
    journal_url: str | None,
    junit: Path | None,
    yes: bool,
    as_json: bool,
) -> int:
    """Take devices back to an earlier release, all at once but with its gates.

    Without --to the release that most of them ran before. Succeeding is exit code 0 here.
    """
    strategy = controller.rollback_strategy(_load_strategy(strategy_path))
    inventory = load_inventory(inventory_path, limit)
    with (
        open_journal(journal_url) as journal,
        controller.connected_fleet(inventory.devices) as fleet,
    ):
        name = model or only_model(journal)
        seen = controller.survey(fleet, [d.name for d in inventory.devices], name)
        release, signature = controller.rollback_target(journal, name, seen, to)
        prepared = _prepare(inventory, release, strategy, fleet, quiet=as_json)
        if not as_json:
            _show_plan(make_console(), prepared, release, inventory)
        _ask(yes or as_json, f"Take {prepared.planned} devices back to {release.id}?")
        snapshot = controller.new(
            prepared,
            inventory,
            release,
            strategy,
            limit=limit,
            kind="rollback",
            signature=signature,
        )
        return _drive(journal, snapshot, fleet, inventory, junit, as_json)


def only_model(journal: Journal) -> str:
    """The one model that the journal knows.

    :raises MusterError: it knows none, or several.
    """
    models = sorted({record.model for record in journal.rollouts(limit=1000)})
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


def _prepare(
    inventory: Inventory, release: Release, strategy: Strategy, fleet: Fleet, *, quiet: bool
) -> Prepared:
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        task = progress.add_task("asking devices", total=len(inventory.devices))
        return controller.prepare(
            inventory, release, strategy, fleet, lambda _name: progress.advance(task)
        )


def _ask(answered: bool, question: str) -> None:
    if not answered and sys.stdin.isatty():
        click.confirm(question, abort=True)


def _drive(
    journal: Journal,
    snapshot: Snapshot,
    fleet: Fleet,
    inventory: Inventory,
    junit: Path | None,
    as_json: bool,
) -> int:
    console = make_console()
    display = observer(console, snapshot, as_json=as_json)
    with contextlib.ExitStack() as stack:
        if isinstance(display, contextlib.AbstractContextManager):
            stack.enter_context(display)
        record = controller.drive(
            journal,
            snapshot,
            fleet,
            inventory.devices,
            [display],
            tick=_TICK_SECONDS if console.is_terminal and not as_json else None,
            on_engine=lambda engine: stack.enter_context(_pause_on_interrupt(engine)),
        )
    snapshot, events = journal.load(record.id), journal.events(record.id)
    if junit is not None:
        junit.write_text(report.junit(snapshot, events), encoding="utf-8")
    result = report.summary(snapshot, events)
    if as_json:
        click.echo(json.dumps({"event": "result", **result}))
    else:
        _show_result(console, result)
    return record.exit_code if record.exit_code is not None else 1


@contextmanager
def _pause_on_interrupt(engine: Engine) -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        engine.stop("stopped by the operator")
        signal.signal(signal.SIGINT, leave)

    def leave(_signal: int, _frame: object) -> None:
        # The cursor, which the live display had hidden, and what happens now.
        click.echo(
            "\x1b[?25h\nstopped at once: switches that are not confirmed go back by themselves;"
            " muster resume goes on",
            err=True,
        )
        os._exit(1)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plan_json(prepared: Prepared, release: Release) -> dict[str, Any]:
    return {
        "release": release.id,
        "digest": release.digest,
        **prepared.plan.to_json(),
        "left_out": {
            name: {"state": found.state.value, "reason": found.reason}
            for name, found in prepared.left_out.items()
        },
        "current": {name: _current(seen) for name, seen in prepared.seen.items()},
    }


def _current(seen: Any) -> str | None:
    current = None if isinstance(seen, str) else seen["model"]["current"]
    return current["id"] if current else None


def _show_plan(
    console: Console, prepared: Prepared, release: Release, inventory: Inventory
) -> None:
    sites = {device.name: device.site or "" for device in inventory.devices}
    console.print(f"[bold]{release.model} {release.id}[/bold]  sha256:{release.digest}")
    table = plain_table("wave", "device", "site", "variant", "runs now")
    for wave in prepared.plan.waves:
        soak = f", soak {wave.soak:.0f} s" if wave.soak else ""
        label = f"{wave.index + 1} {wave.name} ({len(wave.devices)}{soak})"
        for device in wave.devices:
            runs = _current(prepared.seen[device.name]) or "nothing"
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


def _show_result(console: Console, result: dict[str, Any]) -> None:
    console.print()
    console.print(
        Text.assemble(
            f"{result['kind']} {result['rollout']}: ",
            styled(result["state"]),
            f"  {result['reason']}",
        ),
        soft_wrap=True,
    )
    for wave in result["waves"]:
        console.print(
            f"  wave {wave['index'] + 1} ({wave['name']}): {counted(wave['devices'], 'device')} in"
            f" {wave['seconds']:.1f} s; its slowest, {wave['slowest_device']},"
            f" took {wave['slowest']:.1f} s"
        )
    most = max((device["commands"] for device in result["devices"]), default=0)
    if most:
        console.print(f"  at most {counted(most, 'SSH command')} on a device")
    for device in result["devices"]:
        if device["reason"] and device["state"] not in {"committed", "already_current"}:
            console.print(
                Text(f"  {device['device']}  ") + styled(device["state"]),
                Text(f" {device['reason']}", style="dim"),
                soft_wrap=True,
            )
    if result["exit_code"] == 5:
        console.print(f"  to go on: muster resume {result['rollout']}")
