"""Packages and kernel parameters."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api.deploy import deploy

from roles.base.variables import Variables
from roles.facts import FACT_SECONDS, InContainer
from roles.operations import File, packages, place_files

_SYSCTL = "/etc/sysctl.d/90-muster.conf"


@deploy("base")
def base(variables: Variables) -> None:
    """Bring a device to what every later role relies on."""
    container = host.get_fact(InContainer, _timeout=FACT_SECONDS)
    packages(name="packages", names=variables.base_packages)
    place_files(
        name="kernel parameters",
        files=[File(_SYSCTL, _sysctl(variables))],
        then=None if container else f"sysctl -q -p {_SYSCTL}",
    )


def _sysctl(variables: Variables) -> str:
    parameters = sorted(variables.base_sysctl.items())
    lines = [f"{name} = {value}" for name, value in parameters]
    return "\n".join(["# written by the role base", *lines]) + "\n"
