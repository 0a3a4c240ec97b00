"""Inputs of the role docker."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from muster.fields import PositiveDuration, Size
from roles.runtimes import RegistryCas, RuntimeVariables, registry_cas
from roles.variables import AbsolutePath, PackageName, variable

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+/?$")]
Subnet = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]


class AddressPool(BaseModel):
    """Where Docker takes the networks of containers from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Subnet
    size: Annotated[int, Field(ge=8, le=126)]


class Variables(RuntimeVariables):
    """Docker as the container runtime of a device."""

    runtime: ClassVar[str] = "docker"

    docker_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["docker.io"], "packages that bring the engine", shown_type="list of names"
    )
    docker_data_root: AbsolutePath | None = variable(
        None, "folder of images and containers, Docker's own default if null", shown_type="path"
    )
    docker_live_restore: bool = variable(True, "whether containers go on while the engine restarts")
    docker_log_max_size: Size = variable(
        "10MiB", "size at which a container's log is rotated", unit="bytes", shown_type="size"
    )
    docker_log_max_files: Annotated[int, Field(ge=1)] = variable(
        3, "files that are kept of a container's log"
    )
    docker_registry_mirrors: list[Url] = variable(
        [], "mirrors of docker.io", shown_type="list of URLs"
    )
    docker_registry_cas: RegistryCas = registry_cas()
    docker_address_pools: list[AddressPool] = variable(
        [],
        "address ranges for networks of containers, where the defaults clash with the site's",
        shown_type="list of `{base, size}`",
    )
    docker_extra: dict[str, Any] = variable(
        {},
        "further keys of daemon.json; what is given here wins, mappings are merged",
        shown_type="mapping",
    )
    docker_start_timeout: PositiveDuration = variable(
        "90s",
        "time in which the engine must answer after a restart, else the former daemon.json is put"
        " back",
        unit="seconds",
        shown_type="duration",
    )

    @field_validator("docker_extra")
    @classmethod
    def _leaves_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "pidfile" in value:
            raise ValueError("expected no key pidfile: systemd looks after the engine's process")
        return value
