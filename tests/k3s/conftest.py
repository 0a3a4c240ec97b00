"""Fixtures of the scenarios with K3s: on the stand-in, or on the real program.

K3S_BINARY names a real ``k3s``; its image archive is expected beside it. K3S_UPGRADE_BINARY names
that of the next minor version, with its own images beside it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_life import STRATEGY, Life
from k3s_nodes import real_artifacts
from k3s_stand_in import artifacts, device_image
from site_driver import Site

from muster import paths
from muster.emulator import EmulatedFleet
from muster.paths import COLLECTION_ROOT

STAND_IN_VERSIONS = ("v1.20.2+k3s1", "v1.21.2+k3s1", "v1.22.2+k3s1")
EMULATED = COLLECTION_ROOT / "inventories" / "emulated"

MakeFleet = Callable[..., EmulatedFleet]
MakeLife = Callable[..., Life]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def k3s_image() -> str:
    """Name the Docker image of devices that can be nodes of K3s, made when it is missing."""
    return device_image.ensure(stand_in="K3S_BINARY" not in os.environ)


@pytest.fixture(scope="session")
def k3s_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of an artifact store: ``<version>/k3s`` with checksums and images."""
    binaries = [os.environ.get(name) for name in ("K3S_BINARY", "K3S_UPGRADE_BINARY")]
    if binaries[0]:
        folder = tmp_path_factory.mktemp("k3s-artifacts")
        for binary in filter(None, binaries):
            real_artifacts(Path(binary), folder)
        return folder
    return artifacts.cached(paths.cache_dir(), STAND_IN_VERSIONS)


@pytest.fixture(scope="session")
def k3s_versions(k3s_artifacts: Path) -> list[str]:
    """Versions in the artifact store, oldest first, at least one."""
    return sorted((path.name for path in k3s_artifacts.iterdir()), key=_as_numbers)


def _as_numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


@pytest.fixture(scope="module")
def make_k3s_fleet(k3s_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFleet]:
    """Give a function that brings up a fleet of devices that are ready for K3s.

    Arguments: a short word for its name; devices by name, each a mapping of what a fleet document
    says about it (``site``, ``hardware``, ``variables`` ...; everything has a default). The fleets
    of a test file go at its end.
    """
    made: list[EmulatedFleet] = []

    def make(word: str, devices: Mapping[str, Mapping[str, Any] | None]) -> EmulatedFleet:
        defaults = {"site": "plant", "hardware": "cpu", "memory": "2GiB", "image": k3s_image}
        entries = {name: {**defaults, **(given or {})} for name, given in devices.items()}
        document = {
            "apiVersion": "muster/v1",
            "kind": "Fleet",
            "name": word,
            "sites": {str(entry["site"]): {} for entry in entries.values()},
            "devices": entries,
        }
        folder = tmp_path_factory.mktemp(word)
        leave = shutil.ignore_patterns("hosts.yml", "*.new", ".state", "__pycache__")
        shutil.copytree(EMULATED, folder, dirs_exist_ok=True, ignore=leave)
        path = folder / "fleet.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        made.append(EmulatedFleet.load(path, name=f"{word}-{os.getpid()}", report=print))
        made[-1].up()
        return made[-1]

    yield make
    for fleet in made:
        fleet.down()


@pytest.fixture(scope="module")
def make_life(
    make_k3s_fleet: MakeFleet,
    k3s_artifacts: Path,
    k3s_versions: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeLife:
    """Give a function that brings up a cluster with embedded etcd, of the first version.

    Arguments: a short word for its name; devices by name, as a fleet document has them.
    """
    if len(k3s_versions) < 2:
        pytest.skip("there is no second version: see K3S_UPGRADE_BINARY")

    def make(word: str, devices: Mapping[str, Mapping[str, Any]]) -> Life:
        fleet = make_k3s_fleet(word, devices)
        folder = tmp_path_factory.mktemp(f"{word}-state")
        made = Life(Site(fleet, folder, {}), k3s_artifacts, k3s_versions)
        (folder / "strategy.yml").write_text(STRATEGY, encoding="utf-8")
        made.set(
            k3s_version=k3s_versions[0],
            k3s_artifacts=str(k3s_artifacts),
            k3s_server_datastore="etcd",
            muster_device_runtime="k3s",
        )
        made.run("provision")
        return made

    return make
