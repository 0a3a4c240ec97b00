"""A device in a folder: a K3s that only says what it is, and a systemctl that starts it."""

from __future__ import annotations

import getpass
import grp
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pyinfra.api import FileUploadCommand, StringCommand

OWNER = f"{getpass.getuser()}:{grp.getgrgid(os.getgid()).gr_name}"
ROOTS = (
    "/usr/local", "/etc/rancher", "/etc/systemd", "/var/lib/rancher", "/var/lib/muster",
    "/run/muster", "/boot", "/sys/class",
)  # fmt: skip

K3S = """#!/bin/sh
# {version}
config() {{ sed -n "s/^$1: *//p" "${{2:-$ROOT/etc/rancher/k3s/config.yaml}}" 2>/dev/null; }}
echo "k3s $*" >>"$ROOT/calls"
case "$1 $*" in
--version*) echo "k3s version {version} (stand-in)" ;;
*--help*)
    [ "$(config lb-server-port "$3")" != many ] || {{
        echo 'Incorrect Usage: invalid value "many" for flag -lb-server-port' >&2
        exit 1
    }}
    [ -z "$(config unheard-of "$3")" ] ||
        echo 'Unknown flag --unheard-of found in config.yaml, skipping' >&2
    ls "$3.d" >"$ROOT/dropins"
    echo usage ;;
server*|agent*)
    [ -e "$ROOT/beats-until-stopped" ] || rm -f "$ROOT/state"
    [ -z "$(config server)" ] || [ -e "$ROOT/refused" ] ||
        mkdir -p "$ROOT/var/lib/rancher/k3s/server/db/etcd/member/wal"
    case "{version} $(config snapshotter)" in
    *broken*) echo 'level=fatal msg="it is broken"' >>"$ROOT/journal"; echo 9 >"$ROOT/restarts" ;;
    *) echo 0 >"$ROOT/restarts"
        [ ! -e "$ROOT/never-ready" ] || exit 0
        echo "{version} Ready=True@$(date -u +%Y-%m-%dT%H:%M:%SZ) $(cat "$ROOT/voter")" \\
            >"$ROOT/state" ;;
    esac ;;
kubectl*) cat "$ROOT/state" ;;
esac
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >>"$ROOT/calls"
case "$*" in
"stop "*)
    [ ! -e "$ROOT/beats-until-stopped" ] ||
        sed -i "s/@[^ ]*Z/@$(date -u +%FT%TZ)/" "$ROOT/state" ;;
"start --no-block "*) sh "$ROOT/usr/local/bin/k3s" server; echo active >"$ROOT/active" ;;
"show --property NRestarts"*) echo "NRestarts=$(cat "$ROOT/restarts")" ;;
"disable --quiet --now"*) rm -f "$ROOT/active" "$ROOT/state" ;;
is-active*) cat "$ROOT/active" 2>/dev/null || { echo inactive; exit 3; } ;;
is-enabled*) echo enabled ;;
esac
"""
IP = '#!/bin/sh\necho "ip $*" >>"$ROOT/calls"\n'
MUSTER_DEVICE = '#!/bin/sh\necho "muster-device $* $(cat)" >>"$ROOT/calls"\n'
JOURNALCTL = '#!/bin/sh\ncat "$ROOT/journal" 2>/dev/null\n'
TOOLS = {
    "systemctl": SYSTEMCTL,
    "journalctl": JOURNALCTL,
    "ip": IP,
}


def binary(version: str) -> str:
    """Text of a K3s of a version."""
    return K3S.format(version=version)


def sha256(text: str) -> str:
    """Checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class Device:
    """Stands in for a host of pyinfra; paths of K3s are below a folder."""

    def __init__(self, root: Path, name: str = "cam") -> None:
        self.root, self.name, self.connected = root, name, True
        self.noops: list[str] = []
        self.uploads: list[str] = []
        bin_folder = root / "bin"
        bin_folder.mkdir(parents=True)
        for tool, text in TOOLS.items():
            (bin_folder / tool).write_text(text)
            (bin_folder / tool).chmod(0o755)
        for folder in ("usr/local/bin", "etc/systemd/system", "run"):
            (root / folder).mkdir(parents=True)
        (root / "voter").touch()
        search = f"{bin_folder}:{os.environ['PATH']}"
        self._environment = {**os.environ, "ROOT": str(root), "PATH": search}

    def path(self, path: str) -> Path:
        """Where a path of the device is."""
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """Write a file of the device."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def calls(self, word: str) -> list[str]:
        """What was called, as far as a word is in it."""
        file = self.root / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if word in line]

    def get_fact(self, fact: Any, _timeout: int, **arguments: Any) -> Any:
        """Ask the device."""
        done = self._run(["sh", "-c", self._here(fact().command(**arguments))])
        lines = self._there(done.stdout).splitlines()
        return fact().process(lines) if lines else fact.default()

    def get_temp_filename(self, path: str, *, temp_directory: str) -> str:
        """Name a temporary file."""
        return f"{temp_directory}/{Path(path).name}"

    def noop(self, description: str) -> None:
        """Hear that nothing is to do."""
        self.noops.append(description)

    def carry_out(self, commands: Any) -> subprocess.CompletedProcess[str] | None:
        """Carry out commands until one fails; give the last one's outcome, None for none."""
        done = None
        for command in commands:
            if isinstance(command, FileUploadCommand):
                self.uploads.append(command.dest)
                shutil.copyfile(str(command.src), self.path(command.dest))
                continue
            assert isinstance(command, StringCommand)
            text = str(command.connector_arguments.get("_stdin", ""))
            line = command.get_raw_value()
            done = self._run(["sh", "-c", self._here(line)], self._here(text))
            if done.returncode:
                return done
        return done

    def _here(self, text: str) -> str:
        for root in ROOTS:
            text = text.replace(root, f"{self.root}{root}")
        return text.replace("root:root", OWNER)

    def _there(self, text: str) -> str:
        return text.replace(OWNER, "root:root").replace(str(self.root), "")

    def _run(self, command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, input=text, env=self._environment, capture_output=True, text=True, timeout=60
        )
