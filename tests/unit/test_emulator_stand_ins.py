"""Stand-ins for the packages of vendors."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from importlib import resources
from pathlib import Path

import pytest

from muster.emulator.stand_ins import STAND_INS, StandIn, archive


def members(package: StandIn) -> dict[str, bytes]:
    """The parts of a package's file, without any tool."""
    data, found = package.build(), {}
    assert data.startswith(b"!<arch>\n")
    at = 8
    while at < len(data):
        name, size = data[at : at + 16].decode().strip(), int(data[at + 48 : at + 58])
        assert data[at + 58 : at + 60] == b"`\n"
        found[name] = data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found


@pytest.mark.parametrize("package", STAND_INS, ids=lambda package: package.file_name)
def test_a_package_says_what_it_is(package: StandIn) -> None:
    parts = members(package)
    assert list(parts) == ["debian-binary", "control.tar.gz", "data.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(parts["control.tar.gz"])) as tar:
        control = (tar.extractfile("./control") or io.BytesIO()).read().decode()
    assert f"Package: {package.name}\nVersion: {package.version}\n" in control
    assert f"Description: stand-in for {package.name}" in control
    with tarfile.open(fileobj=io.BytesIO(parts["data.tar.gz"])) as tar:
        entries = {entry.name: entry for entry in tar}
        assert f"./usr/share/stand-ins/{package.name}" in entries
        for path in package.programs:
            script = (tar.extractfile(f".{path}") or io.BytesIO()).read().decode()
            assert "stand-in" in script
            assert "@VERSION@" not in script
            assert entries[f".{path}"].mode == 0o755
            assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0


def test_every_program_is_in_some_package() -> None:
    used = {name for package in STAND_INS for name in package.programs.values()}
    folder = resources.files("muster.emulator") / "image"
    assert used == {each.name for each in folder.iterdir() if each.name.startswith("stand-in-")}


def test_packages_are_the_same_each_time_and_each_is_there_once() -> None:
    assert archive() == archive()
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        names = tar.getnames()
    assert len(names) == len({*names}) == len(STAND_INS)
    assert all(name.startswith("vendor/") for name in names)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg")
def test_dpkg_reads_them(tmp_path: Path) -> None:
    for package in STAND_INS:
        path = tmp_path / package.file_name
        path.write_bytes(package.build())
        command = ["dpkg-deb", "--show", "--showformat=${Package} ${Version} ${Depends}", path]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert told == f"{package.name} {package.version} {package.depends}"
        subprocess.run(["dpkg-deb", "--extract", path, tmp_path / path.stem], check=True)
