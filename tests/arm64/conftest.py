"""An arm64 device and one of the machine's own kind at one site. Run them by `make test-arm64`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.digits import publish
from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

sys.path.append(str(COLLECTION_ROOT / "tests" / "integration"))

from site_driver import Site  # what the integration tests drive fleets by

EMULATED = COLLECTION_ROOT / "inventories" / "emulated"
FLEET = """\
apiVersion: muster/v1
kind: Fleet
name: arm64
sites: {workshop: {}}
devices:
  arm-1: {site: workshop, hardware: raspberry_pi, architecture: arm64, disk: 2GiB}
  box-1: {site: workshop, hardware: coral, variables: {muster_accelerator: none}}
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "arm64: needs programs of arm64 to be emulated")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.arm64)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both devices provisioned, and the releases of the reference model for each of them."""
    folder = tmp_path_factory.mktemp("arm64")
    inventory = folder / "inventory"
    shutil.copytree(
        EMULATED,
        inventory,
        ignore=shutil.ignore_patterns("hosts.yml", "*.new", ".state", "__pycache__"),
    )
    (inventory / "fleet.yml").write_text(FLEET, encoding="utf-8")
    fleet = EmulatedFleet.load(inventory / "fleet.yml", name=f"arm64-{os.getpid()}", report=print)
    try:
        done = fleet.up()
        assert not done["degraded"], done
        releases = publish(
            fleet.registry_address,
            fleet.registry_ca,
            folder / "releases",
            {"hw_raspberry_pi": "arm64"},
        )
        site = Site(fleet, folder, releases)
        provisioned = site.muster("provision", timeout=1200)
        assert provisioned.returncode == 0, provisioned.stdout + provisioned.stderr
        yield site
    finally:
        fleet.down()
