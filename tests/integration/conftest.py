"""Fixtures of tests that need the Docker engine. Run them one after the other, without xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from site_driver import Site

from examples.digits import publish
from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

SHARED = f"fleet-{os.getpid()}"
EMULATED = COLLECTION_ROOT / "inventories" / "emulated"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def fleets() -> Iterator[list[EmulatedFleet]]:
    """Every fleet that a test may have brought up; they go at the end."""
    made: list[EmulatedFleet] = []
    yield made
    for fleet in made:
        fleet.down()


@pytest.fixture(scope="session")
def make_fleet(
    fleets: list[EmulatedFleet], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], EmulatedFleet]:
    """Give a function that makes a fleet of its own from the text of a fleet document.

    Arguments: a short word for its name, and the text.
    """

    def make(word: str, document: str) -> EmulatedFleet:
        folder = tmp_path_factory.mktemp(word)
        shutil.copytree(
            EMULATED,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("hosts.yml", "*.new", ".state", "__pycache__"),
        )
        path = folder / "fleet.yml"
        path.write_text(document, encoding="utf-8")
        fleets.append(EmulatedFleet.load(path, name=f"{word}-{os.getpid()}", report=print))
        return fleets[-1]

    return make


@pytest.fixture(scope="module", autouse=True)
def no_fleet_is_left(fleets: list[EmulatedFleet]) -> Iterator[None]:
    """Take down what the tests of a file brought up, but for the fleet that all files share.

    Some fifty devices at once exhaust what a kernel gives to their systemds.
    """
    before = list(fleets)
    yield
    for fleet in [each for each in fleets if each not in before and each.name != SHARED]:
        fleet.down()
        fleets.remove(fleet)


@pytest.fixture(scope="session")
def fleet(make_fleet: Callable[[str, str], EmulatedFleet]) -> EmulatedFleet:
    """Bring up the collection's emulated fleet, once for all tests, under a name of its own."""
    fleet = make_fleet("fleet", (EMULATED / "fleet.yml").read_text(encoding="utf-8"))
    fleet.up()
    return fleet


@pytest.fixture(scope="session")
def site(fleet: EmulatedFleet, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Provision the emulated fleet and publish the releases of the reference model to it."""
    folder = tmp_path_factory.mktemp("site")
    releases = publish(fleet.registry_address, fleet.registry_ca, folder / "releases")
    site = Site(fleet, folder, releases)
    done = site.muster("provision")
    assert done.returncode == 0, done.stdout + done.stderr
    return site
