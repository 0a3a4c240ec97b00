"""Inputs of the role containerd."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from muster.fields import PositiveDuration
from roles.runtimes import RegistryCas, RuntimeVariables, registry_cas
from roles.variables import AbsolutePath, PackageName, variable


class Variables(RuntimeVariables):
    """containerd as the container runtime of a device."""

    runtime: ClassVar[str] = "containerd"

    containerd_packages: Annotated[list[PackageName], Field(min_length=1)] = variable(
        ["containerd", "containernetworking-plugins", "iproute2", "iptables"],
        "packages that bring containerd with `ctr`, and networks for containers",
        shown_type="list of names",
    )
    containerd_data_root: AbsolutePath | None = variable(
        None,
        "folder of images and containers, containerd's own default if null",
        shown_type="path",
    )
    containerd_network_plugins: AbsolutePath = variable(
        "/usr/lib/cni", "folder of the CNI plugins", shown_type="path"
    )
    containerd_registry_cas: RegistryCas = registry_cas()
    containerd_extra: dict[str, Any] = variable(
        {},
        "further keys of config.toml, in the form of the version that is installed; what is given"
        " here wins, mappings are merged",
        shown_type="mapping",
    )
    containerd_start_timeout: PositiveDuration = variable(
        "60s",
        "time in which containerd must answer after a restart, else the former config.toml is put"
        " back",
        unit="seconds",
        shown_type="duration",
    )

    @field_validator("containerd_extra")
    @classmethod
    def _leaves_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in ("version", "root"):
            if key in value:
                raise ValueError(f"expected no key {key}: the role sets it")
        return value
