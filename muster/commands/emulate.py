"""The commands about emulated fleets: ``muster emulate up|down|status|fault``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from muster.commands.options import json_option
from muster.display import make_console, plain_table
from muster.emulator import FAULTS, EmulatedFleet
from muster.paths import COLLECTION_ROOT

_DEFAULT = COLLECTION_ROOT / "inventories" / "emulated" / "fleet.yml"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(command: _Command) -> _Command:
    """Options that every command of the group has."""
    for option in reversed(
        (
            click.option(
                "--fleet",
                "document",
                metavar="FILE",
                type=click.Path(path_type=Path),
                default=_DEFAULT,
                help="Fleet document; inventories/emulated/fleet.yml by default.",
            ),
            click.option("--name", help="Name of the fleet, instead of the document's."),
            click.option(
                "--inventory-dir",
                metavar="DIR",
                type=click.Path(path_type=Path, file_okay=False),
                help="Where hosts.yml and the keys go; beside the fleet document by default.",
            ),
            json_option,
        )
    ):
        command = option(command)
    return command


@click.group()
def emulate() -> None:
    """Bring up emulated devices in Docker, break them, take them down."""


@emulate.command()
@_options
def up(document: Path, name: str | None, inventory_dir: Path | None, as_json: bool) -> None:
    """Bring the fleet up, or bring it to what its document says now."""
    with _fleet(document, name, inventory_dir) as fleet:
        result = fleet.up()
    if as_json:
        _print_json(result)
        return
    for key in ("created", "started", "removed"):
        if result[key]:
            click.echo(f"{key:9} {', '.join(result[key])}")
    for device, units in result["degraded"].items():
        click.echo(f"degraded  {device}: {', '.join(units)}")
    if result["cut"]:
        click.echo(f"cut off   {', '.join(result['cut'])}")
    click.echo(f"inventory {result['inventory']}")
    click.echo(f"registry  {result['registry']}")
    click.echo(f"{'up' if result['changed'] else 'nothing to do'} after {result['seconds']} s")


@emulate.command()
@_options
def down(document: Path, name: str | None, inventory_dir: Path | None, as_json: bool) -> None:
    """Remove the fleet with everything that it made."""
    with _fleet(document, name, inventory_dir) as fleet:
        result = fleet.down()
    if as_json:
        _print_json(result)
    elif result["changed"]:
        kinds = ("containers", "networks", "volumes")
        click.echo("removed " + ", ".join(f"{result[kind]} {kind}" for kind in kinds))
    else:
        click.echo("nothing to do")


@emulate.command()
@_options
def status(document: Path, name: str | None, inventory_dir: Path | None, as_json: bool) -> None:
    """Show how every device is."""
    with _fleet(document, name, inventory_dir) as fleet:
        devices = fleet.status()
    if as_json:
        _print_json(devices)
        return
    table = plain_table("device", "site", "hardware", "container", "address", "ssh", "faults")
    for each in devices:
        table.add_row(
            each["device"],
            each["site"] or "",
            each["hardware"] or "",
            each["container"],
            each["address"] or "",
            {True: "answers", False: "silent", None: ""}[each["ssh"]],
            ", ".join(each["faults"]),
        )
    make_console().print(table)


@emulate.command()
@click.argument("kind", type=click.Choice(FAULTS))
@click.argument("device", required=False)
@_options
def fault(
    kind: str,
    device: str | None,
    document: Path,
    name: str | None,
    inventory_dir: Path | None,
    as_json: bool,
) -> None:
    """Inject a fault into a DEVICE, or heal it (without DEVICE: the whole fleet)."""
    with _fleet(document, name, inventory_dir) as fleet:
        result = fleet.fault(kind, device)
    if as_json:
        _print_json(result)
    else:
        click.echo(f"{kind}: {', '.join(result['targets'])}")


@contextmanager
def _fleet(document: Path, name: str | None, inventory_dir: Path | None) -> Iterator[EmulatedFleet]:
    """Load a fleet, and show on a terminal what it is doing."""
    console = Console(stderr=True)
    with console.status("") as progress:
        yield EmulatedFleet.load(document, name, inventory_dir, report=progress.update)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
