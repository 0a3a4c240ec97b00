"""What Prometheus scrapes at a site, from the inventory. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muster.inventory import Device
from muster.role_variables import role_model

TargetGroup = dict[str, Any]
"""One entry of a file for Prometheus' ``file_sd_configs``: ``targets`` and ``labels``."""


def device_targets(
    devices: Iterable[Device], sites: Iterable[str] | None = None
) -> list[TargetGroup]:
    """Give the exporters of devices, one group each, in the order of their names.

    :param sites: ``site_*`` groups; all if not given.
    """
    return [
        _group(device, _address(device, variables), variables.monitoring_port)
        for device, variables in _monitored(devices, sites)
    ]


def model_targets(
    devices: Iterable[Device], sites: Iterable[str] | None = None
) -> list[TargetGroup]:
    """Give the models that show metrics of their own.

    :param sites: ``site_*`` groups; all if not given.
    """
    return [
        _group(
            device,
            _address(device, variables),
            model.port,
            model=model.model,
            __metrics_path__=model.path,
        )
        for device, variables in _monitored(devices, sites)
        for model in variables.monitoring_models
    ]


def _monitored(
    devices: Iterable[Device], sites: Iterable[str] | None
) -> Iterable[tuple[Device, Any]]:
    wanted = None if sites is None else set(sites)
    # as Any: roles are no part of this package
    role: Any = role_model("monitoring")
    for device in sorted(devices, key=lambda device: device.name):
        if (wanted is None or device.site in wanted) and role.chosen(device.variables):
            yield device, role.model_validate(dict(device.variables))


def _address(device: Device, variables: Any) -> str:
    return str(variables.monitoring_address or device.address)


def _group(device: Device, address: str, port: int, **labels: str) -> TargetGroup:
    host = f"[{address}]" if ":" in address else address
    own = {"device": device.name, "site": device.site, "hardware": device.hardware}
    known = {name: value for name, value in own.items() if value is not None}
    return {"targets": [f"{host}:{port}"], "labels": {**known, **labels}}
