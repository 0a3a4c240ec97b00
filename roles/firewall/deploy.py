"""A firewall made from what the device's other roles open."""

from __future__ import annotations

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
from roles.variables import OpenPort

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
    rules = Rules(session.ports, opened(host.data.dict(), variables))
    place_guarded(
        name="rules",
        title="firewall",
        files=[File(FILE, ruleset(variables, rules), "600")],
        check=f'nft --check --file "$(newest {FILE})"',
        then=TAKE_EFFECT,
        seconds=int(variables.firewall_confirm_within),
    )
    enable_unit(name="rules after a restart", unit=UNIT)
    loaded(name="rules that are loaded")


def opened(inventory: dict[str, object], variables: Variables) -> list[OpenPort]:
    """Ports that the roles of a device open, and those that its inventory allows beside them."""
    found: dict[OpenPort, None] = {}
    for role in SITE_ROLES:
        model = role_model(role)
        if model.chosen(inventory):  # type: ignore[attr-defined]
            found |= dict.fromkeys(model.model_validate(inventory).opens())  # type: ignore[attr-defined]
    for port in variables.firewall_allow:
        found[OpenPort(port.port, port.protocol, port.why, port.sources)] = None
    return list(found)
