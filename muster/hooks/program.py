"""Running one hook: an executable that reads an event as JSON, with a time limit.

Plain subprocesses and threads, which work with and without gevent's patches.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

OUTPUT_BYTES = 64 * 1024
"""How much of a hook's output is kept: its end."""

_LINE_LENGTH = 200
_SECRET_NAME = re.compile(
    r"(?:SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIALS?|_KEY|_PASS)$", re.IGNORECASE
)
_SHORTEST_SECRET = 6
_DRAIN_SECONDS = 1.0
_NOT_FOR_HOOKS = {"MUSTER_WEBHOOK_SECRET"}


class HookProgram:
    """One hook and its executable.

    :param path: absolute.
    """

    def __init__(self, hook: str, path: Path) -> None:
        self._hook, self._path = hook, path
        self._running: set[subprocess.Popen[bytes]] = set()

    def run(self, body: bytes, rollout: str, seconds: float) -> str | None:
        """Run it to its end, or for so many seconds and then kill its process group.

        :param body: JSON text for its standard input.
        :returns: what went wrong, in one line; None if nothing.
        """
        try:
            process = self._start(body, rollout)
        except OSError as error:
            return f"it can't be run: {error.strerror}"
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        output = bytearray()
        reader = threading.Thread(target=_keep_end, args=(process.stdout, output), daemon=True)
        reader.start()
        self._running.add(process)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            process.wait()
            status = None
        finally:
            self._running.discard(process)
        # What it left in the background may hold the pipe open; nobody waits for that.
        reader.join(_DRAIN_SECONDS)
        if status == 0:
            return None
        if status is None:
            problem = f"it took longer than {seconds:g} s and was killed"
        elif status < 0:
            problem = f"it was ended by signal {-status}"
        else:
            problem = f"exit code {status}"
        said = last_line(bytes(output))
        return f"{problem}: {said}" if said else problem

    def kill(self) -> None:
        """Kill what runs of it now."""
        for process in list(self._running):
            _kill_group(process)

    def _start(self, body: bytes, rollout: str) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_FOR_HOOKS}
        environment |= {"MUSTER_HOOK_NAME": self._hook, "MUSTER_ROLLOUT_ID": rollout}
        # A file, not a pipe: a hook need not read its input, and that must block nobody.
        with tempfile.TemporaryFile() as document:
            document.write(body)
            document.seek(0)
            return subprocess.Popen(
                [str(self._path)],
                stdin=document,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                env=environment,
                start_new_session=True,  # a group of its own, and no Ctrl-C that is meant for us
            )


def _keep_end(stream: IO[bytes], output: bytearray) -> None:
    with contextlib.suppress(OSError, ValueError), stream:
        while data := stream.read(OUTPUT_BYTES):
            output += data
            del output[:-OUTPUT_BYTES]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def last_line(output: bytes) -> str:
    """The last line with something in it, fit to be shown: short, printable, without secrets."""
    text = output.decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[-1]
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            line = line.replace(value, "***")
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= _LINE_LENGTH else line[: _LINE_LENGTH - 3] + "..."
