"""The command that shows which devices there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from muster.commands.options import inventory_option, json_option, limit_option
from muster.display import make_console, plain_table
from muster.inventory import Device, Inventory, load_inventory


@click.command()
@inventory_option
@limit_option
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["table", "graph", "json"]),
    default="table",
    show_default=True,
    help="How to show the devices.",
)
@json_option
def inventory(inventory_path: Path, limit: str | None, form: str, as_json: bool) -> None:
    """Show the devices of an inventory by site and hardware, without connecting to any."""
    found = load_inventory(inventory_path, limit, may_be_empty=True)
    if as_json or form == "json":
        click.echo(json.dumps(_document(found), indent=2, ensure_ascii=False))
    elif form == "graph":
        make_console().print(_graph(found))
    else:
        _show(make_console(), found)


def _document(found: Inventory) -> dict[str, Any]:
    # Variables stay out: they may hold secrets, and `ansible-inventory --host` shows them.
    def names(groups: dict[str | None, tuple[Device, ...]]) -> dict[str, list[str]]:
        return {key or "": [device.name for device in devices] for key, devices in groups.items()}

    return {
        "inventory": str(found.path),
        "devices": [
            {
                "device": device.name,
                "address": device.address,
                "port": device.port,
                "site": device.site,
                "hardware": device.hardware,
                "groups": list(device.groups),
            }
            for device in found.devices
        ],
        "sites": names(found.by_site()),
        "hardware": names(found.by_hardware()),
    }


def _show(console: Console, found: Inventory) -> None:
    if not found.devices:
        console.print(f"no devices yet; to add some: muster enroll -i {found.path} ADDRESS...")
        return
    table = plain_table("site", "device", "hardware", "address", "further groups")
    for site, devices in found.by_site().items():
        first = site or "-"
        for device in devices:
            further = [g for g in device.groups if g not in (device.site, device.hardware)]
            row = [first, device.name, device.hardware or "-", _address(device)]
            table.add_row(*row, " ".join(further))
            first = ""
    console.print(table)
    counts = (
        counted(len(found.devices), "device"),
        counted(len(found.by_site()), "site"),
        counted(len(found.by_hardware()), "hardware group"),
    )
    console.print(f"\n{', '.join(counts)}", highlight=False)


def counted(number: int, name: str) -> str:
    """Write a number of things: ``1 device``, ``2 devices``."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def _graph(found: Inventory) -> Tree:
    root = Tree(Text(str(found.path), style="bold"), guide_style="dim")
    for site, devices in found.by_site().items():
        branch = root.add(Text(site or "no site", style="bold"))
        kinds = Inventory(found.path, devices).by_hardware()
        for hardware, members in kinds.items():
            leaf = branch.add(Text(hardware or "no hardware group", style="cyan"))
            for device in members:
                leaf.add(Text(f"{device.name}  ") + Text(_address(device), style="dim"))
    return root


def _address(device: Device) -> str:
    return f"{device.address}:{device.port}" if device.port != 22 else device.address
