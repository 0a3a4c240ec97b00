"""Podman as the container runtime: installed, told whom to trust, and really answering."""

from __future__ import annotations

import json
from typing import Any

from pyinfra.api.deploy import deploy

from roles.operations import File, packages, place_files
from roles.podman.operations import answers, containers
from roles.podman.variables import Variables
from roles.runtimes import trust_files
from roles.templates import render

_CERTIFICATES = "/etc/containers/certs.d"


@deploy("podman")
def podman(variables: Variables) -> None:
    """Bring the Podman of a device to what the variables say."""
    packages(name="packages", names=variables.podman_packages)
    trusted = trust_files(_CERTIFICATES, variables, variables.podman_registry_cas)
    if trusted:
        place_files(name="certificates of registries", files=trusted)
    place_files(name="registries and policy", files=_settings(variables))
    answers(name="podman answers")
    if variables.podman_containers:
        wanted = {
            name: container.model_dump() for name, container in variables.podman_containers.items()
        }
        containers(name="containers beside the models", wanted=wanted)


def _settings(variables: Variables) -> list[File]:
    """Podman reads them at each command, so nothing has to be restarted."""
    search = variables.podman_search_registries
    policy = json.dumps(policy_json(variables), indent=2, sort_keys=True) + "\n"
    found = [
        File(
            "/etc/containers/registries.conf.d/50-muster.conf",
            render("podman/registries.conf", search=json.dumps(search)),
        ),
        File("/etc/containers/policy.json", policy),
    ]
    if variables.podman_data_root:
        root = json.dumps(variables.podman_data_root)
        found.append(File("/etc/containers/storage.conf", render("podman/storage.conf", root=root)))
    return found


def policy_json(variables: Variables) -> dict[str, Any]:
    """Which images Podman may fetch: those of known registries, whose digest the release names."""
    if variables.podman_policy is not None:
        return variables.podman_policy
    known = {*variables.podman_allowed_registries, *variables.podman_registry_cas}
    if variables.muster_registry is not None:
        known.add(variables.muster_registry)
    accept = [{"type": "insecureAcceptAnything"}]
    return {
        "default": [{"type": "reject"}],
        "transports": {
            "containers-storage": {"": accept},
            "docker": dict.fromkeys(sorted(known), accept),
        },
    }
