"""The command that brings devices up."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from muster.commands.inventory import counted
from muster.commands.options import inventory_option, json_option, limit_option
from muster.display import make_console, plain_table
from muster.inventory import load_inventory
from muster.provisioning import DeviceResult
from muster.provisioning import provision as run_provision


@click.command()
@inventory_option
@limit_option
@click.option("--dry", is_flag=True, help="Only show what would change.")
@click.option(
    "--expect-no-change", is_flag=True, help="Exit code 1 also when anything changed: finds drift."
)
@click.option("-v", "--verbose", count=True, help="Show pyinfra's log; more with -vv and -vvv.")
@json_option
def provision(
    inventory_path: Path,
    limit: str | None,
    dry: bool,
    expect_no_change: bool,
    verbose: int,
    as_json: bool,
) -> int:
    """Bring devices up: system, container runtime, accelerator, services and device program.

    Does what `pyinfra INVENTORY deploys/site.py` does, and may be repeated: a second run changes
    nothing. Exit code 1 when a device failed, 2 when a variable is invalid; then nothing was
    connected to.
    """
    began = time.monotonic()
    inventory = load_inventory(inventory_path, limit)
    text = counted(len(inventory.devices), "device")
    with Console(stderr=True, quiet=bool(verbose)).status(f"connecting to {text}") as status:
        results = run_provision(
            inventory,
            limit,
            dry=dry,
            verbosity=max(verbose - 1, 0),
            on_step=lambda name: status.update(Text(f"{name} on {text}")),
            on_line=lambda line: click.echo(line, err=True) if verbose else None,
        )
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(_summary(results, dry, seconds), indent=2))
    else:
        _show(make_console(), results, dry, seconds)
    drifted = expect_no_change and any(_changed(result) for result in results)
    return 1 if drifted or any(result.failed for result in results) else 0


def _summary(results: Sequence[DeviceResult], dry: bool, seconds: float) -> dict[str, Any]:
    return {
        "dry": dry,
        "seconds": round(seconds, 1),
        "changed": sum(_changed(result) for result in results),
        "failed": [result.device.name for result in results if result.failed],
        "devices": [
            {
                "device": result.device.name,
                "site": result.device.site,
                "hardware": result.device.hardware,
                "reached": bool(result.operations),
                "failed": result.failed,
                "operation": result.failed_operation,
                "error": result.error or None,
                "operations": [{"name": o.name, "outcome": o.outcome} for o in result.operations],
            }
            for result in results
        ],
    }


def _changed(result: DeviceResult) -> int:
    return result.count("changed", "would change")


def _show(console: Console, results: Sequence[DeviceResult], dry: bool, seconds: float) -> None:
    table = plain_table(
        "device", "site", "hardware", "would change" if dry else "changed", "unchanged", "result"
    )
    for result in results:
        device = result.device
        row = [device.name, device.site or "", device.hardware or ""]
        counts = [str(_changed(result)), str(result.count("unchanged"))]
        table.add_row(*row, *(counts if result.operations else ["-", "-"]), _verdict(result, dry))
    console.print(table)
    failed = sum(result.failed for result in results)
    changed = sum(_changed(result) for result in results)
    parts = [f"{failed} of {counted(len(results), 'device')} failed"] if failed else []
    told = counted(changed, "change") + (" to make" if dry else "")
    parts.append(told if changed else "nothing to change" if dry else "nothing changed")
    console.print(f"\n{', '.join(parts)} after {seconds:.1f} s", highlight=False)


def _verdict(result: DeviceResult, dry: bool) -> Text:
    if not result.failed:
        return Text("reachable" if dry else "provisioned", style="green")
    where = f"{result.failed_operation}: " if result.failed_operation else ""
    kind = "failed: " if result.operations else "unreachable: "
    return Text(kind, style="bold red") + Text(where + result.error, style="red")
