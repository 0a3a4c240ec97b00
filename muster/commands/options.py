"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from muster.paths import COLLECTION_ROOT

F = TypeVar("F", bound=Callable[..., Any])


def default_inventory() -> Path:
    """``$MUSTER_INVENTORY``, else the emulated fleet of the collection."""
    value = os.environ.get("MUSTER_INVENTORY")
    return Path(value) if value else COLLECTION_ROOT / "inventories" / "emulated"


inventory_option = click.option(
    "-i",
    "--inventory",
    "inventory_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    default=default_inventory,
    help="Ansible inventory, file or folder. Default: $MUSTER_INVENTORY, else the emulated fleet.",
)
limit_option = click.option(
    "-l", "--limit", metavar="PATTERN", help="Only the devices that an Ansible pattern selects."
)
journal_option = click.option(
    "--journal",
    "journal_url",
    metavar="URL",
    envvar="MUSTER_JOURNAL",
    help="Database of the journal. Default: $MUSTER_JOURNAL, else SQLite in the state folder.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
strategy_option = click.option(
    "-s",
    "--strategy",
    "strategy_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Strategy document. Default: the built-in strategy, see `muster schema strategy`.",
)
