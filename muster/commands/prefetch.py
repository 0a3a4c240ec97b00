"""Commands about the registries of sites: filling them ahead of a rollout, and clearing them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from muster.commands.options import inventory_option, journal_option, json_option
from muster.display import counted, make_console, plain_table
from muster.documents import load_document
from muster.errors import InputError
from muster.fields import format_duration, format_size, parse_duration
from muster.inventory import Inventory, load_inventory
from muster.prefetch import sites as site_registries
from muster.prefetch.choosing import named_sites
from muster.prefetch.sites import Ahead
from muster.prefetch.working import Outcome, Told
from muster.release import Release
from muster.rollout.journal import open_journal
from muster.rollout.records import Snapshot

_KEEP = "7d"


def _seconds(_context: click.Context, _option: click.Parameter, value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


site_option = click.option(
    "--site",
    "sites",
    metavar="SITE",
    multiple=True,
    help="A site, with or without site_; may be repeated. Default: all that have a registry.",
)


@click.command()
@click.argument("release_path", metavar="RELEASE", type=click.Path(path_type=Path))
@inventory_option
@site_option
@click.option(
    "--all", "every", is_flag=True, help="Also variants that no device of the site takes."
)
@click.option("--verify", is_flag=True, help="Check what is there byte by byte; replace damage.")
@json_option
def prefetch(
    release_path: Path,
    inventory_path: Path,
    sites: tuple[str, ...],
    every: bool,
    verify: bool,
    as_json: bool,
) -> int:
    """Copy the images of RELEASE to the registries of sites, ahead of a rollout.

    Each registry fetches them from its upstream registry by itself, so they cross the site's uplink
    once. What is there is not copied again: after a cut, the same command goes on. A rollout does
    the same before its first wave.
    """
    release = load_document(release_path, Release)
    inventory = load_inventory(inventory_path)
    chosen = named_sites(inventory, sites)
    wanted = site_registries.images_for_sites(inventory, release, chosen, every=every)
    if nowhere := [str(site) for site, images in wanted.items() if not images and sites]:
        raise InputError(
            f"{inventory.path}: no device of {', '.join(nowhere)} takes release {release.id}; to"
            " copy every variant: --all"
        )
    with shown(quiet=as_json) as told:
        done = site_registries.fill(inventory, wanted, told, verify=verify)
    if as_json:
        document = {"release": release.id, "registries": [each.to_json() for each in done]}
        click.echo(json.dumps(document, indent=2))
    else:
        console = make_console()
        for each in done:
            style = "red" if each.outcome.error else ""
            console.print(Text(each.text, style=style), soft_wrap=True)
        if not done:
            console.print(f"no device of these sites takes release {release.id}")
    return 1 if any(each.outcome.error for each in done) else 0


def fill_ahead(snapshot: Snapshot, inventory: Inventory, *, quiet: bool) -> Ahead:
    """Fill the registries of the sites of a rollout, with a progress bar."""
    with shown(quiet=quiet) as told:
        return site_registries.fill_ahead(snapshot, inventory, told)


@contextmanager
def shown(*, quiet: bool) -> Iterator[Told]:
    """Show how far registries are, on a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as bars:
        tasks: dict[str, Any] = {}

        def tell(host: str, how: Mapping[str, Any]) -> None:
            if host not in tasks:
                tasks[host] = bars.add_task(f"filling {host}", total=None)
            if how.get("bytes"):
                bars.update(tasks[host], completed=how["bytes_done"], total=how["bytes"])

        yield tell


@click.group()
def registry() -> None:
    """Look after the registries of sites; `muster prefetch` fills them."""


@registry.command()
@inventory_option
@site_option
@json_option
def show(inventory_path: Path, sites: tuple[str, ...], as_json: bool) -> int:
    """Show what the registries of sites hold."""
    inventory = load_inventory(inventory_path)
    found = site_registries.stored(inventory, named_sites(inventory, sites))
    if as_json:
        click.echo(json.dumps({"registries": found}, indent=2))
    else:
        table = plain_table("registry", "images", "holds", "free", "at work", "")
        for host, answer in found.items():
            table.add_row(host, *_row(answer))
        make_console().print(table)
    return 1 if any(isinstance(answer, str) for answer in found.values()) else 0


def _row(answer: Mapping[str, Any] | str) -> list[Text | str]:
    if isinstance(answer, str):
        return ["-", "-", "-", "-", Text(answer, style="red")]
    store, how = answer["store"], answer["progress"]
    at_work = str(how.get("task", "")) if answer["working"] else "no"
    last = f"last: {how['error']}" if how.get("state") == "failed" else ""
    sizes = [format_size(_rounded(store[key])) for key in ("bytes", "free")]
    return [str(len(store["images"])), *sizes, at_work, Text(last, style="yellow")]


def _rounded(size: int) -> int:
    """Whole MiB, which are short to write."""
    return size >> 20 << 20


@registry.command()
@inventory_option
@journal_option
@site_option
@click.option(
    "--keep",
    "newer",
    metavar="DURATION",
    default=_KEEP,
    show_default=True,
    callback=_seconds,
    help="Keep what was copied, or asked for, less long ago.",
)
@click.option("--dry", is_flag=True, help="Only show what would go.")
@click.option(
    "--force", is_flag=True, help="Also where it can't be told what a device may go back to."
)
@json_option
def gc(
    inventory_path: Path,
    journal_url: str | None,
    sites: tuple[str, ...],
    newer: float,
    dry: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Remove images that no device of the site needs any more.

    Every device of the site is asked what it holds; of one that does not answer, everything stays
    that it was ever given by this journal. What a rollout that is not over brings stays, and so
    does the newest release that was rolled out well. All goes, or nothing; nobody can push
    meanwhile.
    """
    inventory = load_inventory(inventory_path)
    chosen = named_sites(inventory, sites)
    with open_journal(journal_url) as journal:
        found = {site: site_registries.protection(journal, inventory, site) for site in chosen}
    if not force:
        for site, protected in found.items():
            site_registries.refuse_unsure(site, protected)
    digests = {site: protected.digests for site, protected in found.items()}
    with shown(quiet=as_json) as told:
        done = site_registries.clear(inventory, digests, newer, told, dry=dry)
    outcomes = [(site, outcome) for site, members in done.items() for outcome in members]
    if as_json:
        registries = [_cleared(site, outcome) for site, outcome in outcomes]
        click.echo(json.dumps({"dry": dry, "registries": registries}, indent=2))
    else:
        for _, outcome in outcomes:
            _show_cleared(make_console(), outcome, newer, dry=dry)
    return 1 if any(outcome.error for _, outcome in outcomes) else 0


def _cleared(site: str | None, outcome: Outcome) -> dict[str, Any]:
    return {
        "site": site,
        "host": outcome.host,
        "removed": outcome.result.get("images", []),
        "freed": outcome.result.get("freed", 0),
        "kept": outcome.result.get("kept", 0),
        "error": outcome.error or None,
    }


def _show_cleared(console: Console, outcome: Outcome, newer: float, *, dry: bool) -> None:
    if outcome.error:
        console.print(Text(f"{outcome.host}: {outcome.error}", style="red"), soft_wrap=True)
        return
    result = outcome.result
    for image in result["images"]:
        console.print(Text(f"  {image}", style="dim"), soft_wrap=True)
    would = "would go" if dry else "removed"
    freed = f"{format_size(result['freed'])} {'to be freed' if dry else 'freed'}"
    text = f"{outcome.host}: {counted(len(result['images']), 'manifest')} {would}, {freed}"
    young = f", those younger than {_days(newer)} among them" if newer else ""
    console.print(f"{text}; {result['kept']} stay{young}", soft_wrap=True)


def _days(seconds: float) -> str:
    days, rest = divmod(seconds, 86400)
    return format_duration(seconds) if rest else counted(int(days), "day")
