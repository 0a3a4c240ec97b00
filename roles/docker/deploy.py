"""The container engine: installed, configured as one document, and really answering."""

from __future__ import annotations

import math
from pathlib import Path

from pyinfra.api.deploy import deploy

from roles.docker.daemon import daemon_json
from roles.docker.operations import answers_within, ready
from roles.docker.variables import Variables
from roles.operations import File, packages, place_files, staged_path

_DAEMON_JSON = "/etc/docker/daemon.json"
_CHECK = (Path(__file__).parent / "check_daemon_json.sh").read_text(encoding="utf-8")


@deploy("docker")
def docker(variables: Variables) -> None:
    """Bring the engine of a device to what the variables say."""
    seconds = math.ceil(variables.docker_start_timeout)
    packages(name="packages", names=variables.docker_packages)
    if variables.docker_registry_cas:
        place_files(name="certificates of registries", files=_certificates(variables))
    place_files(
        name="daemon.json",
        files=[File(_DAEMON_JSON, daemon_json(variables))],
        check=f"staged={staged_path(_DAEMON_JSON)}\n{_CHECK}",
        then=_restart(seconds),
        seconds=2 * seconds + 120,
    )
    ready(name="engine", seconds=seconds)


def _certificates(variables: Variables) -> list[File]:
    """The engine reads them at each pull, so nothing has to be restarted."""
    return [
        File(
            f"/etc/docker/certs.d/{registry}/ca.crt",
            Path(file).expanduser().read_text(encoding="ascii").rstrip("\n") + "\n",
        )
        for registry, file in sorted(variables.docker_registry_cas.items())
    ]


def _restart(seconds: int) -> str:
    # systemd gives up on what was started too often in a minute, as it may have been before
    return (
        "systemctl reset-failed docker.service 2>/dev/null\n"
        f"timeout {seconds} systemctl restart docker.service\n{answers_within(seconds)}"
    )
