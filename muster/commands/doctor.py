"""The command that says what is wrong with devices, and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from muster.commands.options import (
    inventory_option,
    journal_option,
    json_option,
    named_on_command_line,
)
from muster.display import counted, make_console, plain_table
from muster.doctor.examine import examine
from muster.doctor.findings import Finding, Severity, for_inventory, worst
from muster.inventory import load_inventory
from muster.paths import state_dir
from muster.rollout import controller
from muster.rollout.journal import open_journal

_STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "bold red"}


@click.command()
@click.argument("pattern", required=False)
@inventory_option
@journal_option
@click.option("-a", "--all", "everything", is_flag=True, help="Show what is right as well.")
@json_option
def doctor(
    pattern: str | None,
    inventory_path: Path,
    journal_url: str | None,
    everything: bool,
    as_json: bool,
) -> int:
    """Connect to every device, and say what is wrong with it and how to mend it.

    PATTERN is an Ansible pattern, all devices by default. Nothing is changed on a device.

    Exit code 1 when there is a problem; warnings alone are no reason for it.
    """
    devices = load_inventory(inventory_path, pattern).devices
    quarantined = _quarantined(journal_url)
    text = counted(len(devices), "device")
    done: list[str] = []
    with Console(stderr=True).status(f"examining {text}") as status:

        def progress(name: str) -> None:
            done.append(name)
            status.update(f"examined {len(done)} of {text}")

        found = examine(devices, quarantined, progress)
    if named_on_command_line("inventory_path"):
        words = str(inventory_path)
        found = {name: [for_inventory(f, words) for f in told] for name, told in found.items()}
    if as_json:
        click.echo(json.dumps(_document(inventory_path, found), indent=2, ensure_ascii=False))
    else:
        _show(make_console(), found, everything)
    return 1 if any(worst(each) is Severity.PROBLEM for each in found.values()) else 0


def _quarantined(url: str | None) -> dict[str, dict[str, str]]:
    """Why devices are in quarantine: by model, then by device. A journal is not made for this."""
    if url is None and not (state_dir() / "journal.sqlite").exists():
        return {}
    with open_journal(url) as journal:
        models = sorted({record.model for record in journal.rollouts(limit=1000)})
        return {model: controller.quarantine(journal, model) for model in models}


def _document(inventory: Path, found: Mapping[str, Sequence[Finding]]) -> dict[str, object]:
    states = [worst(findings) for findings in found.values()]
    return {
        "inventory": str(inventory),
        "ok": states.count(Severity.OK),
        "warning": states.count(Severity.WARNING),
        "problem": states.count(Severity.PROBLEM),
        "devices": [
            {
                "device": name,
                "severity": worst(findings).value,
                "findings": [
                    {
                        "check": finding.check,
                        "severity": finding.severity.value,
                        "what": finding.what,
                        "remedy": finding.remedy,
                    }
                    for finding in findings
                ],
            }
            for name, findings in found.items()
        ],
    }


def _show(console: Console, found: Mapping[str, Sequence[Finding]], everything: bool) -> None:
    table = plain_table("device", "check", "severity", "what, and how to mend it")
    for name, findings in found.items():
        first = name
        for finding in findings:
            if finding.severity is Severity.OK and not everything:
                continue
            words = Text(finding.what)
            if finding.remedy:
                words.append(f"\n{finding.remedy}", style="dim")
            style = _STYLES[finding.severity]
            table.add_row(first, finding.check, Text(finding.severity.value, style=style), words)
            first = ""
    if table.row_count:
        console.print(table)
        console.print()
    states = [worst(findings) for findings in found.values()]
    counts = [
        f"{counted(states.count(severity), 'device')} {words}"
        for severity, words in (
            (Severity.OK, "well"),
            (Severity.WARNING, "with warnings"),
            (Severity.PROBLEM, "with problems"),
        )
        if severity in states
    ]
    console.print(", ".join(counts))
