"""The command that writes a rollout as an HTML page."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from muster.commands.options import journal_option
from muster.errors import InputError, MusterError
from muster.htmlreport import make_page, render
from muster.rollout.journal import open_journal


@click.command()
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Where to write the page; - for standard output. Default: ROLLOUT.html, here.",
)
@journal_option
def report(rollout_id: str | None, output: Path | None, journal_url: str | None) -> None:
    """Write ROLLOUT as one HTML page that needs nothing else: for mail, for an archive.

    Without ROLLOUT the newest one. A rollout that has not ended is told as far as it is.
    """
    with open_journal(journal_url) as journal:
        if rollout_id is None:
            newest = next(iter(journal.rollouts(limit=1)), None)
            if newest is None:
                raise MusterError("the journal has no rollout yet")
            rollout_id = newest.id
        snapshot = journal.load(rollout_id)
        events = journal.events(snapshot.rollout.id)
    # The zone of the rollout's day, not of today: summer time would shift the clock.
    zone = datetime.fromtimestamp(snapshot.rollout.created).astimezone().tzinfo
    if zone is None:
        raise AssertionError("a local time has a zone")
    page = render(make_page(snapshot, events, zone))
    path = output or Path(f"{snapshot.rollout.id}.html")
    if str(path) == "-":
        click.echo(page)
        return
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    click.echo(str(path))
