"""``python -m examples.digits``, run from the checkout."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click

from muster.errors import MusterError
from muster.inventory import load_inventory

from . import answering_versions, build_images, publish
from .rootfs import ARCHITECTURES


@click.group()
def main() -> None:
    """Build the digits images, and publish them with their releases."""


@main.command()
@click.option(
    "--architecture",
    type=click.Choice(list(ARCHITECTURES)),
    help="What the images are for; this machine's own by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object by version.")
def build(architecture: str | None, as_json: bool) -> None:
    """Build the images into Muster's cache."""
    images = build_images(architecture)
    if as_json:
        click.echo(
            json.dumps(
                {
                    version: {
                        "digest": image.digest,
                        "size": image.size,
                        "architecture": image.architecture,
                        "reference": image.reference,
                    }
                    for version, image in images.items()
                }
            )
        )
        return
    for version, image in images.items():
        click.echo(f"{version}  {image.digest}  {image.size / 1e6:.1f} MB  {image.reference}")


@main.command("publish")
@click.option("--registry", required=True, metavar="HOST:PORT", help="Where to push.")
@click.option(
    "--ca",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file of the authority of the registry's certificate.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the release documents.",
)
@click.option(
    "--architecture",
    "architectures",
    multiple=True,
    metavar="GROUP=ARCH",
    help="Architecture of the devices of a hardware group, such as hw_jetson_orin=arm64; this"
    " machine's own by default. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object of paths by version.")
def publish_command(
    registry: str, ca: Path, output: Path, architectures: tuple[str, ...], as_json: bool
) -> None:
    """Build, push to a registry and write the release documents."""
    pairs = [entry.partition("=") for entry in architectures]
    documents = publish(registry, ca, output, {group: kind for group, _, kind in pairs})
    if as_json:
        click.echo(json.dumps({version: str(path) for version, path in documents.items()}))
        return
    for version, path in documents.items():
        click.echo(f"{version}  {path}")


@main.command()
@click.option(
    "--inventory",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Inventory of the devices.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object by device.")
def ask(inventory: Path, as_json: bool) -> None:
    """Ask every device which version answers."""
    answers = answering_versions({d.name: d.address for d in load_inventory(inventory).devices})
    if as_json:
        click.echo(json.dumps(answers))
        return
    for device, version in answers.items():
        click.echo(f"{device:<24} {version}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(prog_name="python -m examples.digits")
    except MusterError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
