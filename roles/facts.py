"""What several roles ask a device."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from pyinfra.api import FactBase

FACT_SECONDS = 60
"""Bound of reading a fact: give it as ``_timeout`` to ``host.get_fact``."""


def kept_path(path: str) -> str:
    """Where the former version of a file is while its replacement is not known to work."""
    folder, name = path.rsplit("/", 1)
    return f"{folder}/.{name}.muster-before"


@dataclass(frozen=True)
class PlacedFile:
    """What is at a path.

    :param sha256: of the content, empty if there is no file.
    :param mode: octal, without leading zeros.
    :param owner: ``user:group``.
    :param unfinished: whether a replacement was begun and never found to work.
    """

    sha256: str = ""
    mode: str = ""
    owner: str = ""
    unfinished: bool = False


class PlacedFiles(FactBase[dict[str, PlacedFile]]):
    """Files by path, several in one question."""

    def command(self, paths: list[str]) -> str:
        files = " ".join(quote(path) for path in paths)
        kept = " ".join(quote(kept_path(path)) for path in paths)
        return (
            f"(sha256sum -- {files}; stat -c 'stat %a %U:%G %n' -- {files};"
            f" stat -c 'kept %n' -- {kept}) 2>/dev/null; true"
        )

    @staticmethod
    def default() -> dict[str, PlacedFile]:
        return {}

    def process(self, output: list[str]) -> dict[str, PlacedFile]:
        found: dict[str, dict[str, str]] = {}
        unfinished = set()
        for line in output:
            head, rest = line.split(" ", 1)
            if head == "kept":
                unfinished.add(rest)
            elif head == "stat":
                mode, owner, path = rest.split(" ", 2)
                found.setdefault(path, {}).update(mode=mode, owner=owner)
            else:
                found.setdefault(rest[1:], {})["sha256"] = head
        files = {path: PlacedFile(**values) for path, values in found.items()}
        # a former version without a path of its own stands for a file that was not there
        for kept in unfinished:
            folder, name = kept.rsplit("/", 1)
            path = f"{folder}/{name[1:].removesuffix('.muster-before')}"
            files[path] = PlacedFile(**found.get(path, {}), unfinished=True)
        return files


class InstalledPackages(FactBase[list[str]]):
    """Which of some Debian packages are installed."""

    def command(self, packages: list[str]) -> str:
        names = " ".join(quote(name) for name in packages)
        form = quote("${db:Status-Status} ${Package}\n")
        return f"dpkg-query --show --showformat={form} -- {names} 2>/dev/null; true"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return [line.split()[1] for line in output if line.startswith("installed ")]


class UnitState(FactBase[dict[str, str]]):
    """What systemd says about a unit: ``enabled`` and ``active`` with systemd's own words."""

    def command(self, unit: str) -> str:
        name = quote(unit)
        return f"systemctl is-enabled {name} 2>/dev/null; systemctl is-active {name}; true"

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        # an unknown unit has no first answer
        return {"enabled": output[0] if len(output) > 1 else "", "active": output[-1]}


class InContainer(FactBase[bool]):
    """Whether the device is a container: then clock and kernel belong to its host."""

    def command(self) -> str:
        return "systemd-detect-virt --container; true"

    @staticmethod
    def default() -> bool:
        return False

    def process(self, output: list[str]) -> bool:
        return output[0] != "none"


@dataclass(frozen=True)
class SshSession:
    """How the controller came in.

    :param user: who logged in.
    :param address: from where, as the device sees it; None if it was not over SSH.
    :param ports: those of the SSH service, and the one that was connected to.
    """

    user: str = ""
    address: str | None = None
    ports: tuple[int, ...] = ()


class ComingIn(FactBase[SshSession]):
    """How the controller came in; sudo is looked through."""

    def command(self) -> str:
        # the environment of a parent has what sudo took away
        return (
            "pid=$$; while [ ${pid:-1} -gt 1 ]; do"
            " found=$(tr '\\0' '\\n' <\"/proc/$pid/environ\" 2>/dev/null"
            " | grep -E '^(SSH_CONNECTION|USER)=');"
            ' case $found in *SSH_CONNECTION=*) echo "$found"; break;; esac;'
            ' pid=$(sed -n "s/^PPid:[[:space:]]*//p" "/proc/$pid/status" 2>/dev/null); done;'
            " sshd -T 2>/dev/null | grep -E '^port '; true"
        )

    @staticmethod
    def default() -> SshSession:
        return SshSession()

    def process(self, output: list[str]) -> SshSession:
        user, address, ports = "", None, set()
        for line in output:
            key, _, value = line.replace("=", " ", 1).partition(" ")
            words = value.split()
            if key == "USER":
                user = value
            elif key == "port":
                ports.add(int(value))
            elif key == "SSH_CONNECTION" and len(words) == 4:
                address = words[0]
                ports.add(int(words[3]))
        return SshSession(user, address, tuple(sorted(ports)))
