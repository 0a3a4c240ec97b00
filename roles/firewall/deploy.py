"""A firewall made from what the device's other roles open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyinfra import host
from pyinfra.api.deploy import deploy

from muster.provisioning import SITE_ROLES
from muster.role_variables import role_model
from roles.facts import FACT_SECONDS, ComingIn
from roles.firewall.facts import LISTED, SUM
from roles.firewall.operations import UNIT, loaded
from roles.firewall.ruleset import TABLE, Rules, ruleset, ssh_problem
from roles.firewall.variables import Variables
from roles.guarded import place_guarded, refuse
from roles.operations import File, enable_unit, packages, place_files
from roles.templates import render
from roles.variables import OpenPort, RoleVariables

FILE = "/etc/muster/firewall.nft"
TAKE_EFFECT = f"""if [ -e {FILE} ]; then
	systemctl reset-failed {UNIT} 2>/dev/null
	systemctl reload-or-restart {UNIT}
else
	systemctl stop {UNIT}
fi"""


@deploy("firewall")
def firewall(variables: Variables) -> None:
    """Close every port of a device that nothing opens."""
    session = host.get_fact(ComingIn, _timeout=FACT_SECONDS)
    if problem := ssh_problem(variables.firewall_ssh_sources, session):
        refuse(name="rules that would lock the controller out", reason=problem)
        return
    packages(name="packages", names=["nftables"])
    values = {"file": FILE, "table": TABLE, "listed": LISTED, "sum": SUM}
    unit = render("firewall/muster-firewall.service", **values)
    place_files(
        name="unit",
        files=[File(f"/etc/systemd/system/{UNIT}", unit)],
        then="systemctl daemon-reload",
    )
    inventory = host.data.dict()
    rules = Rules(session.ports, opened(inventory, variables))
    interfaces = [*variables.firewall_trusted_interfaces, *trusted(inventory)]
    trusting = variables.model_copy(update={"firewall_trusted_interfaces": interfaces})
    place_guarded(
        name="rules",
        title="firewall",
        files=[File(FILE, ruleset(trusting, rules), "600")],
        check=f'nft --check --file "$(newest {FILE})"',
        then=TAKE_EFFECT,
        seconds=int(variables.firewall_confirm_within),
    )
    enable_unit(name="rules after a restart", unit=UNIT)
    loaded(name="rules that are loaded")


def opened(inventory: dict[str, object], variables: Variables) -> list[OpenPort]:
    """Ports that the roles of a device open, and those that its inventory allows beside them."""
    found: dict[OpenPort, None] = {}
    for role in _chosen(inventory):
        found |= dict.fromkeys(role.opens())
    for port in variables.firewall_allow:
        found[OpenPort(port.port, port.protocol, port.why, port.sources)] = None
    return list(found)


def trusted(inventory: dict[str, object]) -> list[str]:
    """Interfaces that the roles of a device trust, such as those of its pods."""
    return list(dict.fromkeys(name for role in _chosen(inventory) for name in role.trusts()))


def _chosen(inventory: dict[str, object]) -> Iterator[RoleVariables]:
    for name in SITE_ROLES:
        model: Any = role_model(name)
        if model.chosen(inventory):
            yield model.model_validate(inventory)
