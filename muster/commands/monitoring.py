"""The command about what Prometheus scrapes: ``muster monitoring targets``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from muster.commands.options import inventory_option, limit_option
from muster.inventory import load_inventory
from muster.monitoring import device_targets, model_targets
from muster.role_variables import check_variables


@click.group()
def monitoring() -> None:
    """Show what Prometheus is to scrape."""


@monitoring.command()
@inventory_option
@limit_option
@click.option("--models", is_flag=True, help="The models' own metrics, not the devices'.")
def targets(inventory_path: Path, limit: str | None, models: bool) -> None:
    """Print a file for file_sd_configs of a Prometheus that Muster does not bring up.

    Devices without monitoring_enabled are left out.
    """
    inventory = load_inventory(inventory_path, limit)
    check_variables(inventory, ["monitoring"])
    groups = (model_targets if models else device_targets)(inventory.devices)
    click.echo(json.dumps(groups, indent=2, sort_keys=True))
