"""Reaching what is up: devices over SSH with pinned host keys, the registry over TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import time
from pathlib import Path

from muster.emulator.engine import parallel
from muster.emulator.inventory import ssh_arguments
from muster.errors import MusterError

_LIMIT = 240.0
"""Seconds within which a device or the registry has to answer."""


def run_ssh(state: Path, address: str, command: str, timeout: int) -> tuple[int, str, str]:
    """Run a command on a device, over a connection of its own.

    :param state: folder with the keys of the fleet.
    :param timeout: seconds until a connection that is not made is given up.
    :returns: exit status (255: no connection), standard output, standard error.
    """
    result = subprocess.run(
        [
            "ssh", "-n", "-T", "-l", "ops", "-i", str(state / "id_ed25519"),
            *ssh_arguments(state, None), "-o", "BatchMode=yes",
            "-o", f"ConnectTimeout={timeout}", address, command,
        ],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


def await_boot(state: Path, addresses: dict[str, str]) -> dict[str, list[str]]:
    """Wait until every device answers over SSH and its systemd has booted.

    :returns: the failed units of those devices that have some.
    :raises MusterError: naming each device that did not come up, and why.
    """
    problems: list[str] = []
    failed: dict[str, list[str]] = {}

    def wait(name: str) -> None:
        problem, units = _await_one(state, addresses[name])
        if problem:
            problems.append(f"{name} ({addresses[name]}) did not come up: {problem}")
        elif units:
            failed[name] = units

    parallel(wait, addresses)
    if problems:
        raise MusterError("\n".join(sorted(problems)))
    return failed


def _await_one(state: Path, address: str) -> tuple[str, list[str]]:
    command = "systemctl is-system-running --wait; systemctl list-units --failed --plain -q"
    problem = "no answer on port 22"
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        # a connection costs little beside a whole ssh, and booting devices need the processor
        if _has_banner(address):
            _status, output, error = run_ssh(state, address, command, timeout=10)
            answer, *units = output.splitlines() or [""]
            if answer in ("running", "degraded"):
                return "", [line.split()[0] for line in units if line.strip()]
            problem = error.strip() or f"systemd says {answer}"
            if "Host key verification failed" in error:
                return problem, []
        time.sleep(0.1)
    return f"{problem}, for {_LIMIT:.0f} s", []


def _has_banner(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def await_registry(address: str, authority: Path) -> None:
    """Wait until the registry answers with a certificate of the fleet's authority.

    :param address: host and port.
    :raises MusterError: when it does not.
    """
    context = ssl.create_default_context(cafile=str(authority))
    problem = ""
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        connection = http.client.HTTPSConnection(address, timeout=5, context=context)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except ssl.SSLCertVerificationError as error:
            raise MusterError(f"registry {address}: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        finally:
            connection.close()
        time.sleep(0.1)
    raise MusterError(f"registry {address} did not come up within {_LIMIT:.0f} s: {problem}")
