"""The container engine: installed, configured as one document, and really answering."""

from __future__ import annotations

import math
from pathlib import Path

from pyinfra.api.deploy import deploy

from roles.docker.daemon import daemon_json
from roles.docker.operations import DAEMON_JSON, answers_within, ready, settings
from roles.docker.variables import Variables
from roles.operations import packages, place_files, staged_path
from roles.runtimes import trust_files

_CHECK = (Path(__file__).parent / "check_daemon_json.sh").read_text(encoding="utf-8")


@deploy("docker")
def docker(variables: Variables) -> None:
    """Bring the engine of a device to what the variables say."""
    seconds = math.ceil(variables.docker_start_timeout)
    packages(name="packages", names=variables.docker_packages)
    # The engine reads them at each pull, so nothing has to be restarted.
    trusted = trust_files("/etc/docker/certs.d", variables, variables.docker_registry_cas)
    if trusted:
        place_files(name="certificates of registries", files=trusted)
    settings(
        name="daemon.json",
        plain=daemon_json(variables),
        with_cdi=daemon_json(variables, cdi=True),
        check=f"staged={staged_path(DAEMON_JSON)}\n{_CHECK}",
        then=_restart(seconds),
        seconds=2 * seconds + 120,
    )
    ready(name="engine", seconds=seconds)


def _restart(seconds: int) -> str:
    # systemd gives up on what was started too often in a minute, as it may have been before
    return (
        "systemctl reset-failed docker.service 2>/dev/null\n"
        f"timeout {seconds} systemctl restart docker.service\n{answers_within(seconds)}"
    )
