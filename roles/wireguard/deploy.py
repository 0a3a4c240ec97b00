"""The link between a device and its site."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from roles.guarded import place_guarded
from roles.operations import enable_unit, packages
from roles.wireguard.operations import private_key
from roles.wireguard.settings import check, link_files, take_effect, unit
from roles.wireguard.variables import Variables


@deploy("wireguard")
def wireguard(variables: Variables) -> None:
    """Bring the site link of a device up."""
    name = variables.wireguard_interface
    userspace = ["wireguard-go"] if variables.wireguard_userspace else []
    packages(name="packages", names=["wireguard-tools", *userspace])
    if variables.wireguard_private_key is None:
        private_key(name="private key", interface=name)
    # guarded: the controller may have come over this very link
    place_guarded(
        name="link",
        title=f"wireguard-{name}",
        files=link_files(variables),
        check=check(name),
        then=take_effect(name),
    )
    enable_unit(name="link after a restart", unit=unit(name))
