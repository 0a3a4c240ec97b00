"""containerd as the container runtime: installed, configured as one document, and answering."""

from __future__ import annotations

import math

from pyinfra.api.deploy import deploy

from roles.containerd.config import HOSTS, with_hosts
from roles.containerd.operations import config, ready
from roles.containerd.variables import Variables
from roles.operations import packages, place_files
from roles.runtimes import trust_files


@deploy("containerd")
def containerd(variables: Variables) -> None:
    """Bring the containerd of a device to what the variables say."""
    seconds = math.ceil(variables.containerd_start_timeout)
    packages(name="packages", names=variables.containerd_packages)
    trusted = trust_files(HOSTS, variables, variables.containerd_registry_cas)
    if trusted:
        # It reads them at each pull, so nothing has to be restarted.
        place_files(name="certificates of registries", files=with_hosts(trusted))
    config(
        name="config.toml",
        root=variables.containerd_data_root,
        plugins=variables.containerd_network_plugins,
        extra=variables.containerd_extra,
        seconds=seconds,
    )
    ready(name="containerd", seconds=seconds)
