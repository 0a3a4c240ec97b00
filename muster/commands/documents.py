"""Commands about documents: their JSON Schema, and what a release file holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from muster.documents import load_document
from muster.release import Release
from muster.schema import KINDS, json_schema


@click.command()
@click.argument("kind", type=click.Choice(sorted(KINDS)), default="release")
def schema(kind: str) -> None:
    """Print the JSON Schema of a kind of document.

    Editors check and complete a file with it, for instance after the line
    "# yaml-language-server: $schema=release.schema.json".
    """
    click.echo(json.dumps(json_schema(kind), indent=2, ensure_ascii=False))


@click.group()
def release() -> None:
    """Check release files and show what they hold."""


@release.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--canonical",
    is_flag=True,
    help="Write the canonical JSON, to the byte: this is what to sign with minisign.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, canonical: bool, as_json: bool) -> None:
    """Check a release FILE and show its id, digest and variants."""
    document = load_document(file, Release)
    if canonical:
        click.echo(document.canonical.encode(), nl=False)
        return
    images = {name: variant.image for name, variant in sorted(document.variants.items())}
    gates = [gate.name for gate in document.gates]
    if as_json:
        summary = {
            "id": document.id,
            "digest": document.digest,
            "model": document.model,
            "version": document.version,
            "variants": images,
            "gates": gates,
        }
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    click.echo(f"release   {document.id} of {document.model}")
    click.echo(f"digest    sha256:{document.digest}")
    for name, image in images.items():
        click.echo(f"variant   {name}: {image}")
    click.echo(f"gates     {', '.join(gates)}")
