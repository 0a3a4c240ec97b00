"""The command that begins a site: ``muster site new``."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click

from muster.commands.options import json_option
from muster.enrolment.site import check_site_name, write_site
from muster.errors import InputError

_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]{1,5}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")


@click.group()
def site() -> None:
    """Begin a new site."""


@site.command()
@click.argument("name")
@click.option(
    "-d",
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the inventory. Default: inventories/NAME, here.",
)
@click.option("--user", default="ops", show_default=True, help="Login of its devices.")
@click.option("--registry", metavar="HOST:PORT", help="The site's registry, as its devices see it.")
@json_option
def new(name: str, directory: Path | None, user: str, registry: str | None, as_json: bool) -> None:
    """Write a commented inventory for the site NAME. Nothing is overwritten."""
    word = check_site_name(name)
    if registry is not None and not _REGISTRY.fullmatch(registry):
        raise InputError(f"--registry: expected HOST:PORT, got {registry!r}")
    if not _USER.fullmatch(user):
        raise InputError(f"--user: expected a user's name, got {user!r}")
    folder = directory or Path("inventories") / word
    written = write_site(word, folder, user, registry)
    if as_json:
        document = {
            "site": f"site_{word}",
            "inventory": str(folder),
            "files": [str(path) for path in written],
        }
        click.echo(json.dumps(document, indent=2))
        return
    for path in written:
        click.echo(f"written {path}")
    click.echo(f"next: read them, then muster enroll -i {shlex.quote(str(folder))} ADDRESS...")
    if registry is None:
        file = folder / "group_vars" / f"site_{word}.yml"
        click.echo(f"and set muster_registry in {file} before muster provision")
