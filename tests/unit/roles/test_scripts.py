"""The shell scripts behind the operations, run for real in a folder of the test."""

from __future__ import annotations

import getpass
import grp
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import StringCommand
from pyinfra.context import ctx_host

from roles.facts import InstalledPackages, PlacedFile, PlacedFiles, kept_path
from roles.operations import File, packages, place_files, staged_path

OWNER = f"{getpass.getuser()}:{grp.getgrgid(os.getgid()).gr_name}"


class FakeHost:
    """Answers facts by running their commands here."""

    noops: list[str]

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.noops = []
        self.environment = {**os.environ, **(environment or {})}

    def get_fact(self, fact: Any, _timeout: int, **arguments: Any) -> Any:
        done = self.run(["sh", "-c", fact().command(**arguments)])
        lines = done.stdout.splitlines()
        return fact().process(lines) if lines else fact.default()

    def noop(self, description: str) -> None:
        self.noops.append(description)

    def run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=text, env=self.environment, capture_output=True, text=True
        )


@pytest.fixture
def host() -> Iterator[FakeHost]:
    fake = FakeHost()
    with ctx_host.use(fake):  # type: ignore[arg-type]
        yield fake


def place(host: FakeHost, *files: File, **options: Any) -> subprocess.CompletedProcess[str] | None:
    """Carry the operation out; None if it has nothing to do."""
    commands: list[StringCommand] = list(place_files._inner(list(files), **options))
    if not commands:
        return None
    (command,) = commands
    text = command.connector_arguments["_stdin"]
    assert all(file.content not in command.get_raw_value() for file in files)
    return host.run(["sh", "-c", command.get_raw_value()], str(text))


def file(path: Path, content: str, mode: str = "640") -> File:
    return File(str(path), content, mode, OWNER)


def leftovers(folder: Path) -> list[str]:
    return [each.name for each in folder.rglob(".*")]


def test_writes_files_with_their_folders_and_then_finds_nothing_to_do(
    host: FakeHost, tmp_path: Path
) -> None:
    content = "first\n$HOME `id` \\n 'quoted'\n\n\tlast: end\n"
    wanted = [file(tmp_path / "new" / "a file", content), file(tmp_path / "b", "b\n", "600")]
    done = place(host, *wanted)
    assert done is not None
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "new" / "a file").read_text() == content
    assert oct((tmp_path / "b").stat().st_mode) == "0o100600"
    assert oct((tmp_path / "new").stat().st_mode) == "0o40755"
    assert place(host, *wanted) is None
    assert host.noops == ["the files are as they should be"]
    assert leftovers(tmp_path) == []


def test_replaces_only_what_differs(host: FakeHost, tmp_path: Path) -> None:
    same, other = file(tmp_path / "same", "same\n"), file(tmp_path / "other", "old\n")
    place(host, same, other)
    inode = (tmp_path / "same").stat().st_ino
    (tmp_path / "other").chmod(0o600)
    place(host, same, other)
    assert oct((tmp_path / "other").stat().st_mode) == "0o100640"
    assert (tmp_path / "same").stat().st_ino == inode


def test_a_link_becomes_a_file(host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("target\n")
    (tmp_path / "a").symlink_to("target")
    place(host, file(tmp_path / "a", "a\n"))
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "target").read_text() == "target\n"


def test_refused_files_change_nothing(host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    check = f"echo 'not good' >&2; grep -q old {staged_path(str(tmp_path / 'a'))}"
    done = place(host, file(tmp_path / "a", "new\n"), check=check, then=f"touch {tmp_path}/ran")
    assert done is not None
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "not good",
        "the new files were refused, nothing was changed",
    ]
    assert (tmp_path / "a").read_text() == "old\n"
    assert not (tmp_path / "ran").exists()
    assert leftovers(tmp_path) == []


def test_former_files_come_back_when_the_new_ones_do_not_work(
    host: FakeHost, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "a").chmod(0o604)
    then = f"cat {tmp_path}/a >>{tmp_path}/ran; ! grep -q new {tmp_path}/a"
    done = place(host, file(tmp_path / "a", "new\n"), file(tmp_path / "b", "b\n"), then=then)
    assert done is not None
    assert done.returncode == 1
    assert done.stderr == "the former files are back\n"
    assert (tmp_path / "a").read_text() == "old\n"
    assert oct((tmp_path / "a").stat().st_mode) == "0o100604"
    assert not (tmp_path / "b").exists()
    assert (tmp_path / "ran").read_text() == "new\nold\n"
    assert leftovers(tmp_path) == []


def test_a_run_that_was_cut_off_is_repeated_and_can_still_go_back(
    host: FakeHost, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_text("old\n")
    # the connection broke after the file was replaced, before its service was restarted
    cut = place(host, file(path, "new\n"), then="kill -9 $$")
    assert cut is not None
    assert cut.returncode != 0
    assert path.read_text() == "new\n"
    assert Path(kept_path(str(path))).read_text() == "old\n"
    failed = place(host, file(path, "new\n"), then="grep -q old " + str(path))
    assert failed is not None
    assert failed.returncode == 1
    assert path.read_text() == "old\n"
    worked = place(host, file(path, "new\n"), then="true")
    assert worked is not None
    assert worked.returncode == 0
    assert place(host, file(path, "new\n"), then="true") is None
    assert leftovers(tmp_path) == []


def test_a_new_file_that_was_cut_off_is_repeated(host: FakeHost, tmp_path: Path) -> None:
    path = tmp_path / "a"
    place(host, file(path, "new\n"), then="kill -9 $$")
    found = host.get_fact(PlacedFiles, _timeout=1, paths=[str(path)])[str(path)]
    assert isinstance(found, PlacedFile)
    assert found.unfinished
    failed = place(host, file(path, "new\n"), then="false")
    assert failed is not None
    assert failed.returncode == 1
    assert not path.exists()
    assert leftovers(tmp_path) == []


def test_what_cannot_be_written_is_told(host: FakeHost, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    done = place(host, file(tmp_path / "a" / "b", "b\n"))
    assert done is not None
    assert done.returncode == 1
    assert f"can't make {tmp_path}/a" in done.stderr


APT = """#!/bin/sh
echo "$@" >>$APT_LOG
case "$*" in
*update*)
    [ -s "$APT_BUSY" ] || exit ${APT_UPDATE:-0}
    sed -i 1d "$APT_BUSY"
    echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7' >&2
    exit 100 ;;
*install*) exit ${APT_INSTALL:-0} ;;
esac
"""


def install(tmp_path: Path, **environment: str) -> tuple[int, str, list[str]]:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("apt-get", APT), ("sleep", "#!/bin/sh\n"), ("dpkg-query", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    log, busy = tmp_path / "log", tmp_path / "busy"
    busy.write_text("\n" * int(environment.pop("busy", "0")))
    fake = FakeHost(
        {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "APT_LOG": str(log),
            "APT_BUSY": str(busy),
            **environment,
        }
    )
    with ctx_host.use(fake):  # type: ignore[arg-type]
        assert fake.get_fact(InstalledPackages, _timeout=1, packages=["chrony"]) == []
        (command,) = packages._inner(["chrony", "docker.io"])
    text = str(command.connector_arguments["_stdin"])
    done = fake.run(["sh", "-c", command.get_raw_value()], text)
    return done.returncode, done.stderr, log.read_text().splitlines()


def test_missing_packages_are_installed_with_new_lists(tmp_path: Path) -> None:
    code, _, (update, installation) = install(tmp_path)
    assert code == 0
    assert update.endswith(" update")
    assert "DPkg::Lock::Timeout" in installation
    assert "--no-install-recommends" in installation
    assert installation.endswith(" install chrony docker.io")


def test_another_package_manager_is_waited_for(tmp_path: Path) -> None:
    code, _, calls = install(tmp_path, busy="3")
    assert code == 0
    assert [call.split()[-1] for call in calls] == ["update"] * 4 + ["docker.io"]


def test_mirrors_that_do_not_answer_are_told(tmp_path: Path) -> None:
    code, error, calls = install(tmp_path, APT_UPDATE="100")
    assert code == 1
    assert "apt-get update" in error
    assert len(calls) == 1


def test_a_failed_installation_fails(tmp_path: Path) -> None:
    assert install(tmp_path, APT_INSTALL="100")[0] == 100
