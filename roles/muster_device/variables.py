"""Inputs of the role muster_device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from muster.fields import Problems
from roles.variables import AbsolutePath, HostPort, RoleVariables, variable


class Variables(RoleVariables):
    """What the device program needs to know."""

    muster_registry: HostPort = variable(
        ..., "the site's registry, as its devices see it", shown_type="`host:port`"
    )
    muster_device_runtime: Literal["docker", "podman", "containerd", "k3s"] = variable(
        "docker",
        "what runs the models; the role of that name installs it, `k3s_server` or `k3s_agent` that"
        " of a node",
        shown_type="`docker`, `podman`, `containerd` or `k3s`",
    )
    muster_device_release_public_key: str | None = variable(
        None,
        "file on the controller with the minisign public key of whoever signs releases; the device"
        " then refuses every other release",
        shown_type="path",
    )
    muster_device_proxy: bool = variable(
        False,
        "put HAProxy in front of the models, so that a switch can be `blue_green`; what runs moves"
        " behind it at its next switch or restart",
    )
    muster_device_hardware_root: AbsolutePath | None = variable(
        None,
        "folder in which accelerators are looked for instead of `/`, on emulated devices",
        shown_type="path",
    )

    @model_validator(mode="after")
    def _runtime_fits(self) -> Variables:
        if self.muster_device_runtime == "k3s" and self.muster_device_proxy:
            text = "expected false on a node of a K3s cluster, which makes the pods; got true"
            raise Problems([(("muster_device_proxy",), text)])
        return self

    @field_validator("muster_device_release_public_key")
    @classmethod
    def _is_public_key(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                lines = Path(value).expanduser().read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise ValueError(f"expected a file with a minisign public key, {error}") from None
            if not any(line.startswith("RW") for line in lines):
                raise ValueError(f"expected a file with a minisign public key, {value} is none")
        return value
