"""Prometheus and Alertmanager of a site, with targets from the inventory and rules from limits."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from pyinfra import host
from pyinfra.api.deploy import deploy

from muster.inventory import load_inventory
from muster.monitoring import device_targets, model_targets
from muster.role_variables import check_variables
from roles.operations import File, absent_files, enable_unit, packages, place_files, staged_path
from roles.prometheus.configuration import (
    ALERTMANAGER,
    ALERTMANAGER_PORT,
    CONFIGURATION,
    OPTIONAL,
    RULES,
    SECRETS,
    alertmanager_file,
    configuration_files,
    option_files,
    secret_files,
    target_files,
)
from roles.prometheus.operations import only_files
from roles.prometheus.variables import Variables
from roles.services import restart_and_listen

_CHECK = (Path(__file__).parent / "check_prometheus.sh").read_text(encoding="utf-8")
_UNITS = ("prometheus.service", "prometheus-alertmanager.service")


@deploy("prometheus")
def prometheus(variables: Variables) -> None:
    """Bring the monitoring of a site to what the variables and the inventory say."""
    packages(name="packages", names=variables.prometheus_packages)
    secrets, rules = secret_files(variables), configuration_files(variables)
    if secrets:
        place_files(name="secrets", files=secrets, then=_reload())
    place_files(name="targets", files=_targets(variables))
    place_files(
        name="configuration and rules",
        files=rules,
        check=f"configuration={quote(CONFIGURATION)} rules={quote(RULES)}\n{_CHECK}",
        then=_reload(),
    )
    only_files(name="former rules", folder=RULES, files=[f.path for f in rules], then=_reload())
    place_files(
        name="alertmanager",
        files=[alertmanager_file(variables)],
        check=f"amtool check-config {quote(staged_path(ALERTMANAGER))} >/dev/null",
        then=_reload(),
    )
    place_files(
        name="options",
        files=option_files(variables),
        then=restart_and_listen(_UNITS[0], variables.prometheus_port, 120)
        + "\n"
        + restart_and_listen(_UNITS[1], ALERTMANAGER_PORT),
    )
    names = [file.path for file in secrets]
    only_files(name="former secrets", folder=SECRETS, files=names)
    absent_files(name="former certificates", paths=[p for p in OPTIONAL if p not in names])
    for unit in _UNITS:
        enable_unit(name=f"{unit} runs", unit=unit)


def _reload() -> str:
    # what is not running yet reads everything when it starts
    return "\n".join(f"systemctl try-reload-or-restart {unit}" for unit in _UNITS)


def _targets(variables: Variables) -> list[File]:
    # The whole inventory: a limit on this run is no limit on what is scraped.
    inventory = load_inventory(Path(host.data.inventory_path))
    check_variables(inventory, ["monitoring"])
    own = [device.site for device in inventory.devices if device.name == host.data.inventory_device]
    sites = variables.prometheus_sites or [site for site in own if site is not None] or None
    return target_files(
        device_targets(inventory.devices, sites), model_targets(inventory.devices, sites)
    )
