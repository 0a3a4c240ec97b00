"""Inputs of the role podman."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from roles.podman.containers import Container, ContainerName
from roles.runtimes import RegistryCas, RuntimeVariables, registry_cas
from roles.variables import AbsolutePath, HostPort, PackageName, variable


class Variables(RuntimeVariables):
    """Podman as the container runtime of a device."""

    runtime: ClassVar[str] = "podman"

    podman_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["podman", "crun", "iptables"],
        "packages that bring Podman, its runtime and its network",
        shown_type="list of names",
    )
    podman_data_root: AbsolutePath | None = variable(
        None, "folder of images and containers, Podman's own default if null", shown_type="path"
    )
    podman_registry_cas: RegistryCas = registry_cas()
    podman_search_registries: list[str] = variable(
        [],
        "registries in which an image without one is looked for; models always name theirs",
        shown_type="list of `host[:port]`",
    )
    podman_allowed_registries: list[HostPort] = variable(
        [], "registries that images may come from, beside the site's", shown_type="list"
    )
    podman_policy: dict[str, Any] | None = variable(
        None,
        "the whole of policy.json instead, for example to demand signatures",
        shown_type="mapping",
    )
    podman_containers: dict[ContainerName, Container] = variable(
        {},
        "containers that run on the device beside the models",
        shown_type="mapping of name to `{image, ports, environment, volumes, devices, arguments}`",
    )
