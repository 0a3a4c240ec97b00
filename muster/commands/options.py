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


def named_on_command_line(parameter: str) -> bool:
    """Whether an option of the command that runs was typed, not taken from its default."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


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


def _check_hooks(
    _context: click.Context, _option: click.Parameter, folder: Path | None
) -> Path | None:
    from muster.hooks.calls import check_hooks

    check_hooks(folder)
    return folder


def _check_webhook(
    _context: click.Context, _option: click.Parameter, url: str | None
) -> str | None:
    from muster.hooks.calls import check_webhook

    check_webhook(url)
    return url


hooks_option = click.option(
    "--hooks",
    "hooks_folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar="MUSTER_HOOKS",
    callback=_check_hooks,
    help="Folder of executables named after what they are called for. Default: $MUSTER_HOOKS.",
)
webhook_option = click.option(
    "--webhook",
    "webhook_url",
    metavar="URL",
    envvar="MUSTER_WEBHOOK",
    callback=_check_webhook,
    help="Web service that is told what happens. Default: $MUSTER_WEBHOOK. Signed with"
    " $MUSTER_WEBHOOK_SECRET.",
)
