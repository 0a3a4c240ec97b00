"""What is done on a device, as shell scripts, and what their output means. No network here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import Enum

OLDEST_PYTHON = (3, 8)
PYTHON_SECONDS = 600.0

PROBE = """\
echo "uid=$(id -u)"
if command -v sudo >/dev/null 2>&1; then
    if sudo -k -n true 2>/dev/null; then echo sudo=free; else echo sudo=password; fi
else
    echo sudo=none
fi
version='import sys, json, ssl; print("%d.%d" % sys.version_info[:2])'
echo "python=$(python3 -c "$version" 2>/dev/null)"
command -v apt-get >/dev/null 2>&1 && echo apt=yes || echo apt=no
"""
"""Finds out what there is to work with; run by ``sh -s``."""

PYTHON = """\
export DEBIAN_FRONTEND=noninteractive
wait="-o DPkg::Lock::Timeout=300"
apt-get $wait --quiet update || echo 'apt-get update failed, going on with what is known'
apt-get $wait --quiet --yes --no-install-recommends install python3 </dev/null
"""
"""Brings Python; run by ``sh -s`` as root."""


class Root(str, Enum):
    """How to become root."""

    ALREADY = "already"
    FREE = "free"
    PASSWORD = "password"  # noqa: S105
    NOT = "not"


@dataclass(frozen=True)
class Probed:
    """What a device has before anything was done to it.

    :param python: major and minor version; None where there is none that is whole.
    """

    root: Root
    python: tuple[int, int] | None
    apt: bool


def read_probe(output: str) -> Probed:
    """Understand what :data:`PROBE` wrote.

    :raises ValueError: it is something else.
    """
    found = dict(re.findall(r"^(\w+)=(.*)$", output, re.MULTILINE))
    if not {"uid", "sudo", "python", "apt"} <= set(found):
        raise ValueError("its shell does not answer as expected")
    if found["uid"] == "0":
        root = Root.ALREADY
    else:
        root = {"free": Root.FREE, "password": Root.PASSWORD}.get(found["sudo"], Root.NOT)
    match = re.fullmatch(r"(\d+)\.(\d+)", found["python"].strip())
    python = (int(match[1]), int(match[2])) if match else None
    return Probed(root, python, found["apt"] == "yes")


def as_root(command: str, given: str, root: Root, password: str | None) -> tuple[str, str]:
    """Wrap a command so that it runs as root.

    :param given: its standard input.
    :param password: for sudo; it goes ahead of the standard input, never into an argument.
    :returns: the command and its standard input.
    :raises ValueError: there is no way.
    """
    if root is Root.ALREADY:
        return command, given
    wrapped = f"sh -c {shlex.quote(command)}"
    if root is Root.FREE:
        return f"sudo -n {wrapped}", given
    if root is Root.PASSWORD and password is not None:
        # -k: a password that is remembered would leave ours to the command.
        return f"sudo -k -S -p '' {wrapped}", f"{password}\n{given}"
    if root is Root.PASSWORD:
        raise ValueError("sudo wants a password: expected --ask-sudo-password or"
                         " --sudo-password-file")  # fmt: skip
    raise ValueError("the user is not root, and there is no sudo: log in as root with --user root")


def install_key(line: str) -> str:
    """Shell script that lets a public key log in; says ``key=present``, ``installed``, ``mended``.

    :param line: the public key, with its comment.
    """
    blob = line.split()[1]
    return f"""\
set -eu
umask 077
folder=$HOME/.ssh
file=$folder/authorized_keys
mkdir -p "$folder"
state=present
if [ -L "$file" ]; then file=$(readlink -f "$file"); fi
has() {{ [ -f "$file" ] && grep -v '^[[:space:]]*#' "$file" | grep -qF -- {shlex.quote(blob)}; }}
if ! has; then
    new=$(mktemp "$file.XXXXXX")
    trap 'rm -f "$new"' EXIT
    if [ -s "$file" ]; then
        cat "$file" >"$new"
        [ -z "$(tail -c 1 "$file")" ] || echo >>"$new"
    fi
    printf '%s\\n' {shlex.quote(line.strip())} >>"$new"
    chmod 600 "$new"
    sync "$new" 2>/dev/null || sync
    mv -f "$new" "$file"
    trap - EXIT
    state=installed
fi
mend() {{
    if [ "$(stat -c %a "$1")" != "$2" ]; then
        chmod "$2" "$1"
        [ $state = installed ] || state=mended
    fi
}}
mend "$folder" 700
mend "$file" 600
# with a home that others may write to, the server looks at no key
case $(stat -c %A "$HOME") in
?????w* | ????????w*) chmod go-w "$HOME"; [ $state = installed ] || state=mended ;;
esac
if command -v restorecon >/dev/null 2>&1; then restorecon -R "$folder" || true; fi
echo "key=$state"
"""


def read_key_state(output: str) -> str | None:
    """What the script of :func:`install_key` did, None if it did not come to its end."""
    found = re.findall(r"^key=(present|installed|mended)$", output, re.MULTILINE)
    return found[-1] if found else None


def public_key_problem(text: str) -> str:
    """Why a text is no public key to install, "" if it is one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if "PRIVATE KEY" in text:
        return "expected a public key, it is a private one"
    if len(lines) != 1:
        return f"expected one public key, it has {len(lines)} lines"
    if not re.match(r"(ssh-|ecdsa-sha2-|sk-)[a-z0-9@.-]+ AAAA[A-Za-z0-9+/=]+( |$)", lines[0]):
        return "expected a public key such as ssh-ed25519 AAAA... NAME"
    return ""
