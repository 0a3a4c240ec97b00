"""What is costly to make is made once and kept by what it was made from."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from muster.emulator import locking
from muster.errors import MusterError
from muster.paths import cache_dir

log = logging.getLogger(__name__)

UNUSED = 30 * 24 * 3600  # seconds after which what other sources gave is removed


def folder() -> Path:
    """Where everything of this example is kept; it can be removed at any time."""
    path = cache_dir() / "digits"
    path.mkdir(exist_ok=True)
    return path


def locked() -> AbstractContextManager[None]:
    """Let one process at a time make things; the others wait and then find them made."""
    return locking.locked(folder() / ".lock", lambda: log.info("waiting for another build"))


def made(name: str, sources: Iterable[str | Path], make: Callable[[Path], object]) -> Path:
    """Return the folder ``<name>-<key>``, made now if it isn't there; call it under the lock.

    :param sources: everything that decides the result: files count by their content, other
        strings by themselves, folders that :func:`made` returned by their name.
    :param make: fills the new, empty folder that it is given. It appears under its name only
        when complete, so what an interrupted run left is never taken for the real thing.
    """
    key = hashlib.sha256()
    for source in sources:
        if isinstance(source, Path):
            part = source.name.encode() if source.is_dir() else source.read_bytes()
        else:
            part = source.encode()
        key.update(hashlib.sha256(part).digest())
    path = folder() / f"{name}-{key.hexdigest()[:16]}"
    if not path.is_dir():
        unfinished = path.with_name(f"{path.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        log.info("making %s", path.name)
        make(unfinished)
        unfinished.rename(path)
        for other in folder().glob(f"{name}-{'[0-9a-f]' * 16}"):
            if not other.is_symlink() and other.stat().st_mtime < time.time() - UNUSED:
                shutil.rmtree(other)
    os.utime(path)
    return path


def run(arguments: Sequence[str | Path], *, environment: dict[str, str] | None = None) -> None:
    """Run a program quietly.

    :param environment: variables beside the inherited ones.
    :raises MusterError: it is not installed, or it failed; with the end of what it wrote.
    """
    program = Path(arguments[0]).name
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise MusterError(f"{program} is not installed, and the digits example needs it") from None
    if done.returncode:
        last_words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise MusterError(f"{program} ended with status {done.returncode}:\n{last_words}")


def uv() -> str:
    """The program uv: ``$UV``, beside this interpreter, on PATH, or the set-up's own."""
    candidates = [
        os.environ.get("UV"),
        shutil.which("uv", path=str(Path(sys.executable).parent)),
        shutil.which("uv"),
        *map(str, sorted(cache_dir().glob("uv-*/bin/uv"), reverse=True)),
    ]
    for candidate in filter(None, candidates):
        return candidate
    raise MusterError("uv is not installed: put it on PATH or name it in the variable UV")
