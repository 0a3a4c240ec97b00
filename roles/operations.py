"""Operations that several roles are made of.

Each needs one question to the device when nothing is to do, and one command otherwise. What they
write goes over standard input: no size limit, and nothing of it in the arguments of a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.facts import (
    FACT_SECONDS,
    InstalledPackages,
    PlacedFile,
    PlacedFiles,
    UnitState,
)

PLACE_FILES = (Path(__file__).parent / "place_files.sh").read_text(encoding="utf-8")
"""Shell functions with which files are staged, put in place and put back."""

_INSTALL = (Path(__file__).parent / "install_packages.sh").read_text(encoding="utf-8")
_INSTALL_SECONDS = 1800


@dataclass(frozen=True)
class File:
    """A text file as it should be.

    :param path: absolute path on the device.
    :param content: all of it; ends with a newline.
    :param mode: octal.
    :param owner: ``user:group``.
    """

    path: str
    content: str
    mode: str = "644"
    owner: str = "root:root"


def staged_path(path: str) -> str:
    """Where the new version of a file is while it is checked."""
    folder, name = path.rsplit("/", 1)
    return f"{folder}/.{name}.muster-new"


@operation()
def place_files(
    files: list[File], check: str | None = None, then: str | None = None, seconds: int = 300
) -> Iterator[StringCommand]:
    """
    Make text files what they should be, each replaced in one step.

    + files: the files
    + check: shell command that fails if the staged files (see ``staged_path``) must not be used
    + then: shell command that makes the files take effect; if it fails, the former files are put
      back and it runs again. A run that was cut off before it had finished is repeated.
    + seconds: bound of all of it

    **Example:**

    .. code:: python

        place_files(
            name="Limits of the journal",
            files=[File("/etc/systemd/journald.conf.d/50-muster.conf", "[Journal]\\n")],
            then="systemctl restart systemd-journald",
        )
    """
    present = host.get_fact(PlacedFiles, paths=[file.path for file in files], _timeout=FACT_SECONDS)
    wrong = [file for file in files if not is_as_wanted(file, present.get(file.path, PlacedFile()))]
    if not wrong:
        host.noop("the files are as they should be")
        return
    script = "\n".join([PLACE_FILES, "place() {", *placing_steps(wrong, check, then), "}"])
    paths = [QuoteString(file.path) for file in wrong]
    yield run_script("place-files", script + "\nplace </dev/null\n", paths, seconds)


def is_as_wanted(file: File, present: PlacedFile) -> bool:
    """Whether nothing is to do for a file, and no earlier replacement was left half-finished."""
    wanted = (hashlib.sha256(file.content.encode()).hexdigest(), file.mode, file.owner)
    found = (present.sha256, present.mode, present.owner)
    return wanted == found and not present.unfinished


def placing_steps(files: list[File], check: str | None, then: str | None) -> Iterator[str]:
    """Lines of shell script that replace files, with the functions of ``PLACE_FILES``."""
    for file in files:
        end = f"end-{hashlib.sha256(file.content.encode()).hexdigest()[:16]}"
        yield f"stage {quote(file.path)} {quote(file.mode)} {quote(file.owner)} <<'{end}'"
        yield file.content.removesuffix("\n")
        yield end
    paths = " ".join(quote(file.path) for file in files)
    if check:
        yield f"( {check}\n) || refuse {paths}"
    if not then:
        yield f"put_in_place {paths}"
        return
    yield f"keep {paths}"
    yield f"put_in_place {paths}"
    yield f"( {then}\n) || {{ put_back {paths}; ( {then}\n); fail 'the former files are back'; }}"
    yield f"forget {paths}"


@operation()
def absent_files(paths: list[str]) -> Iterator[StringCommand]:
    """
    Remove files that are not wanted any more.

    + paths: absolute paths
    """
    present = host.get_fact(PlacedFiles, paths=paths, _timeout=FACT_SECONDS) if paths else {}
    left = [path for path in paths if path in present]
    if not left:
        host.noop("no such file is there")
        return
    yield StringCommand("rm", "-f", "--", *[QuoteString(path) for path in left])


@operation()
def packages(names: list[str]) -> Iterator[StringCommand]:
    """
    Install Debian packages that are missing, without recommended ones.

    Waits for another package manager to finish. Reads the lists of the mirrors only if something
    is missing; never upgrades.

    + names: names of the packages
    """
    installed = host.get_fact(InstalledPackages, packages=names, _timeout=FACT_SECONDS)
    missing = [name for name in names if name not in installed]
    if not missing:
        host.noop("all packages are installed")
        return
    script = (
        f"{_INSTALL}\ninstall_packages {' '.join(quote(name) for name in missing)} </dev/null\n"
    )
    yield run_script("install", script, [QuoteString(name) for name in missing], _INSTALL_SECONDS)


@operation()
def enable_unit(unit: str, active: bool = True) -> Iterator[StringCommand]:
    """
    Have systemd start a unit with the device.

    + unit: its name
    + active: whether it must also be running now
    """
    state = host.get_fact(UnitState, unit=unit, _timeout=FACT_SECONDS)
    enabled = state.get("enabled") in ("enabled", "alias", "static", "generated", "indirect")
    if enabled and (not active or state.get("active") == "active"):
        host.noop(f"{unit} is enabled" + (" and active" if active else ""))
        return
    options = ["--now"] if active else []
    yield StringCommand("systemctl", "enable", "--quiet", *options, QuoteString(unit))


def run_script(title: str, script: str, words: list[QuoteString], seconds: int) -> StringCommand:
    """Command that runs a shell script, which goes over standard input.

    :param words: told to whoever reads the log or the list of processes; nothing else does.
    """
    return StringCommand("sh", "-s", title, *words, _stdin=script, _timeout=seconds)
