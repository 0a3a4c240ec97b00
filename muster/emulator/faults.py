"""Faults of emulated devices, and how they heal. Each verifies its own effect."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

from muster.emulator.containers import STORE
from muster.errors import InputError, MusterError

_FILLER = f"{STORE}/data/.filler"
_SETTLE = 120.0
"""Seconds within which a container has to stop, start or boot again."""


def run(container: Any, *command: str) -> tuple[int, str]:
    """Run a command in a container, out of band.

    By the client's command: the SDK reads from the socket behind its own buffer, so that output
    which comes together with the header of the answer is lost (1 in 400 under load).

    :returns: exit status, and standard output and error together.
    :raises MusterError: when the container does not run.
    """
    result = subprocess.run(
        ["docker", "exec", container.id, *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    if result.returncode == 1 and result.stdout.startswith("Error response from daemon"):
        raise MusterError(f"{container.name}: {result.stdout.strip()}")
    return result.returncode, result.stdout


def _checked(container: Any, *command: str) -> str:
    status, output = run(container, *command)
    if status:
        raise MusterError(f"{container.name}: {' '.join(command)} failed ({status}): {output}")
    return output


def _await(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SETTLE
    while not condition():
        if time.monotonic() > deadline:
            raise MusterError(f"{what}: not within {_SETTLE:.0f} s")
        time.sleep(0.1)


def _await_boot(container: Any, not_before: str = "") -> None:
    """Wait until systemd has started everything: only then are disks mounted, too."""
    command = ["systemctl", "is-system-running", "--wait"]

    def booted() -> bool:
        if not is_running(container) or container.attrs["State"]["StartedAt"] == not_before:
            return False
        try:
            return run(container, *command)[1].strip() in ("running", "degraded")
        except MusterError:  # it stopped in between
            return False

    _await(f"{container.name} boots", booted)


def is_running(container: Any) -> bool:
    """Whether the container runs now."""
    container.reload()
    return bool(container.attrs["State"]["Running"])


def cut(container: Any) -> None:
    """Drop every packet of the device's link, also after a reboot, until it is healed."""
    _require_running(container)
    _checked(container, "/usr/local/sbin/emu-link", "cut")
    table = _checked(container, "nft", "list", "table", "inet", "emulated_link")
    if table.count("drop") < 2:
        raise MusterError(f"{container.name}: the link is not cut: {table}")


def kill(container: Any) -> None:
    """Take the power away."""
    _require_running(container)
    container.kill()
    _await(f"{container.name} loses its power", lambda: not is_running(container))


def reboot(container: Any) -> None:
    """Reboot the device from inside, and wait until it has booted again."""
    _require_running(container)
    before = container.attrs["State"]["StartedAt"]
    _checked(container, "systemctl", "reboot")
    _await_boot(container, not_before=before)


def fill_disk(container: Any) -> None:
    """Fill the filesystem with the container runtime's data, to the last block.

    :raises InputError: when the device has no filesystem of its own for that.
    """
    _require_running(container)
    if run(container, "mountpoint", "-q", f"{STORE}/data")[0]:
        raise InputError(
            f"{container.name}: fill-disk would fill this machine's own disk: expected a device "
            "with disk: in the fleet document (and a kernel with loop devices)"
        )
    fill = (
        f"free=$(df --output=avail -B1 {STORE}/data | tail -1); "
        f'[ "$free" -eq 0 ] || fallocate -l "$free" {_FILLER} 2>/dev/null; '
        # what fallocate could not get, because the blocks' own index needs room
        f"dd if=/dev/zero of={_FILLER} bs=4k oflag=append conv=notrunc 2>/dev/null; "
        f"df --output=avail -B1 {STORE}/data | tail -1"
    )
    left = int(_checked(container, "sh", "-c", fill))
    if left:
        raise MusterError(f"{container.name}: {left} bytes are still free")


def stop(container: Any) -> None:
    """Stop a service such as the registry in an orderly way."""
    container.stop(timeout=10)
    _await(f"{container.name} stops", lambda: not is_running(container))


def heal(container: Any) -> None:
    """Undo every fault: power, link and disk."""
    if not is_running(container):
        container.start()
    _await_boot(container)
    _checked(container, "/usr/local/sbin/emu-link", "heal")
    _checked(container, "rm", "-f", _FILLER)


def active(container: Any) -> list[str]:
    """Names of the faults that a container is under."""
    if not is_running(container):
        return ["kill"]
    found = run(container, "ls", f"{STORE}/link-cut", _FILLER)[1].splitlines()
    names = {f"{STORE}/link-cut": "cut", _FILLER: "fill-disk"}
    return [fault for path, fault in names.items() if path in found]


def _require_running(container: Any) -> None:
    if not is_running(container):
        raise InputError(f"{container.name}: expected a running container, heal it first")
