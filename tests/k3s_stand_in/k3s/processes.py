"""Children of the program: they die with it, as the parts of the real K3s do, containers do not."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from .stamp import VERSION

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class FatalError(Exception):
    """What ends the program, for people."""


def log(level: str, message: str) -> None:
    """One line in K3s's own format."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    print(f'time="{now}" level={level} msg="{text}"', file=sys.stderr, flush=True)


def notify(state: str) -> None:
    """Tell systemd, where it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())


def environment() -> dict[str, str]:
    """Variables of the children: the version that they report, and the programs that they find."""
    known = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    known["PATH"] = "/opt/k3s-stand-in/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # not K3s's own links
    known["K3S_STAND_IN_VERSION"] = VERSION
    known["AWS_EC2_METADATA_DISABLED"] = "true"  # the kubelet would wait for it at its start
    return known


def output(*command: str, stdin: str | None = None, seconds: float = 60) -> str:
    """What a command prints.

    :raises FatalError: when it fails.
    """
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=seconds, env=environment()
    )
    if done.returncode:
        raise FatalError(f"{Path(command[0]).name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_until(
    what: str, condition: Callable[[], bool], seconds: float, pause: float = 0.3
) -> None:
    """Poll until a condition holds.

    :raises FatalError: when it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise FatalError(f"timed out waiting for {what}")
        time.sleep(pause)


class Children:
    """Long-lived children. Start them from the main thread: they die with the one that forked."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def start(self, name: str, command: Sequence[str], log_file: Path | None = None) -> None:
        """Start a child; its output goes to ``log_file``, else where this program's goes."""
        if log_file is not None:
            log_file.parent.mkdir(parents=True, exist_ok=True)
        stream = log_file.open("ab") if log_file is not None else None
        self._running[name] = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(),
            preexec_fn=_die_with_parent,
        )

    def dead(self) -> str | None:
        """A child that ended by itself, in words."""
        for name, child in self._running.items():
            if child.poll() is not None:
                return f"{name} exited: status {child.returncode}"
        return None

    def check(self) -> bool:
        """For use in a condition that is waited for.

        :raises FatalError: when a child ended.
        """
        dead = self.dead()
        if dead:
            raise FatalError(dead)
        return True

    def stop(self, *names: str, seconds: float = 10) -> None:
        """Stop children, all of them in the reverse order of their start by default."""
        for name in names or tuple(reversed(self._running)):
            child = self._running.pop(name, None)
            if child is None:
                continue
            child.terminate()
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def run_until_stopped(self) -> NoReturn:
        """Watch the children until a signal comes or one of them ends; then stop all."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        status = 0
        while not self._stopping.wait(0.5):
            dead = self.dead()
            if dead:
                log("fatal", dead)
                status = 1
                break
        self.stop()
        os._exit(status)  # threads that serve don't end by themselves


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def in_background(name: str, work: Callable[[], None], every: float) -> None:
    """Repeat something for ever; what goes wrong is logged once, until it goes well."""

    def loop() -> None:
        said = ""
        while True:
            try:
                work()
                said = ""
            except Exception as error:
                if str(error) != said:
                    log("warning", f"{name}: {error}")
                said = str(error)
            time.sleep(every)

    threading.Thread(target=loop, name=name, daemon=True).start()
