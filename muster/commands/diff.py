"""The command that shows what a release would change on which device."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from muster.commands.options import inventory_option, journal_option, json_option, limit_option
from muster.display import counted, make_console
from muster.documents import load_document
from muster.inventory import Inventory, load_inventory
from muster.release import Release
from muster.rollout import controller
from muster.rollout.diff import (
    CHANGES,
    LEFT_OUT,
    NEW,
    NO_ANSWER,
    SAME,
    UNKNOWN,
    Change,
    DeviceDiff,
    DiffGroup,
    device_diffs,
    gate_summary,
    group,
)
from muster.rollout.journal import Journal, open_journal
from muster.rollout.machine import DeviceState
from muster.strategy import Strategy

_NAMED = 8
_LONG = 60
_SIDE_BY_SIDE = 24


@click.command()
@click.argument("release_path", metavar="RELEASE", type=click.Path(path_type=Path))
@inventory_option
@limit_option
@journal_option
@json_option
def diff(
    release_path: Path,
    inventory_path: Path,
    limit: str | None,
    journal_url: str | None,
    as_json: bool,
) -> None:
    """Show what RELEASE changes on each device, and change nothing.

    Every device is asked what it runs. What that release is made of comes from the journal.
    """
    release = load_document(release_path, Release)
    inventory = load_inventory(inventory_path, limit)
    with open_journal(journal_url) as journal:
        with controller.connected_fleet(inventory.devices) as fleet:
            prepared = controller.prepare(inventory, release, Strategy(), fleet)
        known = _known(journal, release, prepared.seen)
    diffs = _diffs(inventory, release, prepared, known)
    if as_json:
        document = {
            "model": release.model,
            "release": release.id,
            "groups": [entry.to_json() for entry in group(diffs)],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _show(make_console(), release, group(diffs))


def _known(journal: Journal, release: Release, seen: controller.Survey) -> dict[str, Release]:
    """The releases that the devices run, as far as the journal has them."""
    running = {controller.running(answer) for answer in seen.values()} - {None, release.id}
    known = {}
    for release_id in running:
        found = journal.release_document(release.model, str(release_id))
        if found is not None:
            known[str(release_id)] = Release.from_canonical(found[0])
    return known


def _diffs(
    inventory: Inventory,
    release: Release,
    prepared: controller.Prepared,
    known: dict[str, Release],
) -> list[DeviceDiff]:
    left_out = {
        name: found.reason
        for name, found in prepared.left_out.items()
        if found.state is not DeviceState.ALREADY_CURRENT
    }
    devices = {device.name: device.groups for device in inventory.devices}
    return device_diffs(devices, release, prepared.seen, left_out, known)


def _show(console: Console, release: Release, groups: list[DiffGroup]) -> None:
    head = (f"{release.model} {release.id}", "bold")
    console.print(Text.assemble(head, f"  sha256:{release.digest}"))
    for entry in groups:
        console.print()
        console.print(_head(entry), soft_wrap=True)
        names, more = entry.devices[:_NAMED], len(entry.devices) - _NAMED
        text = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        console.print(Text(f"  {text}", style="dim"), soft_wrap=True)
        for change in gate_summary(entry.changes):
            for line in _lines(change, only_after=entry.status == NEW):
                console.print(line, soft_wrap=True)


def _head(entry: DiffGroup) -> Text:
    devices = counted(len(entry.devices), "device")
    verb = "runs" if len(entry.devices) == 1 else "run"
    variant = f" ({entry.variant})" if entry.variant else ""
    note = f": {entry.note}" if entry.note else ""
    text = {
        CHANGES: f"{devices} on {entry.current}{variant}",
        SAME: f"{devices} {verb} this release already{variant}: nothing changes",
        NEW: f"{devices} {verb} nothing yet{variant}: all of it is new",
        UNKNOWN: f"{devices} on {entry.current}{variant}: the journal does not know that release,"
        " so what changes is not known",
        LEFT_OUT: f"{devices} left out{variant}{note}",
        NO_ANSWER: f"no answer from {devices}{note}",
    }[entry.status]
    style = {SAME: "green", UNKNOWN: "yellow", LEFT_OUT: "yellow", NO_ANSWER: "red"}
    return Text(text, style=f"bold {style.get(entry.status, '')}".strip())


def _lines(change: Change, *, only_after: bool) -> list[Text]:
    before, after = change.texts()
    name = f"{change.what:<{_SIDE_BY_SIDE}} "
    if before is None or only_after:
        return [Text(f"  + {name}{after}", style="green")]
    if after is None:
        return [Text(f"  - {name}{before}", style="red")]
    if len(before) + len(after) <= _LONG:
        return [Text(f"  ~ {name}{before} -> {after}", style="yellow")]
    return [
        Text(f"  ~ {change.what}", style="yellow"),
        Text(f"      - {before}", style="red"),
        Text(f"      + {after}", style="green"),
    ]
