"""Reading an inventory with Ansible's own command, and remembering what it said."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from muster.errors import InputError
from muster.paths import COLLECTION_ROOT, cache_dir

log = logging.getLogger(__name__)

_READ_SECONDS = 300
_REMEMBERED = 100
_NO_SOURCES = [r"^known_hosts$", r"\.(py|pem|crt|key|pub)$"]
"""Files that may lie beside an inventory: pyinfra's, keys and certificates."""
_BESIDE = ("files", "secrets")
"""Folders of an inventory that roles may take anything from, and that hold no inventories."""
NO_VAULT_PASSWORD = "no vault password: set ANSIBLE_VAULT_PASSWORD_FILE"  # noqa: S105
_OWN_DOCUMENT = re.compile(rb"^apiVersion\s*:\s*[\"']?muster/", re.MULTILINE)
_PLUGIN = re.compile(rb"^plugin\s*:", re.MULTILINE)


def read_inventory(path: Path) -> dict[str, Any]:
    """Return the document that ``ansible-inventory --list`` prints for a file or folder.

    Templates and single encrypted variables are in it as they were written. What is computed
    (scripts, plugins) or decrypted (whole files) is read anew each time, the rest is cached by
    content.

    :raises InputError: missing, unreadable or invalid.
    """
    if not path.exists():
        raise InputError(f"{path}: expected an inventory file or folder, there is none")
    key = _key(path)
    cached = cache_dir() / "inventory" / f"{key}.json"
    if key:
        try:
            document: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
        else:
            return document
    document = _ask_ansible(path)
    if key:
        remember(cached, json.dumps(document))
    return document


def inventory_folder(path: Path) -> Path:
    """Folder whose ``group_vars`` and ``host_vars`` belong to an inventory."""
    return path if path.is_dir() else path.parent


def inventory_files(path: Path) -> Iterator[Path]:
    """Every file that an inventory may be made of, with its group and host variables."""
    folder = inventory_folder(path)
    if path.is_dir():
        yield from _files_below(folder)
    else:
        yield path
        for name in ("group_vars", "host_vars"):
            yield from _files_below(folder / name)


def write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner may read, so that no reader ever sees half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remember(path: Path, text: str) -> None:
    """Write a file of a cache, and drop those that were not written for longest."""
    write_private(path, text)
    written = {file: file.stat().st_mtime for file in path.parent.iterdir()}
    for file in sorted(written, key=lambda each: written[each])[:-_REMEMBERED]:
        file.unlink(missing_ok=True)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent) / name


def _key(path: Path) -> str:
    """Digest of everything that decides what Ansible says, empty if that can't be known."""
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(b"%d:" % len(part) + part)

    add(str(path.resolve()).encode(), importlib.metadata.version("ansible-core").encode())
    for name, value in sorted(os.environ.items()):
        if name.startswith("ANSIBLE_"):
            add(name.encode(), value.encode("utf-8", "surrogateescape"))
    for file in _configuration_files():
        add(str(file).encode(), file.read_bytes())
    for file in inventory_files(path):
        try:
            content = file.read_bytes()
        except OSError:  # Ansible will say why, if it needs it
            return ""
        executable = os.access(file, os.X_OK) and content.startswith(b"#!")
        plugin = file.suffix in (".yml", ".yaml") and _PLUGIN.search(content)
        if executable or plugin or content.startswith(b"$ANSIBLE_VAULT"):
            return ""
        add(str(file).encode(), content)
    return digest.hexdigest()


def _configuration_files() -> list[Path]:
    named = os.environ.get("ANSIBLE_CONFIG")
    files = [Path(named).expanduser()] if named else []
    files += [Path("ansible.cfg"), Path.home() / ".ansible.cfg", Path("/etc/ansible/ansible.cfg")]
    return [file for file in files if file.is_file()]


def _ask_ansible(path: Path) -> dict[str, Any]:
    # Without a folder of its own for playbooks Ansible takes group_vars of the working directory.
    folder = str(inventory_folder(path).resolve())
    arguments = ["--inventory", str(path.resolve()), "--list", "--playbook-dir", folder]
    result = run_ansible("inventory", arguments, ignored=_no_sources(path))
    if result.returncode != 0:
        if lacks_vault_password(result.stderr):
            raise InputError(f"{path}: {NO_VAULT_PASSWORD}")
        raise InputError(f"{path}: not a valid inventory: {_message(result.stderr)}")
    if result.stderr.strip():
        log.warning("%s: %s", path, _message(result.stderr))
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _no_sources(path: Path) -> list[str]:
    """Regular expressions for names in an inventory folder that are no inventories."""
    if not path.is_dir():
        return list(_NO_SOURCES)
    files = [*inventory_files(path)]
    documents = (file for file in files if file.suffix in (".yml", ".yaml"))
    own = {file.name for file in documents if _OWN_DOCUMENT.search(file.read_bytes())}
    own |= _folders_without(path, files)
    return [*_NO_SOURCES, *(f"^{re.escape(name)}$" for name in sorted(own))]


def _folders_without(path: Path, files: Sequence[Path]) -> set[str]:
    """Names of folders in which no file can be an inventory: Ansible would call them broken."""
    patterns = [re.compile(pattern) for pattern in _NO_SOURCES]

    def may_be_source(file: Path) -> bool:
        beside = set(_BESIDE) & set(file.relative_to(path).parts[:-1])
        return not beside and not any(pattern.search(file.name) for pattern in patterns)

    full = {parent for file in files if may_be_source(file) for parent in file.parents}
    every = {parent for file in files for parent in file.parents if parent.is_relative_to(path)}
    every |= {folder for folder in path.iterdir() if folder.is_dir()}
    variables = {"group_vars", "host_vars"}
    return {folder.name for folder in every - full - {path} if folder.name not in variables}


def run_ansible(
    command: str, arguments: list[str], text: str = "", ignored: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command of the Ansible that is installed beside Muster.

    :param command: name without ``ansible-``.
    :param text: its standard input.
    :param ignored: regular expressions for names of files that are no inventories.
    """
    return run_python(["-m", "ansible", command, *arguments], text, ignored)


def run_python(
    arguments: list[str], text: str = "", ignored: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run this Python with the environment that Ansible wants; see :func:`run_ansible`."""
    search = [str(COLLECTION_ROOT), os.environ.get("PYTHONPATH", "")]
    patterns = [os.environ.get("ANSIBLE_INVENTORY_IGNORE_REGEX", ""), *ignored]
    environment = {
        **os.environ,
        "ANSIBLE_INVENTORY_IGNORE_REGEX": ",".join(filter(None, patterns)),
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_NOCOLOR": "true",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(part for part in search if part),
    }
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=_READ_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"Ansible gave no answer within {_READ_SECONDS} s") from None


def lacks_vault_password(stderr: str) -> bool:
    """Whether Ansible has no password for a vault, nor a terminal to ask for one."""
    signs = ("GetPassWarning", "Vault password: ", "no vault secrets found")
    return any(sign in stderr for sign in signs)


def _message(stderr: str) -> str:
    parts = re.split(r"^ ?\[[A-Z ]+\]: *", stderr, flags=re.MULTILINE)
    # Ansible tries a YAML file as an INI file too; what is wrong with that helps nobody.
    if any("'yaml' plugin" in part or "yaml plugin" in part for part in parts):
        parts = [part for part in parts if not re.search("'?(ini|auto)'? plugin", part)]
    lines = [" ".join(line.split()) for part in parts for line in part.splitlines()]
    noise = ("<<< caused by >>>", "Origin: <inventory plugin", "(source not shown")
    told = dict.fromkeys(line for line in lines if line and not line.startswith(noise))
    return " ".join(told)[:1500] or "no reason given"
