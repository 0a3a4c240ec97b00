"""SSH connections of an enrolment: to devices whose key is not pinned yet, by password if need be.

Everything after the first login goes over pyinfra; that can't be told which key to expect, nor what
to ask a person.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko

from muster.enrolment.hostkeys import HostKey
from muster.secret import Secret

CONNECT_SECONDS = 10.0
LOGIN_SECONDS = 30.0
_AGENT_KEYS = 3  # servers hang up after a few wrong ones


class Trouble(Exception):  # noqa: N818
    """Why a device can't be enrolled now.

    :param silent: whether nobody answered at all.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


@dataclass(frozen=True)
class Place:
    """Where a device is reached.

    :param jump: ``[USER@]HOST[:PORT]`` to go through, as ``ssh -J`` takes it.
    """

    host: str
    port: int
    jump: str | None = None


@dataclass(frozen=True)
class Login:
    """With what to log in: the keys in turn, those of an agent, then the password."""

    user: str
    keys: tuple[Path, ...] = ()
    password: Secret | None = field(default=None, repr=False)
    agent: bool = True


@dataclass(frozen=True)
class Ran:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last lines that it wrote, for a message."""
        lines = [line.strip() for line in (self.out + "\n" + self.err).splitlines()]
        return "; ".join([line for line in lines if line][-2:])[-400:] or "no message"


def load_key(path: Path) -> paramiko.PKey:
    """Read a private key.

    :raises Trouble: it can't be used.
    """
    try:
        return paramiko.PKey.from_path(path)
    except paramiko.PasswordRequiredException:
        raise Trouble(f"{path} has a passphrase: load it into ssh-agent") from None
    except TypeError:  # what the library below says about the same
        raise Trouble(f"{path} has a passphrase: load it into ssh-agent") from None
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise Trouble(f"{path} is no private key that can be used: {error}") from None


class Session:
    """A connection to a device. Its host key is known as soon as it exists, nothing else is.

    :param kinds: kinds of host keys to ask for first, those that are pinned.
    :raises Trouble: no SSH server answers.
    """

    def __init__(self, place: Place, kinds: Sequence[str] = ()) -> None:
        sock = _socket(place)
        try:
            self._transport = paramiko.Transport(sock)
            self._transport.banner_timeout = CONNECT_SECONDS
            options = self._transport.get_security_options()
            first = [kind for kind in options.key_types if _base(kind) in kinds]
            options.key_types = (*first, *(k for k in options.key_types if k not in first))
            self._transport.start_client(timeout=CONNECT_SECONDS)
            shown = self._transport.get_remote_server_key()
        except (OSError, EOFError, paramiko.SSHException) as error:
            with contextlib.suppress(Exception):
                sock.close()
            text = " ".join(str(error).split()) or "it hung up"
            raise Trouble(f"port {place.port} does not speak SSH: {text}") from None
        self.host_key = HostKey(shown.get_name(), shown.asbytes())
        self.method = ""

    def log_in(self, login: Login) -> None:
        """Log in with the first thing that works; ``method`` says with which.

        :raises Trouble: nothing works.
        """
        tried = []
        self._transport.auth_timeout = LOGIN_SECONDS
        for name, key in _keys(login):
            tried.append(name)
            with _told(login.user):
                if _accepted(lambda key=key: self._transport.auth_publickey(login.user, key)):
                    self.method = name
                    return
        if login.password is not None:
            tried.append("password")
            secret = login.password.reveal()
            with _told(login.user):
                if _accepted(lambda: self._transport.auth_password(login.user, secret)):
                    self.method = "password"
                    return
        words = ", ".join(tried) or "nothing to log in with"
        raise Trouble(
            f"login as {login.user} refused ({words}): expected --ask-password, --password-file or"
            " --identity with what the device was delivered with"
        )

    def run(self, command: str, given: str = "", seconds: float = 60.0) -> Ran:
        """Run a command to its end.

        :param given: its standard input.
        :raises Trouble: the link broke, or it took too long.
        """
        until = time.monotonic() + seconds
        try:
            channel = self._transport.open_session(timeout=CONNECT_SECONDS)
            with contextlib.closing(channel):
                channel.settimeout(seconds)
                channel.exec_command(command)
                # A command that ends early does not read all; what it said tells why.
                with contextlib.suppress(OSError):
                    channel.sendall(given.encode())
                    channel.shutdown_write()
                out = _read(channel.recv, channel, until)
                err = _read(channel.recv_stderr, channel, until)
                channel.settimeout(max(until - time.monotonic(), 0.1))
                if not channel.status_event.wait(max(until - time.monotonic(), 0.1)):
                    raise TimeoutError
                return Ran(channel.recv_exit_status(), out, err)
        except TimeoutError:
            raise Trouble(f"a command took more than {seconds:.0f} s") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Trouble(f"the link broke: {' '.join(str(error).split())}") from None

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(Exception):
            self._transport.close()


def _read(receive: Any, channel: paramiko.Channel, until: float) -> str:
    parts: list[bytes] = []
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)
        part = receive(65536)
        if not part:
            return b"".join(parts).decode("utf-8", "replace")
        parts.append(part)


def _socket(place: Place) -> Any:
    if place.jump:
        host = f"[{place.host}]" if ":" in place.host else place.host
        # Not -J: the jump host itself is reached as the operator's own configuration says.
        user, _, jump = place.jump.rpartition("@")
        jump, _, port = jump.partition(":") if jump.count(":") == 1 else (jump, "", "")
        command = ["ssh", "-o", "BatchMode=yes", *(["-l", user] if user else [])]
        command += [*(["-p", port] if port else []), "-W", f"{host}:{place.port}", jump]
        return paramiko.ProxyCommand(shlex.join(command))
    try:
        return socket.create_connection((place.host, place.port), timeout=CONNECT_SECONDS)
    except socket.gaierror:
        raise Trouble(f"the name {place.host} has no address") from None
    except OSError as error:
        text = error.strerror or "no answer"
        raise Trouble(f"nobody answers on port {place.port}: {text}", silent=True) from None


def _keys(login: Login) -> Iterable[tuple[str, Any]]:
    for path in login.keys:
        yield f"key {path}", load_key(path)
    if login.agent and os.environ.get("SSH_AUTH_SOCK"):
        with contextlib.suppress(paramiko.SSHException, OSError):
            for key in paramiko.Agent().get_keys()[:_AGENT_KEYS]:
                yield "agent", key


def _accepted(attempt: Any) -> bool:
    try:
        # What is returned are the further methods that the server wants as well.
        return not attempt()
    except paramiko.AuthenticationException:
        return False


@contextlib.contextmanager
def _told(user: str) -> Any:
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:
        text = " ".join(str(error).split()) or "it hung up"
        raise Trouble(f"login as {user} failed: {text}") from None


def _base(kind: str) -> str:
    """The kind of key behind an algorithm of signatures: both RSA ones have the same keys."""
    return "ssh-rsa" if kind.startswith("rsa-sha2-") else kind


def scan_certificates(place: Place) -> list[str]:
    """The host certificates that a device shows: one line each."""
    if place.jump:
        return []
    command = ["ssh-keyscan", "-c", "-T", f"{CONNECT_SECONDS:.0f}", "-p", str(place.port)]
    try:
        done = subprocess.run(
            [*command, place.host],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CONNECT_SECONDS * 3,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return []
    except FileNotFoundError:
        raise Trouble("ssh-keyscan is missing here: apt-get install openssh-client") from None
    return read_certificates(done.stdout)


def read_certificates(output: str) -> list[str]:
    """The certificates in what ``ssh-keyscan -c`` prints, which may name the host or not."""
    return re.findall(r"\S+-cert-v\d+@openssh\.com [A-Za-z0-9+/=]+", output)
