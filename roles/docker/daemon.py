"""The engine's configuration: one document, with one owner."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from roles.docker.variables import Variables


def daemon_json(variables: Variables, cdi: bool = False) -> str:
    """Render ``daemon.json``.

    :param cdi: whether the engine knows CDI devices; before 28.2 it has to be told to use them.
    """
    document: dict[str, Any] = {
        "live-restore": variables.docker_live_restore,
        "log-driver": "local",
        "log-opts": {
            "max-size": str(variables.docker_log_max_size),
            "max-file": str(variables.docker_log_max_files),
        },
    }
    if variables.docker_data_root:
        document["data-root"] = variables.docker_data_root
    if variables.docker_registry_mirrors:
        document["registry-mirrors"] = variables.docker_registry_mirrors
    if variables.docker_address_pools:
        pools = [pool.model_dump() for pool in variables.docker_address_pools]
        document["default-address-pools"] = pools
    if cdi:
        document["features"] = {"cdi": True}
    merged = _merged(document, variables.docker_extra)
    return json.dumps(merged, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result
